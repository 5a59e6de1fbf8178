//! What the metrics of the facade mean. Those that alerts ask for are there from the beginning, with 0.

use metrics::{counter, describe_counter, describe_gauge, gauge};

/// Name and meaning, and the labels of series that are there before their first count.
type Described = (&'static str, &'static str, &'static [(&'static str, &'static [&'static str])]);

pub const COUNTERS: [Described; 11] = [
    ("mesh_retries_total", "Requests that were tried once more.", &[("", &[""])]),
    (
        "mesh_retry_budget_exhausted_total",
        "Retries that a destination's limit or budget did not permit.",
        &[("by", &["limit", "budget"])],
    ),
    ("mesh_ratelimited_total", "Requests and connections that a rate limit refused, by its policy.", &[]),
    ("mesh_http_flags_total", "Answers with one of Envoy's response flags.", &[]),
    (
        "mesh_flow_events_lost_total",
        "Flow records that are gone before everybody who may ask could have them.",
        &[("why", &["replaced", "ring", "slow_reader"])],
    ),
    ("mesh_edges_evicted_total", "Pairs of pods whose totals made room for others.", &[("", &[""])]),
    (
        "mesh_direct_connections_total",
        "Connections between pods of this node that no agent carried, since the kernel's counters began.",
        &[],
    ),
    ("mesh_bpf_verdicts_total", "What the eBPF programs decided or met, since the kernel's counters began.", &[]),
    ("mesh_audit_faults_total", "Hooks, entries and listeners that were found wrong, and set right.", &[]),
    ("mesh_audit_events_total", "Records of the audit stream that were written.", &[]),
    ("mesh_audit_events_lost_total", "Records of the audit stream that were lost.", &[("", &[""])]),
];

pub const GAUGES: [(&str, &str); 7] = [
    ("mesh_agent_info", "1, with the agent's version."),
    ("mesh_bpf_map_entries", "Entries of the kernel's tables; of OVERFLOWED its value."),
    ("mesh_bpf_map_entries_max", "Entries that the kernel's tables may have."),
    ("mesh_older_connections", "Open connections that are older than their pod's enrolment."),
    ("mesh_outlier_ejections_active", "Endpoints that are left alone now, once for each pod that does so."),
    ("mesh_configuration_generation", "Rises by one with each change of the configuration that is in force."),
    ("mesh_controller_connected", "1: the discovery stream is open."),
];

/// To be called once there is a recorder.
pub fn all() {
    for (name, help, labels) in COUNTERS {
        describe_counter!(name, help);
        for (label, values) in labels {
            for value in *values {
                if label.is_empty() { counter!(name) } else { counter!(name, *label => *value) }.increment(0);
            }
        }
    }
    for (name, help) in GAUGES {
        describe_gauge!(name, help);
    }
    gauge!("mesh_agent_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    gauge!("mesh_outlier_ejections_active").set(0.0);
}
