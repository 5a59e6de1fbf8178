//! Prometheus metrics. Names and labels: Istio's for connections, the project's own with `mesh_`.

use anyhow::{Context as _, Result};
use metrics::{counter, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::flow::{Direction, Flow, Verdict};

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
    if flow.verdict != Verdict::Forwarded {
        counter!("istio_tcp_connections_failed_total", &labels).increment(1);
    }
    counter!("istio_tcp_sent_bytes_total", &labels).increment(flow.received);
    counter!("istio_tcp_received_bytes_total", &labels).increment(flow.sent);
    let policy = flow.policy.as_ref().map(ToString::to_string).unwrap_or_default();
    counter!(
        "mesh_policy_verdicts_total",
        "verdict" => flow.verdict.name(),
        "policy" => policy,
        "reason" => flow.reason.as_deref().unwrap_or_default().to_owned()
    )
    .increment(1);
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
