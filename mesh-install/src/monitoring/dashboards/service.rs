//! One service, as its clients' agents see it.

use super::{graph, variable};
use crate::monitoring::grafana::{Dashboard, Row};

pub const SERVICE: Dashboard = Dashboard {
    uid: "nodemesh-service",
    title: "Mesh: service",
    about: "One service: who asks it what, how it answers, and how long that takes.",
    variables: &[
        variable("namespace", "Namespace", "istio_requests_total", "destination_service_namespace"),
        variable(
            "service",
            "Service",
            r#"istio_requests_total{destination_service_namespace=~"$namespace"}"#,
            "destination_service_name",
        ),
    ],
    rows: &[
        Row {
            title: "As clients see it",
            panels: &[
                graph(
                    "Requests by client",
                    "reqps",
                    "",
                    &[(
                        "{{source_workload_namespace}}/{{source_workload}}",
                        r#"sum by (source_workload_namespace, source_workload) (rate(istio_requests_total{reporter="source",
                        destination_service_namespace=~"$namespace", destination_service_name=~"$service"}[$__rate_interval]))"#,
                    )],
                ),
                graph(
                    "Answers",
                    "reqps",
                    "0: there was none. The flag says whose answer it was, and why.",
                    &[(
                        "{{response_code}} {{response_flags}}",
                        r#"sum by (response_code, response_flags) (rate(istio_requests_total{reporter="source",
                        destination_service_namespace=~"$namespace", destination_service_name=~"$service"}[$__rate_interval]))"#,
                    )],
                ),
                graph(
                    "Duration",
                    "ms",
                    "From the request's head until the answer's last byte.",
                    &[
                        (
                            "p50",
                            r#"histogram_quantile(0.5, sum by (le) (rate(istio_request_duration_milliseconds_bucket{
                            reporter="source", destination_service_namespace=~"$namespace",
                            destination_service_name=~"$service"}[$__rate_interval])))"#,
                        ),
                        (
                            "p90",
                            r#"histogram_quantile(0.9, sum by (le) (rate(istio_request_duration_milliseconds_bucket{
                            reporter="source", destination_service_namespace=~"$namespace",
                            destination_service_name=~"$service"}[$__rate_interval])))"#,
                        ),
                        (
                            "p99",
                            r#"histogram_quantile(0.99, sum by (le) (rate(istio_request_duration_milliseconds_bucket{
                            reporter="source", destination_service_namespace=~"$namespace",
                            destination_service_name=~"$service"}[$__rate_interval])))"#,
                        ),
                    ],
                ),
                graph(
                    "Failures",
                    "percentunit",
                    "",
                    &[(
                        "{{destination_service_name}}",
                        r#"sum by (destination_service_name) (rate(istio_requests_total{reporter="source",
                        destination_service_namespace=~"$namespace", destination_service_name=~"$service",
                        response_code=~"5..|0"}[$__rate_interval])) / sum by (destination_service_name)
                        (rate(istio_requests_total{reporter="source", destination_service_namespace=~"$namespace",
                        destination_service_name=~"$service"}[$__rate_interval]))"#,
                    )],
                ),
            ],
        },
        Row {
            title: "Sizes and gRPC",
            panels: &[
                graph(
                    "Body sizes, the largest of a hundred",
                    "bytes",
                    "",
                    &[
                        (
                            "request",
                            r#"histogram_quantile(0.99, sum by (le) (rate(istio_request_bytes_bucket{reporter="source",
                            destination_service_namespace=~"$namespace",
                            destination_service_name=~"$service"}[$__rate_interval])))"#,
                        ),
                        (
                            "answer",
                            r#"histogram_quantile(0.99, sum by (le) (rate(istio_response_bytes_bucket{reporter="source",
                            destination_service_namespace=~"$namespace",
                            destination_service_name=~"$service"}[$__rate_interval])))"#,
                        ),
                    ],
                ),
                graph(
                    "gRPC messages",
                    "ops",
                    "",
                    &[
                        (
                            "to the service",
                            r#"sum(rate(istio_request_messages_total{reporter="source",
                            destination_service_namespace=~"$namespace",
                            destination_service_name=~"$service"}[$__rate_interval]))"#,
                        ),
                        (
                            "back",
                            r#"sum(rate(istio_response_messages_total{reporter="source",
                            destination_service_namespace=~"$namespace",
                            destination_service_name=~"$service"}[$__rate_interval]))"#,
                        ),
                    ],
                ),
                graph(
                    "gRPC statuses",
                    "reqps",
                    "",
                    &[(
                        "{{grpc_response_status}}",
                        r#"sum by (grpc_response_status) (rate(istio_requests_total{reporter="source",
                        request_protocol="grpc", destination_service_namespace=~"$namespace",
                        destination_service_name=~"$service"}[$__rate_interval]))"#,
                    )],
                ),
                graph(
                    "By workload that served",
                    "reqps",
                    "",
                    &[(
                        "{{destination_workload}} {{destination_version}}",
                        r#"sum by (destination_workload, destination_version) (rate(istio_requests_total{
                        reporter="source", destination_service_namespace=~"$namespace",
                        destination_service_name=~"$service"}[$__rate_interval]))"#,
                    )],
                ),
            ],
        },
        Row {
            title: "Connections",
            panels: &[graph(
                "Bytes",
                "Bps",
                "",
                &[
                    (
                        "received",
                        r#"sum(rate(istio_tcp_received_bytes_total{reporter="source",
                        destination_service_namespace=~"$namespace", destination_service_name=~"$service"}[$__rate_interval]))"#,
                    ),
                    (
                        "sent",
                        r#"sum(rate(istio_tcp_sent_bytes_total{reporter="source",
                        destination_service_namespace=~"$namespace", destination_service_name=~"$service"}[$__rate_interval]))"#,
                    ),
                ],
            )],
        },
    ],
};
