//! All of the mesh at once. Each connection and request is told by both ends' agents; where both are in the mesh, the
//! source's view is shown.

use super::{graph, number, table};
use crate::monitoring::grafana::{Dashboard, Row};

pub const MESH: Dashboard = Dashboard {
    uid: "nodemesh-mesh",
    title: "Mesh",
    about: "All of the mesh at once: requests, connections, how they are secured, and what is refused.",
    variables: &[],
    rows: &[
        Row {
            title: "Now",
            panels: &[
                number(
                    "Requests",
                    "reqps",
                    "Those that agents of clients read.",
                    &[("", r#"sum(rate(istio_requests_total{reporter="source"}[$__rate_interval]))"#)],
                ),
                number(
                    "Success",
                    "percentunit",
                    "Answered, and not by 5xx.",
                    &[(
                        "",
                        r#"sum(rate(istio_requests_total{reporter="source", response_code!~"5..|0"}[$__rate_interval]))
                        / sum(rate(istio_requests_total{reporter="source"}[$__rate_interval]))"#,
                    )],
                ),
                number(
                    "New connections",
                    "cps",
                    "",
                    &[("", r#"sum(rate(istio_tcp_connections_opened_total{reporter="source"}[$__rate_interval]))"#)],
                ),
                number(
                    "Mutual TLS",
                    "percentunit",
                    "Of the connections that ended: proven by certificates, or by the kernel within a node.",
                    &[(
                        "",
                        r#"sum(rate(istio_tcp_connections_closed_total{reporter="destination",
                        connection_security_policy=~"mutual_tls|kernel_attested"}[$__rate_interval]))
                        / sum(rate(istio_tcp_connections_closed_total{reporter="destination"}[$__rate_interval]))"#,
                    )],
                ),
                number(
                    "Refused",
                    "cps",
                    "Connections and requests that a policy, or the mesh itself, did not let pass.",
                    &[(
                        "",
                        r#"sum(rate(mesh_policy_verdicts_total{verdict="DROPPED", dry_run="false"}[$__rate_interval]))"#,
                    )],
                ),
                number("Agents", "short", "", &[("", r#"sum(up{job=~"(.*/)?mesh-agent"})"#)]),
            ],
        },
        Row {
            title: "Services",
            panels: &[table(
                "Requests a second, failures and times in ms by service",
                "As clients' agents see them.",
                &[
                    (
                        "rate",
                        r#"sum by (destination_service_namespace, destination_service_name)
                        (rate(istio_requests_total{reporter="source"}[$__rate_interval]))"#,
                    ),
                    (
                        "failed",
                        r#"sum by (destination_service_namespace, destination_service_name)
                        (rate(istio_requests_total{reporter="source", response_code=~"5..|0"}[$__rate_interval]))"#,
                    ),
                    (
                        "p50",
                        r#"histogram_quantile(0.5, sum by (le, destination_service_namespace, destination_service_name)
                        (rate(istio_request_duration_milliseconds_bucket{reporter="source"}[$__rate_interval])))"#,
                    ),
                    (
                        "p99",
                        r#"histogram_quantile(0.99, sum by (le, destination_service_namespace, destination_service_name)
                        (rate(istio_request_duration_milliseconds_bucket{reporter="source"}[$__rate_interval])))"#,
                    ),
                ],
            )],
        },
        Row {
            title: "Connections",
            panels: &[
                table(
                    "Bytes a second by workload",
                    "",
                    &[
                        (
                            "received",
                            r#"sum by (destination_workload_namespace, destination_workload)
                            (rate(istio_tcp_received_bytes_total{reporter="source"}[$__rate_interval]))"#,
                        ),
                        (
                            "sent",
                            r#"sum by (destination_workload_namespace, destination_workload)
                            (rate(istio_tcp_sent_bytes_total{reporter="source"}[$__rate_interval]))"#,
                        ),
                    ],
                ),
                graph(
                    "Ended connections by security",
                    "cps",
                    "none: plaintext; kernel_attested: within a node, proven by the kernel, plaintext on the link.",
                    &[(
                        "{{connection_security_policy}}",
                        r#"sum by (connection_security_policy)
                        (rate(istio_tcp_connections_closed_total{reporter="destination"}[$__rate_interval]))"#,
                    )],
                ),
                graph(
                    "Failed and refused connections by reason",
                    "cps",
                    "",
                    &[(
                        "{{response_flags}}",
                        r#"sum by (response_flags) (rate(istio_tcp_connections_failed_total[$__rate_interval]))"#,
                    )],
                ),
            ],
        },
        Row {
            title: "Policies",
            panels: &[
                graph(
                    "Refused by policy",
                    "cps",
                    "Without a policy: the mesh itself refused, see the reason.",
                    &[(
                        "{{policy}} {{reason}}",
                        r#"sum by (policy, reason)
                        (rate(mesh_policy_verdicts_total{verdict="DROPPED", dry_run="false"}[$__rate_interval]))"#,
                    )],
                ),
                graph(
                    "Would be refused (dry run)",
                    "cps",
                    "",
                    &[(
                        "{{policy}}",
                        r#"sum by (policy)
                        (rate(mesh_policy_verdicts_total{verdict="DROPPED", dry_run="true"}[$__rate_interval]))"#,
                    )],
                ),
            ],
        },
    ],
};
