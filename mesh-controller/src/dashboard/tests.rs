//! The dashboard as a browser meets it, over a mesh that a test made up.

use std::{collections::BTreeMap, time::Instant};

use futures::FutureExt;
use mesh_common::proto::{
    nodemesh::{
        CertificateInfo, ConfigKind, ControllerStatus, Direction, Endpoint, Explanation, Flow, MissingNode, NodeStatus,
        Path as Took, PolicyInfo, RouteCounts, Security, ServiceInfo, Stat, StatBy, TrafficInfo, Verdict, WorkloadInfo,
    },
    seen,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

/// A mesh of so many namespaces and workloads in each, and of so many edges.
struct Made {
    namespaces: u32,
    each: u32,
    edges: u32,
    errors: Vec<String>,
}

/// What an HTTP client got.
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Made {
    fn small() -> Self {
        Self { namespaces: 1, each: 3, edges: 2, errors: Vec::new() }
    }

    fn name(&self, workload: u32) -> (String, String) {
        (format!("ns-{}", workload / self.each % self.namespaces), format!("app-{}", workload % self.each))
    }

    fn end(&self, workload: u32) -> Option<Endpoint> {
        let (namespace, workload) = self.name(workload);
        Some(Endpoint { namespace, pod: format!("{workload}-1"), workload, ..Endpoint::default() })
    }

    fn stat(&self, reporter: Direction) -> Stat {
        let outbound = reporter == Direction::Outbound;
        Stat {
            reporter: reporter.into(),
            seconds: 60,
            requests: 120,
            failed_requests: 12,
            // The client waits longer than the server works.
            latency: vec![if outbound { 100 } else { 90 }, 120],
            connections: 6,
            security: seen::by_number([(Security::MutualTls, 120)]),
            path: seen::by_number([(Took::Tunnel, 120)]),
            ..Stat::default()
        }
    }

    fn stats(&self, by: StatBy) -> Vec<item::Kind> {
        let all = self.namespaces * self.each;
        let both = [Direction::Outbound, Direction::Inbound];
        let stats: Vec<Stat> = match by {
            StatBy::Edge | StatBy::EdgeTo => (0..self.edges)
                .flat_map(|edge| {
                    let (source, destination) = (edge % all, (edge * 7 + edge / all + 1) % all);
                    both.map(|reporter| Stat {
                        source: self.end(source),
                        destination: self.end(destination),
                        ..self.stat(reporter)
                    })
                })
                .collect(),
            StatBy::Workload => {
                (0..all).map(|at| Stat { destination: self.end(at), ..self.stat(Direction::Inbound) }).collect()
            }
            StatBy::Service => (0..all)
                .map(|at| {
                    let (namespace, name) = self.name(at);
                    let service = format!("{namespace}/{name}.{namespace}.svc.cluster.local");
                    Stat { service, ..self.stat(Direction::Inbound) }
                })
                .collect(),
            StatBy::Route => vec![Stat {
                service: "ns-0/app-1.ns-0.svc.cluster.local".into(),
                route: "ns-0/app-1/0".into(),
                ..self.stat(Direction::Outbound)
            }],
            StatBy::Unspecified => Vec::new(),
        };
        stats.into_iter().map(|stat| item::Kind::Stat(stat.into())).collect()
    }

    fn said(&self, kind: &query::Kind) -> Vec<item::Kind> {
        let all = 0..self.namespaces * self.each;
        match kind {
            query::Kind::Stat(query) => self.stats(query.by()),
            query::Kind::Config(query) => match query.kind() {
                ConfigKind::Workloads => all
                    .map(|at| {
                        let (namespace, workload) = self.name(at);
                        item::Kind::Workload(WorkloadInfo {
                            uid: format!("{namespace}/{workload}"),
                            name: format!("{workload}-1"),
                            protocol: "HBONE".into(),
                            healthy: true,
                            services: vec![format!("{namespace}/{workload}.{namespace}.svc.cluster.local")],
                            revision: "v1".into(),
                            namespace,
                            workload,
                            ..WorkloadInfo::default()
                        })
                    })
                    .collect(),
                ConfigKind::Services => all
                    .map(|at| {
                        let (namespace, name) = self.name(at);
                        item::Kind::Service(ServiceInfo {
                            hostname: format!("{name}.{namespace}.svc.cluster.local"),
                            namespace,
                            endpoints: vec!["10.0.0.1 (healthy)".into(), "10.0.0.2 (unhealthy)".into()],
                            ..ServiceInfo::default()
                        })
                    })
                    .collect(),
                ConfigKind::Policies => vec![
                    item::Kind::Policy(PolicyInfo {
                        namespace: "ns-0".into(),
                        name: "web".into(),
                        action: "ALLOW".into(),
                        workloads: vec!["ns-0/app-1".into()],
                        ..PolicyInfo::default()
                    }),
                    item::Kind::Policy(PolicyInfo { workloads: vec!["ns-0/app-2".into()], ..PolicyInfo::default() }),
                ],
                ConfigKind::Routes => vec![item::Kind::Traffic(TrafficInfo {
                    service: "ns-0/app-1.ns-0.svc.cluster.local".into(),
                    rules: br#"{"service":"x"}"#.to_vec(),
                })],
                ConfigKind::Certificates => [30, 10]
                    .map(|seconds| {
                        let not_after = Some(prost_types::Timestamp { seconds, nanos: 0 });
                        item::Kind::Certificate(CertificateInfo { not_after, ..CertificateInfo::default() })
                    })
                    .into(),
                _ => Vec::new(),
            },
            query::Kind::Routes(_) => vec![item::Kind::Route(RouteCounts {
                service: "ns-0/app-1.ns-0.svc.cluster.local".into(),
                route: "ns-0/app-1/0".into(),
                requests: 4711,
                ..RouteCounts::default()
            })],
            query::Kind::Flows(query) => {
                let flow = |id: u64, seconds: i64| Flow {
                    id,
                    end: Some(prost_types::Timestamp { seconds, nanos: 0 }),
                    verdict: Verdict::Dropped.into(),
                    reason: query.reason.clone(),
                    error: "<script>alert(1)</script>".into(),
                    ..Flow::default()
                };
                vec![item::Kind::Flow(flow(u64::MAX, 1).into()), item::Kind::Flow(flow(2, 5).into())]
            }
            query::Kind::Explain(query) if query.flow == 7 => {
                vec![item::Kind::Explanation(
                    Explanation { summary: "Because.".into(), ..Explanation::default() }.into(),
                )]
            }
            query::Kind::Status(_) => vec![
                item::Kind::Controller(ControllerStatus {
                    connected_nodes: vec!["a".into()],
                    missing_nodes: vec![MissingNode { node: "b".into(), mesh_pods: 2, redirected_pods: 1 }],
                    ..ControllerStatus::default()
                }),
                item::Kind::Status(NodeStatus { generation: 17, ..NodeStatus::default() }),
            ],
            _ => Vec::new(),
        }
    }
}

impl Source for Made {
    fn ask(&self, node: String, kind: query::Kind) -> BoxFuture<'static, Said> {
        let node = if node.is_empty() { "a".to_owned() } else { node };
        let items = self.said(&kind).into_iter().map(|kind| (node.clone(), kind)).collect();
        let errors = self.errors.clone();
        async move { Said { items, errors } }.boxed()
    }
}

async fn serve(made: Made) -> (SocketAddr, String) {
    let dashboard = Dashboard::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (address, token) = (dashboard.address, dashboard.token.as_text().to_owned());
    tokio::spawn(dashboard.serve(Arc::new(made)));
    (address, token)
}

async fn get(address: SocketAddr, path: &str, headers: &str) -> Got {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Who said too much is answered and then reset.
    let _ = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Got { status: head[9..12].parse().unwrap(), head: head.to_owned(), body: body.to_owned() }
}

async fn told(address: SocketAddr, token: &str, question: &str) -> (u16, Value) {
    let got = get(address, &format!("/api/{question}"), &format!("authorization: Bearer {token}\r\n")).await;
    (got.status, serde_json::from_str(&got.body).unwrap())
}

#[tokio::test]
async fn without_the_token_nothing_of_the_mesh_is_told() {
    let (address, token) = serve(Made::small()).await;
    for path in ["/api/graph", "/api/agents", "/api/flows?last=1", "/api/", "/api/nothing"] {
        for headers in [String::new(), format!("authorization: Bearer {}\r\n", "0".repeat(64))] {
            let got = get(address, path, &headers).await;
            assert_eq!(
                (got.status, got.body.as_str()),
                (401, "a token is needed: see `meshctl dashboard`\n"),
                "{path}"
            );
            assert!(!got.body.contains(&token));
        }
    }
    assert_eq!(get(address, &format!("/api/graph?token={token}"), "").await.status, 401, "it belongs into a header");
    let got = get(address, "/", "accept-encoding: gzip\r\n").await;
    assert_eq!(got.status, 200);
    assert!(got.head.contains("content-security-policy: default-src 'none'"), "{}", got.head);
    let foreign = format!("authorization: Bearer {token}\r\nsec-fetch-site: cross-site\r\n");
    assert_eq!(get(address, "/api/graph", &foreign).await.status, 403);
    assert_eq!(get(address, "/api/graph", &format!("x: {}\r\n", "y".repeat(LARGEST_HEAD))).await.status, 431);
    assert!(Dashboard::listen("0.0.0.0:0".parse().unwrap()).await.is_err());
}

#[tokio::test]
async fn what_both_ends_saw_is_told_once() {
    let (address, token) = serve(Made { errors: vec!["node b: gone".into()], ..Made::small() }).await;
    let (status, graph) = told(address, &token, "graph").await;
    assert_eq!((status, graph["nodes"].as_array().unwrap().len()), (200, 3), "{graph}");
    let columns: BTreeMap<&str, usize> = graph["columns"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(at, name)| (name.as_str().unwrap(), at))
        .collect();
    let edge = &graph["edges"][0];
    let of = |name: &str| &edge[columns[name]];
    assert_eq!((of("rps"), of("failed_rps"), of("cps")), (&2.0.into(), &0.2.into(), &0.1.into()), "{edge}");
    assert_eq!((of("mutual_tls"), of("tunnel"), of("plaintext")), (&120.into(), &120.into(), &0.into()));
    assert_eq!(edge.as_array().unwrap().len(), columns.len());
    assert_eq!(graph["errors"], serde_json::json!(["node b: gone"]));
    let (_, workloads) = told(address, &token, "workloads?seconds=30").await;
    assert_eq!((&workloads["rows"][1]["name"], &workloads["rows"][1]["seen"]["rps"]), (&"app-1".into(), &2.0.into()));
    let (_, services) = told(address, &token, "services").await;
    let row = &services["rows"][1];
    assert_eq!((&row["healthy"], &row["endpoints"], &row["seen"]["rps"]), (&1.into(), &2.into(), &2.0.into()));
}

#[tokio::test]
async fn an_answer_is_made_once_for_all_who_look_and_says_how_old_it_is() {
    let (address, token) = serve(Made::small()).await;
    let before = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let (_, first) = told(address, &token, "graph").await;
    let asked = first["asked"].as_u64().unwrap();
    assert!((before..before + 60_000).contains(&asked), "{asked} after {before}");
    assert_eq!(told(address, &token, "graph").await.1["asked"], asked);
    // Another page with the same questions is as old as these.
    assert_eq!(told(address, &token, "graph?").await.1["asked"], asked);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert!(told(address, &token, "graph").await.1["asked"].as_u64().unwrap() > asked);
    assert_eq!(told(address, &token, "nothing").await.1.get("asked"), None);
}

#[tokio::test]
async fn a_service_has_versions_routes_policies_and_clients() {
    let (address, token) = serve(Made::small()).await;
    let (status, page) = told(address, &token, "service/ns-0/app-1.ns-0.svc.cluster.local").await;
    assert_eq!(status, 200, "{page}");
    assert_eq!(page["versions"][0]["revision"], "v1");
    assert_eq!((&page["routes"][0]["requests"], &page["routes"][0]["seen"]["rps"]), (&4711.into(), &2.0.into()));
    assert_eq!(page["rules"]["service"], "x");
    let policies = page["policies"].as_array().unwrap();
    assert_eq!((policies.len(), &policies[0]["name"]), (1, &"web".into()), "the other one is about other pods");
    assert_eq!((&page["clients"][0]["name"], &page["clients"][0]["to"]), (&"app-0".into(), &"app-1".into()));
    let (status, why) = told(address, &token, "service/ns-0/none").await;
    assert_eq!((status, &why["error"]), (404, &"there is no service ns-0/none".into()));
}

#[tokio::test]
async fn flows_explanations_certificates_and_agents() {
    let (address, token) = serve(Made::small()).await;
    let (_, flows) = told(address, &token, "flows?reason=POLICY_DENY&verdict=dropped").await;
    let rows = flows["rows"].as_array().unwrap();
    assert_eq!(
        (&rows[0]["id"], &rows[1]["id"]),
        (&"2".into(), &u64::MAX.to_string().into()),
        "the newest first, whole"
    );
    assert_eq!((&rows[0]["reason"], &rows[0]["end"]), (&"POLICY_DENY".into(), &5000.into()));
    assert_eq!(told(address, &token, "flows?last=1").await.1["rows"].as_array().unwrap().len(), 1);
    for (question, why) in [
        ("flows?verdict=no", "verdict: `no` is none of forwarded, dropped, audit, error"),
        ("flows?last=5000", "last: `5000` is no number from 0 to 1000"),
        ("flows?follow=1", "follow: there is no such parameter"),
        ("explain/a/x", "id: `x` is no flow's number"),
        ("graph?seconds=601", "seconds: `601` is no number from 0 to 600"),
    ] {
        let (status, answer) = told(address, &token, question).await;
        assert_eq!((status, answer["error"].as_str().unwrap()), (400, why));
    }
    assert_eq!(told(address, &token, "explain/a/7").await.1["summary"], "Because.");
    assert_eq!(told(address, &token, "explain/a/8").await.0, 404);
    let (_, certificates) = told(address, &token, "certificates").await;
    assert_eq!(certificates["rows"][0]["not_after"], 10_000, "who expires first is first");
    let (_, agents) = told(address, &token, "agents").await;
    assert_eq!((&agents["rows"][0]["generation"], &agents["rows"][0]["node"]), (&17.into(), &"a".into()));
    assert_eq!(agents["controllers"][0]["missing"][0]["node"], "b");
}

#[tokio::test]
async fn a_thousand_services_and_ten_thousand_edges() {
    let (address, token) = serve(Made { namespaces: 20, each: 50, edges: 10_000, errors: Vec::new() }).await;
    let start = Instant::now();
    let (status, graph) = told(address, &token, "graph").await;
    let took = start.elapsed();
    let (nodes, edges) = (graph["nodes"].as_array().unwrap(), graph["edges"].as_array().unwrap());
    assert_eq!((status, nodes.len(), edges.len(), &graph["left_out"]), (200, 1000, 10_000, &0.into()));
    assert!(edges.iter().all(|edge| edge[0].as_u64().unwrap() < 1000 && edge[1].as_u64().unwrap() < 1000));
    let size = get(address, "/api/graph", &format!("authorization: Bearer {token}\r\n")).await.body.len();
    println!("graph of 1,000 services and 10,000 edges: {} KiB in {} ms", size / 1024, took.as_millis());
    assert!(size < 2 * 1024 * 1024, "{size} bytes");
    // More than a browser draws in time are left out, and counted.
    let (address, token) = serve(Made { namespaces: 20, each: 50, edges: 25_000, errors: Vec::new() }).await;
    let (_, graph) = told(address, &token, "graph").await;
    let (told, left_out) = (graph["edges"].as_array().unwrap().len() as u64, graph["left_out"].as_u64().unwrap());
    assert_eq!(told, 20_000);
    assert!(left_out > 0, "{left_out}");
}
