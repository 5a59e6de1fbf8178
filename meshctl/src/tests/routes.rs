//! `meshctl routes` and `meshctl config routes`: what is counted and what is told, as people read it.

use std::sync::atomic::{AtomicU64, Ordering};

use mesh_common::proto::nodemesh::{RouteCounts, TrafficInfo};
use serde_json::{Value, json};

use super::*;

const SERVICE: &str = "shop/cart.shop.svc.cluster.local";

fn counted(route: &str, requests: u64, answers: [u64; 6], flags: &[(&str, u64)]) -> item::Kind {
    item::Kind::Route(RouteCounts {
        service: SERVICE.into(),
        route: route.into(),
        requests,
        active: 1,
        answers: answers.into(),
        retries: 2,
        mirrored: 0,
        flags: flags.iter().map(|(flag, count)| ((*flag).to_owned(), *count)).collect(),
    })
}

/// Two nodes that took requests of one route, one of them of another too.
fn counting() -> [Served; 2] {
    let canary = |requests, flags| counted("shop/cart/0", requests, [1, 0, requests - 3, 0, 0, 2], flags);
    let a = Served::of("a", move |_| Ok(vec![canary(10, &[("UF", 1)]), counted("", 4, [0, 0, 4, 0, 0, 0], &[])]));
    let b = Served::of("b", move |_| Ok(vec![canary(5, &[("UF", 2), ("FI", 1)])]));
    [a, b]
}

#[tokio::test]
async fn requests_by_route_are_summed_over_nodes() {
    let [a, b] = counting();
    let sockets = [&*a.socket(), &*b.socket()];
    let (outcome, text) = asked("meshctl routes -n shop", &sockets).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let all = ["4", "-", "0", "4", "0", "0", "0", "0", "1", "2", "0", "-"];
    let canary = ["15", "-", "0", "9", "0", "0", "4", "2", "2", "4", "0", "FI=1", "UF=3"];
    assert_eq!(rows[1], [&["1", "node", "shop/cart", "-"], &all[..]].concat(), "{text}");
    assert_eq!(rows[2], [&["2", "nodes", "shop/cart", "shop/cart/0"], &canary[..]].concat(), "{text}");
    assert_eq!(rows.len(), 3, "{text}");

    let (_, text) = asked("meshctl routes --by-node", &sockets).await;
    let nodes: Vec<_> = text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(nodes, ["a", "a", "b"], "{text}");
    let (_, text) = asked("meshctl routes --by-node -o json", &sockets).await;
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let expected = json!({
        "node": "b", "nodes": 1, "service": SERVICE, "route": "shop/cart/0", "requests": 5, "requests_per_second": null,
        "answers": { "1xx": 0, "2xx": 2, "3xx": 0, "4xx": 0, "5xx": 2 }, "gone": 1, "active": 1, "retries": 2,
        "mirrored": 0, "flags": { "UF": 2, "FI": 1 },
    });
    assert_eq!(last, expected);
}

#[tokio::test]
async fn the_question_is_about_the_namespace() {
    let (outcome, _) = meshctl("meshctl routes -n shop", |kind| match kind {
        query::Kind::Routes(query) if query.namespace == "shop" => Ok(Vec::new()),
        other => Err(Status::invalid_argument(format!("{other:?}"))),
    })
    .await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
}

#[tokio::test]
async fn watching_shows_what_changes_and_how_fast() {
    let asks = AtomicU64::new(0);
    let answer = move |_| {
        let ask = asks.fetch_add(1, Ordering::Relaxed);
        let quiet = counted("shop/cart/1", 7, [0; 6], &[]);
        let busy = |requests| counted("shop/cart/0", requests, [0, 0, requests, 0, 0, 0], &[]);
        match ask {
            0 => Ok(vec![busy(100), quiet]),
            1 => Ok(vec![busy(150), quiet]),
            // The agent was started again.
            2 => Ok(vec![busy(30), quiet]),
            3 => Ok(Vec::new()),
            _ => Err(Status::unavailable("ends")),
        }
    };
    let (outcome, text) = meshctl("meshctl routes --watch --every 1s -o json", answer).await;
    assert_eq!(outcome.unwrap_err().exit_code(), 3);
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> =
        records.iter().map(|r| (r["route"].as_str().unwrap(), r["requests"].as_u64().unwrap())).collect();
    assert_eq!(seen, [("shop/cart/0", 100), ("shop/cart/1", 7), ("shop/cart/0", 150), ("shop/cart/0", 30)], "{text}");
    assert_eq!(records[0]["requests_per_second"], Value::Null);
    for (record, at_most) in [(&records[2], 50.0), (&records[3], 30.0)] {
        let rate = record["requests_per_second"].as_f64().unwrap();
        assert!(rate > 0.0 && rate <= at_most, "{rate}");
    }
}

fn told(rules: &Value) -> impl Fn(query::Kind) -> Result<Vec<item::Kind>, Status> + Send + Sync + 'static {
    let rules = rules.to_string().into_bytes();
    move |_| Ok(vec![item::Kind::Traffic(TrafficInfo { service: SERVICE.into(), rules: rules.clone() })])
}

fn cart(subset: &str, weight: u32) -> Value {
    json!({ "weight": weight, "target": { "backend": { "service": SERVICE, "subset": subset } } })
}

fn traffic() -> Value {
    let origin = json!({ "object": "VirtualService shop/cart", "field": "spec.http[0]" });
    let balancing = json!({ "balancing": { "algorithm": "leastRequest" } });
    json!({
        "service": SERVICE,
        "routes": [
            { "clients": { "namespaces": ["front", "shop"] }, "value": {
                "http": [
                    {
                        "name": "shop/cart/canary", "origin": origin,
                        "matches": [
                            { "path": { "prefix": "/api/" }, "method": { "exact": "GET" },
                              "headers": [{ "name": "x-canary", "value": { "exact": "true" } }] },
                            { "path": { "elements": "/health" }, "port": 80 },
                        ],
                        "action": { "forward": [cart("v1", 90), cart("v2", 10)] },
                        "timeout": 10_000,
                        "retries": { "attempts": 3, "tryTimeout": 2000, "on": ["5xx", { "status": 409 }],
                                     "backoff": 25, "maxBackoff": 250, "avoidTried": true },
                        "fault": { "delay": { "percent": 100_000, "fixed": 5000 },
                                   "abort": { "percent": 5000, "status": 503 } },
                    },
                    { "name": "shop/cart/old", "origin": origin,
                      "action": { "redirect": { "scheme": "https", "host": "new.example.com", "port": "scheme",
                                                "status": 301 } } },
                    { "name": "shop/cart/bad", "origin": origin,
                      "action": { "forward": [{ "weight": 1, "target": { "invalid": {
                          "status": 500, "why": "no such Service" } } }] } },
                ],
                "faults": [{ "origin": { "object": "VirtualService shop/chaos", "field": "spec.http[0]" },
                             "fault": { "abort": { "percent": 1_000_000, "grpcStatus": 14 } } }],
            } },
            { "clients": "everybody", "value": {
                "tls": [{ "name": "shop/cart/tls", "origin": origin, "serverNames": ["*.example.com"],
                          "backends": [cart("v1", 1)] }],
                "tcp": [{ "name": "shop/cart/tcp", "origin": origin, "matches": [{ "port": 6379 }], "backends": [] }],
            } },
        ],
        "policies": [{ "clients": "everybody", "value": {
            "origins": [],
            "all": {
                "balancing": { "algorithm": { "hash": { "header": "x-user" } } },
                "pool": { "maxConnections": 100, "connectTimeout": 500, "upgrade": "default" },
                "outlier": { "consecutive5xx": 5, "interval": 30_000, "baseEjection": 90_000, "maxEjected": 500_000,
                             "minHealth": 0 },
            },
            "subsets": { "v1": { "labels": { "version": "v1" }, "all": balancing } },
        } }],
    })
}

#[tokio::test]
async fn rules_of_traffic_in_few_words() {
    let (outcome, text) = meshctl("meshctl config routes -n shop", told(&traffic())).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    let lines: Vec<String> = text.lines().map(|line| line.replace("  ", "\t")).collect();
    let cells = |line: &String| {
        let cells = line.split('\t').map(str::trim).filter(|cell| !cell.is_empty());
        cells.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let rows: Vec<_> = lines.iter().map(cells).collect();
    let clients = ["node-a", "shop/cart", "front,shop"];
    assert_eq!(
        rows[1],
        [
            &clients[..],
            &["VirtualService shop/chaos spec.http[0]", "all", "laid over all", "100% aborted with gRPC 14"]
        ]
        .concat()
    );
    assert_eq!(
        rows[2],
        [
            &clients[..],
            &[
                "shop/cart/canary",
                "GET /api/* x-canary=true | /health/... port 80",
                "shop/cart v1 90%, shop/cart v2 10%",
                "timeout 10s, retries 3 of 2s on 5xx 409, 10% delayed 5s, 0.5% aborted with 503",
            ]
        ]
        .concat()
    );
    let redirect = "redirect 301 to https://new.example.com(same path)";
    assert_eq!(rows[3], [&clients[..], &["shop/cart/old", "all", redirect, "-"]].concat());
    assert_eq!(rows[4], [&clients[..], &["shop/cart/bad", "all", "500 (no such Service)", "-"]].concat());
    let all = ["node-a", "shop/cart", "all"];
    assert_eq!(rows[5], [&all[..], &["shop/cart/tls", "TLS *.example.com", "shop/cart v1", "-"]].concat());
    let nowhere = "refused, no backend has a weight";
    assert_eq!(rows[6], [&all[..], &["shop/cart/tcp", "TCP port 6379", nowhere, "-"]].concat());
    assert!(rows[7].is_empty(), "{text}");
    let pool = "100 connections, connect 500ms";
    let outliers = "out for 90s after 5 5xx, 50% at most";
    assert_eq!(rows[9], [&all[..], &["all", "-", "hash of header x-user", pool, outliers]].concat());
    assert_eq!(rows[10], [&all[..], &["subset v1", "version=v1", "least request", "-", "-"]].concat());
    assert_eq!(rows.len(), 11, "{text}");

    let (_, text) = meshctl("meshctl config routes -o json", told(&traffic())).await;
    let record: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(record, json!({ "seen_by": "node-a", "service": SERVICE, "rules": traffic() }));
}

#[tokio::test]
async fn rules_of_a_newer_mesh_are_shown_as_they_were_told() {
    let mut newer = traffic();
    newer["shadows"] = json!([1]);
    let (outcome, text) = meshctl("meshctl config routes", told(&newer)).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert!(
        text.contains(&format!("node-a: rules of {SERVICE} cannot be read by this version (unknown field")),
        "{text}"
    );
    assert!(text.ends_with(&format!("{newer}\n")), "{text}");
}
