//! How soon the dashboard answers in a mesh of 1,000 services, 2,000 pods and 10,000 edges, and what that costs the
//! controller: a real one, with the links of ten agents over TLS. It measures and asserts no time: see CONTRIBUTING.md.

use std::{fmt::Write, thread, time::Instant};

use mesh_common::proto::{
    nodemesh::{
        CertificateInfo, ConfigKind, Counter, DashboardInfo, DashboardQuery, Direction, Flow, NodeStatus, Path as Took,
        RouteCounts, Security, Stat, StatBy, Verdict,
    },
    seen,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

const NODES: usize = 10;
const SERVICES: usize = 1000;
const NAMESPACES: usize = 20;
/// Two to each service.
const PODS: usize = 2000;
const EDGES: usize = 10_000;
/// Flow records that each agent has, more than it is asked for.
const FLOWS: usize = 1000;
const ROUNDS: usize = 5;
/// Questions that the page asks, and one that it asks after a click.
const QUESTIONS: [&str; 7] =
    ["graph", "workloads", "services", "flows", "certificates", "agents", "service/ns-7/app-7.ns-7.svc.cluster.local"];
/// More than answers are kept, so that each round asks the agents.
const APART: Duration = Duration::from_millis(2100);

fn namespace(pod: usize) -> String {
    format!("ns-{}", pod % SERVICES % NAMESPACES)
}

fn app(pod: usize) -> String {
    format!("app-{}", pod % SERVICES)
}

fn workload(pod: usize) -> String {
    format!("{}-v{}", app(pod), 1 + pod / SERVICES)
}

fn node(pod: usize) -> String {
    format!("n{}", pod % NODES)
}

fn service(pod: usize) -> String {
    let (namespace, app) = (namespace(pod), app(pod));
    format!("{namespace}/{app}.{namespace}.svc.cluster.local")
}

/// All objects, as files.
fn manifest() -> String {
    let mut text = String::new();
    for number in 0..NAMESPACES {
        let _ = writeln!(
            text,
            "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: ns-{number}, labels: {{nodemesh.io/mode: mesh}}}}}}"
        );
    }
    for number in 0..SERVICES {
        let (namespace, app) = (namespace(number), app(number));
        let ip = format!("10.96.{}.{}", number / 250, 1 + number % 250);
        let _ = writeln!(
            text,
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {app}, namespace: {namespace}}}, spec: {{clusterIP: \
             {ip}, clusterIPs: [{ip}], selector: {{app: {app}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}"
        );
        let _ = writeln!(
            text,
            "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {app}-1, namespace: \
             {namespace}, labels: {{kubernetes.io/service-name: {app}}}}}, addressType: IPv4, ports: [{{name: http, \
             port: 8080}}], endpoints: ["
        );
        for pod in [number, number + SERVICES] {
            let (workload, ip) = (workload(pod), address(pod));
            let _ = writeln!(
                text,
                "{{addresses: [{ip}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {workload}-x-y, \
                 namespace: {namespace}}}}},"
            );
        }
        text.push_str("]}\n");
    }
    for pod in 0..PODS {
        let (namespace, app, workload, node, ip) = (namespace(pod), app(pod), workload(pod), node(pod), address(pod));
        let version = 1 + pod / SERVICES;
        let _ = writeln!(
            text,
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {workload}-x-y, namespace: {namespace}, uid: u-{pod}, \
             creationTimestamp: '2026-01-01T00:00:00Z', labels: {{app: {app}, version: v{version}, pod-template-hash: x}}, \
             ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet, name: {workload}-x, uid: r, controller: true}}]}}, \
             spec: {{nodeName: {node}, serviceAccountName: {app}, containers: [{{name: c}}]}}, status: {{phase: Running, \
             podIP: {ip}, podIPs: [{{ip: {ip}}}], conditions: [{{type: Ready, status: 'True'}}]}}}}"
        );
    }
    text
}

fn address(pod: usize) -> String {
    format!("10.{}.{}.{}", 128 + pod % NODES, pod / 250, 1 + pod % 250)
}

fn end(pod: usize) -> Option<mesh_common::proto::nodemesh::Endpoint> {
    Some(mesh_common::proto::nodemesh::Endpoint {
        namespace: namespace(pod),
        workload: workload(pod),
        ..Default::default()
    })
}

fn stat(reporter: Direction) -> Stat {
    Stat {
        reporter: reporter.into(),
        seconds: 60,
        requests: 600,
        failed_requests: 7,
        answers: vec![0, 0, 590, 0, 3, 7],
        // A service's durations lie in about so many buckets.
        latency: seen::latency((90..114).map(|bucket| (bucket, 25))),
        connections: 12,
        open: 3,
        bytes_sent: 600_000,
        bytes_received: 6_000_000,
        security: seen::by_number([(Security::MutualTls, 612)]),
        path: seen::by_number([(Took::Tunnel, 612)]),
        rtt_us: 300,
        ..Stat::default()
    }
}

/// What the agent of this node says to a question.
fn said(of: &str, kind: &query::Kind) -> Vec<item::Kind> {
    let own = || (0..PODS).filter(|pod| node(*pod) == of);
    match kind {
        query::Kind::Stat(query) => match query.by() {
            StatBy::Edge | StatBy::EdgeTo => (0..EDGES)
                .flat_map(|edge| {
                    let (source, destination) = (edge % PODS, (edge * 7 + edge / PODS + 1) % PODS);
                    [(Direction::Outbound, source), (Direction::Inbound, destination)]
                        .into_iter()
                        .filter(|(_, told)| node(*told) == of)
                        .map(move |(reporter, _)| Stat {
                            source: end(source),
                            destination: end(destination),
                            service: service(destination),
                            ..stat(reporter)
                        })
                        .collect::<Vec<_>>()
                })
                .map(|stat| item::Kind::Stat(stat.into()))
                .collect(),
            StatBy::Workload => own()
                .filter(|pod| asked(&query.namespace, *pod))
                .map(|pod| item::Kind::Stat(Stat { destination: end(pod), ..stat(Direction::Inbound) }.into()))
                .collect(),
            // Clients on every node ask every service.
            StatBy::Service | StatBy::Route => (0..SERVICES)
                .filter(|pod| asked(&query.namespace, *pod))
                .map(|pod| item::Kind::Stat(Stat { service: service(pod), ..stat(Direction::Outbound) }.into()))
                .collect(),
            StatBy::Unspecified => Vec::new(),
        },
        query::Kind::Config(query) if query.kind() == ConfigKind::Certificates => own()
            .map(|pod| {
                item::Kind::Certificate(CertificateInfo {
                    identity: format!("spiffe://cluster.local/ns/{}/sa/{}", namespace(pod), app(pod)),
                    serial: format!("{pod:032x}"),
                    ..CertificateInfo::default()
                })
            })
            .collect(),
        query::Kind::Flows(query) => (0..FLOWS.min(query.last as usize))
            .map(|id| {
                item::Kind::Flow(
                    Flow {
                        id: id as u64,
                        end: Some(prost_types::Timestamp { seconds: id as i64, nanos: 0 }),
                        verdict: Verdict::Forwarded.into(),
                        source: end(id),
                        destination: end(id + 1),
                        service: service(id + 1),
                        ..Flow::default()
                    }
                    .into(),
                )
            })
            .collect(),
        query::Kind::Routes(_) => own()
            .map(|pod| item::Kind::Route(RouteCounts { service: service(pod), requests: 5, ..Default::default() }))
            .collect(),
        query::Kind::Status(_) => vec![item::Kind::Status(NodeStatus {
            pods: own().map(state).collect(),
            counters: (0..60).map(|at| Counter { name: format!("counter_{at}"), value: at }).collect(),
            ..NodeStatus::default()
        })],
        _ => Vec::new(),
    }
}

fn asked(of: &str, pod: usize) -> bool {
    of.is_empty() || namespace(pod) == of
}

fn state(pod: usize) -> PodState {
    PodState {
        namespace: namespace(pod),
        name: format!("{}-x-y", workload(pod)),
        redirection: Redirection::Enabled.into(),
        pod_uid: format!("u-{pod}"),
        ..Default::default()
    }
}

/// Answers until the controller ends. What it says is made before it is linked.
async fn answering(agent: Agent, of: String) {
    let edges =
        query::Kind::Stat(mesh_common::proto::nodemesh::StatQuery { by: StatBy::Edge.into(), ..Default::default() });
    let edges = said(&of, &edges);
    let (messages, stream) = mpsc::channel(64);
    let states = PodStates { pods: (0..PODS).filter(|pod| node(*pod) == of).map(state).collect() };
    messages.send(AgentMessage { kind: Some(agent_message::Kind::Pods(states)) }).await.expect("open");
    let mut client = AgentLinkClient::new(agent.channel.clone());
    let mut asked = client.link(agent.request(ReceiverStream::new(stream))).await.expect("linked").into_inner();
    while let Ok(Some(question)) = asked.message().await {
        let Some(controller_message::Kind::Ask(Query { kind: Some(kind), .. })) = question.kind else { continue };
        let items = match &kind {
            query::Kind::Stat(query) if query.by() == StatBy::Edge => edges.clone(),
            query::Kind::Stat(query) if query.by() == StatBy::EdgeTo => {
                let to = |stat: &Stat| stat.destination.as_ref().is_some_and(|end| end.namespace == query.namespace);
                edges.iter().filter(|kind| matches!(kind, item::Kind::Stat(stat) if to(stat))).cloned().collect()
            }
            kind => said(&of, kind),
        };
        let items = items.into_iter().map(|kind| answer::Kind::Item(Item { kind: Some(kind), ..Item::default() }));
        for kind in items.chain([answer::Kind::End(End::default())]) {
            let answer = Answer { id: question.id, kind: Some(kind) };
            if messages.send(AgentMessage { kind: Some(agent_message::Kind::Answer(answer)) }).await.is_err() {
                return;
            }
        }
    }
}

/// An answer's length, and how long it took.
async fn told(address: SocketAddr, token: &str, question: &str) -> (usize, Duration, Value) {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!(
        "GET /api/{question} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("asked");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let took = start.elapsed();
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let value = serde_json::from_slice(&answer[body..]).expect("JSON");
    (answer.len() - body, took, value)
}

/// CPU time that this process took, without that of the agents.
fn used() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").expect("tasks");
    let of = |task: fs::DirEntry| -> Option<u64> {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let times = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let own = times.split_whitespace().next()?.parse().ok()?;
        (name.trim() != "agents").then_some(own)
    };
    Duration::from_nanos(tasks.filter_map(Result::ok).filter_map(of).sum())
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, best alone and optimised: see CONTRIBUTING.md"]
async fn the_page_of_a_large_mesh() {
    let folder = tempfile::tempdir().expect("folder");
    fs::create_dir(folder.path().join("config")).expect("folder");
    fs::write(folder.path().join("config/mesh.yaml"), manifest()).expect("file");
    let config = Run { dashboard: Some("127.0.0.1:0".parse().expect("an address")), ..config(folder.path()) };
    let scene = Scene { app: App::start(&config).await.expect("start"), folder };

    let (controller, state) = (scene.app.address, scene.state());
    // A runtime of theirs: what they cost is not the controller's.
    thread::Builder::new()
        .name("agents".into())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let state = &state;
            runtime.block_on(futures::future::join_all((0..NODES).map(|number| async move {
                let of = node(number);
                answering(Agent::connect(controller, state, &of).await, of).await;
            })));
        })
        .expect("a thread");

    let where_is = Query { node: String::new(), kind: Some(query::Kind::Dashboard(DashboardQuery {})) };
    let mut asking = admin(scene.state().join("admin.sock")).await.ask(where_is).await.expect("asked").into_inner();
    let Some(item::Kind::Dashboard(DashboardInfo { address, token })) =
        asking.message().await.expect("an answer").and_then(|item| item.kind)
    else {
        panic!("no dashboard");
    };
    let address: SocketAddr = address.parse().expect("an address");
    loop {
        let (_, _, graph) = told(address, &token, "graph").await;
        let edges = graph["edges"].as_array().map_or(0, Vec::len);
        let meshed = graph["nodes"].as_array().is_some_and(|nodes| nodes.iter().all(|node| node["meshed"] == 1));
        if (edges, meshed) == (EDGES, true) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    println!("question        KiB     first ms  (each)                        again ms   CPU ms");
    for question in QUESTIONS {
        let (mut first, mut again, mut cpu, mut length) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for _ in 0..ROUNDS {
            tokio::time::sleep(APART).await;
            let before = used();
            let (bytes, took, value) = told(address, &token, question).await;
            cpu.push(used().saturating_sub(before));
            assert!(value.get("error").is_none(), "{question}: {value}");
            first.push(took);
            length = bytes;
            again.push(told(address, &token, question).await.1);
        }
        let each: Vec<_> = first.iter().map(|took| ms(*took)).collect();
        for times in [&mut first, &mut again, &mut cpu] {
            times.sort();
        }
        let name = question.split('/').next().unwrap_or_default();
        let of = |times: &[Duration]| ms(times[ROUNDS / 2]);
        println!(
            "{name:<14}{:>5}{:>13}  {:<32}{:>6}{:>9}",
            length / 1024,
            of(&first),
            format!("{each:?}"),
            of(&again),
            of(&cpu)
        );
    }

    // As pages do that lie open: the graph every five seconds, flows every three, for half a minute.
    for readers in [0, 1, 8] {
        let (before, start) = (used(), Instant::now());
        let open = (0..readers).flat_map(|_| [("graph", 5000), ("flows", 3000)]).map(|(question, every)| {
            let token = token.clone();
            async move {
                while start.elapsed() < Duration::from_secs(30) {
                    told(address, &token, question).await;
                    tokio::time::sleep(Duration::from_millis(every)).await;
                }
            }
        });
        futures::future::join_all(open).await;
        tokio::time::sleep(Duration::from_secs(30).saturating_sub(start.elapsed())).await;
        let share = used().saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();
        println!("{readers} pages open: {:.2} % of a core", share * 100.0);
    }
}
