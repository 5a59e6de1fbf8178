//! The agents of the nodes.

use super::{graph, variable};
use crate::monitoring::grafana::{Dashboard, Row};

pub const AGENT: Dashboard = Dashboard {
    uid: "nodemesh-agent",
    title: "Mesh: agents",
    about: "The agents of the nodes: what passes them, what they lost, and how full the kernel's tables are.",
    variables: &[variable("instance", "Agent", "mesh_bpf_map_entries", "instance")],
    rows: &[
        Row {
            title: "Traffic",
            panels: &[
                graph(
                    "New connections",
                    "cps",
                    "",
                    &[(
                        "{{instance}} {{reporter}}",
                        r#"sum by (instance, reporter)
                        (rate(istio_tcp_connections_opened_total{instance=~"$instance"}[$__rate_interval]))"#,
                    )],
                ),
                graph(
                    "Between pods of a node, past the agent",
                    "cps",
                    "Decided by the kernel from the agent's verdicts.",
                    &[(
                        "{{instance}}",
                        r#"sum by (instance) (rate(mesh_direct_connections_total{instance=~"$instance"}[$__rate_interval]))"#,
                    )],
                ),
                graph(
                    "Retries, and those that a budget stopped",
                    "ops",
                    "",
                    &[
                        (
                            "tried again {{instance}}",
                            r#"sum by (instance) (rate(mesh_retries_total{instance=~"$instance"}[$__rate_interval]))"#,
                        ),
                        (
                            "stopped {{instance}}",
                            r#"sum by (instance)
                            (rate(mesh_retry_budget_exhausted_total{instance=~"$instance"}[$__rate_interval]))"#,
                        ),
                    ],
                ),
                graph(
                    "Circuits, ejections, rate limits",
                    "short",
                    "",
                    &[
                        (
                            "ejected endpoints {{instance}}",
                            r#"sum by (instance) (mesh_outlier_ejections_active{instance=~"$instance"})"#,
                        ),
                        (
                            "refused at once a second {{instance}}",
                            r#"sum by (instance) (rate(mesh_circuit_open_total{instance=~"$instance"}[$__rate_interval]))"#,
                        ),
                        (
                            "limited a second {{instance}}",
                            r#"sum by (instance) (rate(mesh_ratelimited_total{instance=~"$instance"}[$__rate_interval]))"#,
                        ),
                    ],
                ),
            ],
        },
        Row {
            title: "Trust",
            panels: &[
                graph(
                    "Until the first certificate ends",
                    "s",
                    "",
                    &[(
                        "{{instance}}",
                        r#"min by (instance) (mesh_cert_soonest_expiry_seconds{instance=~"$instance"})"#,
                    )],
                ),
                graph(
                    "Plaintext that was refused under STRICT",
                    "cps",
                    "",
                    &[(
                        "{{instance}}",
                        r#"sum by (instance) (rate(mesh_policy_verdicts_total{instance=~"$instance",
                        reason="PLAINTEXT_STRICT"}[$__rate_interval]))"#,
                    )],
                ),
            ],
        },
        Row {
            title: "Itself",
            panels: &[
                graph(
                    "Entries of the kernel's tables",
                    "short",
                    "",
                    &[("{{instance}} {{map}}", r#"mesh_bpf_map_entries{instance=~"$instance"}"#)],
                ),
                graph(
                    "Records that were lost",
                    "ops",
                    "replaced: newer ones took the place of the oldest; ring: the agent was too slow for the kernel; \
                     slow_reader: somebody who followed them was.",
                    &[(
                        "{{instance}} {{why}}",
                        r#"sum by (instance, why) (rate(mesh_flow_events_lost_total{instance=~"$instance"}[$__rate_interval]))"#,
                    )],
                ),
                graph(
                    "What the kernel's programs did",
                    "ops",
                    "",
                    &[(
                        "{{verdict}}",
                        r#"sum by (verdict) (rate(mesh_bpf_verdicts_total{instance=~"$instance"}[$__rate_interval]))"#,
                    )],
                ),
                graph(
                    "Hooks that were found broken and mended",
                    "ops",
                    "",
                    &[(
                        "{{instance}} {{check}}",
                        r#"sum by (instance, check) (rate(mesh_audit_faults_total{instance=~"$instance"}[$__rate_interval]))"#,
                    )],
                ),
            ],
        },
    ],
};
