//! Each filter against a connection and a request.

use std::{net::SocketAddr, time::Duration};

use mesh_common::model::{PolicyName, ServiceName};

use super::*;
use crate::telemetry::{Direction, Facts, HttpRequest, Path, Security, Udp, Verdict, trace};

const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;

fn party(pod: &str, workload: &str, port: u16) -> Party {
    let facts = Facts { namespace: "shop".into(), pod: pod.into(), workload: workload.into(), ..Facts::default() };
    Party { facts: facts.into(), address: Some(SocketAddr::from(([10, 0, 0, 1], port))), ..Party::default() }
}

fn connection() -> Flow {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
    let mut flow = Flow::new(1, start, Direction::Inbound, party("cart-1", "cart", 41234), party("web-1", "web", 8080));
    flow.verdict = Verdict::Dropped;
    flow.reason = Some("DENY".into());
    flow.service = Some(ServiceName { namespace: "shop".into(), hostname: "web.shop.svc.cluster.local".into() }.into());
    flow.path = Some(Path::Tunnel);
    flow.security = Security::MutualTls;
    flow.policy = Some(PolicyName { namespace: "shop".into(), name: "deny-cart".into() });
    flow
}

fn request() -> Flow {
    let http = HttpRequest {
        method: "POST".into(),
        path: "/api/orders".into(),
        status: 503,
        trace: Some(trace::Ids { trace: TRACE, span: 1, parent: None, sampled: true }),
        ..HttpRequest::default()
    };
    Flow { http: Some(Box::new(http)), ..connection() }
}

fn matches(query: &FlowsQuery, flow: &Flow) -> bool {
    Filter::new(query).unwrap().matches(flow)
}

fn ask(change: impl FnOnce(&mut FlowsQuery)) -> FlowsQuery {
    let mut query = FlowsQuery::default();
    change(&mut query);
    query
}

#[test]
fn what_both_have_is_asked_of_both() {
    type Change = fn(&mut FlowsQuery);
    let fits: [Change; 21] = [
        |_| {},
        |q| q.namespace = "shop".into(),
        |q| q.pod = "shop/cart".into(),
        |q| q.pod = "web-1".into(),
        |q| q.from = "cart".into(),
        |q| q.to = "shop/web-1".into(),
        |q| q.to = "web".into(),
        |q| q.service = "web".into(),
        |q| q.service = "shop/web".into(),
        |q| q.service = "web.shop.svc.cluster.local".into(),
        |q| q.service = "shop/web.shop.svc.cluster.local".into(),
        |q| q.verdict = nodemesh::Verdict::Dropped.into(),
        |q| q.direction = nodemesh::Direction::Inbound.into(),
        |q| q.reason = "deny".into(),
        |q| q.policy = "shop/deny-cart".into(),
        |q| q.passed = nodemesh::Path::Tunnel.into(),
        |q| q.security = nodemesh::Security::MutualTls.into(),
        |q| q.port = 8080,
        |q| q.port = 41234,
        |q| q.since = Some((SystemTime::UNIX_EPOCH + Duration::from_secs(100)).into()),
        |q| q.since = Some(SystemTime::UNIX_EPOCH.into()),
    ];
    let others: [Change; 14] = [
        |q| q.namespace = "other".into(),
        |q| q.pod = "other/cart".into(),
        |q| q.from = "web".into(),
        |q| q.to = "cart".into(),
        |q| q.service = "cart".into(),
        |q| q.service = "other/web".into(),
        |q| q.verdict = nodemesh::Verdict::Forwarded.into(),
        |q| q.direction = nodemesh::Direction::Outbound.into(),
        |q| q.reason = "CONNECT".into(),
        |q| q.policy = "shop/deny".into(),
        |q| q.passed = nodemesh::Path::Direct.into(),
        |q| q.security = nodemesh::Security::Plaintext.into(),
        |q| q.port = 80,
        |q| q.since = Some((SystemTime::UNIX_EPOCH + Duration::from_secs(101)).into()),
    ];
    for flow in [connection(), request()] {
        for change in fits {
            assert!(matches(&ask(change), &flow), "{:?}", ask(change));
        }
        for change in others {
            assert!(!matches(&ask(change), &flow), "{:?}", ask(change));
        }
    }
}

#[test]
fn what_requests_alone_have_no_connection_fits() {
    type Change = fn(&mut FlowsQuery);
    let fits: [Change; 8] = [
        |q| q.only = Only::Http.into(),
        |q| q.http_status = "503".into(),
        |q| q.http_status = "5xx".into(),
        |q| q.http_status = "5XX".into(),
        |q| q.method = "post".into(),
        |q| q.path = "/api/".into(),
        |q| q.path = "/api/orders".into(),
        |q| q.trace_id = format!("{TRACE:032X}"),
    ];
    for change in fits {
        assert!(matches(&ask(change), &request()), "{:?}", ask(change));
        assert!(!matches(&ask(change), &connection()), "{:?}", ask(change));
    }
    let others: [Change; 7] = [
        |q| q.only = Only::Tcp.into(),
        |q| q.only = Only::Grpc.into(),
        |q| q.http_status = "500".into(),
        |q| q.http_status = "4xx".into(),
        |q| q.method = "GET".into(),
        |q| q.path = "/apis".into(),
        |q| q.trace_id = format!("{:032x}", TRACE + 1),
    ];
    for change in others {
        assert!(!matches(&ask(change), &request()), "{:?}", ask(change));
    }
    assert!(matches(&ask(|q| q.only = Only::Tcp.into()), &connection()));
    let mut grpc = request();
    grpc.http.as_mut().unwrap().grpc = true;
    assert!(matches(&ask(|q| q.only = Only::Grpc.into()), &grpc));
    assert!(matches(&ask(|q| q.only = Only::Http.into()), &grpc), "gRPC is HTTP");
}

#[test]
fn datagrams_are_neither_connections_nor_requests() {
    let datagrams = Flow { udp: Some(Udp { sent: 1, received: 2 }), ..connection() };
    let only = |only: Only| ask(|q| q.only = only.into());
    for (kind, fits) in
        [(Only::All, true), (Only::Udp, true), (Only::Tcp, false), (Only::Http, false), (Only::Grpc, false)]
    {
        assert_eq!(matches(&only(kind), &datagrams), fits, "{kind:?}");
    }
    assert!(!matches(&only(Only::Udp), &connection()) && !matches(&only(Only::Udp), &request()));
    assert!(!matches(&ask(|q| q.http_status = "200".into()), &datagrams));
}

#[test]
fn questions_that_no_record_can_fit_are_refused_by_their_field() {
    type Change = fn(&mut FlowsQuery);
    let wrong: [(&str, Change); 12] = [
        ("http_status", |q| q.http_status = "6xx".into()),
        ("http_status", |q| q.http_status = "0xx".into()),
        ("http_status", |q| q.http_status = "xx".into()),
        ("http_status", |q| q.http_status = "99".into()),
        ("http_status", |q| q.http_status = "99999999xx".into()),
        ("http_status", |q| q.http_status = "+200".into()),
        ("trace_id", |q| q.trace_id = "12".into()),
        ("trace_id", |q| q.trace_id = format!("+{}", "1".repeat(31))),
        ("port", |q| q.port = 70_000),
        ("only", |q| q.only = 99),
        ("verdict", |q| q.verdict = 99),
        ("passed", |q| q.passed = 99),
    ];
    for (field, change) in wrong {
        let refused = Filter::new(&ask(change)).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().starts_with(&format!("{field}: ")), "{field}: {refused}");
    }
}
