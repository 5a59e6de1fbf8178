//! What the controller counts, each with its sentence for Prometheus. What Istio's control plane counts in the same
//! sense is told under its name too, so that dashboards and alerts made for that find it; nothing is told under a name
//! that would say something else there.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

/// Seconds, from one compilation of a small mesh to one that nobody should have.
const COMPILING: [f64; 11] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Seconds until agents know of a change.
const KNOWING: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 5.0, 10.0, 30.0];

/// Kinds of resources: the last word of their type URL, our word for it and, where Istio tells the same to its own
/// agents, Istio's.
const KINDS: [(&str, &str, &str); 8] = [
    ("Address", "address", "wds"),
    ("Authorization", "authorization", "authorization"),
    ("Accounts", "accounts", "accounts"),
    ("TrustBundle", "trust_bundle", "trust_bundle"),
    ("OnDemand", "on_demand", "on_demand"),
    ("Traffic", "traffic", "traffic"),
    ("Labels", "labels", "labels"),
    ("LocalPod", "local_pod", "local_pod"),
];

/// A recorder with the bounds of all histograms here.
pub fn recorder() -> Result<PrometheusBuilder, metrics_exporter_prometheus::BuildError> {
    let known = [
        "mesh_controller_push_delay_seconds",
        "mesh_controller_convergence_seconds",
        "pilot_proxy_convergence_time",
        "pilot_xds_push_time",
    ];
    let compiling = Matcher::Full("mesh_controller_compile_seconds".to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(compiling, &COMPILING)?;
    known
        .into_iter()
        .try_fold(builder, |builder, name| builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), &KNOWING))
}

/// Says what each is, and begins those at zero whose labels are known: a rate of what is not there yet is nothing, and
/// an alert on it would miss the first.
pub fn describe() {
    describe_counter!("mesh_controller_pushes_total", "Answers with configuration that were handed to agents' streams");
    describe_counter!("mesh_controller_nacks_total", "Answers that an agent refused at least a part of");
    describe_gauge!("mesh_controller_agents", "Agents that are told of configuration by this replica");
    describe_gauge!("mesh_controller_agents_behind", "Those of them that have not taken the newest state yet");
    describe_histogram!("mesh_controller_compile_seconds", "Making a new state of the mesh of a change");
    describe_histogram!("mesh_controller_push_delay_seconds", "From a change until an agent is sent the first of it");
    describe_histogram!(
        "mesh_controller_convergence_seconds",
        "From a change until an agent has answered to all of it"
    );
    describe_counter!("mesh_controller_watch_events_total", "What watches of the Kubernetes API said");
    describe_counter!("mesh_controller_watch_failures_total", "Watches of the Kubernetes API that broke");
    describe_counter!("mesh_controller_changes_total", "States of the mesh that were published");
    describe_gauge!(
        "mesh_controller_problems",
        "What of the configuration is not honoured as written, by kind and extent"
    );
    describe_gauge!("mesh_controller_resources", "What agents are told of, by kind");
    describe_counter!("mesh_controller_certificates_signed_total", "Workloads' certificates that were signed");
    describe_counter!("mesh_controller_refused_total", "Calls of agents, or who said to be one, that were refused");
    describe_gauge!(
        "mesh_controller_ca_expiry_seconds",
        "Until nothing is signed any more: the CA's chain is over then"
    );
    describe_gauge!("mesh_controller_root_expiry_seconds", "Until the last of the trusted roots is over");
    describe_gauge!("mesh_controller_leader", "1: this replica leads");
    describe_counter!("mesh_jwks_fetches_total", "Key sets of issuers of tokens that were fetched, or could not be");
    describe_counter!("mesh_audit_events_total", "Records of the audit stream that were written");
    describe_counter!("mesh_audit_events_lost_total", "Records of the audit stream that found no room");
    describe_gauge!("mesh_controller_info", "1; which version this is");
    // Istio's names.
    describe_gauge!("istio_build", "1; which version this is, under Istio's name for it");
    describe_gauge!("pilot_xds", "Agents that are told of configuration by this replica, under Istio's name for it");
    describe_counter!("pilot_xds_pushes", "mesh_controller_pushes_total under Istio's name");
    describe_counter!("pilot_total_xds_rejects", "mesh_controller_nacks_total under Istio's name");
    describe_histogram!("pilot_xds_push_time", "Seconds for making an answer and handing it to the agent's stream");
    describe_histogram!("pilot_proxy_convergence_time", "mesh_controller_convergence_seconds under Istio's name");
    describe_gauge!("pilot_services", "Services that agents are told of");
    describe_gauge!("pilot_virt_services", "VirtualServices that are read");
    describe_counter!("pilot_k8s_cfg_events", "What watches said of the mesh's own kinds, under Istio's name");
    describe_counter!("pilot_k8s_reg_events", "What watches said of Kubernetes' kinds, under Istio's name");
    describe_counter!("citadel_server_csr_count", "Certificates that were asked for");
    describe_counter!("citadel_server_success_cert_issuance_count", "Certificates that were signed");
    describe_gauge!(
        "citadel_server_root_cert_expiry_timestamp",
        "When the last of the trusted roots is over, unix time"
    );
    describe_gauge!("citadel_server_root_cert_expiry_seconds", "Until the last of the trusted roots is over");
    describe_gauge!("citadel_server_cert_chain_expiry_timestamp", "When the CA's chain is over, unix time");
    describe_gauge!("citadel_server_cert_chain_expiry_seconds", "Until the CA's chain is over");
    begin();
}

fn begin() {
    for (_, kind, istio) in KINDS {
        counter!("mesh_controller_pushes_total", "kind" => kind).increment(0);
        counter!("mesh_controller_nacks_total", "kind" => kind).increment(0);
        counter!("pilot_xds_pushes", "type" => istio).increment(0);
        counter!("pilot_total_xds_rejects", "type" => istio).increment(0);
    }
    for alone in [
        "mesh_controller_changes_total",
        "mesh_controller_certificates_signed_total",
        "mesh_audit_events_lost_total",
        "citadel_server_csr_count",
        "citadel_server_success_cert_issuance_count",
    ] {
        counter!(alone).increment(0);
    }
    for result in ["ok", "failed"] {
        counter!("mesh_jwks_fetches_total", "result" => result).increment(0);
    }
    let version = env!("CARGO_PKG_VERSION");
    gauge!("mesh_controller_info", "version" => version).set(1.0);
    gauge!("istio_build", "component" => "pilot", "tag" => version).set(1.0);
    agents(0.0, 0.0);
}

fn agents(more: f64, behind: f64) {
    gauge!("mesh_controller_agents").increment(more);
    gauge!("mesh_controller_agents_behind").increment(behind);
    gauge!("pilot_xds", "version" => env!("CARGO_PKG_VERSION")).increment(more);
}

fn names(of: &str) -> (&'static str, &'static str) {
    let last = of.rsplit('.').next();
    KINDS.iter().find(|(word, ..)| Some(*word) == last).map_or(("other", "other"), |(_, kind, istio)| (kind, istio))
}

/// An answer went to an agent's stream; it took so long to make it and to find room for it.
pub fn pushed(type_url: &str, took: Duration) {
    let (kind, istio) = names(type_url);
    counter!("mesh_controller_pushes_total", "kind" => kind).increment(1);
    counter!("pilot_xds_pushes", "type" => istio).increment(1);
    histogram!("pilot_xds_push_time", "type" => istio).record(took);
}

/// An agent refused an answer, or a part of one.
pub fn refused(type_url: &str) {
    let (kind, istio) = names(type_url);
    counter!("mesh_controller_nacks_total", "kind" => kind).increment(1);
    counter!("pilot_total_xds_rejects", "type" => istio).increment(1);
}

/// A state was made of a change.
pub fn compiled(took: Duration) {
    histogram!("mesh_controller_compile_seconds").record(took);
}

/// A state is new to agents.
pub fn published() {
    counter!("mesh_controller_changes_total").increment(1);
}

/// Words of a watch; `custom`: of a kind that Kubernetes does not bring.
pub fn event(kind: &'static str, event: &'static str, custom: bool) {
    counter!("mesh_controller_watch_events_total", "kind" => kind, "event" => event).increment(1);
    let istio = if custom { "pilot_k8s_cfg_events" } else { "pilot_k8s_reg_events" };
    counter!(istio, "type" => kind, "event" => event).increment(1);
}

/// A watch broke.
pub fn watch_failed(kind: &'static str) {
    counter!("mesh_controller_watch_failures_total", "kind" => kind).increment(1);
}

/// A certificate was asked for.
pub fn asked() {
    counter!("citadel_server_csr_count").increment(1);
}

/// A certificate was signed.
pub fn signed() {
    counter!("mesh_controller_certificates_signed_total").increment(1);
    counter!("citadel_server_success_cert_issuance_count").increment(1);
}

/// One agent's stream of configuration, counted while it is kept.
#[derive(Debug)]
pub struct Stream {
    behind: Option<Behind>,
}

/// What an agent has not taken yet.
#[derive(Clone, Copy, Debug)]
struct Behind {
    /// When the change came, as the controller heard of it.
    since: tokio::time::Instant,
    /// Something of it was sent.
    sent: bool,
}

impl Stream {
    pub fn new() -> Self {
        agents(1.0, 0.0);
        Self { behind: None }
    }

    /// There is a state that the agent does not have. Of several the oldest counts.
    pub fn outdated(&mut self, since: tokio::time::Instant) {
        if self.behind.is_none() {
            self.behind = Some(Behind { since, sent: false });
            agents(0.0, 1.0);
        }
    }

    /// An answer went out.
    pub fn sent(&mut self) {
        if let Some(behind) = &mut self.behind
            && !std::mem::replace(&mut behind.sent, true)
        {
            histogram!("mesh_controller_push_delay_seconds").record(behind.since.elapsed());
        }
    }

    /// The agent has answered to all that there is. A change of which it was told nothing is none of its own.
    pub fn current(&mut self) {
        let Some(behind) = self.behind.take() else { return };
        agents(0.0, -1.0);
        if behind.sent {
            let took = behind.since.elapsed();
            histogram!("mesh_controller_convergence_seconds").record(took);
            histogram!("pilot_proxy_convergence_time").record(took);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        agents(-1.0, if self.behind.is_some() { -1.0 } else { 0.0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_behind_until_it_has_all_of_a_change() {
        let recorder = recorder().unwrap().build_recorder();
        let handle = recorder.handle();
        let value = |line: &str| {
            let text = handle.render();
            let found = text.lines().find_map(|told| told.strip_prefix(line)?.strip_prefix(' ').map(str::to_owned));
            found.unwrap_or_else(|| panic!("no {line} in:\n{text}"))
        };
        metrics::with_local_recorder(&recorder, || {
            describe();
            let (mut one, mut other) = (Stream::new(), Stream::new());
            assert_eq!(
                (value("mesh_controller_agents"), value("mesh_controller_agents_behind")),
                ("2".into(), "0".into())
            );
            let now = tokio::time::Instant::now();
            one.outdated(now);
            one.outdated(now);
            other.outdated(now);
            assert_eq!(value("mesh_controller_agents_behind"), "2");
            one.sent();
            one.sent();
            one.current();
            one.current();
            // Nothing of the change was about the other one's node.
            other.current();
            assert_eq!(value("mesh_controller_agents_behind"), "0");
            for name in ["mesh_controller_push_delay_seconds", "mesh_controller_convergence_seconds"] {
                assert_eq!(value(&format!("{name}_count")), "1", "{name}");
            }
            assert_eq!(value("pilot_proxy_convergence_time_bucket{le=\"0.5\"}"), "1");
            other.outdated(now);
            drop((one, other));
            assert_eq!(
                (value("mesh_controller_agents"), value("mesh_controller_agents_behind")),
                ("0".into(), "0".into())
            );
            assert_eq!(value("pilot_xds{version=\"0.1.0\"}"), "0");
        });
    }

    #[test]
    fn what_happens_is_counted_under_both_names() {
        let recorder = recorder().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            pushed("type.googleapis.com/istio.workload.Address", Duration::from_millis(2));
            pushed("type.googleapis.com/of.nobody", Duration::ZERO);
            refused("type.googleapis.com/nodemesh.v1.Traffic");
            asked();
            signed();
            event("Pod", "applied", false);
            event("VirtualService", "deleted", true);
            watch_failed("Pod");
            compiled(Duration::from_millis(3));
            published();
        });
        let text = handle.render();
        for line in [
            "mesh_controller_pushes_total{kind=\"address\"} 1",
            "mesh_controller_pushes_total{kind=\"local_pod\"} 0",
            "mesh_controller_pushes_total{kind=\"other\"} 1",
            "pilot_xds_pushes{type=\"wds\"} 1",
            "mesh_controller_nacks_total{kind=\"traffic\"} 1",
            "pilot_total_xds_rejects{type=\"traffic\"} 1",
            "pilot_xds_push_time_count{type=\"wds\"} 1",
            "citadel_server_csr_count 1",
            "citadel_server_success_cert_issuance_count 1",
            "mesh_controller_certificates_signed_total 1",
            "mesh_controller_watch_events_total{kind=\"Pod\",event=\"applied\"} 1",
            "pilot_k8s_reg_events{type=\"Pod\",event=\"applied\"} 1",
            "pilot_k8s_cfg_events{type=\"VirtualService\",event=\"deleted\"} 1",
            "mesh_controller_watch_failures_total{kind=\"Pod\"} 1",
            "mesh_controller_compile_seconds_bucket{le=\"0.005\"} 1",
            "mesh_controller_compile_seconds_bucket{le=\"0.0025\"} 0",
            "mesh_controller_changes_total 1",
            "# HELP mesh_controller_nacks_total Answers that an agent refused at least a part of",
            "# TYPE pilot_xds gauge",
        ] {
            assert!(text.lines().any(|told| told == line), "no {line} in:\n{text}");
        }
    }

    /// What is told without a sentence is told by somebody who did not look here.
    #[test]
    fn all_that_begins_has_a_sentence() {
        let recorder = recorder().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, describe);
        let text = handle.render();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_whitespace().next());
        for name in types {
            assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        }
    }
}
