//! Prometheus metrics. Names and labels: Istio's for connections and requests, the project's own with `mesh_`. What has
//! workloads or policies as labels is in [`Traffic`]; the rest goes through the `metrics` facade, and has few labels,
//! whose values are the agent's own. Every metric is described, also before its first count.

mod describe;
mod histogram;
mod labels;
mod process;
mod sets;
mod text;
mod traffic;
mod udp;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context as _, Result};
use metrics::{Counter, counter, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

pub use process::Used;
pub use traffic::{Limits, Traffic};
pub use udp::UdpTraffic;

/// Everything that is counted from now on, as Prometheus reads it.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    traffic: Arc<Traffic>,
    udp: Arc<UdpTraffic>,
    certificates: Arc<Mutex<Vec<(String, f64)>>>,
}

/// Identities whose certificates are told by themselves.
const CERTIFICATES: usize = 1024;
const EXPIRY: (&str, &str) =
    ("mesh_cert_expiry_seconds", "How long the certificate of an identity of this node's pods is still valid.");
const SOONEST: (&str, &str) =
    ("mesh_cert_soonest_expiry_seconds", "How long the certificate of this node that ends first is still valid.");

impl Metrics {
    /// To be called once.
    pub fn install(traffic: Arc<Traffic>, udp: Arc<UdpTraffic>) -> Result<Self> {
        let handle = PrometheusBuilder::new().install_recorder().context("cannot count")?;
        describe::all();
        Ok(Self { handle, traffic, udp, certificates: Arc::default() })
    }

    /// How long the certificates of this node's pods are still valid, in seconds, by identity; negative: they are over.
    pub fn certificates(&self, left: Vec<(String, f64)>) {
        *self.certificates.lock().unwrap_or_else(PoisonError::into_inner) = left;
    }

    pub fn render(&self) -> String {
        let mut text = self.traffic.render(Instant::now());
        self.udp.render(&mut text, Instant::now());
        if let Some(used) = Used::now() {
            used.tell(&mut text);
        }
        self.render_certificates(&mut text);
        text.push_str(&self.handle.render());
        text
    }

    fn render_certificates(&self, text: &mut String) {
        let left = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        text::head(text, EXPIRY.0, "gauge", EXPIRY.1);
        for (identity, seconds) in left.iter().take(CERTIFICATES) {
            let mut label = "identity=\"".to_owned();
            text::escape(&mut label, identity);
            text::line(text, EXPIRY.0, "", &(label + "\""), seconds);
        }
        text::head(text, SOONEST.0, "gauge", SOONEST.1);
        if let Some(soonest) = left.iter().map(|(_, seconds)| *seconds).reduce(f64::min) {
            text::line(text, SOONEST.0, "", "", soonest);
        }
    }

    /// To be called now and then: what was observed is added up, and what was not used for long goes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
        self.traffic.expire(Instant::now());
        self.udp.expire(Instant::now());
    }
}

/// Connections from pod to pod on this node that no agent carried, since the kernel's counters began.
pub fn direct_connections(count: u64) {
    counter!("mesh_direct_connections_total").absolute(count);
}

/// Records that somebody could have asked for and that are gone: the oldest for newer ones, or those that a reader was
/// too slow for.
pub fn flows_lost(why: &'static str, count: u64) {
    lost(why).increment(count);
}

/// What [`flows_lost`] counts with, for whom looking it up each time would cost too much.
pub(super) fn lost(why: &'static str) -> Counter {
    counter!("mesh_flow_events_lost_total", "why" => why)
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

/// How full the kernel's tables are, and how many entries each may have.
pub fn map_entries(maps: impl IntoIterator<Item = (&'static str, usize, usize)>) {
    for (name, entries, most) in maps {
        gauge!("mesh_bpf_map_entries", "map" => name).set(entries as f64);
        gauge!("mesh_bpf_map_entries_max", "map" => name).set(most as f64);
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

/// Endpoints that are left alone now, counted once for each pod that does so.
pub fn ejections(active: usize) {
    gauge!("mesh_outlier_ejections_active").set(active as f64);
}

/// The configuration in force, and whether the controller is there.
pub fn configuration(generation: u64, connected: bool) {
    gauge!("mesh_configuration_generation").set(generation as f64);
    gauge!("mesh_controller_connected").set(if connected { 1.0 } else { 0.0 });
}

#[cfg(test)]
mod tests;
