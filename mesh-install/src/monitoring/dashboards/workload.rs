//! One workload, both ways.

use super::{graph, variable};
use crate::monitoring::grafana::{Dashboard, Row};

pub const WORKLOAD: Dashboard = Dashboard {
    uid: "nodemesh-workload",
    title: "Mesh: workload",
    about: "One workload: what comes to it, and what it asks of others.",
    variables: &[
        variable("namespace", "Namespace", "istio_tcp_connections_closed_total", "destination_workload_namespace"),
        variable(
            "workload",
            "Workload",
            r#"istio_tcp_connections_closed_total{destination_workload_namespace=~"$namespace"}"#,
            "destination_workload",
        ),
    ],
    rows: &[
        Row {
            title: "Inbound, as its own agent sees it",
            panels: &[
                graph(
                    "Requests by client",
                    "reqps",
                    "",
                    &[(
                        "{{source_workload_namespace}}/{{source_workload}} {{response_code}}",
                        r#"sum by (source_workload_namespace, source_workload, response_code) (rate(istio_requests_total{
                        reporter="destination", destination_workload_namespace=~"$namespace",
                        destination_workload=~"$workload"}[$__rate_interval]))"#,
                    )],
                ),
                graph(
                    "Duration",
                    "ms",
                    "",
                    &[
                        (
                            "p50",
                            r#"histogram_quantile(0.5, sum by (le) (rate(istio_request_duration_milliseconds_bucket{
                            reporter="destination", destination_workload_namespace=~"$namespace",
                            destination_workload=~"$workload"}[$__rate_interval])))"#,
                        ),
                        (
                            "p99",
                            r#"histogram_quantile(0.99, sum by (le) (rate(istio_request_duration_milliseconds_bucket{
                            reporter="destination", destination_workload_namespace=~"$namespace",
                            destination_workload=~"$workload"}[$__rate_interval])))"#,
                        ),
                    ],
                ),
                graph(
                    "Ended connections by client",
                    "cps",
                    "",
                    &[(
                        "{{source_workload_namespace}}/{{source_workload}} {{connection_security_policy}}",
                        r#"sum by (source_workload_namespace, source_workload, connection_security_policy)
                        (rate(istio_tcp_connections_closed_total{reporter="destination",
                        destination_workload_namespace=~"$namespace", destination_workload=~"$workload"}[$__rate_interval]))"#,
                    )],
                ),
                graph(
                    "Bytes",
                    "Bps",
                    "",
                    &[
                        (
                            "received",
                            r#"sum(rate(istio_tcp_received_bytes_total{reporter="destination",
                            destination_workload_namespace=~"$namespace",
                            destination_workload=~"$workload"}[$__rate_interval]))"#,
                        ),
                        (
                            "sent",
                            r#"sum(rate(istio_tcp_sent_bytes_total{reporter="destination",
                            destination_workload_namespace=~"$namespace",
                            destination_workload=~"$workload"}[$__rate_interval]))"#,
                        ),
                    ],
                ),
                graph(
                    "Refused requests",
                    "reqps",
                    "",
                    &[(
                        "{{policy}} {{reason}}",
                        r#"sum by (policy, reason) (rate(mesh_requests_refused_total{
                        destination_workload_namespace=~"$namespace", destination_workload=~"$workload"}[$__rate_interval]))"#,
                    )],
                ),
            ],
        },
        Row {
            title: "Outbound",
            panels: &[
                graph(
                    "Requests by service",
                    "reqps",
                    "",
                    &[(
                        "{{destination_service_namespace}}/{{destination_service_name}} {{response_code}}",
                        r#"sum by (destination_service_namespace, destination_service_name, response_code)
                        (rate(istio_requests_total{reporter="source", source_workload_namespace=~"$namespace",
                        source_workload=~"$workload"}[$__rate_interval]))"#,
                    )],
                ),
                graph(
                    "Ended connections by workload",
                    "cps",
                    "",
                    &[(
                        "{{destination_workload_namespace}}/{{destination_workload}}",
                        r#"sum by (destination_workload_namespace, destination_workload)
                        (rate(istio_tcp_connections_closed_total{reporter="source",
                        source_workload_namespace=~"$namespace", source_workload=~"$workload"}[$__rate_interval]))"#,
                    )],
                ),
            ],
        },
        Row {
            title: "Network",
            panels: &[
                graph(
                    "Round-trip time, half of the connections below",
                    "s",
                    "As the kernel measured it at the end of each connection.",
                    &[(
                        "{{destination_workload_namespace}}/{{destination_workload}}",
                        r#"histogram_quantile(0.5, sum by (le, destination_workload_namespace, destination_workload)
                        (rate(mesh_tcp_rtt_seconds_bucket{source_workload_namespace=~"$namespace",
                        source_workload=~"$workload"}[$__rate_interval])))"#,
                    )],
                ),
                graph(
                    "Segments sent again",
                    "pps",
                    "",
                    &[(
                        "{{destination_workload_namespace}}/{{destination_workload}}",
                        r#"sum by (destination_workload_namespace, destination_workload)
                        (rate(mesh_tcp_retransmits_total{source_workload_namespace=~"$namespace",
                        source_workload=~"$workload"}[$__rate_interval]))"#,
                    )],
                ),
            ],
        },
    ],
};
