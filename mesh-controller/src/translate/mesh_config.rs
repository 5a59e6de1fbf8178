//! The mesh's own settings as Istio has them -> what they say of telemetry: an `IstioOperator` (spec.meshConfig), or
//! the ConfigMap `istio` of the root namespace (data.mesh), which is what is made of one. Nothing else of them is read,
//! and each of their fields that is not is named once.
//!
//! An IstioOperator is a document for a program first: it needs neither a name nor a namespace.

mod providers;

pub use providers::{Provider, Providers};

use k8s_openapi::api::core::v1::ConfigMap;
use mesh_common::model::{
    telemetry::{Collector, OtlpProtocol},
    traffic::Percent,
};
use serde_json::Value;

use super::{Settings, created, fields::Fields};
use crate::{
    names,
    source::{Custom, Key},
    status::{Extent, Fault},
};

/// Of the ConfigMap, and of its entry.
pub const NAME: &str = "istio";
const ENTRY: &str = "mesh";
/// Names of default providers of one purpose.
const DEFAULTS: usize = 16;
const ONLY_TELEMETRY: &str = "is not honoured: only what is said of telemetry is read";
/// Where OTLP over gRPC is taken (<https://opentelemetry.io/docs/specs/otlp/>).
const OTLP: u16 = 4317;

/// What one object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshConfig {
    pub object: Key,
    /// Seconds since 1970.
    pub created: i64,
    /// It holds before any other.
    pub is_map: bool,
    pub providers: Providers,
    /// `defaultProviders`: names, each with its field.
    pub tracing: Vec<(String, String)>,
    pub logging: Vec<(String, String)>,
    pub metrics: Vec<(String, String)>,
    /// `enableTracing: false`.
    pub untraced: bool,
    pub sampled: Option<Percent>,
    pub collector: Option<Collector>,
    /// `accessLogFile` names one, or says that there is none.
    pub logged: Option<bool>,
}

/// `None`: it is not where it counts, or says nothing.
pub fn istio_operator(settings: &Settings, object: &Custom, faults: &mut Vec<Fault>) -> Option<MeshConfig> {
    let metadata = &object.metadata;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (namespace, name) = (text(&metadata.namespace), text(&metadata.name));
    if !namespace.is_empty() && namespace != settings.root_namespace {
        let why = format!("only that of namespace {} holds for the mesh, or one without", settings.root_namespace);
        faults.push(Fault::new("metadata.namespace", why).of_extent(Extent::Whole));
        return None;
    }
    let mut fields = Fields::of_spec(object, faults);
    let config = fields.value("meshConfig");
    fields.leave("is not honoured: of an IstioOperator only spec.meshConfig is read");
    let object = Key { kind: "IstioOperator".to_owned(), namespace, name };
    Some(mesh_config(settings, object, created(metadata), "spec.meshConfig", config?, faults))
}

/// The same.
pub fn config_map(settings: &Settings, object: &ConfigMap, faults: &mut Vec<Fault>) -> Option<MeshConfig> {
    let metadata = &object.metadata;
    if metadata.namespace.as_ref() != Some(&settings.root_namespace) || metadata.name.as_deref() != Some(NAME) {
        return None;
    }
    let field = format!("data.{ENTRY}");
    let text = object.data.as_ref()?.get(ENTRY)?;
    let read: Result<Value, _> = serde_yaml_ng::from_str(text);
    let value = match read {
        Ok(value) => value,
        Err(error) => {
            let why = format!("is not YAML: {error}; nothing of it is honoured");
            faults.push(Fault::new(field, why).of_extent(Extent::Whole));
            return None;
        }
    };
    let object = Key {
        kind: "ConfigMap".to_owned(),
        namespace: settings.root_namespace.clone(),
        name: metadata.name.clone().unwrap_or_default(),
    };
    let config = mesh_config(settings, object, created(metadata), &field, value, faults);
    Some(MeshConfig { is_map: true, ..config })
}

fn mesh_config(
    settings: &Settings,
    object: Key,
    created: i64,
    path: &str,
    value: Value,
    faults: &mut Vec<Fault>,
) -> MeshConfig {
    let mut fields = Fields::new(path, value, faults);
    let untraced = fields.take("enableTracing") == Some(false);
    let (mut sampled, mut collector) = (None, None);
    if let Some(mut default) = fields.within("defaultConfig") {
        if let Some(mut tracing) = default.within("tracing") {
            sampled = tracing.percent("sampling");
            collector = spans(&mut tracing);
            tracing.leave(ONLY_TELEMETRY_HERE);
        }
        default.leave(ONLY_TELEMETRY);
    }
    let mut defaults = [const { Vec::new() }; 3];
    if let Some(mut names) = fields.within("defaultProviders") {
        for (found, name) in defaults.iter_mut().zip(["tracing", "accessLogging", "metrics"]) {
            let path = names.path(name);
            let list = names.texts(name, DEFAULTS).into_iter().enumerate();
            *found = list.map(|(i, text)| (text, format!("{path}[{i}]"))).collect();
        }
        names.end();
    }
    let [tracing, logging, metrics] = defaults;
    let logged = fields.take::<String>("accessLogFile");
    if logged.as_ref().is_some_and(|file| !matches!(file.as_str(), "" | "/dev/stdout")) {
        fields.report("accessLogFile", "is not honoured: there are lines, and agents' settings say where they go");
    }
    for name in ["accessLogEncoding", "accessLogFormat"] {
        if fields.take::<String>(name).is_some_and(|text| !text.is_empty()) {
            fields.report(name, "is not honoured: agents' settings say how lines are written");
        }
    }
    if fields.value("outboundTrafficPolicy").is_some() {
        fields.report("outboundTrafficPolicy", "is not read; connections to hosts that no service has pass");
    }
    let providers = Providers::read(settings, &mut fields);
    fields.leave(ONLY_TELEMETRY);
    let logged = logged.map(|file| !file.is_empty());
    let is_map = false;
    MeshConfig { object, created, is_map, providers, tracing, logging, metrics, untraced, sampled, collector, logged }
}

const ONLY_TELEMETRY_HERE: &str = "is not honoured: spans go by OTLP, and have what Telemetry says";

/// `defaultConfig.tracing`: where spans go.
fn spans(tracing: &mut Fields<'_>) -> Option<Collector> {
    for name in ["zipkin", "lightstep", "datadog", "stackdriver"] {
        if tracing.value(name).is_some() {
            tracing.report(name, providers::not_spoken(name));
        }
    }
    let mut agent = tracing.within("openCensusAgent")?;
    let address = agent.text("address");
    let contexts = agent.texts("context", 8);
    for (i, context) in contexts.iter().enumerate() {
        match context.as_str() {
            "W3C_TRACE_CONTEXT" | "B3" => {}
            _ => agent.report(&format!("context[{i}]"), "is not honoured: W3C Trace Context and B3 are understood"),
        }
    }
    if !contexts.is_empty() {
        agent.note("context", "W3C Trace Context is always written, and B3 wherever it came, whatever is said here");
    }
    let collector = address.as_deref().and_then(|address| {
        let (host, port) = address.rsplit_once(':')?;
        port.parse::<u16>().ok().filter(|port| *port != 0)?;
        collector_host(host).map(|host| Collector { host, port: OTLP, protocol: OtlpProtocol::Grpc })
    });
    match &collector {
        Some(Collector { host, port, .. }) => {
            let why = format!("OpenCensus is spoken no more: spans go by OTLP over gRPC to {host}:{port}");
            agent.note("address", why);
        }
        None => {
            agent.report("address", "is not a host and a port, as in collector.observability:55678; no spans go there")
        }
    }
    agent.end();
    collector
}

/// A name or an address, as agents look it up.
fn collector_host(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let lower = bare.to_ascii_lowercase();
    let is_address = lower.parse::<std::net::IpAddr>().is_ok();
    (is_address || names::subdomain(&lower).is_ok()).then_some(lower)
}

#[cfg(test)]
mod tests;
