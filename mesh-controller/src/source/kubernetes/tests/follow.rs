//! What the API says is what the mesh is, whatever happens to the API.

use std::time::Duration;

use kube::api::WatchParams;
use mesh_common::model::{Mode, Tunnel};
use tokio::sync::watch;

use super::{super::*, RealApi, api::eventually};
use crate::{
    index::{
        Redirection, World,
        tests::{CART, SHOP, settings},
    },
    source::Update,
};

pub const PEER_AUTHENTICATIONS: &str = "peerauthentications.security.istio.io";
pub const AUTHORIZATION_POLICIES: &str = "authorizationpolicies.security.istio.io";
const POLICY: &str =
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, spec: {}}";
const STRICT: &str = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
                      metadata: {name: s, namespace: shop}, spec: {mtls: {mode: STRICT}}}";

/// A source that is followed.
pub struct Followed {
    pub updates: watch::Receiver<Update>,
    _task: tokio::task::JoinHandle<()>,
}

impl Followed {
    pub async fn new(api: &RealApi) -> Self {
        let (source, first) = Kubernetes::open(api.client.clone()).await;
        let (sender, updates) = watch::channel(first);
        Self { updates, _task: tokio::spawn(source.follow(sender)) }
    }

    pub fn world(&self) -> World {
        World::new(&settings(), &self.updates.borrow(), &Redirection::default())
    }

    pub async fn sees(&self, what: &str, holds: impl Fn(&World) -> bool) {
        let sees = tokio::time::timeout(Duration::from_secs(25), eventually(what, async || holds(&self.world())));
        assert!(sees.await.is_ok(), "never: {what}; {:#?}", self.world().problems);
    }
}

fn policies(world: &World) -> usize {
    // That of STRICT is always there.
    world.policies.len() - 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_is_followed() {
    let Some(api) = RealApi::start().await else { return };
    let source = Followed::new(&api).await;
    assert_eq!((source.world().workloads.len(), source.world().problems.len()), (0, 0));

    api.apply("{apiVersion: v1, kind: Node, metadata: {name: a, labels: {topology.kubernetes.io/zone: z1}}}").await;
    api.apply(SHOP).await;
    api.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: cart, namespace: shop}}").await;
    source.sees("the shop", |world| world.workloads.len() == 2 && world.services.len() == 1).await;
    source.sees("its endpoint", |world| world.workloads.get(CART).is_some_and(|cart| cart.services.len() == 1)).await;
    source.sees("its account", |world| world.accounts["shop"].names.contains("cart")).await;
    let world = source.world();
    assert_eq!(world.problems, []);
    assert_eq!((world.workloads[CART].locality.zone.as_str(), world.workloads[CART].tunnel), ("z1", Tunnel::None));
    assert_eq!(world.local_pods["a"][CART].mode, Mode::Mesh);
    assert_eq!(world.local_pods["a"][CART].addresses.len(), 2);

    // Policies are installed while it is followed.
    api.install(PEER_AUTHENTICATIONS).await;
    api.install(AUTHORIZATION_POLICIES).await;
    api.create(POLICY).await;
    api.apply(STRICT).await;
    source.sees("the policy", |world| policies(world) == 1).await;
    source.sees("STRICT", |world| world.local_pods["a"][CART].strict_by.is_some()).await;

    // Changes.
    api.apply("{apiVersion: v1, kind: Node, metadata: {name: a, labels: {topology.kubernetes.io/zone: z2}}}").await;
    source.sees("the zone", |world| world.workloads[CART].locality.zone == "z2").await;
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {nodemesh.io/mode: observe}}}").await;
    source.sees("the mode", |world| world.local_pods["a"][CART].mode == Mode::Observe).await;
    api.apply(&POLICY.replace("spec: {}", "spec: {action: CUSTOM}")).await;
    source.sees("its fault", |world| world.problems.iter().any(|p| p.field == "spec.action")).await;
    let said: Vec<_> = source.world().problems.iter().map(ToString::to_string).collect();
    assert!(said[0].starts_with("AuthorizationPolicy shop/p: spec.action: CUSTOM is not supported yet"), "{said:?}");

    // Ends.
    api.delete(STRICT).await;
    source.sees("no STRICT", |world| world.local_pods["a"][CART].strict_by.is_none()).await;
    api.delete("{apiVersion: v1, kind: ServiceAccount, metadata: {name: cart, namespace: shop}}").await;
    source.sees("the account's end", |world| !world.accounts["shop"].names.contains("cart")).await;
    api.delete("{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: cart-1, namespace: shop}}")
        .await;
    source.sees("the endpoint's end", |world| world.workloads[CART].services.is_empty()).await;
    api.delete("{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}}").await;
    source.sees("the service's end", |world| world.services.is_empty()).await;
    api.delete("{apiVersion: v1, kind: Node, metadata: {name: a}}").await;
    source.sees("the node's end", |world| world.workloads[CART].locality.zone.is_empty()).await;
    api.delete("{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: shop}}").await;
    source.sees("the pod's end", |world| world.workloads.len() == 1).await;
    // The kind goes, and its objects with it.
    api.uninstall(AUTHORIZATION_POLICIES).await;
    source.sees("the policies' end", |world| policies(world) == 0 && world.problems.is_empty()).await;
    api.install(AUTHORIZATION_POLICIES).await;
    api.create(POLICY).await;
    source.sees("the policy again", |world| policies(world) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_that_goes_away_takes_nothing_with_it() {
    let Some(api) = RealApi::start().await else { return };
    api.install(PEER_AUTHENTICATIONS).await;
    api.install(AUTHORIZATION_POLICIES).await;
    api.apply(SHOP).await;
    api.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: cart, namespace: shop}}").await;
    api.create(POLICY).await;
    let source = Followed::new(&api).await;
    assert_eq!((source.world().workloads.len(), policies(&source.world())), (2, 1));

    let whole = |world: &World| world.workloads.len() == 2 && policies(world) == 1;
    api.stop();
    source
        .sees("the outage is told", |world| {
            world.problems.iter().any(|problem| problem.why.contains("what was read before stays"))
        })
        .await;
    assert!(whole(&source.world()));
    let watched = source.updates.clone();
    let never_less = tokio::spawn(async move {
        loop {
            let world = World::new(&settings(), &watched.borrow(), &Redirection::default());
            assert!(world.workloads.len() >= 2 && policies(&world) == 1, "something was lost");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    api.resume();
    api.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: late, namespace: shop}, spec: {nodeName: a, containers: []}}",
    )
    .await;
    source.sees("what came since", |world| world.workloads.len() == 3).await;
    source.sees("that it is over", |world| world.problems.is_empty()).await;
    assert!(!never_less.is_finished(), "something was lost");
    never_less.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_has_expired_begins_anew() {
    let Some(api) = RealApi::start().await else { return };
    api.apply(SHOP).await;
    let source = Followed::new(&api).await;
    assert_eq!(source.world().local_pods["a"][CART].mode, Mode::Mesh);
    for zone in 0..20 {
        let labels = format!("{{topology.kubernetes.io/zone: z{zone}}}");
        api.apply(&format!("{{apiVersion: v1, kind: Node, metadata: {{name: a, labels: {labels}}}}}")).await;
    }
    source.sees("the zone", |world| world.workloads[CART].locality.zone == "z19").await;

    api.stop();
    api.compact();
    api.resume();
    // From where namespaces were last heard of, nothing can be told any more.
    let parameters = WatchParams { timeout: Some(1), ..WatchParams::default() };
    let request = kube::core::Request::new("/api/v1/namespaces").watch(&parameters, "2").expect("a request");
    let answer = api.client.request_text(request).await;
    assert!(format!("{answer:?}").contains("too old resource version"), "{answer:?}");

    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {nodemesh.io/mode: none}}}").await;
    source.sees("the mode", |world| world.local_pods["a"][CART].mode == Mode::None).await;
    api.delete("{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: shop}}").await;
    source.sees("the pod's end", |world| world.workloads.len() == 1).await;
}
