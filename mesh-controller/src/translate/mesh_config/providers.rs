//! `extensionProviders`: the names under which Telemetry finds who takes what is seen.

use std::collections::BTreeMap;

use mesh_common::model::telemetry::{Collector, OtlpProtocol};
use serde_json::Value;

use super::collector_host;
use crate::{
    status::Fault,
    translate::{Settings, fields::Fields},
};

const MOST: usize = 256;

/// Those that are named, by their names in lower case, as Istio compares them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Providers(BTreeMap<String, Provider>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Takes spans.
    Spans(Collector),
    /// Takes lines.
    Lines(Collector),
    /// The agents' own lines.
    File,
    /// The agents' own metrics.
    Prometheus,
    /// Where the agents' own settings say; spans and lines.
    Own,
    /// What it would be is not spoken here. That is reported where it is defined.
    Refused(String),
}

/// Kinds of providers that are known, and not spoken here.
const REFUSED: [&str; 7] =
    ["zipkin", "lightstep", "datadog", "skywalking", "stackdriver", "opencensus", "envoyHttpAls"];

pub fn not_spoken(kind: &str) -> String {
    format!("{kind} is not spoken here: spans and lines go by OTLP only, as an `opentelemetry` provider takes them")
}

impl Providers {
    pub fn read(settings: &Settings, fields: &mut Fields<'_>) -> Self {
        let mut said = Vec::new();
        let mut all = BTreeMap::new();
        for (path, value) in fields.list("extensionProviders", MOST) {
            let Some((name, provider)) = one(settings, &path, value, &mut said) else { continue };
            let known = all.insert(name, provider);
            if known.is_some() {
                said.push(Fault::new(format!("{path}.name"), "stands twice; the last one holds"));
            }
        }
        fields.add(said);
        Self(all)
    }

    /// Also those that every mesh has.
    pub fn get(&self, name: &str) -> Option<&Provider> {
        let name = name.to_ascii_lowercase();
        self.0.get(&name).or(match name.as_str() {
            "prometheus" => Some(&Provider::Prometheus),
            "envoy" => Some(&Provider::File),
            "otlp" => Some(&Provider::Own),
            _ => None,
        })
    }
}

fn one(settings: &Settings, path: &str, value: Value, faults: &mut Vec<Fault>) -> Option<(String, Provider)> {
    let mut fields = Fields::new(path, value, faults);
    let name = fields.text("name").map(|name| name.to_ascii_lowercase());
    if name.is_none() {
        fields.report("name", "is missing; the provider is left out");
    }
    let mut found = None;
    if let Some(spans) = fields.within("opentelemetry") {
        found = Some(collector(settings, spans).map(Provider::Spans));
    } else if let Some(lines) = fields.within("envoyOtelAls") {
        found = Some(collector(settings, lines).map(Provider::Lines));
    } else if let Some(file) = fields.within("envoyFileAccessLog") {
        found = Some(Some(Provider::File));
        file.leave("is not honoured: agents' settings say where lines go, and how they are written");
    } else if let Some(prometheus) = fields.within("prometheus") {
        found = Some(Some(Provider::Prometheus));
        prometheus.end();
    }
    for kind in REFUSED {
        if fields.value(kind).is_some() {
            fields.report(kind, not_spoken(kind));
            found = Some(Some(Provider::Refused(kind.to_owned())));
        }
    }
    for kind in ["envoyExtAuthzHttp", "envoyExtAuthzGrpc", "sds", "envoyTcpAls"] {
        if fields.value(kind).is_some() {
            fields.report(kind, "is not read; it is not honoured");
            found = Some(Some(Provider::Refused(kind.to_owned())));
        }
    }
    if found.is_none() {
        fields.report("name", "has no kind of provider beside it that is read; it is left out");
    }
    fields.end();
    // A name of which nothing can be said is known all the same: who names it hears that.
    let provider = found.map(|found| found.unwrap_or_else(|| Provider::Refused("it".to_owned())));
    name.zip(provider)
}

fn collector(settings: &Settings, mut fields: Fields<'_>) -> Option<Collector> {
    let service = fields.text("service");
    // `namespace/host`: the namespace says where a proxy looks for the service.
    let text = service.as_deref().map(|text| text.rsplit_once('/').map_or(text, |(_, host)| host));
    let host = text.and_then(collector_host).map(|host| qualified(settings, host));
    if host.is_none() {
        fields.report("service", "is not the name of a service; the provider takes nothing");
    }
    let port = fields.number("port", 1..=u32::from(u16::MAX)).and_then(|port| u16::try_from(port).ok());
    if port.is_none() {
        fields.report("port", "is not a port (1 to 65535); the provider takes nothing");
    }
    let mut protocol = OtlpProtocol::Grpc;
    if let Some(mut http) = fields.within("http") {
        protocol = OtlpProtocol::Http;
        let path = http.text("path");
        if path.is_some_and(|path| !matches!(path.as_str(), "/v1/traces" | "/v1/logs")) {
            http.report("path", "is not honoured: spans go to /v1/traces, lines to /v1/logs");
        }
        http.leave("is not honoured: OTLP over HTTP has its own bounds and no headers");
    }
    fields.leave("is not honoured: spans and lines go by OTLP with the agents' own settings");
    Some(Collector { host: host?, port: port?, protocol })
}

/// A single label is a service of the root namespace.
fn qualified(settings: &Settings, host: String) -> String {
    match host.contains(['.', ':']) {
        true => host,
        false => format!("{host}.{}.svc.{}", settings.root_namespace, settings.cluster_domain),
    }
}
