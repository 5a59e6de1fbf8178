//! The record of `-o json` and `-o yaml`. Its names and words do not change.

use mesh_common::proto::nodemesh::{Endpoint, Flow, HttpRequest, Observation};
use serde_json::{Value, json};

use super::{ended, milliseconds};
use crate::words;

pub fn end_record(end: Option<&Endpoint>) -> Value {
    let end = end.cloned().unwrap_or_default();
    json!({
        "namespace": end.namespace,
        "pod": end.pod,
        "workload": end.workload,
        "service_account": end.service_account,
        "identity": end.identity,
        "address": end.address,
    })
}

fn request_record(http: &HttpRequest) -> Value {
    let HttpRequest {
        method,
        path,
        host,
        status,
        version,
        principal,
        flags,
        request_id,
        route,
        retries,
        grpc_status,
        grpc,
        trace_id,
        span_id,
        parent_span_id,
        trace_sampled,
        request_messages,
        response_messages,
    } = http;
    json!({
        "method": method,
        "path": path,
        "host": host,
        "status": (*status > 0).then_some(status),
        "version": version,
        "principal": principal,
        "flags": flags,
        "request_id": request_id,
        "route": route,
        "retries": retries,
        "grpc_status": grpc_status,
        "request_messages": grpc.then_some(request_messages),
        "response_messages": grpc.then_some(response_messages),
        "trace_id": trace_id,
        "span_id": span_id,
        "parent_span_id": parent_span_id,
        "trace_sampled": (!trace_id.is_empty()).then_some(trace_sampled),
    })
}

pub fn record(flow: &Flow) -> Value {
    let time = |time: Option<(i64, i32)>| words::time(time);
    let observed = |seen: &Observation| {
        json!({
            "policy": seen.policy,
            "rule": (seen.rule >= 0).then_some(seen.rule),
            "observed_as": words::observed_as(seen.observed_as()),
            "would_refuse": seen.would_refuse,
        })
    };
    json!({
        "time": time(ended(flow)),
        "start": time(flow.start.map(|start| (start.seconds, start.nanos))),
        "duration_ms": milliseconds(flow),
        "id": flow.id,
        "node": flow.node,
        "direction": words::direction(flow.direction()),
        "protocol": words::protocol(flow),
        "verdict": words::verdict(flow.verdict()),
        "reason": flow.reason,
        "source": end_record(flow.source.as_ref()),
        "destination": end_record(flow.destination.as_ref()),
        "service": flow.service,
        "path": words::path(flow.path()),
        "security": words::security(flow.security()),
        "tls_version": flow.tls_version,
        "tls_cipher": flow.tls_cipher,
        "rtt_us": flow.tcp.map(|tcp| tcp.rtt_us),
        "retransmits": flow.tcp.map(|tcp| tcp.retransmits),
        "bytes_sent": flow.bytes_sent,
        "bytes_received": flow.bytes_received,
        "datagrams_sent": flow.udp.map(|udp| udp.datagrams_sent),
        "datagrams_received": flow.udp.map(|udp| udp.datagrams_received),
        "policy": flow.policy,
        "rule": (!flow.policy.is_empty() && flow.rule >= 0).then_some(flow.rule),
        "generation": flow.generation,
        "error": flow.error,
        "observations": flow.observations.iter().map(observed).collect::<Vec<_>>(),
        "http": flow.http.as_ref().map(request_record),
    })
}
