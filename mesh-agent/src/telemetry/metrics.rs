//! Prometheus metrics. Names and labels: Istio's for connections, the project's own with `mesh_`.

use anyhow::{Context as _, Result};
use metrics::{counter, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::flow::{Direction, Flow, Verdict};
use mesh_common::model::ObservedAs;

/// Everything that is counted from now on, as Prometheus reads it.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// To be called once.
    pub fn install() -> Result<Self> {
        PrometheusBuilder::new().install_recorder().map(Self).context("cannot count")
    }

    pub fn render(&self) -> String {
        self.0.render()
    }

    /// To be called now and then: what was observed is added up.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

pub(super) fn opened(direction: Direction) {
    counter!("istio_tcp_connections_opened_total", "reporter" => direction.reporter()).increment(1);
}

pub(super) fn closed(flow: &Flow) {
    let labels = [
        ("reporter", flow.direction.reporter().to_owned()),
        ("source_workload", flow.source.workload.clone()),
        ("source_workload_namespace", flow.source.namespace.clone()),
        ("source_principal", flow.source.identity.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("destination_workload", flow.destination.workload.clone()),
        ("destination_workload_namespace", flow.destination.namespace.clone()),
        ("destination_principal", flow.destination.identity.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("connection_security_policy", flow.security.name().to_owned()),
        ("response_flags", flow.reason.as_deref().unwrap_or("-").to_owned()),
    ];
    counter!("istio_tcp_connections_closed_total", &labels).increment(1);
    if flow.verdict.is_bad() {
        counter!("istio_tcp_connections_failed_total", &labels).increment(1);
    }
    counter!("istio_tcp_sent_bytes_total", &labels).increment(flow.received);
    counter!("istio_tcp_received_bytes_total", &labels).increment(flow.sent);
    let policy = flow.policy.as_ref().map(ToString::to_string).unwrap_or_default();
    verdict(flow.verdict, policy, flow.reason.as_deref().unwrap_or_default().to_owned(), "false");
    // Beside the connection's own verdict, so that a sum without dry runs counts connections.
    for seen in &flow.observations {
        let would = match (seen.observed_as, seen.would_refuse) {
            (ObservedAs::Audited, _) => Verdict::Audit,
            (ObservedAs::DryRun, true) => Verdict::Dropped,
            (ObservedAs::DryRun, false) => Verdict::Forwarded,
        };
        verdict(would, seen.policy.to_string(), String::new(), "true");
    }
}

/// `dry_run`: what a policy says that is not enforced.
fn verdict(verdict: Verdict, policy: String, reason: String, dry_run: &'static str) {
    counter!(
        "mesh_policy_verdicts_total",
        "verdict" => verdict.name(), "policy" => policy, "reason" => reason, "dry_run" => dry_run
    )
    .increment(1);
}

/// Records that somebody could have asked for and that are gone: the oldest for newer ones, or those that a reader was
/// too slow for.
pub fn flows_lost(why: &'static str, count: u64) {
    counter!("mesh_flow_events_lost_total", "why" => why).increment(count);
}

/// Edges whose totals made room for others.
pub(super) fn edges_evicted(count: u64) {
    counter!("mesh_edges_evicted_total").increment(count);
}

/// The kernel's own counters, as they stand now.
pub fn kernel_counters(counters: impl Iterator<Item = (&'static str, u64)>) {
    for (name, value) in counters {
        counter!("mesh_bpf_verdicts_total", "verdict" => name).absolute(value);
    }
}

/// How full the kernel's tables are.
pub fn map_entries(maps: impl IntoIterator<Item = (&'static str, usize)>) {
    for (name, entries) in maps {
        gauge!("mesh_bpf_map_entries", "map" => name).set(entries as f64);
    }
}

/// A hook, an entry or a listener was found wrong.
pub fn audit_fault(check: &'static str) {
    counter!("mesh_audit_faults_total", "check" => check).increment(1);
}
