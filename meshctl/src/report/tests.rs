//! What is said of plaintext pairs, and the exit code.

use mesh_common::proto::nodemesh::{
    ControllerStatus, Direction, EdgeInfo, Endpoint, MissingNode, Mode, NodeStatus, Origin, PodMtls, PodState,
    Redirection, Security, item, query,
};
use serde_json::Value;
use tonic::Status;

use crate::{
    Outcome,
    tests::{Served, asked},
};

const STARTED: i64 = 1_700_000_000;

fn pod(name: &str, mtls: PodMtls) -> PodState {
    let mtls = Some(PodMtls { workload: name.into(), ..mtls });
    let redirection = Redirection::Enabled.into();
    let mode = Some(Mode::Mesh.into());
    PodState { namespace: "shop".into(), name: format!("{name}-1"), redirection, mode, mtls, ..Default::default() }
}

fn edge(workload: &str, port: u16, security: Security, connections: u64) -> EdgeInfo {
    let destination = Endpoint {
        namespace: "shop".into(),
        pod: format!("{workload}-1"),
        workload: workload.into(),
        address: format!("10.1.0.9:{port}"),
        ..Default::default()
    };
    EdgeInfo {
        source: Some(Endpoint { address: "10.9.9.9".into(), ..Default::default() }),
        destination: Some(destination),
        security: security.into(),
        direction: Direction::Inbound.into(),
        connections,
        origin: Origin::Elsewhere.into(),
        ..Default::default()
    }
}

fn status(pods: Vec<PodState>) -> NodeStatus {
    let started = Some(prost_types::Timestamp { seconds: STARTED, nanos: 0 });
    NodeStatus { started, pods, ..Default::default() }
}

async fn told(line: &str, status: NodeStatus, edges: Vec<EdgeInfo>) -> (Outcome, String) {
    let served = Served::new(move |kind| match kind {
        query::Kind::Status(_) => Ok(vec![item::Kind::Status(status.clone())]),
        query::Kind::Edges(_) => Ok(edges.iter().cloned().map(item::Kind::Edge).collect()),
        _ => Err(Status::internal("another question")),
    });
    let (outcome, text) = asked(line, &[&served.socket()]).await;
    (outcome.expect("everybody answered"), text)
}

async fn records(status: NodeStatus, edges: Vec<EdgeInfo>) -> (Outcome, Vec<Value>) {
    let (outcome, text) = told("meshctl report mtls -o json", status, edges).await;
    (outcome, text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
}

fn field<'a>(records: &'a [Value], kind: &str, name: &str) -> Vec<&'a Value> {
    records.iter().filter(|record| record["kind"] == kind).map(|record| &record[name]).collect()
}

#[tokio::test]
async fn whoever_is_served_in_plaintext_would_be_refused() {
    let pods = || status(vec![pod("web", PodMtls::default()), pod("db", PodMtls::default())]);
    let edges = vec![edge("web", 80, Security::Plaintext, 3), edge("web", 80, Security::MutualTls, 5)];
    let (outcome, all) = records(pods(), edges.clone()).await;
    assert_eq!(outcome, Outcome::Found);
    assert_eq!(field(&all, "plaintext", "under_strict"), ["refused"]);
    assert_eq!(field(&all, "workload", "verdict"), ["unknown", "not_ready"], "db, then web");
    assert_eq!(field(&all, "namespace", "message"), ["not ready: 1 client would be refused; of db nobody can tell"]);
    let (_, text) = told("meshctl report mtls", pods(), edges).await;
    for part in [
        "window: node node-a remembers since 2023-11-14T22:13:20.000Z",
        "10.9.9.9",
        "not ready: 1 client would be refused: 10.9.9.9",
        "nothing seen since 2023-11-14T22:13:20.000Z: nobody can tell",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn identities_of_both_kinds_are_ready_and_silence_tells_nothing() {
    // Within a node there is one record, the source's; between two there are both.
    let outbound = |edge: EdgeInfo| EdgeInfo { direction: Direction::Outbound.into(), ..edge };
    let mutual_tls = edge("web", 80, Security::MutualTls, 5);
    let attested = outbound(edge("web", 80, Security::KernelAttested, 2));
    let edges = vec![outbound(mutual_tls.clone()), mutual_tls, attested];
    let (outcome, all) = records(status(vec![pod("web", PodMtls::default())]), edges).await;
    assert_eq!((outcome, field(&all, "workload", "verdict")), (Outcome::Fine, vec![&"ready".into()]));
    let counts = ["mutual_tls", "kernel_attested", "plaintext"].map(|name| field(&all, "workload", name)[0].clone());
    assert_eq!(counts, [5, 2, 0]);

    let (outcome, all) = records(status(vec![pod("web", PodMtls::default())]), Vec::new()).await;
    assert_eq!((outcome, field(&all, "namespace", "verdict")), (Outcome::Unsure, vec![&"unknown".into()]));
    // What was forgotten may have been plaintext.
    let forgetful = NodeStatus { edges_dropped: 9, ..status(vec![pod("web", PodMtls::default())]) };
    assert_eq!(records(forgetful, vec![edge("web", 80, Security::MutualTls, 5)]).await.0, Outcome::Unsure);
    assert_eq!(records(status(Vec::new()), Vec::new()).await.0, Outcome::Unsure, "nobody is in the mesh");
}

#[tokio::test]
async fn a_node_that_is_away_may_have_seen_something() {
    let away = MissingNode { node: "node-b".into(), mesh_pods: 1, redirected_pods: 1 };
    let controller = ControllerStatus {
        connected_nodes: vec!["node-a".into(), "node-c".into()],
        missing_nodes: vec![away],
        ..Default::default()
    };
    let served = Served::new(move |kind| match kind {
        query::Kind::Status(_) => Ok(vec![
            item::Kind::Controller(controller.clone()),
            item::Kind::Status(status(vec![pod("web", PodMtls::default())])),
        ]),
        _ => Ok(vec![item::Kind::Edge(edge("web", 80, Security::MutualTls, 5))]),
    });
    let (outcome, text) = asked("meshctl report mtls -o json", &[&served.socket()]).await;
    let all: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(
        (outcome.expect("it answered"), field(&all, "workload", "verdict")),
        (Outcome::Unsure, vec![&"ready".into()])
    );
    assert_eq!(field(&all, "missing", "node"), ["node-b", "node-c"]);
}

#[tokio::test]
async fn strict_counts_where_it_is_in_force() {
    let strict =
        |strict, other_ports| PodMtls { strict, other_ports, strict_by: "shop/all".into(), ..Default::default() };
    let before = || vec![edge("web", 80, Security::Plaintext, 3)];
    let verdicts = async |mtls, edges| {
        let (outcome, all) = records(status(vec![pod("web", mtls)]), edges).await;
        let of = |kind, name| field(&all, kind, name)[0].as_str().unwrap_or_default().to_owned();
        (outcome, of("workload", "verdict"), of("plaintext", "under_strict"), of("workload", "mode"))
    };
    let (outcome, verdict, effect, mode) = verdicts(strict(true, vec![]), before()).await;
    let all = (outcome, verdict.as_str(), effect.as_str(), mode.as_str());
    assert_eq!(all, (Outcome::Fine, "already_strict", "refused_already", "STRICT"));
    // The port is excepted: its client goes on, and would not.
    let (outcome, verdict, effect, mode) = verdicts(strict(true, vec![80]), before()).await;
    let all = (outcome, verdict.as_str(), effect.as_str(), mode.as_str());
    assert_eq!(all, (Outcome::Found, "not_ready", "refused", "STRICT, PERMISSIVE at 80"));
    // STRICT there alone: nothing changes for it.
    let (_, verdict, effect, mode) = verdicts(strict(false, vec![80]), before()).await;
    assert_eq!(
        (verdict.as_str(), effect.as_str(), mode.as_str()),
        ("ready", "refused_already", "PERMISSIVE, STRICT at 80")
    );
}

#[tokio::test]
async fn what_never_passed_or_ends_once_breaks_nobody() {
    let pods = || status(vec![pod("web", PodMtls { older: 1, ..Default::default() })]);
    let refused = EdgeInfo { refused: 2, failed: 1, ..edge("web", 80, Security::Plaintext, 3) };
    let older =
        EdgeInfo { older: true, origin: Origin::MeshedPod.into(), open: 1, ..edge("web", 81, Security::Plaintext, 1) };
    let stranger = EdgeInfo { origin: Origin::UnmeshedPod.into(), ..older.clone() };
    let (outcome, all) = records(pods(), vec![refused, older.clone()]).await;
    assert_eq!(outcome, Outcome::Fine);
    assert_eq!(field(&all, "plaintext", "under_strict"), ["never_passed", "ends_once"]);
    // Whoever has no identity is refused when it dials again.
    let (outcome, all) = records(pods(), vec![stranger]).await;
    assert_eq!((outcome, field(&all, "plaintext", "under_strict")), (Outcome::Found, vec![&"refused".into()]));
    // Past its agent, by a host's port: its identity does not come with it.
    let past = EdgeInfo { older: false, ..older };
    assert_eq!(records(pods(), vec![past]).await.0, Outcome::Found);
    // What a pod of the mesh says to the outside is not for STRICT to judge.
    let outbound = EdgeInfo { direction: Direction::Outbound.into(), ..edge("legacy", 80, Security::Plaintext, 3) };
    let (outcome, all) = records(pods(), vec![outbound, edge("web", 80, Security::MutualTls, 1)]).await;
    assert_eq!((outcome, field(&all, "plaintext", "under_strict")), (Outcome::Fine, vec![&"unaffected".into()]));
}
