//! Prometheus metrics. Names and labels: Istio's for connections, the project's own with `mesh_`.

use anyhow::{Context as _, Result};
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::flow::{Direction, Flow, Tcp, Verdict};
use mesh_common::model::ObservedAs;

/// Upper bounds in seconds: from two pods of a node to the other side of the world.
const RTT_BUCKETS: [f64; 13] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];

/// Everything that is counted from now on, as Prometheus reads it.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// To be called once.
    pub fn install() -> Result<Self> {
        recorder()?.install_recorder().map(Self).context("cannot count")
    }

    pub fn render(&self) -> String {
        self.0.render()
    }

    /// To be called now and then: what was observed is added up.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

fn recorder() -> Result<PrometheusBuilder> {
    let rtt = Matcher::Full("mesh_tcp_rtt_seconds".to_owned());
    PrometheusBuilder::new().set_buckets_for_metric(rtt, &RTT_BUCKETS).context("cannot count round-trip times")
}

/// Connections that this agent takes note of from now on; at the end of each comes [`closed`].
pub fn opened(direction: Direction, count: u64) {
    counter!("istio_tcp_connections_opened_total", "reporter" => direction.reporter()).increment(count);
}

/// Connections from pod to pod on this node that no agent carried, since the kernel's counters began.
pub fn direct_connections(count: u64) {
    counter!("mesh_direct_connections_total").absolute(count);
}

/// What the kernel measured of a connection, for the workloads that the configuration knows; all others together are
/// the one without a name.
fn measured(flow: &Flow, tcp: Tcp) {
    let labels = [
        ("reporter", flow.direction.reporter().to_owned()),
        ("source_workload", flow.source.workload.clone()),
        ("source_workload_namespace", flow.source.namespace.clone()),
        ("destination_workload", flow.destination.workload.clone()),
        ("destination_workload_namespace", flow.destination.namespace.clone()),
    ];
    // A connection that was never answered has none.
    if !tcp.rtt.is_zero() {
        histogram!("mesh_tcp_rtt_seconds", &labels).record(tcp.rtt);
    }
    counter!("mesh_tcp_retransmits_total", &labels).increment(tcp.retransmits.into());
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
    if let Some(tcp) = flow.tcp {
        measured(flow, tcp);
    }
    decided(flow);
}

/// What policies said of a connection or a request.
pub(super) fn decided(flow: &Flow) {
    let policy = flow.policy.as_ref().map(ToString::to_string).unwrap_or_default();
    let reason = flow.reason.as_deref().unwrap_or_default();
    if flow.http.is_some() && flow.verdict == Verdict::Dropped {
        let labels = [
            ("reporter", flow.direction.reporter().to_owned()),
            ("destination_workload", flow.destination.workload.clone()),
            ("destination_workload_namespace", flow.destination.namespace.clone()),
            ("policy", policy.clone()),
            ("reason", reason.to_owned()),
        ];
        counter!("mesh_requests_refused_total", &labels).increment(1);
    }
    verdict(flow.verdict, policy, reason.to_owned(), "false");
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

/// Connections that are open and older than their pod's enrolment.
pub fn older_connections(count: usize) {
    gauge!("mesh_older_connections").set(count as f64);
}

/// A hook, an entry or a listener was found wrong.
pub fn audit_fault(check: &'static str) {
    counter!("mesh_audit_faults_total", "check" => check).increment(1);
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{super::flow::Party, *};

    #[test]
    fn what_the_kernel_measured_is_told_by_workload() {
        let recorder = recorder().unwrap().build_recorder();
        let handle = recorder.handle();
        let party = |workload: &str| Party { namespace: "shop".into(), workload: workload.into(), ..Party::default() };
        let ended = |rtt, retransmits| {
            let mut flow = Flow::new(1, SystemTime::now(), Direction::Outbound, party("cart"), party("web"));
            flow.tcp = Some(Tcp { rtt: Duration::from_micros(rtt), retransmits });
            closed(&flow);
        };
        metrics::with_local_recorder(&recorder, || {
            ended(300, 2);
            // Never answered
            ended(0, 6);
            opened(Direction::Outbound, 2);
        });
        let text = handle.render();
        let value = |line: &str| {
            let found = text.lines().find_map(|told| told.strip_prefix(line)?.strip_prefix(' '));
            found.unwrap_or_else(|| panic!("no {line} in:\n{text}")).to_owned()
        };
        let labels = "reporter=\"source\",source_workload=\"cart\",source_workload_namespace=\"shop\",\
                      destination_workload=\"web\",destination_workload_namespace=\"shop\"";
        assert_eq!(value(&format!("mesh_tcp_retransmits_total{{{labels}}}")), "8");
        assert_eq!(value(&format!("mesh_tcp_rtt_seconds_count{{{labels}}}")), "1");
        assert_eq!(value(&format!("mesh_tcp_rtt_seconds_bucket{{{labels},le=\"0.00025\"}}")), "0");
        assert_eq!(value(&format!("mesh_tcp_rtt_seconds_bucket{{{labels},le=\"0.0005\"}}")), "1");
        assert_eq!(value("istio_tcp_connections_opened_total{reporter=\"source\"}"), "2");
    }
}
