//! The controller.

use super::{graph, number};
use crate::monitoring::grafana::{Dashboard, Row};

pub const CONTROLLER: Dashboard = Dashboard {
    uid: "nodemesh-controller",
    title: "Mesh: controller",
    about: "The controller: how fast changes reach the agents, what is refused, and what it signs.",
    variables: &[],
    rows: &[
        Row {
            title: "Now",
            panels: &[
                number("Agents", "short", "", &[("", "sum(mesh_controller_agents)")]),
                number(
                    "Behind",
                    "short",
                    "Have not taken the newest state.",
                    &[("", "sum(mesh_controller_agents_behind)")],
                ),
                number("Leaders", "short", "One is right.", &[("", "sum(mesh_controller_leader)")]),
                number("CA ends in", "s", "", &[("", "min(mesh_controller_ca_expiry_seconds)")]),
                number(
                    "Problems",
                    "short",
                    "Of the configuration; one replica's count.",
                    &[("", r#"max(sum by (instance) (mesh_controller_problems{extent!="note"}))"#)],
                ),
                number("Version", "short", "", &[("{{version}}", "count by (version) (mesh_controller_info)")]),
            ],
        },
        Row {
            title: "Changes",
            panels: &[
                graph(
                    "From a change until agents have taken it",
                    "s",
                    "",
                    &[
                        (
                            "p50",
                            r#"histogram_quantile(0.5, sum by (le)
                            (rate(mesh_controller_convergence_seconds_bucket[$__rate_interval])))"#,
                        ),
                        (
                            "p99",
                            r#"histogram_quantile(0.99, sum by (le)
                            (rate(mesh_controller_convergence_seconds_bucket[$__rate_interval])))"#,
                        ),
                        (
                            "p99 until it is sent",
                            r#"histogram_quantile(0.99, sum by (le)
                            (rate(mesh_controller_push_delay_seconds_bucket[$__rate_interval])))"#,
                        ),
                        (
                            "p99 of compiling",
                            r#"histogram_quantile(0.99, sum by (le)
                            (rate(mesh_controller_compile_seconds_bucket[$__rate_interval])))"#,
                        ),
                    ],
                ),
                graph(
                    "Answers to agents",
                    "ops",
                    "",
                    &[("{{kind}}", "sum by (kind) (rate(mesh_controller_pushes_total[$__rate_interval]))")],
                ),
                graph(
                    "Refused by agents",
                    "ops",
                    "",
                    &[("{{kind}}", "sum by (kind) (rate(mesh_controller_nacks_total[$__rate_interval]))")],
                ),
                graph(
                    "States of the mesh",
                    "ops",
                    "",
                    &[("{{instance}}", "sum by (instance) (rate(mesh_controller_changes_total[$__rate_interval]))")],
                ),
            ],
        },
        Row {
            title: "Sources",
            panels: &[
                graph(
                    "Words of watches",
                    "ops",
                    "Of the Kubernetes API only.",
                    &[(
                        "{{kind}} {{event}}",
                        "sum by (kind, event) (rate(mesh_controller_watch_events_total[$__rate_interval]))",
                    )],
                ),
                graph(
                    "Watches that broke, keys that could not be fetched",
                    "ops",
                    "",
                    &[
                        ("{{kind}}", "sum by (kind) (rate(mesh_controller_watch_failures_total[$__rate_interval]))"),
                        ("keys", r#"sum(rate(mesh_jwks_fetches_total{result="failed"}[$__rate_interval]))"#),
                    ],
                ),
                graph(
                    "Problems by kind",
                    "short",
                    "",
                    &[("{{kind}} {{extent}}", "max by (kind, extent) (mesh_controller_problems)")],
                ),
                graph("Resources", "short", "", &[("{{kind}}", "max by (kind) (mesh_controller_resources)")]),
            ],
        },
        Row {
            title: "Certificates",
            panels: &[
                graph(
                    "Signed",
                    "ops",
                    "",
                    &[(
                        "{{instance}}",
                        "sum by (instance) (rate(mesh_controller_certificates_signed_total[$__rate_interval]))",
                    )],
                ),
                graph(
                    "Refused",
                    "ops",
                    "Calls of agents, or of others: by reason.",
                    &[("{{reason}}", "sum by (reason) (rate(mesh_controller_refused_total[$__rate_interval]))")],
                ),
            ],
        },
        Row {
            title: "Process",
            panels: &[
                graph(
                    "CPU",
                    "short",
                    "",
                    &[(
                        "{{instance}}",
                        r#"rate(process_cpu_seconds_total{job=~"(.*/)?mesh-controller"}[$__rate_interval])"#,
                    )],
                ),
                graph(
                    "Memory",
                    "bytes",
                    "",
                    &[("{{instance}}", r#"process_resident_memory_bytes{job=~"(.*/)?mesh-controller"}"#)],
                ),
            ],
        },
    ],
};
