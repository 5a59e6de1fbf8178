//! The words of the page's JSON, those that meshctl has too, and figures as it shows them.

use mesh_common::{
    model::Seen,
    proto::nodemesh::{self, Endpoint, ObservedAs, Path, Security},
};
use serde_json::{Value, json};

pub fn verdict(verdict: nodemesh::Verdict) -> &'static str {
    match verdict {
        nodemesh::Verdict::Unspecified => "UNKNOWN",
        nodemesh::Verdict::Forwarded => "FORWARDED",
        nodemesh::Verdict::Dropped => "DROPPED",
        nodemesh::Verdict::Audit => "AUDIT",
        nodemesh::Verdict::Error => "ERROR",
    }
}

pub fn direction(direction: nodemesh::Direction) -> &'static str {
    match direction {
        nodemesh::Direction::Unspecified => "unknown",
        nodemesh::Direction::Outbound => "outbound",
        nodemesh::Direction::Inbound => "inbound",
    }
}

pub fn path(path: Path) -> &'static str {
    match path {
        Path::Unspecified => "unknown",
        Path::Direct => "direct",
        Path::Local => "local",
        Path::Tunnel => "tunnel",
        Path::Passthrough => "passthrough",
    }
}

pub fn security(security: Security) -> &'static str {
    match security {
        Security::Unspecified => "unknown",
        Security::Plaintext => "none",
        Security::MutualTls => "mutual_tls",
        Security::KernelAttested => "kernel_attested",
    }
}

pub fn observed_as(observed_as: ObservedAs) -> &'static str {
    match observed_as {
        ObservedAs::Unspecified => "unknown",
        ObservedAs::DryRun => "dry_run",
        ObservedAs::Audited => "audited",
    }
}

pub fn redirection(redirection: nodemesh::Redirection) -> &'static str {
    match redirection {
        nodemesh::Redirection::Disabled => "disabled",
        nodemesh::Redirection::Pending => "pending",
        nodemesh::Redirection::Enabled => "enabled",
        nodemesh::Redirection::Failed => "failed",
    }
}

/// Milliseconds since 1970, as browsers count.
pub fn time(time: Option<prost_types::Timestamp>) -> Option<i64> {
    time.map(|time| time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos / 1_000_000)))
}

pub fn end(end: Option<&Endpoint>) -> Value {
    let end = end.cloned().unwrap_or_default();
    json!({
        "namespace": end.namespace,
        "pod": end.pod,
        "workload": end.workload,
        "identity": end.identity,
        "address": end.address,
    })
}

/// A policy and its rule that is meant; the rule is null where none matched.
pub fn rule(rule: i32) -> Option<i32> {
    (rule >= 0).then_some(rule)
}

/// A figure with three digits behind the point: more is noise.
pub fn figure(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Names of [`figures`], in order.
pub const FIGURES: [&str; 20] = [
    "rps",
    "failed_rps",
    "refused_rps",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "cps",
    "failed_cps",
    "refused_cps",
    "open",
    "sent_bps",
    "received_bps",
    "mutual_tls",
    "kernel_attested",
    "plaintext",
    "direct",
    "local",
    "tunnel",
    "passthrough",
    "rtt_us",
];

/// Rates are a second's, bytes and not bits; quantiles null without requests; how it was secured and which way it took
/// in counts.
pub fn figures(seen: &Seen) -> [Value; FIGURES.len()] {
    let rate = |rate: f64| json!(figure(rate));
    let quantile = |share: f64| json!(seen.latency.quantile(share).map(|time| figure(time.as_secs_f64() * 1e3)));
    let secured = |security: Security| json!(seen.security[security as usize]);
    let took = |path: Path| json!(seen.path[path as usize]);
    [
        rate(seen.rates.requests),
        rate(seen.rates.failed_requests),
        rate(seen.rates.refused_requests),
        quantile(0.5),
        quantile(0.95),
        quantile(0.99),
        rate(seen.rates.connections),
        rate(seen.rates.failed_connections),
        rate(seen.rates.refused_connections),
        json!(seen.open),
        rate(seen.rates.bytes_sent),
        rate(seen.rates.bytes_received),
        secured(Security::MutualTls),
        secured(Security::KernelAttested),
        secured(Security::Plaintext),
        took(Path::Direct),
        took(Path::Local),
        took(Path::Tunnel),
        took(Path::Passthrough),
        json!(seen.rtt_us),
    ]
}

/// The same by their names; null: nothing was seen.
pub fn seen(seen: Option<&Seen>) -> Value {
    seen.map_or(Value::Null, |seen| {
        let named = FIGURES.into_iter().map(ToOwned::to_owned).zip(figures(seen));
        Value::Object(named.collect())
    })
}
