//! What was seen of late: sums, requests as they pass, edges, costs.

use std::time::Duration;

use mesh_common::{
    model::Latency,
    proto::{
        nodemesh::{
            Direction, EdgeInfo, Endpoint, Flow, FlowsWindow, Header, HttpRequest, Path as Way, PodCost, Security,
            Stat, StatBy, Tapped, flows_query::Only,
        },
        seen as lists,
    },
};
use serde_json::Value;

use super::*;

fn end(workload: &str) -> Option<Endpoint> {
    Some(Endpoint {
        namespace: "shop".into(),
        pod: format!("{workload}-1"),
        workload: workload.into(),
        ..Endpoint::default()
    })
}

fn stat(reporter: Direction, requests: u64, failed: u64) -> Stat {
    Stat {
        reporter: reporter.into(),
        source: end("cart"),
        destination: end("web"),
        service: "shop/web.shop.svc.cluster.local".into(),
        route: "shop/web/0".into(),
        seconds: 60,
        requests,
        failed_requests: failed,
        answers: vec![0, 0, requests - failed, 0, 0, failed],
        latency: lists::latency([(u32::from(Latency::bucket(Duration::from_millis(5))), requests)]),
        connections: 6,
        open: 2,
        bytes_sent: 60_000,
        security: lists::by_number([(Security::MutualTls, 6)]),
        path: lists::by_number([(Way::Tunnel, 6)]),
        ..Stat::default()
    }
}

fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[tokio::test]
async fn both_ends_of_a_connection_are_one_row() {
    let a = Served::of("a", |_| Ok(vec![item::Kind::Stat(stat(Direction::Outbound, 120, 0).into())]));
    let b = Served::of("b", |_| Ok(vec![item::Kind::Stat(stat(Direction::Inbound, 119, 12).into())]));
    let sockets = [&*a.socket(), &*b.socket()];
    let (outcome, text) = asked("meshctl stat edges", &sockets).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    let figures = ["2.0", "89.9%", "4.9ms", "4.9ms", "4.9ms", "0.10", "2", "0", "12", "1.0kB", "-", "100%", "0%", "-"];
    assert_eq!(rows(&text)[1], [&["shop/cart", "shop/web"], &figures[..]].concat(), "{text}");
    assert_eq!(rows(&text).len(), 2, "{text}");
    let (_, text) = asked("meshctl stat services -o json", &sockets).await;
    let record: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&record["service"], &record["requests"], &record["success"]),
        (&"shop/web".into(), &120.into(), &1.0.into())
    );
    assert_eq!(record["security"]["mutual_tls"], 6);
    assert_eq!(record["answers"]["2xx"], 120);
}

#[tokio::test]
async fn the_question_of_a_sum_says_by_what_and_how_long() {
    let line = "meshctl stat routes -n shop --window 5m";
    let (outcome, text) = meshctl(line, |kind| match kind {
        query::Kind::Stat(query) if query.by() == StatBy::Route => {
            assert_eq!((query.namespace.as_str(), query.seconds), ("shop", 300));
            Ok(vec![item::Kind::Stat(stat(Direction::Outbound, 1, 0).into())])
        }
        other => Err(Status::invalid_argument(format!("{other:?}"))),
    })
    .await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert_eq!(rows(&text)[1][..2], ["shop/web", "shop/web/0"], "{text}");
    for wrong in ["meshctl stat --window 11m", "meshctl stat pods", "meshctl stat --every 1s"] {
        assert!(Arguments::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn an_agent_that_does_not_know_the_question_is_older() {
    for line in ["meshctl stat", "meshctl top", "meshctl tap", "meshctl cost"] {
        let (outcome, text) = meshctl(line, |_| Err(Status::unimplemented("?"))).await;
        let failure = outcome.unwrap_err();
        assert_eq!(failure.exit_code(), 3, "{line}");
        assert!(failure.to_string().contains("is it older?"), "{line}: {failure}");
        assert!(!text.contains("shop"), "{line}: {text}");
    }
}

#[tokio::test]
async fn top_without_a_terminal_prints_sums_and_draws_a_picture() {
    let answer = |_| Ok(vec![item::Kind::Stat(stat(Direction::Inbound, 120, 0).into())]);
    let (outcome, text) = meshctl("meshctl top", answer).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert_eq!(rows(&text)[1][..3], ["shop/web", "1", "2.0"], "{text}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("top.svg");
    let line = format!("meshctl top edges --snapshot {} --width 120 --height 8", file.display());
    let (outcome, text) = meshctl(&line, answer).await;
    assert_eq!((outcome.unwrap(), text.as_str()), (Outcome::Fine, ""));
    let svg = std::fs::read_to_string(file).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains(">shop/cart") && svg.contains("2.0"), "{svg}");
    let (outcome, _) = meshctl("meshctl top --snapshot /nonexistent/top.svg", answer).await;
    assert!(outcome.unwrap_err().to_string().contains("/nonexistent/top.svg"));
}

fn tapped(id: u64) -> item::Kind {
    let http = HttpRequest { method: "GET".into(), path: "/a".into(), status: 200, ..HttpRequest::default() };
    let flow = Flow { id, source: end("cart"), destination: end("web"), http: Some(http), ..Flow::default() };
    let header = |name: &str, value: &str| Header { name: name.into(), value: value.into() };
    item::Kind::Tapped(
        Tapped {
            flow: Some(flow),
            request_headers: vec![header("authorization", "[redacted]"), header("x-odd", "a\x1b[2J")],
            response_headers: vec![header("server", "nginx")],
        }
        .into(),
    )
}

#[tokio::test]
async fn requests_are_shown_as_they_pass_until_there_are_enough() {
    let answer = |kind| match kind {
        query::Kind::Tap(query) => {
            let flows = query.flows.clone().unwrap_or_default();
            assert_eq!((flows.only(), flows.path.as_str(), query.count), (Only::Http, "/a", 2));
            assert!(query.headers && !query.secrets);
            Ok(vec![tapped(1), tapped(2), tapped(3)])
        }
        other => Err(Status::invalid_argument(format!("{other:?}"))),
    };
    let line = "meshctl tap --path /a --headers --count 2";
    let (outcome, text) = meshctl(line, answer).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 8, "{text}");
    assert!(lines[0].contains("node-a#1") && lines[0].contains("shop/cart-1 -> shop/web-1"), "{text}");
    assert!(lines[0].contains("GET /a 200"), "{text}");
    let expected = ["    > authorization: [redacted]", "    > x-odd: a\\u{1b}[2J", "    < server: nginx"];
    assert_eq!(lines[1..4], expected, "{text}");
    let (_, text) = meshctl(&format!("{line} -o json"), answer).await;
    let record: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(record["request_headers"][0]["value"], "[redacted]");
    assert_eq!((&record["http"]["path"], &record["node"]), (&"/a".into(), &"node-a".into()));
}

#[tokio::test]
async fn secrets_are_a_wrong_question_to_a_controller() {
    let refused = |_| Err(Status::invalid_argument("secrets: an agent tells them on its own socket only"));
    let (outcome, _) = meshctl("meshctl tap --headers --secrets", refused).await;
    let failure = outcome.unwrap_err();
    assert_eq!(failure.exit_code(), 2);
    assert!(failure.to_string().contains("own socket only"), "{failure}");
    assert!(
        Arguments::try_parse_from(["meshctl", "tap", "--secrets"]).is_err(),
        "secrets of headers that are not shown"
    );
}

fn edge(direction: Direction, security: Security) -> item::Kind {
    item::Kind::Edge(EdgeInfo {
        source: end("cart"),
        destination: end("web"),
        direction: direction.into(),
        security: security.into(),
        path: Way::Tunnel.into(),
        connections: 9,
        open: 2,
        ..EdgeInfo::default()
    })
}

#[tokio::test]
async fn edges_have_the_requests_of_late() {
    let answer = |kind| match kind {
        query::Kind::Edges(_) => Ok(vec![edge(Direction::Outbound, Security::MutualTls)]),
        query::Kind::Stat(query) if query.by() == StatBy::Edge => {
            Ok(vec![item::Kind::Stat(stat(Direction::Outbound, 120, 12).into())])
        }
        other => Err(Status::invalid_argument(format!("{other:?}"))),
    };
    let (outcome, text) = meshctl("meshctl edges", answer).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    let row = &rows(&text)[1];
    assert_eq!(row[row.len() - 3..], ["2.0", "10.0%", "4.9ms"], "{text}");
    let (_, text) = meshctl("meshctl edges -o json", answer).await;
    let record: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&record["requests"]["requests"], &record["requests"]["failed"]), (&120.into(), &12.into()));
    let (_, text) = meshctl("meshctl edges --dot", answer).await;
    assert!(text.starts_with("digraph mesh {\n") && text.ends_with("}\n"), "{text}");
    let line =
        r#"  "shop/cart" -> "shop/web" [label="mutual_tls\n2.0 req/s, p95 4.9ms, 10.0% bad\n2 open", color=red, "#;
    assert!(text.contains(&format!("{line}style=solid];\n")), "{text}");
}

#[tokio::test]
async fn edges_of_older_agents_have_no_requests() {
    let answer = |kind| match kind {
        query::Kind::Edges(_) => Ok(vec![edge(Direction::Inbound, Security::Plaintext)]),
        _ => Err(Status::unimplemented("?")),
    };
    let (outcome, text) = meshctl("meshctl edges -o json", answer).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    let record: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&record["connections"], &record["requests"]), (&9.into(), &Value::Null));
    let (_, text) = meshctl("meshctl edges --dot", answer).await;
    assert!(text.contains(r#"[label="none\n2 open", color=black, style=dashed]"#), "{text}");
}

#[tokio::test]
async fn costs_are_summed() {
    let cost = |pod: &str, cpu_us, memory| {
        item::Kind::Cost(PodCost {
            namespace: if pod.is_empty() { "" } else { "shop" }.into(),
            pod: pod.into(),
            connections: 3,
            requests: 10,
            bytes: 1500,
            cpu_us,
            memory,
            ..PodCost::default()
        })
    };
    let answer = move |_| Ok(vec![cost("web", 1000, 4_000_000), cost("cart", 2500, 1_000_000), cost("", 500, 0)]);
    let (outcome, text) = meshctl("meshctl cost", answer).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    let rows = rows(&text);
    assert_eq!(rows[1], ["node-a", "shop/cart", "3", "0", "10", "1.5kB", "2.5ms", "62.5%", "1.0MB"], "{text}");
    assert_eq!(rows[3][..3], ["node-a", "(the", "agent)"], "{text}");
    assert_eq!(rows[4], ["1", "node", "2", "pods", "9", "0", "30", "4.5kB", "4.0ms", "100%", "5.0MB"], "{text}");
    let (_, text) = meshctl("meshctl cost --sort memory -o json", answer).await;
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((&first["pod"], &first["cpu_ms"], &first["cpu_share"]), (&"web".into(), &1.0.into(), &0.25.into()));
}

#[tokio::test]
async fn an_agent_that_filters_less_than_was_asked_is_told() {
    let (outcome, text) = meshctl("meshctl flows --http-status 5xx", |_| {
        let http = HttpRequest { status: 200, ..HttpRequest::default() };
        let flow = Flow { http: Some(http), ..Flow::default() };
        Ok(vec![item::Kind::Flow(flow.into()), item::Kind::Window(FlowsWindow::default())])
    })
    .await;
    let failure = outcome.unwrap_err();
    assert_eq!((failure.exit_code(), text.as_str()), (3, ""));
    assert!(failure.to_string().contains("node node-a is too old to know --http-status"), "{failure}");
}
