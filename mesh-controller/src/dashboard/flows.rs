//! The newest flow records, filtered as agents filter them. Pure.

use std::cmp::Reverse;

use mesh_common::proto::nodemesh::{
    Direction, Flow, FlowsQuery, HttpRequest, Observation, Path, Security, Verdict, flows_query::Only, item,
};
use serde_json::{Value, json};

use super::{
    Said,
    api::{Parameters, Refused},
    words,
};

const LAST: u32 = 200;
const MOST: u32 = 1000;

/// Each parameter is a field of the question.
pub fn query(parameters: &mut Parameters) -> Result<FlowsQuery, Refused> {
    let verdict =
        among(parameters, "verdict", &[Verdict::Forwarded, Verdict::Dropped, Verdict::Audit, Verdict::Error], |v| {
            words::verdict(v).to_ascii_lowercase()
        })?;
    let direction =
        among(parameters, "direction", &[Direction::Outbound, Direction::Inbound], |d| words::direction(d).to_owned())?;
    let passed = among(parameters, "passed", &[Path::Direct, Path::Local, Path::Tunnel, Path::Passthrough], |path| {
        words::path(path).to_owned()
    })?;
    let secured = [Security::Plaintext, Security::MutualTls, Security::KernelAttested];
    let security = among(parameters, "security", &secured, |security| words::security(security).to_owned())?;
    let only = among(parameters, "only", &[Only::Tcp, Only::Http, Only::Grpc, Only::Udp], |only| {
        only.as_str_name().to_ascii_lowercase()
    })?;
    Ok(FlowsQuery {
        follow: false,
        last: parameters.number("last", MOST)?.filter(|last| *last > 0).unwrap_or(LAST),
        namespace: parameters.take("namespace"),
        pod: parameters.take("pod"),
        from: parameters.take("from"),
        to: parameters.take("to"),
        verdict: verdict.unwrap_or_default().into(),
        direction: direction.unwrap_or_default().into(),
        since: None,
        only: only.unwrap_or_default().into(),
        http_status: parameters.take("status"),
        method: parameters.take("method"),
        path: parameters.take("path"),
        service: parameters.take("service"),
        reason: parameters.take("reason"),
        policy: parameters.take("policy"),
        trace_id: parameters.take("trace_id"),
        passed: passed.unwrap_or_default().into(),
        security: security.unwrap_or_default().into(),
        port: parameters.number("port", u16::MAX.into())?.unwrap_or_default(),
    })
}

fn among<T: Copy>(
    parameters: &mut Parameters,
    name: &str,
    all: &[T],
    word: impl Fn(T) -> String,
) -> Result<Option<T>, Refused> {
    let text = parameters.take(name);
    if text.is_empty() {
        return Ok(None);
    }
    all.iter().copied().find(|value| word(*value) == text.to_ascii_lowercase()).map(Some).ok_or_else(|| {
        let words = all.iter().map(|value| word(*value)).collect::<Vec<_>>().join(", ");
        Refused::wrong(name, format_args!("`{text}` is none of {words}"))
    })
}

/// The newest first; each node sent its own newest.
pub fn flows(said: &Said, last: u32) -> Value {
    let mut flows: Vec<(&str, &Flow)> = said
        .items
        .iter()
        .filter_map(|(node, kind)| match kind {
            item::Kind::Flow(flow) => Some((node.as_str(), &**flow)),
            _ => None,
        })
        .collect();
    let ended = |flow: &Flow| flow.end.or(flow.start).map(|time| (time.seconds, time.nanos));
    flows.sort_by_key(|(_, flow)| Reverse(ended(flow)));
    flows.truncate(last as usize);
    json!({ "rows": flows.iter().map(|(node, flow)| record(node, flow)).collect::<Vec<_>>(), "errors": said.errors })
}

pub fn record(node: &str, flow: &Flow) -> Value {
    let observed = |seen: &Observation| {
        json!({
            "policy": seen.policy,
            "rule": words::rule(seen.rule),
            "observed_as": words::observed_as(seen.observed_as()),
            "would_refuse": seen.would_refuse,
        })
    };
    json!({
        "node": if flow.node.is_empty() { node } else { &flow.node },
        // A number of 64 bits is none of a browser's.
        "id": flow.id.to_string(),
        "start": words::time(flow.start),
        "end": words::time(flow.end),
        "direction": words::direction(flow.direction()),
        "verdict": words::verdict(flow.verdict()),
        "reason": flow.reason,
        "source": words::end(flow.source.as_ref()),
        "destination": words::end(flow.destination.as_ref()),
        "service": flow.service,
        "path": words::path(flow.path()),
        "security": words::security(flow.security()),
        "sent": flow.bytes_sent,
        "received": flow.bytes_received,
        "policy": flow.policy,
        "rule": words::rule(flow.rule).filter(|_| !flow.policy.is_empty()),
        "generation": flow.generation,
        "error": flow.error,
        "tls": format!("{} {}", flow.tls_version, flow.tls_cipher).trim(),
        "observations": flow.observations.iter().map(observed).collect::<Vec<_>>(),
        "http": flow.http.as_ref().map(request),
    })
}

fn request(http: &HttpRequest) -> Value {
    json!({
        "method": http.method,
        "path": http.path,
        "host": http.host,
        "status": (http.status > 0).then_some(http.status),
        "version": http.version,
        "principal": http.principal,
        "flags": http.flags,
        "request_id": http.request_id,
        "route": http.route,
        "retries": http.retries,
        "grpc_status": http.grpc_status,
        "trace_id": http.trace_id,
    })
}
