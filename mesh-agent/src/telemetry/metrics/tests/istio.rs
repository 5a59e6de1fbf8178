//! Names and labels as Istio has them, and what is built on them asks for.

use mesh_common::model::{
    LocalPod, Mode, Observation, ObservedAs, PolicyName, SameNode,
    telemetry::{MetricChange, Telemetry},
};

use super::*;
use crate::telemetry::flow::{Counted, Tcp, Verdict};

#[test]
fn a_request_is_told_with_istios_labels() {
    let traffic = Traffic::default();
    traffic.ended(&request(Direction::Inbound, 200));
    let lines = rendered(&traffic);
    let line = lines.iter().find(|line| line.starts_with("istio_requests_total{")).unwrap();
    let expected = "istio_requests_total{reporter=\"destination\",source_workload=\"cart\",\
        source_canonical_service=\"cart\",source_canonical_revision=\"v1\",source_workload_namespace=\"shop\",\
        source_principal=\"spiffe://cluster.local/ns/shop/sa/cart\",source_app=\"cart\",source_version=\"v1\",\
        source_cluster=\"Kubernetes\",destination_workload=\"web\",destination_canonical_service=\"web\",\
        destination_canonical_revision=\"v1\",destination_workload_namespace=\"shop\",\
        destination_principal=\"spiffe://cluster.local/ns/shop/sa/web\",destination_app=\"web\",\
        destination_version=\"v1\",destination_cluster=\"Kubernetes\",\
        destination_service=\"web.shop.svc.cluster.local\",destination_service_name=\"web\",\
        destination_service_namespace=\"shop\",request_protocol=\"http\",response_code=\"200\",response_flags=\"-\",\
        connection_security_policy=\"mutual_tls\"} 1";
    assert_eq!(line, expected);
    let bucket = |le: &str| {
        let of = |(labels, _): &&(BTreeMap<String, String>, f64)| labels["le"] == le;
        series(&lines, "istio_request_duration_milliseconds_bucket").iter().find(of).unwrap().1
    };
    assert_eq!((bucket("25"), bucket("50"), bucket("+Inf")), (0.0, 1.0, 1.0));
    for (name, value) in [
        ("istio_request_duration_milliseconds_sum", 30.0),
        ("istio_request_bytes_sum", 5.0),
        ("istio_response_bytes_sum", 7.0),
        ("istio_response_bytes_count", 1.0),
        // No gRPC
        ("istio_request_messages_total", 0.0),
    ] {
        assert_eq!(sum(&lines, name), value, "{name}");
    }
    assert!(series(&lines, "istio_tcp_connections_closed_total").is_empty(), "a request is no connection");
}

#[test]
fn grpc_has_its_status_and_counts_messages() {
    let traffic = Traffic::default();
    let mut flow = request(Direction::Outbound, 200);
    let http = flow.http.as_mut().unwrap();
    (http.grpc, http.grpc_status, http.messages, http.flags) = (true, Some(14), (2, 3), Some("UF"));
    traffic.ended(&flow);
    let lines = rendered(&traffic);
    let [(labels, 1.0)] = &series(&lines, "istio_requests_total")[..] else { panic!("one series") };
    let of = |label: &str| &*labels[label];
    assert_eq!((of("reporter"), of("request_protocol"), of("grpc_response_status")), ("source", "grpc", "14"));
    assert_eq!((of("response_code"), of("response_flags")), ("200", "UF"));
    assert_eq!(sum(&lines, "istio_request_messages_total"), 2.0);
    assert_eq!(sum(&lines, "istio_response_messages_total"), 3.0);
}

#[test]
fn who_is_not_known_is_unknown() {
    let traffic = Traffic::default();
    let mut flow = connection(Direction::Inbound);
    flow.source = Party::stranger(SocketAddr::from(([192, 0, 2, 1], 1)));
    (flow.service, flow.security) = (None, Security::Plaintext);
    traffic.ended(&flow);
    let lines = rendered(&traffic);
    let [(labels, 1.0)] = &series(&lines, "istio_tcp_connections_closed_total")[..] else { panic!("{lines:?}") };
    for (label, value) in labels {
        let known = label.starts_with("destination_") && !label.starts_with("destination_service");
        let expected = match &**label {
            "reporter" => "destination",
            "request_protocol" => "tcp",
            "response_flags" => "-",
            "connection_security_policy" => "none",
            _ if known => continue,
            _ => "unknown",
        };
        assert_eq!(value, expected, "{label}");
    }
    assert_eq!(labels.len(), labels::NAMES.len() - 2, "connections have no status");
    assert_eq!(
        series(&lines, "mesh_plaintext_connections_total").iter().map(|(_, n)| *n).collect::<Vec<_>>(),
        [0.0, 1.0]
    );
}

/// What Kiali (graph, health, security, response times) and Istio's own dashboards for Grafana (mesh 7639, service
/// 7636, workload 7630, performance 11829) ask for, as far as it is of proxies: the metric, and the labels by which
/// they choose and group.
const ASKED: [(&str, &[&str]); 9] = [
    (
        "istio_requests_total",
        &[
            "reporter",
            "source_cluster",
            "source_workload_namespace",
            "source_workload",
            "source_canonical_service",
            "source_canonical_revision",
            "source_app",
            "source_version",
            "source_principal",
            "destination_cluster",
            "destination_service_namespace",
            "destination_service",
            "destination_service_name",
            "destination_workload_namespace",
            "destination_workload",
            "destination_canonical_service",
            "destination_canonical_revision",
            "destination_app",
            "destination_version",
            "destination_principal",
            "request_protocol",
            "response_code",
            "grpc_response_status",
            "response_flags",
            "connection_security_policy",
        ],
    ),
    ("istio_request_duration_milliseconds_bucket", &["reporter", "le", "destination_service", "source_workload"]),
    ("istio_request_duration_milliseconds_sum", &["reporter", "source_canonical_service", "request_protocol"]),
    ("istio_request_bytes_bucket", &["reporter", "le", "destination_workload", "connection_security_policy"]),
    ("istio_response_bytes_bucket", &["reporter", "le", "destination_workload", "connection_security_policy"]),
    (
        "istio_request_messages_total",
        &["reporter", "source_workload", "destination_service_name", "request_protocol", "grpc_response_status"],
    ),
    ("istio_response_messages_total", &["reporter", "source_workload", "destination_service_name"]),
    (
        "istio_tcp_sent_bytes_total",
        &[
            "reporter",
            "source_cluster",
            "source_workload_namespace",
            "source_workload",
            "source_canonical_service",
            "source_canonical_revision",
            "source_principal",
            "destination_cluster",
            "destination_service_namespace",
            "destination_service",
            "destination_service_name",
            "destination_workload_namespace",
            "destination_workload",
            "destination_canonical_service",
            "destination_canonical_revision",
            "destination_principal",
            "response_flags",
            "connection_security_policy",
        ],
    ),
    ("istio_tcp_received_bytes_total", &["reporter", "destination_service", "destination_workload", "response_flags"]),
];

#[test]
fn what_kiali_and_the_dashboards_ask_for_is_there() {
    let traffic = Traffic::default();
    traffic.ended(&connection(Direction::Outbound));
    let mut grpc = request(Direction::Inbound, 200);
    let http = grpc.http.as_mut().unwrap();
    (http.grpc, http.grpc_status) = (true, Some(0));
    traffic.ended(&grpc);
    let lines = rendered(&traffic);
    for (metric, asked) in ASKED {
        let all = series(&lines, metric);
        let (labels, _) = all.first().unwrap_or_else(|| panic!("no {metric}"));
        for label in asked {
            assert!(labels.contains_key(*label), "{metric} has no {label}: {labels:?}");
        }
    }
    // Kiali takes these words as encrypted and proven; nothing else.
    let [(labels, _)] = &series(&lines, "istio_requests_total")[..] else { panic!("one series") };
    assert_eq!(labels["connection_security_policy"], "mutual_tls");
    let mut direct = connection(Direction::Outbound);
    direct.security = Security::KernelAttested;
    traffic.ended(&direct);
    let all = series(&rendered(&traffic), "istio_tcp_connections_closed_total");
    assert!(all.iter().any(|(labels, _)| labels["connection_security_policy"] == "kernel_attested"), "{all:?}");
}

#[test]
fn opened_less_closed_is_open_and_bytes_are_told_while_they_pass() {
    let traffic = Traffic::default();
    let mut flow = connection(Direction::Outbound);
    traffic.opened(&flow);
    traffic.opened(&flow);
    traffic.passed(&flow, 3, 4);
    let open = |lines: &[String]| {
        (sum(lines, "istio_tcp_connections_opened_total"), sum(lines, "istio_tcp_connections_closed_total"))
    };
    let lines = rendered(&traffic);
    assert_eq!(open(&lines), (2.0, 0.0));
    assert_eq!((sum(&lines, "istio_tcp_received_bytes_total"), sum(&lines, "istio_tcp_sent_bytes_total")), (3.0, 4.0));
    // One of them ends, and one that was never live.
    traffic.ended(&connection(Direction::Outbound));
    flow.counted = Counted { opened: true, sent: 3, received: 4 };
    traffic.ended(&flow);
    let lines = rendered(&traffic);
    assert_eq!(open(&lines), (3.0, 2.0));
    assert_eq!(series(&lines, "istio_tcp_connections_closed_total").len(), 1);
    assert_eq!(
        (sum(&lines, "istio_tcp_received_bytes_total"), sum(&lines, "istio_tcp_sent_bytes_total")),
        (10.0, 14.0)
    );
}

#[test]
fn refused_and_failed_connections_have_their_reason() {
    let traffic = Traffic::default();
    let mut refused = connection(Direction::Inbound);
    refused.dropped("POLICY_DENY", "no");
    traffic.ended(&refused);
    let mut full = connection(Direction::Outbound);
    full.failed("OVERFLOW", "full");
    traffic.ended(&full);
    let lines = rendered(&traffic);
    let failed = series(&lines, "istio_tcp_connections_failed_total");
    let flags: Vec<_> = failed.iter().map(|(labels, count)| (&*labels["response_flags"], *count)).collect();
    assert_eq!(flags, [("POLICY_DENY", 1.0), ("OVERFLOW", 1.0)]);
    assert_eq!(sum(&lines, "mesh_circuit_open_total"), 1.0);
    assert_eq!(sum(&lines, "istio_tcp_connections_closed_total"), 2.0);
}

#[test]
fn what_policies_said_is_counted_for_requests_and_connections() {
    let traffic = Traffic::default();
    let mut flow = request(Direction::Inbound, 403);
    flow.dropped("POLICY_DENY", "no");
    let policy = PolicyName { namespace: SHOP.into(), name: "deny".into() };
    flow.policy = Some(policy.clone());
    flow.observations =
        vec![Observation { policy, observed_as: ObservedAs::DryRun, rule: Some(0), would_refuse: true }];
    traffic.ended(&flow);
    traffic.ended(&connection(Direction::Inbound));
    let text = traffic.render(Instant::now());
    for line in [
        "mesh_policy_verdicts_total{verdict=\"DROPPED\",policy=\"shop/deny\",reason=\"POLICY_DENY\",dry_run=\"false\"} 1",
        "mesh_policy_verdicts_total{verdict=\"DROPPED\",policy=\"shop/deny\",reason=\"\",dry_run=\"true\"} 1",
        "mesh_policy_verdicts_total{verdict=\"FORWARDED\",policy=\"\",reason=\"\",dry_run=\"false\"} 1",
        "mesh_requests_refused_total{reporter=\"destination\",destination_workload=\"web\",\
         destination_workload_namespace=\"shop\",policy=\"shop/deny\",reason=\"POLICY_DENY\"} 1",
    ] {
        assert!(text.lines().any(|told| told == line), "{line} in:\n{text}");
    }
}

#[test]
fn what_the_kernel_measured_is_told_by_workload() {
    let traffic = Traffic::default();
    // The last was never answered.
    for (rtt, retransmits) in [(300, 2), (0, 6)] {
        let mut flow = connection(Direction::Outbound);
        flow.tcp = Some(Tcp { rtt: Duration::from_micros(rtt), retransmits });
        traffic.ended(&flow);
    }
    let lines = rendered(&traffic);
    let labels = "reporter=\"source\",source_workload=\"cart\",source_workload_namespace=\"shop\",\
                  destination_workload=\"web\",destination_workload_namespace=\"shop\"";
    for line in [
        format!("mesh_tcp_retransmits_total{{{labels}}} 8"),
        format!("mesh_tcp_rtt_seconds_count{{{labels}}} 1"),
        format!("mesh_tcp_rtt_seconds_bucket{{{labels},le=\"0.00025\"}} 0"),
        format!("mesh_tcp_rtt_seconds_bucket{{{labels},le=\"0.0005\"}} 1"),
    ] {
        assert!(lines.contains(&line), "{line} in {lines:#?}");
    }
}

/// The pod that is told of so, as what serves.
fn told(changes: &[(&str, bool, &[&str])]) -> Arc<LocalPod> {
    let change = |(name, disabled, removed): &(&str, bool, &[&str])| {
        let removed = removed.iter().map(|label| (*label).to_owned()).collect();
        ((*name).to_owned(), MetricChange { disabled: *disabled, removed })
    };
    let telemetry = Telemetry { metrics_server: changes.iter().map(change).collect(), ..Telemetry::default() };
    let (uid, pod_uid, name, service_account) = Default::default();
    Arc::new(LocalPod {
        uid,
        pod_uid,
        namespace: SHOP.into(),
        name,
        service_account,
        addresses: Vec::new(),
        mode: Mode::Mesh,
        strict_by: None,
        probe_ports: Vec::new(),
        same_node: SameNode::Direct,
        inbound: Default::default(),
        telemetry,
    })
}

#[test]
fn metrics_and_labels_that_a_pod_does_without_are_not_told() {
    let traffic = Traffic::default();
    let pod = told(&[
        ("", false, &["source_principal", "no_label_at_all"]),
        ("istio_request_bytes", true, &[]),
        ("istio_requests_total", false, &["response_code", "destination_service", "grpc_response_status"]),
    ]);
    for (status, direction) in [(200, Direction::Inbound), (503, Direction::Inbound), (200, Direction::Outbound)] {
        let mut flow = request(direction, status);
        flow.told = Some(Arc::clone(&pod));
        traffic.ended(&flow);
    }
    // Told as the others are, and so counted with them.
    let mut other = request(Direction::Inbound, 200);
    let service = ServiceName { namespace: SHOP.into(), hostname: "web-2.shop.svc.cluster.local".into() };
    (other.told, other.service) = (Some(pod), Some(service.into()));
    traffic.ended(&other);
    let lines = rendered(&traffic);
    let all = series(&lines, "istio_requests_total");
    let inbound: Vec<_> = all.iter().filter(|(labels, _)| labels["reporter"] == "destination").collect();
    // By destination_service_name, which nobody took away.
    assert_eq!(inbound.iter().map(|(_, count)| count).collect::<Vec<_>>(), [&2.0, &1.0], "{inbound:?}");
    for (labels, _) in inbound {
        assert!(!labels.contains_key("response_code") && !labels.contains_key("destination_service"), "{labels:?}");
        assert!(labels.contains_key("source_principal"), "its own entry holds whole: {labels:?}");
    }
    let [(outbound, 1.0)] = all.iter().find(|(l, _)| l["reporter"] == "source").map(std::slice::from_ref).unwrap()
    else {
        panic!("one request as a client");
    };
    assert!(outbound.contains_key("response_code"), "as a client nothing is different");
    let durations = series(&lines, "istio_request_duration_milliseconds_count");
    assert!(durations.iter().any(|(labels, _)| !labels.contains_key("source_principal")), "{durations:?}");
    assert_eq!(sum(&lines, "istio_request_bytes_count"), 1.0, "the client's only");
    let mut unique: Vec<_> = lines.iter().filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();
    let all = unique.len();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), all, "a series is told once");
    let mut refused = request(Direction::Inbound, 403);
    refused.verdict = Verdict::Dropped;
    traffic.ended(&refused);
    assert_eq!(sum(&rendered(&traffic), "mesh_requests_refused_total"), 1.0);
}
