//! Judgements about clusters that are written down here.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-11-21T23:00:00Z";

fn facts() -> Facts {
    let now: Timestamp = NOW.parse().unwrap();
    Facts {
        version: (1, 36),
        version_text: "v1.36.0".into(),
        clocks: Some((now, now)),
        denied: Some(Vec::new()),
        kinds: Some(vec![
            "authorizationpolicies.security.istio.io".into(),
            "peerauthentications.security.istio.io".into(),
        ]),
        nodes: vec![node("a", |_| {})],
        namespaces: vec![read(json!({ "metadata": { "name": "shop", "labels": { "nodemesh.io/mode": "mesh" } } }))],
        now,
        ..Facts::default()
    }
}

fn read<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).unwrap()
}

fn node(name: &str, change: impl FnOnce(&mut Value)) -> k8s_openapi::api::core::v1::Node {
    let mut node = json!({
        "metadata": { "name": name },
        "status": {
            "conditions": [{ "type": "Ready", "status": "True" }],
            "nodeInfo": {
                "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "containerd://2.1.0",
                "kernelVersion": "6.1.0-56-cloud-amd64", "kubeProxyVersion": "", "kubeletVersion": "v1.36.0",
                "machineID": "", "operatingSystem": "linux", "osImage": "", "systemUUID": "",
            },
        },
    });
    change(&mut node);
    read(node)
}

/// What is not as it should be.
fn wrong(facts: &Facts, pre: bool) -> Vec<String> {
    let findings = judge(facts, pre).into_iter().filter(|finding| finding.mark != Mark::Ok);
    let findings = findings.inspect(|finding| assert!(!finding.hint.is_empty(), "{finding:?}"));
    let sign = |mark| if mark == Mark::Error { "×" } else { "‼" };
    findings.map(|finding| format!("{} {}", sign(finding.mark), finding.what)).collect()
}

#[test]
fn a_good_cluster_has_nothing_wrong_and_is_not_a_mesh_yet() {
    assert_eq!(wrong(&facts(), true), [""; 0]);
    assert_eq!(wrong(&facts(), false), ["× it is not installed"]);
}

#[test]
fn server_account_and_clock() {
    let mut facts = facts();
    facts.version = (1, 29);
    facts.version_text = "v1.29.4".into();
    facts.denied = Some(vec!["patch daemonsets".into()]);
    facts.clocks = facts.clocks.map(|(own, server)| (own, server + jiff::SignedDuration::from_secs(30)));
    facts.kinds = Some(vec![]);
    facts.unread = vec!["leases: forbidden".into()];
    let said = wrong(&facts, true);
    assert_eq!(
        said,
        [
            "× Kubernetes v1.29.4",
            "× this account may not patch daemonsets",
            "‼ this machine and the API server are 30 s apart",
            "‼ not installed: authorizationpolicies.security.istio.io, peerauthentications.security.istio.io",
            "‼ cannot be read: leases: forbidden",
        ]
    );
    facts.denied = None;
    facts.clocks = facts.clocks.map(|(own, server)| (own, server + jiff::SignedDuration::from_secs(300)));
    let said = wrong(&facts, true);
    assert!(said[1].starts_with("‼ the server does not answer"), "{said:?}");
    assert!(said[2].starts_with("× this machine"), "{said:?}");
}

#[test]
fn nodes_by_what_they_say_of_themselves() {
    let info =
        |key: &'static str, value: &'static str| move |node: &mut Value| node["status"]["nodeInfo"][key] = value.into();
    let mut facts = facts();
    facts.nodes = vec![
        node("old", info("kernelVersion", "5.15.0-91-generic")),
        node("new", info("kernelVersion", "7.0.1")),
        node("arm", info("architecture", "arm64")),
        node("win", info("operatingSystem", "windows")),
        node("docker", info("containerRuntimeVersion", "docker://24.0.7")),
        node("down", |node| node["status"]["conditions"][0]["status"] = "Unknown".into()),
        node("odd", info("kernelVersion", "custom")),
    ];
    assert_eq!(
        wrong(&facts, true),
        [
            "× old: kernel 5.15.0-91-generic",
            "× arm: processor arm64",
            "‼ win runs windows",
            "‼ docker: runtime docker://24.0.7",
            "‼ down is not ready",
            "× odd: kernel custom",
        ]
    );
}

#[test]
fn other_meshes_and_network_policies_are_named() {
    let mut facts = facts();
    let named = |name: &str| json!({ "metadata": { "name": name, "namespace": "x" } });
    facts.daemon_sets = ["cilium", "cilium-envoy", "ztunnel", "ciliumx"].map(|name| read(named(name))).into();
    facts.deployments = vec![read(named("istiod-1-30")), read(named("web"))];
    let policy = |namespace: &str| {
        read(json!({ "metadata": { "name": "p", "namespace": namespace }, "spec": { "podSelector": {} } }))
    };
    facts.policies = vec![policy("shop"), policy("elsewhere")];
    assert_eq!(
        wrong(&facts, true),
        [
            "‼ Cilium is here: DaemonSet x/cilium",
            "‼ Istio ambient is here: DaemonSet x/ztunnel",
            "‼ Istio is here: Deployment x/istiod-1-30",
            "‼ NetworkPolicy elsewhere/p lets nobody in at port 15008",
            "× NetworkPolicy shop/p lets nobody in at port 15008",
        ]
    );
}

#[test]
fn labels_that_mean_nothing_or_two_things() {
    let mut facts = facts();
    let namespace = |name: &str, labels: Value, annotations: Value| {
        read(json!({ "metadata": { "name": name, "labels": labels, "annotations": annotations } }))
    };
    facts.namespaces = vec![
        namespace("a", json!({ "nodemesh.io/mode": "on" }), json!({})),
        namespace("b", json!({ "nodemesh.io/mode": "mesh", "istio-injection": "enabled" }), json!({})),
        namespace("c", json!({ "istio-injection": "enabled" }), json!({})),
        namespace("d", json!({}), json!({ "nodemesh.io/bypass-until": "2026-11-21T23:10:00Z" })),
        namespace("e", json!({}), json!({ "nodemesh.io/bypass-until": "2026-11-21T22:10:00Z" })),
        namespace("f", json!({}), json!({ "nodemesh.io/bypass-until": "tomorrow" })),
    ];
    facts.pods = vec![
        read(
            json!({ "metadata": { "name": "p", "namespace": "b" }, "spec": { "containers": [], "hostNetwork": true } }),
        ),
        read(
            json!({ "metadata": { "name": "q", "namespace": "c" }, "spec": { "containers": [], "hostNetwork": true } }),
        ),
        read(json!({ "metadata": { "name": "r", "namespace": "b", "labels": { "nodemesh.io/same-node": "yes" } } })),
    ];
    assert_eq!(
        wrong(&facts, true),
        [
            "× namespace a: label nodemesh.io/mode=on counts as none",
            "× namespace b is for two meshes: istio-injection=enabled too",
            "‼ namespace d is out of the mesh until 2026-11-21T23:10:00Z",
            "× namespace f: annotation nodemesh.io/bypass-until: \"tomorrow\" is no time",
            "‼ pod b/p cannot join",
            "× pod b/r: label nodemesh.io/same-node=yes counts as tls",
        ]
    );
}

#[test]
fn what_runs_and_what_agents_report() {
    let mut facts = facts();
    let metadata = |name: &str| json!({ "name": name, "namespace": "nodemesh-system", "generation": 1 });
    facts.daemon_sets = vec![read(json!({ "metadata": metadata("mesh-agent"), "status": {
        "observedGeneration": 1, "currentNumberScheduled": 2, "desiredNumberScheduled": 2, "numberMisscheduled": 0,
        "numberReady": 2, "numberAvailable": 2, "updatedNumberScheduled": 2,
    }}))];
    facts.deployments = vec![read(json!({ "metadata": metadata("mesh-controller"), "status": {
        "observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1,
    }}))];
    let agent = |node: &str| {
        read(json!({
            "metadata": {
                "name": node, "namespace": "nodemesh-system", "labels": { "app.kubernetes.io/name": "mesh-agent" },
            },
            "spec": { "containers": [], "nodeName": node },
        }))
    };
    let lease = |node: &str, renewed: &str| {
        let name = format!("mesh-agent-{node}");
        read(json!({ "metadata": { "name": name, "namespace": "nodemesh-system" }, "spec": { "renewTime": renewed } }))
    };
    let pod = |name: &str, said: &str| {
        let annotations = json!({ "nodemesh.io/redirection": said });
        read(json!({ "metadata": { "name": name, "namespace": "shop", "annotations": annotations } }))
    };
    facts.pods = vec![
        agent("a"),
        agent("b"),
        agent("c"),
        pod("x", "enabled"),
        pod("y", "failed: no cgroup"),
        pod("z", "pending: no certificate"),
    ];
    facts.leases = vec![lease("a", "2026-11-21T22:59:55.000000Z"), lease("b", "2026-11-21T22:50:00.000000Z")];
    assert_eq!(
        wrong(&facts, false),
        [
            "× mesh-controller: 1 of 1 run, 2 are new",
            "× no controller hears the agents of b, c",
            "× pod shop/y: failed: no cgroup",
            "‼ pod shop/z: pending: no certificate",
        ]
    );
}
