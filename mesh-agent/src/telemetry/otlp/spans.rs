//! A request's record as a span.

use std::sync::Arc;

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode},
};

use super::{
    Exporter, Settings, Signal,
    attributes::{Attributes, by_pod, nanoseconds, resource, scope},
};
use crate::telemetry::{
    flow::{Direction, Flow, HttpRequest},
    trace::Ids,
};

/// Methods that have a meaning; another one is any text that a client likes.
const METHODS: [&str; 10] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"];
/// Bits 0 to 7 are those of `traceparent`; it is known whether the parent is remote, and it is.
const REMOTE_PARENT: u32 = 0x300;

/// Makes spans of requests' records. `Default`: of none.
#[derive(Clone, Debug, Default)]
pub struct Spans(pub(super) Option<Exporter>);

impl Spans {
    pub fn new(settings: Settings) -> Self {
        Self(Some(Exporter::new(Signal::Spans, settings)))
    }

    /// Neither waits nor copies.
    pub fn ended(&self, flow: &Arc<Flow>) {
        let Some(exporter) = &self.0 else { return };
        if !flow.http.as_ref().and_then(|http| http.trace).is_some_and(|ids| ids.sampled) {
            return;
        }
        let told = flow.told.as_deref().map(|pod| match flow.direction {
            Direction::Outbound => &pod.telemetry.traced_client,
            Direction::Inbound => &pod.telemetry.traced_server,
        });
        if !told.is_some_and(|tracing| tracing.disabled) {
            exporter.take(told.and_then(|tracing| tracing.collector.as_ref()), flow);
        }
    }

    /// Sends what waits; see [`super::LAST`].
    pub async fn end(&self) {
        if let Some(exporter) = &self.0 {
            exporter.end(super::LAST).await;
        }
    }

    #[cfg(test)]
    pub(in crate::telemetry) fn tally(&self) -> [u64; 3] {
        self.0.as_ref().map_or([0; 3], |exporter| exporter.tally().all())
    }
}

pub fn message(records: &[Arc<Flow>], settings: &Settings) -> ExportTraceServiceRequest {
    let spans_of = |flows: Vec<&Flow>| ResourceSpans {
        resource: Some(resource(flows[0], settings)),
        scope_spans: vec![ScopeSpans {
            scope: Some(scope()),
            spans: flows.into_iter().filter_map(span).collect(),
            ..ScopeSpans::default()
        }],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest { resource_spans: by_pod(records).into_iter().map(spans_of).collect() }
}

fn span(flow: &Flow) -> Option<Span> {
    let http = flow.http.as_deref()?;
    let Ids { trace, span, parent, sampled } = http.trace?;
    let kind = match flow.direction {
        Direction::Outbound => SpanKind::Client,
        Direction::Inbound => SpanKind::Server,
    };
    Some(Span {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: span.to_be_bytes().to_vec(),
        parent_span_id: parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default(),
        flags: u32::from(sampled) | if parent.is_some() { REMOTE_PARENT } else { 0 },
        name: name(http),
        kind: kind.into(),
        start_time_unix_nano: nanoseconds(flow.start),
        end_time_unix_nano: nanoseconds(flow.end.max(flow.start)),
        attributes: attributes(flow, http),
        status: status(flow, http),
        ..Span::default()
    })
}

/// Of few values, whatever clients send: a path is never part of it, but for a gRPC method that the server has.
fn name(http: &HttpRequest) -> String {
    if let (Some(status), Some((service, method))) = (http.grpc_status, rpc(http))
        && status != UNIMPLEMENTED
    {
        return format!("{service}/{method}");
    }
    let method = if METHODS.contains(&http.method.as_str()) { http.method.as_str() } else { "HTTP" };
    match &http.route {
        Some(route) => format!("{method} {route}"),
        None => method.to_owned(),
    }
}

/// Of gRPC.
const UNIMPLEMENTED: u32 = 12;

fn rpc(http: &HttpRequest) -> Option<(&str, &str)> {
    let (service, method) = http.path.strip_prefix('/')?.split_once('/')?;
    (http.grpc && !service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

/// As the conventions have it: what is the server's fault is an error of both, what is the client's is one of neither
/// span here, as Istio has it; of gRPC any status but OK is one of the client's span.
fn status(flow: &Flow, http: &HttpRequest) -> Option<Status> {
    let failed = match http.grpc_status {
        Some(0) => false,
        Some(status) => flow.direction == Direction::Outbound || matches!(status, 2 | 4 | 12 | 13 | 14 | 15),
        None => http.status >= 500,
    };
    (failed || flow.verdict.is_bad()).then(|| Status {
        code: StatusCode::Error.into(),
        message: flow.error.clone().or_else(|| flow.reason.as_deref().map(str::to_owned)).unwrap_or_default(),
    })
}

fn attributes(flow: &Flow, http: &HttpRequest) -> Vec<opentelemetry_proto::tonic::common::v1::KeyValue> {
    let HttpRequest { method, path, host, status, version, principal, flags, request_id, route, retries, .. } = http;
    let mut told = Attributes::with_capacity(40);
    if METHODS.contains(&method.as_str()) {
        told.text("http.request.method", method.as_str());
    } else {
        told.text("http.request.method", "_OTHER");
        told.text("http.request.method_original", method.as_str());
    }
    if *status != 0 {
        told.number("http.response.status_code", *status);
    }
    told.text("url.path", path.as_str());
    let (server, port) = authority(host);
    told.text("server.address", server);
    if let Some(port) = port {
        told.number("server.port", port);
    }
    told.text("network.protocol.name", "http");
    told.text("network.protocol.version", version.strip_prefix("HTTP/").unwrap_or(version));
    let peer = match flow.direction {
        Direction::Outbound => flow.destination.address,
        Direction::Inbound => flow.source.address,
    };
    if let Some(peer) = peer {
        told.text("network.peer.address", peer.ip().to_canonical().to_string());
        told.number("network.peer.port", peer.port());
    }
    if let (Direction::Inbound, Some(client)) = (flow.direction, flow.source.address) {
        told.text("client.address", client.ip().to_canonical().to_string());
    }
    told.number("http.request.body.size", flow.sent);
    told.number("http.response.body.size", flow.received);
    if *retries > 0 {
        told.number("http.request.resend_count", *retries);
    }
    if http.grpc {
        told.text("rpc.system", "grpc");
        let (service, method) = rpc(http).unwrap_or_default();
        told.text("rpc.service", service);
        told.text("rpc.method", method);
        if let Some(status) = http.grpc_status {
            told.number("rpc.grpc.status_code", status);
        }
        told.number("rpc.request.messages", http.messages.0);
        told.number("rpc.response.messages", http.messages.1);
    }
    match (flow.reason.as_deref(), http.grpc_status) {
        (Some(reason), _) if flow.verdict.is_bad() => told.text("error.type", reason),
        (_, Some(code)) if code != 0 => told.text("error.type", code.to_string()),
        _ if *status >= 500 => told.text("error.type", status.to_string()),
        _ => {}
    }
    told.maybe("guid:x-request-id", request_id.as_deref());
    told.text("response_flags", flags.unwrap_or("-"));
    told.maybe("enduser.id", principal.as_deref());
    told.maybe("nodemesh.route", route.as_deref());
    parties(&mut told, flow);
    for (name, value) in &http.tags {
        told.instead(name, value);
    }
    told.done()
}

/// Who spoke to whom, and what was decided.
fn parties(told: &mut Attributes, flow: &Flow) {
    let own = super::attributes::own(flow);
    told.text("istio.canonical_service", own.canonical_service.as_str());
    told.text("istio.canonical_revision", own.canonical_revision.as_str());
    told.text("istio.namespace", own.namespace.as_str());
    told.text("istio.cluster_id", own.cluster.as_str());
    for (end, party) in [("source", &flow.source), ("destination", &flow.destination)] {
        told.text(&format!("{end}.workload"), party.workload.as_str());
        told.text(&format!("{end}.namespace"), party.namespace.as_str());
        told.text(&format!("{end}.canonical_service"), party.canonical_service.as_str());
        told.maybe(&format!("{end}.principal"), party.identity.as_ref().map(ToString::to_string));
    }
    told.maybe("destination.service", flow.service.as_ref().map(|service| service.hostname.as_str()));
    told.text("connection_security_policy", flow.security.name());
    told.maybe("nodemesh.path", flow.path.map(crate::telemetry::flow::Path::name));
    told.maybe("nodemesh.policy", flow.policy.as_ref().map(ToString::to_string));
    if let Some(rule) = flow.rule {
        told.number("nodemesh.rule", rule);
    }
    told.text("nodemesh.verdict", flow.verdict.name());
    told.maybe("nodemesh.reason", flow.reason.as_deref());
}

/// Host and port, as in `web:80`, `[::1]:80` or `::1`.
fn authority(host: &str) -> (&str, Option<u16>) {
    let parsed = host.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
    match parsed {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name.trim_matches(['[', ']']), Some(port)),
        _ => (host.trim_matches(['[', ']']), None),
    }
}
