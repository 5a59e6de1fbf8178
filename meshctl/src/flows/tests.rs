//! Flows as text and as JSON.

use clap::Parser;

use mesh_common::proto::nodemesh::{
    Direction, Endpoint, HttpRequest, Item, Observation, ObservedAs, Path, Security, Udp, Verdict,
};
use serde_json::{Value, json};

use super::*;
use crate::{client::Heard, output::Format};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn parsed(line: &[&str]) -> Result<FlowsQuery, clap::Error> {
    Line::try_parse_from([&["flows"], line].concat()).map(|line| question(&line.arguments, SystemTime::now()))
}

fn end(pod: &str, identity: &str) -> Option<Endpoint> {
    Some(Endpoint {
        namespace: "shop".into(),
        pod: pod.into(),
        identity: identity.into(),
        address: "10.1.0.9:80".into(),
        ..Endpoint::default()
    })
}

/// A connection of 250 ms that a policy refused.
pub(crate) fn refused() -> Flow {
    let mut flow = Flow {
        id: 7,
        node: "node-a".into(),
        source: end("web", "spiffe://cluster.local/ns/shop/sa/web"),
        destination: end("redis", ""),
        service: "shop/redis.shop.svc.cluster.local".into(),
        reason: "DENY".into(),
        policy: "shop/deny-web".into(),
        rule: 2,
        generation: 41,
        bytes_sent: 5,
        ..Flow::default()
    };
    flow.start.get_or_insert_default().seconds = 1_700_000_000;
    flow.end.get_or_insert_default().seconds = 1_700_000_000;
    flow.end.get_or_insert_default().nanos = 250_000_000;
    flow.set_verdict(Verdict::Dropped);
    flow.set_direction(Direction::Inbound);
    flow.set_path(Path::Tunnel);
    flow.set_security(Security::MutualTls);
    flow
}

fn shown(flows: &[Flow], format: Format) -> String {
    let mut out = Vec::new();
    show(flows, &mut Table::new(HEADER), &mut Screen::new(&mut out, format, false)).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_table_names_both_ends_and_what_decided() {
    let text = shown(&[refused()], Format::Table);
    let row = text.lines().nth(1).unwrap();
    let fields = row.split("  ").map(str::trim).filter(|field| !field.is_empty()).collect::<Vec<_>>();
    assert_eq!(
        fields,
        [
            "2023-11-14T22:13:20.250Z",
            "node-a",
            "7",
            "inbound",
            "shop/web (shop/web)",
            "shop/redis",
            "shop/redis",
            "tunnel",
            "mutual_tls",
            "DROPPED",
            "DENY",
            "shop/deny-web#2",
            "-",
            "5/0",
            "250ms",
            "-",
        ]
    );
}

#[test]
fn who_is_unknown_is_shown_by_address() {
    assert_eq!(end_text(end("", "").as_ref()), "10.1.0.9:80");
    assert_eq!(end_text(None), "");
}

#[test]
fn a_policy_without_a_matching_rule_has_no_rule() {
    let mut flow = refused();
    flow.rule = -1;
    assert!(shown(&[flow.clone()], Format::Table).contains("shop/deny-web "));
    let record: Value = serde_json::from_str(&shown(&[flow], Format::Json)).unwrap();
    assert_eq!(record["rule"], Value::Null);
}

#[test]
fn datagrams_are_told_as_such() {
    let udp = Some(Udp { datagrams_sent: 3, datagrams_received: 2 });
    let flow = Flow { udp, ..refused() };
    let all = std::slice::from_ref(&flow);
    let record: Value = serde_json::from_str(&shown(all, Format::Json)).unwrap();
    assert_eq!(
        [&record["protocol"], &record["datagrams_sent"], &record["datagrams_received"]],
        [&json!("udp"), &json!(3), &json!(2)]
    );
    assert!(shown(all, Format::Table).contains("udp 3/2"));
    for (only, flow, fits) in [(Only::Udp, &flow, true), (Only::Tcp, &flow, false), (Only::Udp, &refused(), false)] {
        let question = FlowsQuery { only: only.into(), ..FlowsQuery::default() };
        assert_eq!(filters::understood(&question, flow).is_ok(), fits, "{only:?}");
    }
}

#[test]
fn json_is_one_object_a_line_with_these_names() {
    let text = shown(&[refused(), refused()], Format::Json);
    assert_eq!(text.lines().count(), 2);
    let record: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let expected = json!({
        "time": "2023-11-14T22:13:20.250Z", "start": "2023-11-14T22:13:20.000Z", "duration_ms": 250.0, "id": 7,
        "node": "node-a", "direction": "inbound", "protocol": "tcp", "verdict": "DROPPED", "reason": "DENY",
        "source": {
            "namespace": "shop", "pod": "web", "workload": "", "service_account": "",
            "identity": "spiffe://cluster.local/ns/shop/sa/web", "address": "10.1.0.9:80",
        },
        "destination": {
            "namespace": "shop", "pod": "redis", "workload": "", "service_account": "", "identity": "",
            "address": "10.1.0.9:80",
        },
        "service": "shop/redis.shop.svc.cluster.local", "path": "tunnel", "security": "mutual_tls", "tls_version": "",
        "tls_cipher": "", "bytes_sent": 5, "bytes_received": 0, "datagrams_sent": null,
        "datagrams_received": null, "policy": "shop/deny-web", "rule": 2, "generation": 41,
        "error": "", "observations": [], "rtt_us": null, "retransmits": null, "http": null,
    });
    assert_eq!(record, expected);
}

#[test]
fn policies_that_are_not_enforced_are_named() {
    let seen = |policy: &str, observed_as: ObservedAs, rule, would_refuse| Observation {
        policy: policy.into(),
        observed_as: observed_as.into(),
        rule,
        would_refuse,
    };
    let mut flow = refused();
    flow.observations = vec![
        seen("shop/audit", ObservedAs::Audited, 0, false),
        seen("shop/new", ObservedAs::DryRun, -1, true),
        seen("shop/old", ObservedAs::DryRun, 1, false),
    ];
    let text = shown(&[flow.clone()], Format::Table);
    let said = "audited by shop/audit#0; dry run shop/new would refuse; dry run shop/old#1 would permit";
    assert!(text.contains(said), "{text}");
    let record: Value = serde_json::from_str(&shown(&[flow], Format::Json)).unwrap();
    let expected = json!({ "policy": "shop/new", "rule": null, "observed_as": "dry_run", "would_refuse": true });
    assert_eq!(record["observations"][1], expected);
}

/// That policies refused.
pub(crate) fn request() -> Flow {
    let http = HttpRequest {
        method: "POST".into(),
        path: "/api/orders".into(),
        host: "redis".into(),
        status: 403,
        version: "HTTP/2".into(),
        principal: "https://issuer.example/alice".into(),
        flags: "UAEX".into(),
        route: "shop/redis/0".into(),
        ..HttpRequest::default()
    };
    Flow { http: Some(http), ..refused() }
}

#[test]
fn a_request_is_shown_by_what_it_asked_for_and_got() {
    assert!(shown(&[request()], Format::Table).ends_with("250ms     POST /api/orders 403\n"));
    let record: Value = serde_json::from_str(&shown(&[request()], Format::Json)).unwrap();
    let expected = json!({
        "method": "POST", "path": "/api/orders", "host": "redis", "status": 403, "version": "HTTP/2",
        "principal": "https://issuer.example/alice", "flags": "UAEX", "request_id": "", "route": "shop/redis/0",
        "retries": 0, "grpc_status": null, "request_messages": null, "response_messages": null, "trace_id": "",
        "span_id": "", "parent_span_id": "", "trace_sampled": null,
    });
    assert_eq!(record["http"], expected);
    let mut unanswered = request();
    unanswered.http.as_mut().unwrap().status = 0;
    assert!(shown(&[unanswered.clone()], Format::Table).ends_with("POST /api/orders\n"));
    assert!(shown(&[unanswered], Format::Json).contains(r#""status":null"#));
}

#[test]
fn yaml_is_the_same_record() {
    let text = shown(&[refused(), refused()], Format::Yaml);
    let documents: Vec<_> = text.split("---\n").filter(|text| !text.is_empty()).collect();
    assert_eq!(documents.len(), 2);
    let yaml: Value = serde_yaml_ng::from_str(documents[0]).unwrap();
    let json: Value = serde_json::from_str(&shown(&[refused()], Format::Json)).unwrap();
    assert_eq!(yaml, json);
}

#[test]
fn since_is_a_time_and_who_asks_for_all_is_told_what_is_missing() {
    let since = |line: &[&str]| parsed(line).unwrap().since.map(|since| since.seconds);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    assert!((now - 301..=now - 299).contains(&since(&["--since", "5m"]).unwrap()));
    assert_eq!(since(&[]), Some(0));
    assert_eq!((since(&["--last", "5"]), since(&["-f"])), (None, None));
    for wrong in ["5", "m", "0s", "-1m", "1.5h", "5 m"] {
        assert!(Line::try_parse_from(["flows", "--since", wrong]).is_err(), "{wrong}");
    }
}

#[test]
fn what_a_node_could_not_keep_is_said() {
    let window = |replaced, lost| {
        let mut window = FlowsWindow { replaced, lost, ..FlowsWindow::default() };
        window.from.get_or_insert_default().seconds = 1_700_000_000;
        window
    };
    let asked = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    assert_eq!(lost("a", &window(0, 0), None), None);
    assert_eq!(lost("a", &window(9, 0), asked(1_700_000_000)), None, "what made room is older than what is asked for");
    assert_eq!(
        lost("a", &window(9, 2), asked(1_600_000_000)).unwrap(),
        "node a: its records are whole since 2023-11-14T22:13:20.000Z only, 9 had to make room; its kernel had no room \
         for 2 since its programs were loaded"
    );
    assert!(lost("a", &window(9, 0), None).is_some());
}

#[test]
fn a_line_is_prose() {
    assert_eq!(
        shown(&[refused()], Format::Compact),
        "2023-11-14T22:13:20.250Z node-a#7 inbound shop/web -> shop/redis:80 (shop/redis) tcp DROPPED DENY by \
         shop/deny-web#2 250ms 5/0B tunnel mutual_tls\n"
    );
    let mut request = request();
    request.http.as_mut().unwrap().path = "/a\nb\u{1b}[2J".into();
    assert!(
        shown(&[request], Format::Compact)
            .contains("http DROPPED DENY by shop/deny-web#2 POST /a\\nb\\u{1b}[2J 403 250ms"),
    );
    let unknown = shown(&[Flow::default()], Format::Compact);
    assert_eq!(unknown, "#0 unknown ? -> ? tcp UNKNOWN 0/0B unknown unknown\n");
}

#[test]
fn an_agent_that_leaves_a_filter_out_is_too_old() {
    let question = |line: &[&str]| parsed(line).unwrap();
    let told = |line: &[&str], flow: &Flow| filters::understood(&question(line), flow);
    for fits in [&["--protocol", "http"][..], &["--http-status", "4xx"], &["--method", "post"], &["--path", "/api"]] {
        assert!(told(fits, &request()).is_ok(), "{fits:?}");
        let failure = told(fits, &refused()).unwrap_err();
        assert_eq!(failure.exit_code(), 3);
        assert!(failure.to_string().contains(&format!("node node-a is too old to know {}", fits[0])), "{failure}");
    }
    for fits in [&["--reason", "deny"][..], &["--policy", "shop/deny-web"], &["--security", "mtls"]] {
        assert!(told(fits, &refused()).is_ok(), "{fits:?}");
        assert!(told(fits, &Flow::default()).is_err(), "{fits:?}");
    }
}

#[test]
fn filters_reach_the_question() {
    let query = parsed(&["-f", "--last", "5", "-n", "shop", "--from", "shop/web", "--verdict", "DROPPED"]).unwrap();
    assert!(query.follow);
    assert_eq!((query.last, query.namespace.as_str(), query.from.as_str()), (5, "shop", "shop/web"));
    assert_eq!(query.verdict(), Verdict::Dropped);
    assert_eq!(query.direction(), Direction::Unspecified);
    assert_eq!(parsed(&["--direction", "out"]).unwrap().direction(), Direction::Outbound);
    let all = parsed(&[
        "--protocol",
        "grpc",
        "--http-status",
        "5XX",
        "--method",
        "GET",
        "--path",
        "/a",
        "--service",
        "shop/web",
        "--reason",
        "DENY",
        "--policy",
        "shop/p",
        "--trace-id",
        "4BF92F3577B34DA6A3CE929D0E0E4736",
        "--path-taken",
        "direct",
        "--security",
        "kernel-attested",
        "--port",
        "80",
    ])
    .unwrap();
    assert_eq!((all.only(), all.passed(), all.security()), (Only::Grpc, Path::Direct, Security::KernelAttested));
    assert_eq!((all.http_status.as_str(), all.port, all.path.as_str()), ("5xx", 80, "/a"));
    assert_eq!(all.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!((all.method.as_str(), all.reason.as_str(), all.policy.as_str()), ("GET", "DENY", "shop/p"));
}

#[test]
fn wrong_filters_are_refused() {
    for wrong in [
        ["--http-status", "6xx"],
        ["--http-status", "20"],
        ["--trace-id", "12"],
        ["--policy", "p"],
        ["--path", "/a?b"],
        ["--port", "0"],
        ["--security", "some"],
        ["--protocol", "sctp"],
    ] {
        assert!(parsed(&wrong).is_err(), "{wrong:?}");
    }
    for wrong in [["--last", "0"], ["--pod", "a/b/c"], ["--to", ""], ["--verdict", "maybe"], ["-n", ""]] {
        assert!(parsed(&wrong).is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_pause_ends_what_was_recorded() {
    let (sender, heard) = tokio::sync::mpsc::channel(8);
    let mut answers = Answers::of(heard);
    let send = async |id| {
        let kind = Some(item::Kind::Flow(Flow { id, ..refused() }.into()));
        sender.send(Heard::Item(Box::new(Item { node: "node-a".into(), kind }))).await.unwrap();
    };
    send(1).await;
    send(2).await;
    let recorded = backlog(&mut answers, &mut |failure| panic!("{failure}")).await;
    assert_eq!(recorded.len(), 2);
    send(3).await;
    assert!(answers.next().await.unwrap().is_ok(), "the stream goes on");
}
