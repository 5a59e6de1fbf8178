//! `spec.metrics[]`. Agents count for Prometheus, and for nobody else.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::{Named, Purpose, Sides, mode, providers};
use crate::{status::Fault, translate::fields::Fields};

const OVERRIDES: usize = 64;
const TAGS: usize = 64;
/// The provider that every mesh has.
const PROMETHEUS: &str = "prometheus";

/// As Istio names them in objects, and as they are told.
const METRICS: [(&str, &str); 10] = [
    ("REQUEST_COUNT", "istio_requests_total"),
    ("REQUEST_DURATION", "istio_request_duration_milliseconds"),
    ("REQUEST_SIZE", "istio_request_bytes"),
    ("RESPONSE_SIZE", "istio_response_bytes"),
    ("TCP_OPENED_CONNECTIONS", "istio_tcp_connections_opened_total"),
    ("TCP_CLOSED_CONNECTIONS", "istio_tcp_connections_closed_total"),
    ("TCP_SENT_BYTES", "istio_tcp_sent_bytes_total"),
    ("TCP_RECEIVED_BYTES", "istio_tcp_received_bytes_total"),
    ("GRPC_REQUEST_MESSAGES", "istio_request_messages_total"),
    ("GRPC_RESPONSE_MESSAGES", "istio_response_messages_total"),
];

/// Labels that may be taken out.
const LABELS: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];

/// What is different about one metric, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    pub sides: Sides,
    /// As it is told; `None`: all.
    pub metric: Option<&'static str>,
    pub disabled: Option<bool>,
    pub removed: BTreeSet<&'static str>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TagOverride {
    #[serde(default)]
    operation: Option<String>,
    #[serde(default)]
    value: Option<String>,
}

pub fn entry(path: String, value: Value, named: &mut Vec<Named>, faults: &mut Vec<Fault>) -> Vec<Override> {
    let mut fields = Fields::new(path, value, faults);
    let before = fields.has("providers");
    let providers = providers(&mut fields, Purpose::Metrics, named);
    if fields.value("reportingInterval").is_some() {
        fields.note("reportingInterval", "has no meaning here: metrics are counted at once, and read when asked for");
    }
    let list = fields.list("overrides", OVERRIDES);
    fields.end();
    // What another provider would be told is told to nobody.
    if before && !providers.iter().any(|provider| provider.name.eq_ignore_ascii_case(PROMETHEUS)) {
        return Vec::new();
    }
    list.into_iter().filter_map(|(path, value)| change(path, value, faults)).collect()
}

fn change(path: String, value: Value, faults: &mut Vec<Fault>) -> Option<Override> {
    let mut fields = Fields::new(path, value, faults);
    let (mut sides, mut metric) = (Some(Sides::Both), Some(None));
    if let Some(mut matched) = fields.within("match") {
        sides = mode(&mut matched);
        metric = chosen(&mut matched);
        matched.end();
    }
    let disabled = fields.take("disabled");
    let tags: BTreeMap<String, Value> = fields.take("tagOverrides").unwrap_or_default();
    let path = fields.path("tagOverrides");
    fields.end();
    Some(Override { sides: sides?, metric: metric?, disabled, removed: removed(&path, tags, faults) })
}

/// `None`: it cannot be read, and the override is left out.
fn chosen(matched: &mut Fields<'_>) -> Option<Option<&'static str>> {
    let (metric, custom) = (matched.value("metric"), matched.value("customMetric"));
    let known = |is: &dyn Fn(&(&str, &str)) -> bool| METRICS.into_iter().find(|pair| is(pair)).map(|(_, told)| told);
    let (field, found) = match (metric, custom) {
        (None, None) => return Some(None),
        (Some(Value::String(name)), None) if name == "ALL_METRICS" => return Some(None),
        (Some(Value::String(name)), None) => ("metric", known(&|(istio, _)| *istio == name)),
        (None, Some(Value::String(name))) => ("customMetric", known(&|(_, told)| *told == name)),
        (Some(_), Some(_)) => ("customMetric", None),
        (Some(_), None) => ("metric", None),
        (None, Some(_)) => ("customMetric", None),
    };
    if found.is_none() {
        matched.report(field, "is not a metric of Istio's that is counted here; the override is left out");
    }
    found.map(Some)
}

fn removed(path: &str, tags: BTreeMap<String, Value>, faults: &mut Vec<Fault>) -> BTreeSet<&'static str> {
    let mut removed = BTreeSet::new();
    if tags.len() > TAGS {
        let why = format!("has {} entries, more than {TAGS}; none of them is honoured", tags.len());
        faults.push(Fault::new(path, why));
        return removed;
    }
    for (name, value) in tags {
        let field = format!("{path}.{}", name.chars().take(64).collect::<String>());
        let TagOverride { operation, value } = match crate::status::read(value) {
            Ok(read) => read,
            Err(fault) => {
                let fault = fault.within(&field);
                faults.push(Fault { why: format!("{}; it is not honoured", fault.why), ..fault });
                continue;
            }
        };
        match (operation.as_deref(), LABELS.into_iter().find(|label| *label == name)) {
            (Some("REMOVE"), Some(label)) => {
                removed.insert(label);
                if value.is_some() {
                    faults.push(Fault::new(format!("{field}.value"), "has no meaning with REMOVE"));
                }
            }
            (Some("REMOVE"), None) => faults.push(Fault::new(field, "is not a label of these metrics")),
            // It is what stands there if nothing does.
            (Some("UPSERT") | None, _) => {
                let why = "UPSERT is not honoured: what a label says is not computed; only REMOVE is";
                faults.push(Fault::new(format!("{field}.operation"), why));
            }
            (Some(_), _) => faults.push(Fault::new(format!("{field}.operation"), "is none of REMOVE, UPSERT")),
        }
    }
    removed
}
