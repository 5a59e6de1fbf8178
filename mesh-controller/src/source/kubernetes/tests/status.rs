//! What the leader writes, and who writes when it is gone.

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{Api, api::ApiResource, core::GroupVersionKind};
use serde_json::Value;

use super::{
    RealApi,
    api::eventually,
    enrol::Replica,
    follow::{AUTHORIZATION_POLICIES, PEER_AUTHENTICATIONS},
};
use crate::{link::Reports, serve::Acknowledged};

const GOOD: &str =
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: good, namespace: shop}, spec: {}}";
const BAD: &str = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
                   metadata: {name: bad, namespace: shop}, spec: {action: CUSTOM}}";
const PART: &str = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: part, namespace: shop}, \
                    spec: {rules: [{to: [{operation: {methods: [get]}}]}]}}";
const OLDER: &str = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
                     metadata: {name: a, namespace: shop}, spec: {mtls: {mode: STRICT}}}";
const YOUNGER: &str = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
                       metadata: {name: b, namespace: shop}, spec: {mtls: {mode: PERMISSIVE}}}";

impl Replica {
    /// This node's agent takes, and goes on taking, what is published.
    pub fn serve(&self, node: &str) -> tokio::task::AbortHandle {
        self.links.pretend(node, &Reports::new());
        let (links, node, mut published) = (self.links.clone(), node.to_owned(), self.published.clone());
        let taking = tokio::spawn(async move {
            loop {
                let policies = published.borrow_and_update().catalog.digest().clone();
                links.acknowledge(&node, &Acknowledged { policies, ..Acknowledged::default() });
                if published.changed().await.is_err() {
                    return;
                }
            }
        });
        taking.abort_handle()
    }
}

/// As in `Accepted=True on 1 of 2 nodes`; the message only of what it is asked for.
async fn says(api: &RealApi, kind: &str, name: &str, type_: &str) -> String {
    let kind = GroupVersionKind::gvk("security.istio.io", "v1", kind);
    let resource = ApiResource::from_gvk(&kind);
    let policies: Api<kube::api::DynamicObject> = Api::namespaced_with(api.client.clone(), "shop", &resource);
    let policy = policies.get(name).await.expect("the policy");
    let generation = policy.metadata.generation.map(Value::from).unwrap_or_default();
    let conditions = policy.data.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == type_);
    let Some(found) = found else { return String::new() };
    if found["observedGeneration"] != generation {
        return "of an older version".to_owned();
    }
    format!("{} {}", found["status"].as_str().unwrap_or_default(), found["message"].as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_writes_statuses_and_another_one_goes_on() {
    let Some(api) = RealApi::start().await else { return };
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: nodemesh-system}}").await;
    api.install(PEER_AUTHENTICATIONS).await;
    api.install(AUTHORIZATION_POLICIES).await;
    for policy in [GOOD, BAD, PART] {
        api.create(policy).await;
    }
    api.create(OLDER).await;
    // Times of creation are in seconds.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    api.create(YOUNGER).await;
    let one = Replica::start(&api, "one").await;
    eventually("it leads", async || one.leading.is_leading()).await;
    let other = Replica::start(&api, "other").await;
    let said = async |name: &str, type_: &str| says(&api, "AuthorizationPolicy", name, type_).await;

    eventually("no agent", async || said("good", "Programmed").await == "False on 0 of 0 nodes").await;
    let _a = one.serve("a");
    let b = other.serve("b");
    eventually("both agents", async || said("good", "Programmed").await == "True on 2 of 2 nodes").await;
    assert_eq!(said("good", "Accepted").await, "True ");
    assert_eq!(said("good", "PartiallyInvalid").await, "");
    let bad = said("bad", "Accepted").await;
    assert!(bad.starts_with("False spec.action: CUSTOM is not supported yet; the policy cannot be honoured"), "{bad}");
    assert_eq!(said("bad", "Programmed").await, "True on 2 of 2 nodes");
    let part = said("part", "PartiallyInvalid").await;
    assert!(part.starts_with("True spec.rules[0].to[0].operation.methods"), "{part}");
    assert_eq!(said("part", "Accepted").await, "True ");
    let conflict = says(&api, "PeerAuthentication", "b", "Conflicted").await;
    assert_eq!(conflict, "True is not applied: shop/a is older and holds for the same");
    assert_eq!(says(&api, "PeerAuthentication", "a", "Conflicted").await, "");
    assert_eq!(says(&api, "PeerAuthentication", "a", "Programmed").await, "True on 2 of 2 nodes");

    // One agent takes nothing any more.
    b.abort();
    api.apply(&GOOD.replace("spec: {}", "spec: {action: DENY}")).await;
    eventually("one of two", async || said("good", "Programmed").await == "False on 1 of 2 nodes").await;
    assert_eq!(said("bad", "Programmed").await, "True on 2 of 2 nodes");
    let refuses = Acknowledged { policies: "unknown".into(), refused: ["shop/good".to_owned()].into() };
    other.links.acknowledge("b", &refuses);
    eventually("its refusal", async || said("good", "Programmed").await == "False on 1 of 2 nodes; refused by b").await;

    // The leader dies; its agent goes over to the other replica, and a policy is mended.
    one.kill();
    let _a = other.serve("a");
    let _b = other.serve("b");
    api.apply(&BAD.replace("CUSTOM", "ALLOW")).await;
    eventually("the other one leads", async || other.leading.is_leading()).await;
    eventually("it is accepted", async || said("bad", "Accepted").await == "True ").await;
    eventually("by both", async || said("bad", "Programmed").await == "True on 2 of 2 nodes").await;
    let leases: Api<Lease> = Api::namespaced(api.client.clone(), "nodemesh-system");
    let holder = leases.get("mesh-controller").await.expect("the Lease").spec.and_then(|spec| spec.holder_identity);
    assert_eq!(holder.as_deref(), Some("other"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_ends_hands_over_at_once() {
    let Some(api) = RealApi::start().await else { return };
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: nodemesh-system}}").await;
    let one = Replica::start(&api, "one").await;
    eventually("it leads", async || one.leading.is_leading()).await;
    let other = Replica::start(&api, "other").await;
    one.links.pretend("a", &Reports::new());
    let leases: Api<Lease> = Api::namespaced(api.client.clone(), "nodemesh-system");
    let holder = async |name: &str| {
        let lease = leases.get_opt(name).await.expect("an answer");
        lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default()
    };
    eventually("the agent's pod holds the Lease of its node", async || {
        holder("mesh-agent-a").await == "mesh-agent-of-a"
    })
    .await;

    let leading = one.leading.clone();
    let ended = std::time::Instant::now();
    one.end().await;
    assert!(!leading.is_leading());
    assert_ne!(holder("mesh-controller").await, "one");
    eventually("the other one leads", async || other.leading.is_leading()).await;
    assert!(ended.elapsed().as_secs() < 10, "{:?}: as if the Lease had run out", ended.elapsed());
    assert_eq!(holder("mesh-controller").await, "other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_waits_for_its_agent_and_no_longer() {
    let Some(api) = RealApi::start().await else { return };
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: nodemesh-system}}").await;
    for node in ["a", "b"] {
        api.create(&format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: {node}}}, spec: {{taints: \
             [{{key: nodemesh.io/agent-not-ready, effect: NoSchedule}}, {{key: other, effect: NoSchedule}}]}}}}"
        ))
        .await;
    }
    let replica = Replica::start(&api, "one").await;
    let taints = async |node: &str| -> Vec<String> {
        let node = Api::<Node>::all(api.client.clone()).get(node).await.expect("the node");
        node.spec.and_then(|spec| spec.taints).unwrap_or_default().into_iter().map(|taint| taint.key).collect()
    };
    eventually("it leads", async || replica.leading.is_leading()).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(taints("a").await.len(), 2);
    replica.links.pretend("a", &Reports::new());
    eventually("the taint goes", async || taints("a").await == ["other"]).await;
    assert_eq!(taints("b").await.len(), 2);
}
