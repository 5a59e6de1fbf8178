//! Judgements about a mesh that is written down here, and the verb itself against a server on a socket.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use mesh_common::proto::nodemesh::{
    CertificateInfo, ConnectionInfo, ControllerStatus, Counter, Direction, Endpoint, Flow, HttpRequest, MissingNode,
    Mode, NodeStatus, PodState, PolicyInfo, Redirection, Security, Verdict, flows_query::Only, item, query,
};
use serde_json::{Value, json};

use super::*;
use crate::{
    client::Servers,
    tests::{Served, asked},
};

fn read<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).unwrap()
}

/// So many seconds from now.
fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    Some(prost_types::Timestamp { seconds: i64::try_from(now).unwrap() + seconds, nanos: 0 })
}

const SET: &str = r#"{ "metadata": { "name": "mesh-agent", "namespace": "nodemesh-system", "generation": 1 },
    "spec": { "selector": {}, "template": { "spec": { "containers": [], "nodeSelector": { "os": "linux" } } } },
    "status": { "observedGeneration": 1, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberAvailable": 1,
        "currentNumberScheduled": 1, "numberMisscheduled": 0, "numberReady": 1 } }"#;
const CONTROLLER: &str = r#"{ "metadata": { "name": "mesh-controller", "namespace": "nodemesh-system", "generation": 1 },
    "spec": { "replicas": 1, "selector": {}, "template": {} },
    "status": { "observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1 } }"#;

fn pod(name: &str, written: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "shop", "uid": name, "annotations": { "nodemesh.io/redirection": written } },
        "spec": { "nodeName": "a", "containers": [] }, "status": { "phase": "Running" },
    })
}

/// One node, one pod, all is well.
fn facts() -> Facts {
    let now = Timestamp::now();
    let lease = |name: &str| {
        json!({ "metadata": { "name": name, "namespace": "nodemesh-system" }, "spec": {
            "holderIdentity": "it", "leaseDurationSeconds": 15, "renewTime": format!("{now:.6}"),
        }})
    };
    let agent = json!({
        "metadata": { "name": "x", "namespace": "nodemesh-system", "labels": { "app.kubernetes.io/name": "mesh-agent" } },
        "spec": { "nodeName": "a", "containers": [] },
    });
    Facts {
        nodes: vec![read(json!({ "metadata": { "name": "a", "labels": { "os": "linux" } } }))],
        namespaces: vec![read(json!({ "metadata": { "name": "shop", "labels": { "nodemesh.io/mode": "mesh" } } }))],
        pods: vec![read(agent), read(pod("web", "enabled"))],
        daemon_sets: vec![serde_json::from_str(SET).unwrap()],
        deployments: vec![serde_json::from_str(CONTROLLER).unwrap()],
        leases: vec![read(lease("mesh-controller")), read(lease("mesh-agent-a"))],
        clocks: Some((now, now)),
        now,
        ..Facts::default()
    }
}

fn state(name: &str, redirection: Redirection) -> PodState {
    PodState {
        namespace: "shop".into(),
        name: name.into(),
        pod_uid: name.into(),
        redirection: redirection.into(),
        mode: Some(Mode::Mesh.into()),
        proven: at(-5),
        ..PodState::default()
    }
}

fn said() -> Said {
    let status = NodeStatus {
        controller_connected: true,
        version: "1".into(),
        started: at(-60),
        pods: vec![state("web", Redirection::Enabled)],
        ..NodeStatus::default()
    };
    let certificate = CertificateInfo {
        identity: "spiffe://cluster.local/ns/shop/sa/web".into(),
        not_before: at(-3600),
        not_after: at(3600 * 20),
        state: "valid".into(),
        ..CertificateInfo::default()
    };
    Said {
        nodes: vec![("a".into(), status)],
        controller: Some(ControllerStatus { version: "1".into(), ..ControllerStatus::default() }),
        certificates: vec![("a".into(), certificate)],
        ..Said::default()
    }
}

/// What is not as it should be; every one of it with something to do.
fn wrong(facts: Option<&Facts>, said: &Said) -> Vec<String> {
    let findings = judge(facts, said, "").into_iter().filter(|finding| finding.mark != Mark::Ok);
    let findings = findings.inspect(|finding| assert!(finding.hint.len() > 20, "{finding:?}"));
    let sign = |mark| if mark == Mark::Error { "×" } else { "‼" };
    findings.map(|finding| format!("{} {}", sign(finding.mark), finding.what)).collect()
}

fn with(change: impl Fn(&mut NodeStatus)) -> Said {
    let mut said = said();
    change(&mut said.nodes[0].1);
    said
}

#[test]
fn a_healthy_mesh_has_nothing_wrong() {
    assert_eq!(wrong(Some(&facts()), &said()), [""; 0]);
    assert_eq!(wrong(None, &said()), [""; 0]);
}

#[test]
fn agents_are_missing_silent_behind_or_ahead() {
    let mut two = facts();
    two.nodes.push(read(json!({ "metadata": { "name": "b", "labels": { "os": "linux" } } })));
    two.nodes.push(read(json!({ "metadata": { "name": "w", "labels": { "os": "windows" } } })));
    assert_eq!(wrong(Some(&two), &said()), ["× node b has no agent"]);
    let mut silent = said();
    silent.nodes.clear();
    assert_eq!(wrong(Some(&facts()), &silent), ["× the agent of node a does not answer"]);
    let mut missing = said();
    let node = MissingNode { node: "b".into(), mesh_pods: 2, redirected_pods: 0 };
    missing.controller.as_mut().unwrap().missing_nodes.push(node);
    assert_eq!(wrong(None, &missing), ["× node b  not connected: its 2 mesh pods are not redirected yet"]);
    for (said, what) in [
        (with(|status| status.controller_connected = false), "× the agent of a has no controller"),
        (with(|status| status.not_ready = "hook connect4".into()), "× a is not ready: hook connect4"),
        (with(|status| status.last_nack = "x: y".into()), "× a refused a configuration: x: y"),
        (with(|status| status.configuration_from_disk = true), "‼ a has the rules of its disk"),
        (with(|status| status.draining = true), "‼ a drains"),
        (with(|status| status.version = "0".into()), "‼ several versions run: a 0, controller 1"),
        (
            with(|status| status.counters.push(Counter { name: "PENDING_FULL".into(), value: 3 })),
            "‼ a: PENDING_FULL 3 since its programs were loaded",
        ),
        (with(|status| status.counters.push(Counter { name: "CONNECT_AGENT".into(), value: 3 })), ""),
        (with(|status| status.counters.push(Counter { name: "EVENTS_LOST".into(), value: 0 })), ""),
    ] {
        let expected: Vec<_> = [what].into_iter().filter(|what| !what.is_empty()).collect();
        assert_eq!(wrong(Some(&facts()), &said), expected);
    }
    let ahead = wrong(None, &with(|status| status.pods[0].proven = at(300)));
    assert!(ahead[0].starts_with("× the clock of a is ") && ahead.len() == 1, "{ahead:?}");
}

#[test]
fn nobody_leads() {
    let mut none = facts();
    none.leases.remove(0);
    assert_eq!(wrong(Some(&none), &said()), ["× no controller leads"]);
    let mut over = facts();
    over.now += jiff::SignedDuration::from_secs(30);
    assert_eq!(wrong(Some(&over), &said()), ["× it has not led for 30 s, and nobody else does"]);
    let mut given_back = facts();
    given_back.leases[0].spec.as_mut().unwrap().holder_identity = Some(String::new());
    assert_eq!(wrong(Some(&given_back), &said()), ["× no controller leads"]);
}

#[test]
fn pods_that_are_not_redirected_say_why() {
    let failed = with(|status| {
        status.pods[0].set_redirection(Redirection::Failed);
        status.pods[0].message = "no cgroup".into();
    });
    assert_eq!(
        wrong(Some(&facts()), &failed),
        ["× pod shop/web on a: failed: no cgroup", "‼ pod shop/web: its agent says failed, and enabled"]
    );
    let mut written = facts();
    written.pods[1] = read(pod("web", "failed: no cgroup"));
    assert_eq!(wrong(Some(&written), &failed), ["× pod shop/web on a: failed: no cgroup"]);
    let unknown = with(|status| status.pods.clear());
    assert_eq!(wrong(Some(&facts()), &unknown), ["× pod shop/web: the agent of a does not know it"]);
    let alone = with(|status| status.pods[0].set_redirection(Redirection::Disabled));
    assert_eq!(wrong(Some(&facts()), &alone), ["× pod shop/web: the agent of a leaves it alone ()"]);
    let torn = with(|status| status.pods[0].fault = "sk_lookup is gone".into());
    assert_eq!(wrong(Some(&facts()), &torn), ["× pod shop/web on a: sk_lookup is gone"]);
    // Out of the mesh on purpose.
    let mut bypassed = facts();
    let until = bypassed.now + jiff::SignedDuration::from_secs(600);
    let annotations = [("nodemesh.io/bypass-until".to_owned(), until.to_string())];
    bypassed.namespaces[0].metadata.annotations = Some(annotations.into());
    let found = wrong(Some(&bypassed), &unknown);
    assert!(found.len() == 1 && found[0].starts_with("‼ namespace shop is out of the mesh until"), "{found:?}");
}

#[test]
fn certificates_that_end_and_handshakes_that_fail() {
    let of = |change: &dyn Fn(&mut CertificateInfo)| {
        let mut said = said();
        change(&mut said.certificates[0].1);
        wrong(None, &said)
    };
    let short = of(&|one| one.not_after = at(900));
    assert!(short.len() == 1 && short[0].starts_with("‼ shop/web on a: its certificate ends in 1"), "{short:?}");
    assert_eq!(of(&|one| one.state = "expired".into()), ["× shop/web on a: expired"]);
    let late = of(&|one| one.state = "valid, not renewed: no answer".into());
    assert_eq!(late, ["‼ shop/web on a: valid, not renewed: no answer"]);
    let early = of(&|one| one.not_before = at(100));
    assert!(early[0].contains("is not valid before"), "{early:?}");
    let mut failing = said();
    for seconds in [-5, -9, -100_000] {
        let flow = Flow { reason: "CERT_UNKNOWN_ISSUER".into(), end: at(seconds), ..Flow::default() };
        failing.flows.push(("a".into(), flow));
    }
    assert_eq!(wrong(None, &failing), ["× a: CERT_UNKNOWN_ISSUER 2 times in the last 10 min"]);
}

#[tokio::test]
async fn refused_connections_are_found_among_many_requests() {
    let flow = |id: u64, reason: &str, verdict: Verdict, http: Option<HttpRequest>| Flow {
        id,
        reason: reason.into(),
        verdict: verdict.into(),
        end: at(-5),
        http,
        ..Flow::default()
    };
    // Refusals first, then what a busy node sees: more than doctor asks for.
    let mut kept =
        vec![flow(1, "CERT_EXPIRED", Verdict::Dropped, None), flow(2, "CERT_UNKNOWN_ISSUER", Verdict::Error, None)];
    kept.extend((0..1500).map(|id| flow(10 + id, "POLICY_DENY", Verdict::Dropped, Some(HttpRequest::default()))));
    kept.extend((0..1500).map(|id| flow(5000 + id, "", Verdict::Forwarded, None)));
    let status = said().nodes.remove(0).1;
    // As agents filter.
    let served = Served::new(move |kind| match kind {
        query::Kind::Status(_) => Ok(vec![item::Kind::Status(status.clone())]),
        query::Kind::Flows(query) => {
            let asked = |flow: &&Flow| {
                (query.only() != Only::Tcp || flow.http.is_none())
                    && (query.verdict() == Verdict::Unspecified || query.verdict() == flow.verdict())
            };
            let all: Vec<_> = kept.iter().filter(asked).cloned().map(|flow| item::Kind::Flow(flow.into())).collect();
            let last = all.len().saturating_sub(query.last as usize);
            Ok(all[last..].to_vec())
        }
        _ => Ok(Vec::new()),
    });
    let servers = Servers::of_sockets(vec![served.socket()], String::new());
    let said = said::ask(&servers).await;
    let expected =
        ["× node-a: CERT_EXPIRED 1 time in the last 10 min", "× node-a: CERT_UNKNOWN_ISSUER 1 time in the last 10 min"];
    assert_eq!(wrong(None, &said), expected);
}

#[test]
fn policies_by_their_conditions() {
    let found = |conditions: Value| {
        let mut facts = facts();
        facts.rules = vec![read(json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": { "name": "p", "namespace": "shop", "generation": 2 }, "status": { "conditions": conditions },
        }))];
        let mut said = said();
        said.controller.as_mut().unwrap().problems = vec!["AuthorizationPolicy shop/p: spec.action: no".into()];
        wrong(Some(&facts), &said)
    };
    let one = |kind: &str, status: &str, message: &str| json!({ "type": kind, "status": status, "message": message, "observedGeneration": 2 });
    let fine = one("Accepted", "True", "");
    assert_eq!(found(json!([])), ["‼ AuthorizationPolicy shop/p has no verdict"]);
    assert_eq!(found(json!([fine, one("Programmed", "True", "on 1 of 1 nodes")])), [""; 0]);
    assert_eq!(
        found(json!([
            one("Accepted", "False", "spec.action: no"),
            one("PartiallyInvalid", "True", "spec.rules[0]"),
            one("Conflicted", "True", "is not applied: shop/a is older"),
            one("Programmed", "False", "on 1 of 2 nodes"),
        ])),
        [
            "× AuthorizationPolicy shop/p is not accepted: spec.action: no",
            "‼ AuthorizationPolicy shop/p is partially invalid: spec.rules[0]",
            "‼ AuthorizationPolicy shop/p is not applied: shop/a is older",
            "‼ AuthorizationPolicy shop/p is in force on 1 of 2 nodes only",
        ]
    );
    let mut without = said();
    without.controller.as_mut().unwrap().problems = vec!["a.yaml: Pod shop/web: spec: missing".into()];
    assert_eq!(wrong(None, &without), ["× a.yaml: Pod shop/web: spec: missing"]);
}

#[test]
fn old_and_plain_connections() {
    let open = |change: &dyn Fn(&mut Flow)| {
        let end = |pod: &str| Some(Endpoint { namespace: "shop".into(), pod: pod.into(), ..Endpoint::default() });
        let mut flow = Flow { source: end("cart"), destination: end("web"), ..Flow::default() };
        flow.set_direction(Direction::Inbound);
        flow.set_security(Security::Plaintext);
        change(&mut flow);
        ("a".to_owned(), ConnectionInfo { flow: Some(flow), tunnel: String::new() })
    };
    let mut said = said();
    said.connections = vec![
        open(&|flow| flow.error = "older than the pod's enrolment".into()),
        open(&|_| {}),
        open(&|flow| flow.set_security(Security::MutualTls)),
    ];
    let older = "‼ pod shop/web on a: 1 connection older than its enrolment";
    assert_eq!(wrong(Some(&facts()), &said), [older], "PERMISSIVE takes plaintext");
    let plain = "‼ pod shop/web on a: 1 connection in plaintext, though STRICT";
    let mut strict = facts();
    strict.rules = vec![read(json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": { "name": "d", "namespace": "shop" }, "spec": { "mtls": { "mode": "STRICT" } },
        "status": { "conditions": [{ "type": "Accepted", "status": "True" }] },
    }))];
    assert_eq!(wrong(Some(&strict), &said), [older, plain]);
    // As agents have it, without a cluster.
    said.policies = vec![PolicyInfo {
        name: mesh_common::model::Policy::STRICT_STATIC.into(),
        workloads: vec!["Kubernetes//Pod/shop/web".into()],
        ..PolicyInfo::default()
    }];
    assert_eq!(wrong(None, &said), [older, plain]);
}

#[tokio::test]
async fn one_machine_is_examined_without_a_cluster() {
    let status = with(|status| status.not_ready = "CNI: its file was removed".into()).nodes.remove(0).1;
    let served = Served::new(move |kind| match kind {
        query::Kind::Status(_) => Ok(vec![item::Kind::Status(status.clone())]),
        _ => Ok(Vec::new()),
    });
    let whom = |socket| Whom {
        client: None,
        servers: Ok(Servers::of_sockets(vec![socket], String::new())),
        node: String::new(),
    };
    let mut out = Vec::new();
    let mut screen = Screen::new(&mut out, Format::Table, false);
    let outcome = run(&Arguments { json: false }, &whom(served.socket()), &mut screen).await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("× agents       node-a is not ready: CNI: its file was removed\n"), "{text}");
    assert!(text.contains("→ new pods start outside the mesh, or wait"), "{text}");
    assert!(text.contains("✓ pods         redirected: 1 pod\n"), "{text}");
    // Nobody there at all is no finding.
    let mut out = Vec::new();
    let mut screen = Screen::new(&mut out, Format::Table, false);
    let failure = run(&Arguments { json: true }, &whom("/nonexistent".into()), &mut screen).await.unwrap_err();
    assert_eq!(failure.exit_code(), 3);
    let (outcome, _) = asked("meshctl status", &[&served.socket()]).await;
    assert_eq!(outcome.unwrap(), Outcome::Found, "status says the same");
}
