//! Records in, and what real collectors on the loopback are told.

mod collector;
mod secure;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_common::model::{LocalPod, ServiceName, telemetry::Telemetry, telemetry::Tracing};
use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, Span, span::SpanKind, status::StatusCode},
};

use super::*;
use crate::telemetry::{
    flow::{Direction, Facts, HttpRequest, Party, Verdict},
    trace::Ids,
};
use collector::{Answer, Fake};

fn party(pod: &str) -> Party {
    let facts = Facts {
        namespace: "shop".into(),
        pod: format!("{pod}-1"),
        workload: pod.into(),
        canonical_service: format!("{pod}-service"),
        canonical_revision: "v2".into(),
        cluster: "east".into(),
    };
    Party { facts: Arc::new(facts), identity: None, address: Some(SocketAddr::from(([10, 0, 0, 1], 4711))) }
}

/// A sampled request of cart to web.
fn request(direction: Direction) -> Flow {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let mut flow = Flow::new(1, start, direction, party("cart"), party("web"));
    flow.end = start + Duration::from_millis(7);
    flow.http = Some(Box::new(HttpRequest {
        method: "GET".into(),
        path: "/account/7".into(),
        host: "web:8080".into(),
        status: 200,
        version: "HTTP/1.1",
        trace: Some(Ids { trace: 0xabc, span: 0xdef, parent: Some(0x123), sampled: true }),
        ..HttpRequest::default()
    }));
    flow
}

fn settings(at: SocketAddr, protocol: OtlpProtocol) -> Settings {
    let target = Target::parse(&format!("http://{at}"), protocol).expect("an address");
    Settings {
        node: "n1".into(),
        cluster: "east".into(),
        target: Some(target),
        queue: 8192,
        patience: Duration::from_secs(20),
        resolve: Arc::new(|_, _| None),
        roots: None,
    }
}

/// Until nothing waits any more.
async fn settled(spans: &Spans) -> [u64; 3] {
    for _ in 0..2000 {
        let [made, sent, lost] = spans.tally();
        if made == sent + lost {
            return [made, sent, lost];
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("something waits for ever: {:?}", spans.tally());
}

fn told(attributes: &[KeyValue], key: &str) -> Option<String> {
    let mut found = attributes.iter().filter(|attribute| attribute.key == key);
    let value = found.next()?.value.as_ref()?.value.clone()?;
    assert!(found.next().is_none(), "{key} stands twice");
    Some(match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{key}: {other:?}"),
    })
}

fn one(spans: Vec<ResourceSpans>) -> (Vec<KeyValue>, Span) {
    let [ResourceSpans { resource, scope_spans, .. }] = <[_; 1]>::try_from(spans).expect("one pod's");
    let [span] = <[_; 1]>::try_from(scope_spans.into_iter().next().expect("a scope").spans).expect("one");
    (resource.expect("a resource").attributes, span)
}

fn span(flow: Flow) -> (Vec<KeyValue>, Span) {
    let settings = settings(([127, 0, 0, 1], 1).into(), OtlpProtocol::Grpc);
    one(spans::message(&[Arc::new(flow)], &settings).resource_spans)
}

#[test]
fn a_span_says_what_the_record_says() {
    let mut flow = request(Direction::Inbound);
    flow.service = Some(ServiceName { namespace: "shop".into(), hostname: "web.shop.svc.cluster.local".into() }.into());
    (flow.sent, flow.received) = (5, 70);
    let http = flow.http.as_mut().unwrap();
    (http.route, http.retries, http.request_id) = (Some("shop/web/all".into()), 2, Some("r-1".into()));
    http.tags = vec![("team".into(), "blue".into()), ("url.path".into(), "hidden".into())];
    let (resource, span) = span(flow);
    for (key, value) in [
        ("service.name", "web-service"),
        ("k8s.namespace.name", "shop"),
        ("k8s.pod.name", "web-1"),
        ("k8s.node.name", "n1"),
        ("k8s.cluster.name", "east"),
    ] {
        assert_eq!(told(&resource, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!((span.name.as_str(), span.kind()), ("GET shop/web/all", SpanKind::Server));
    assert_eq!(span.trace_id, 0xabc_u128.to_be_bytes());
    assert_eq!((span.span_id, span.parent_span_id), (0xdef_u64.to_be_bytes().into(), 0x123_u64.to_be_bytes().into()));
    assert_eq!(span.flags, 0x301);
    assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 7_000_000);
    assert_eq!(span.status, None);
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("server.address", "web"),
        ("server.port", "8080"),
        ("network.protocol.version", "1.1"),
        ("client.address", "10.0.0.1"),
        ("http.request.body.size", "5"),
        ("http.response.body.size", "70"),
        ("http.request.resend_count", "2"),
        ("guid:x-request-id", "r-1"),
        ("response_flags", "-"),
        ("istio.canonical_service", "web-service"),
        ("source.workload", "cart"),
        ("destination.namespace", "shop"),
        ("destination.service", "web.shop.svc.cluster.local"),
        ("connection_security_policy", "none"),
        ("nodemesh.route", "shop/web/all"),
        ("team", "blue"),
        ("url.path", "hidden"),
    ] {
        assert_eq!(told(&span.attributes, key).as_deref(), Some(value), "{key}");
    }
}

#[test]
fn names_are_of_few_values_and_errors_are_whose_fault_they_are() {
    use Direction::{Inbound, Outbound};
    let of = |direction, method: &str, path: &str, status, grpc_status: Option<u32>| {
        let mut flow = request(direction);
        let http = flow.http.as_mut().unwrap();
        (http.method, http.path, http.status) = (method.into(), path.into(), status);
        (http.grpc, http.grpc_status) = (grpc_status.is_some(), grpc_status);
        let (_, span) = span(flow);
        (span.name, span.status.is_some_and(|status| status.code() == StatusCode::Error))
    };
    for (seen, name, failed) in [
        (of(Outbound, "GET", "/account/7", 200, None), "GET", false),
        (of(Outbound, "GET", "/account/7", 404, None), "GET", false),
        (of(Inbound, "X-7f3a", "/", 200, None), "HTTP", false),
        (of(Inbound, "GET", "/", 500, None), "GET", true),
        (of(Inbound, "POST", "/shop.Cart/Add", 200, Some(0)), "shop.Cart/Add", false),
        // The client's own fault.
        (of(Inbound, "POST", "/shop.Cart/Add", 200, Some(5)), "shop.Cart/Add", false),
        (of(Outbound, "POST", "/shop.Cart/Add", 200, Some(5)), "shop.Cart/Add", true),
        (of(Inbound, "POST", "/shop.Cart/Add", 200, Some(13)), "shop.Cart/Add", true),
        // Any text that a client likes.
        (of(Inbound, "POST", "/shop.Cart/x7f3a", 200, Some(12)), "POST", true),
        (of(Inbound, "POST", "/a/b/c", 200, Some(0)), "POST", false),
    ] {
        assert_eq!(seen, (name.to_owned(), failed));
    }
    let mut refused = request(Inbound);
    refused.dropped("POLICY_DENIED", "no");
    refused.http.as_mut().unwrap().status = 403;
    let (_, span) = span(refused);
    assert_eq!(span.status.as_ref().map(|status| (status.code(), &*status.message)), Some((StatusCode::Error, "no")));
    assert_eq!(told(&span.attributes, "error.type").as_deref(), Some("POLICY_DENIED"));
    assert_eq!(told(&span.attributes, "nodemesh.verdict").as_deref(), Some(Verdict::Dropped.name()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sampled_reaches_the_collector_over_both_protocols() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        let fake = Fake::new(protocol).await;
        let spans = Spans::new(settings(fake.address, protocol));
        let mut unsampled = request(Direction::Outbound);
        unsampled.http.as_mut().unwrap().trace.as_mut().unwrap().sampled = false;
        let mut untraced = request(Direction::Outbound);
        untraced.http.as_mut().unwrap().trace = None;
        let connection = Flow { http: None, ..request(Direction::Outbound) };
        let mut disabled = request(Direction::Outbound);
        let traced_client = Tracing { disabled: true, ..Tracing::default() };
        disabled.told = Some(Arc::new(pod(Telemetry { traced_client, ..Telemetry::default() })));
        for flow in [unsampled, untraced, connection, disabled] {
            spans.ended(&Arc::new(flow));
        }
        for direction in [Direction::Outbound, Direction::Inbound].repeat(700) {
            spans.ended(&Arc::new(request(direction)));
        }
        assert_eq!(settled(&spans).await, [1400, 1400, 0], "{protocol:?}");
        let got = fake.got();
        assert!(got.iter().all(|message| message.resource_spans.len() == 2), "one resource a pod");
        assert!(got.len() <= 4, "{} messages", got.len());
        let all = got.iter().flat_map(|message| &message.resource_spans).flat_map(|of| &of.scope_spans);
        assert_eq!(all.map(|scope| scope.spans.len()).sum::<usize>(), 1400);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_for_a_while_gets_everything() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        let address = collector::unused().await;
        let spans = Spans::new(settings(address, protocol));
        (0..600).for_each(|_| spans.ended(&Arc::new(request(Direction::Outbound))));
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(spans.tally(), [600, 0, 0], "{protocol:?}");
        let fake = Fake::at(address, protocol).await;
        assert_eq!(settled(&spans).await, [600, 600, 0], "{protocol:?}");
        drop(fake);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_is_counted_one_by_one() {
    let address = collector::unused().await;
    let patience = Duration::from_millis(300);
    let spans = Spans::new(Settings { queue: 10, patience, ..settings(address, OtlpProtocol::Grpc) });
    (0..30).for_each(|_| spans.ended(&Arc::new(request(Direction::Outbound))));
    assert_eq!(spans.tally(), [30, 0, 20], "what finds no room is lost at once");
    assert_eq!(settled(&spans).await, [30, 0, 30], "the rest when patience is over");
    // What waits when the agent ends, and what comes later.
    let spans = Spans::new(settings(address, OtlpProtocol::Http));
    (0..3).for_each(|_| spans.ended(&Arc::new(request(Direction::Outbound))));
    spans.end().await;
    assert_eq!(spans.tally(), [3, 0, 3]);
    spans.ended(&Arc::new(request(Direction::Outbound)));
    assert_eq!(spans.tally(), [4, 0, 4]);
    // With a collector that is there, nothing.
    let fake = Fake::new(OtlpProtocol::Grpc).await;
    let spans = Spans::new(settings(fake.address, OtlpProtocol::Grpc));
    (0..3).for_each(|_| spans.ended(&Arc::new(request(Direction::Outbound))));
    spans.end().await;
    assert_eq!(spans.tally(), [3, 3, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_taken_at_their_word() {
    tokio::join!(taken_at_its_word(OtlpProtocol::Grpc), taken_at_its_word(OtlpProtocol::Http));
}

async fn taken_at_its_word(protocol: OtlpProtocol) {
    let fake = Fake::new(protocol).await;
    let spans = Spans::new(settings(fake.address, protocol));
    let mut all = [0; 3];
    for (answers, sent, lost) in [
        (vec![Answer::Rejects(2)], 3, 2),
        (vec![Answer::Refuses], 0, 5),
        (vec![Answer::Later(None), Answer::Later(Some(1))], 5, 0),
        // More than there were.
        (vec![Answer::Rejects(50)], 0, 5),
        (vec![Answer::BreaksOff], 5, 0),
    ] {
        fake.answer(answers.clone());
        let before = std::time::Instant::now();
        (0..5).for_each(|_| spans.ended(&Arc::new(request(Direction::Outbound))));
        all = [all[0] + 5, all[1] + sent, all[2] + lost];
        assert_eq!(settled(&spans).await, all, "{protocol:?} {answers:?}");
        if answers.contains(&Answer::Later(Some(1))) {
            assert!(before.elapsed() >= Duration::from_secs(1), "not before it said");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_have_collectors_of_their_own_and_names_are_resolved_by_who_knows_them() {
    let fake = Fake::new(OtlpProtocol::Http).await;
    let at = fake.address;
    let resolve: Resolve = Arc::new(move |host, port| match (host, port) {
        ("traces.tools", 4318) => Some(vec![at]),
        _ => panic!("{host}:{port} is nobody's"),
    });
    // The agent has none.
    let spans = Spans::new(Settings { target: None, resolve, ..settings(at, OtlpProtocol::Http) });
    spans.ended(&Arc::new(request(Direction::Inbound)));
    assert_eq!(spans.tally(), [0, 0, 0]);
    let collector = Collector { host: "traces.tools".into(), port: 4318, protocol: OtlpProtocol::Http };
    let traced_server = Tracing { collector: Some(collector), ..Tracing::default() };
    let pod = Arc::new(pod(Telemetry { traced_server, ..Telemetry::default() }));
    for direction in [Direction::Inbound, Direction::Outbound] {
        spans.ended(&Arc::new(Flow { told: Some(Arc::clone(&pod)), ..request(direction) }));
    }
    assert_eq!(settled(&spans).await, [1, 1, 0], "as a server only");
    // One after another, and no more than so many.
    for port in 0..20 {
        let collector = Collector { host: "127.0.0.1".into(), port, protocol: OtlpProtocol::Http };
        spans.0.as_ref().unwrap().take(Some(&collector), &Arc::new(request(Direction::Inbound)));
    }
    let [made, _, lost] = spans.tally();
    assert_eq!((made, lost), (21, 5));
}

fn pod(telemetry: Telemetry) -> LocalPod {
    LocalPod {
        uid: "u".into(),
        pod_uid: String::new(),
        namespace: "shop".into(),
        name: "web-1".into(),
        service_account: "web".into(),
        addresses: Vec::new(),
        mode: mesh_common::model::Mode::Mesh,
        strict_by: None,
        probe_ports: Vec::new(),
        same_node: Default::default(),
        inbound: Default::default(),
        telemetry,
    }
}

#[test]
fn where_spans_go_is_read_strictly() {
    let http = |url| Target::parse(url, OtlpProtocol::Http);
    let shown = |url| http(url).expect("a collector").to_string();
    for url in ["http://collector.observability:4318", "https://[::1]:443/otlp/in", "http://10.0.0.1:1"] {
        assert_eq!(shown(url), url);
    }
    assert_eq!(shown("http://c:1/"), "http://c:1");
    for url in ["", "c:1", "http://c", "http://:1", "ftp://c:1", "http://c:70000", "http://u@c:1", "http://c:1/?a=b"] {
        assert!(http(url).is_err(), "{url}");
    }
    assert!(Target::parse("http://c:1/x", OtlpProtocol::Grpc).is_err());
}
