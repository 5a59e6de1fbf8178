//! Manifests in, state out: no cluster, no files.

mod accounts;
mod cached;
mod cost;
mod entries;
mod faults;
mod modes;
mod policies;
mod routes;
mod services;
mod topology;
mod traffic;

use mesh_common::model::{SameNode, Tunnel};

use super::*;
use crate::source;

pub fn settings() -> Settings {
    Settings {
        cluster: "Kubernetes".into(),
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
        root_namespace: "istio-system".into(),
        own_namespace: "nodemesh-system".into(),
        same_node: SameNode::Direct,
    }
}

/// The objects of one file.
pub fn objects(text: &str) -> Update {
    let documents = source::parse("all.yaml", text).expect("YAML");
    let problems = documents.refused.into_iter().map(|(_, problem)| problem).collect();
    Update::new(documents.objects.into_iter().map(Arc::new), problems)
}

pub fn world(text: &str) -> World {
    World::new(&settings(), &objects(text), &Redirection::default())
}

pub fn said(world: &World) -> Vec<String> {
    world.problems.iter().map(ToString::to_string).collect()
}

pub const SHOP: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {nodemesh.io/mode: mesh}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: cart-6f5d8-x1
  namespace: shop
  uid: u-cart
  creationTimestamp: '2026-01-01T00:00:00Z'
  labels: {app: cart, version: v2, pod-template-hash: 6f5d8}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: cart-6f5d8, uid: r, controller: true}]
spec:
  nodeName: a
  serviceAccountName: cart
  containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]
status:
  phase: Running
  podIP: 10.0.0.1
  podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]
  conditions: [{type: Ready, status: 'True'}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, uid: u-client, creationTimestamp: '2026-01-02T00:00:00Z'}
spec: {nodeName: b, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.1.1, conditions: [{type: Ready, status: 'False'}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  selector: {app: cart}
  ports: [{name: http, port: 80, targetPort: web}, {name: dns, port: 53, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: cart-6f5d8-x1, namespace: shop}}]
";
pub const CART: &str = "Kubernetes//Pod/shop/cart-6f5d8-x1";
const CLIENT: &str = "Kubernetes//Pod/shop/client";

/// The redirection of the cart's pod, as its agent would report it.
pub fn enabled(node: &str) -> Redirection {
    let name = PodName { namespace: "shop".into(), name: "cart-6f5d8-x1".into() };
    let report = Report { redirected: Redirected::Enabled, pod_uid: "u-cart".into(), why: String::new() };
    Redirection { reports: [(node.to_owned(), [(name, report)].into())].into(), ..Redirection::default() }
}

#[test]
fn a_workload_has_its_facts() {
    let world = world(SHOP);
    assert_eq!(said(&world), [] as [String; 0]);
    let cart = &world.workloads[CART];
    assert_eq!(cart.addresses, ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().expect("address")));
    assert_eq!((cart.workload_name.as_str(), cart.kind), ("cart", mesh_common::model::WorkloadKind::Deployment));
    assert_eq!((cart.canonical_name.as_str(), cart.canonical_revision.as_str()), ("cart", "v2"));
    assert_eq!(cart.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
    assert!(cart.healthy);
    let ports: Vec<_> = cart.services.values().flatten().map(|p| (p.port, p.target)).collect();
    assert_eq!(ports, [(80, 8080)]);
    let client = &world.workloads[CLIENT];
    assert!(!client.healthy);
    assert_eq!(client.workload_name, "client");
    let service = world.services.values().next().expect("a service");
    assert_eq!(service.hostname, "cart.shop.svc.cluster.local");
    // Only the workload knows what `web` means.
    assert_eq!(service.ports.iter().map(|p| (p.port, p.target)).collect::<Vec<_>>(), [(80, 0)]);
}

#[test]
fn a_pod_is_reached_by_hbone_once_its_own_agent_says_so() {
    let tunnel = |update: &Update, redirection: &Redirection| {
        World::new(&settings(), update, redirection).workloads[CART].tunnel
    };
    let shop = objects(SHOP);
    assert_eq!(tunnel(&shop, &Redirection::default()), Tunnel::None);
    assert_eq!(tunnel(&shop, &enabled("b")), Tunnel::None);
    assert_eq!(tunnel(&shop, &enabled("a")), Tunnel::Hbone);
    // The label is gone: at once.
    let left = objects(&SHOP.replace("nodemesh.io/mode: mesh", "nodemesh.io/mode: none"));
    assert_eq!(tunnel(&left, &enabled("a")), Tunnel::None);
    let world = World::new(&settings(), &left, &enabled("a"));
    assert_eq!(world.local_pods["a"][CART].mode, Mode::None);
    assert!(world.redirected.is_empty());
    // A restart of the controller: nothing is reported yet.
    let redirected = World::new(&settings(), &shop, &enabled("a")).redirected;
    assert_eq!(tunnel(&shop, &Redirection { remembered: redirected, ..Redirection::default() }), Tunnel::Hbone);
}

#[test]
fn terminated_and_host_network_pods() {
    let done = world(&SHOP.replacen("phase: Running", "phase: Succeeded", 1));
    assert!(!done.workloads.contains_key(CART));
    assert!(done.local_pods.get("a").is_none_or(BTreeMap::is_empty));
    let identity: Identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().expect("identity");
    assert!(!done.runs_on("a", &identity));
    assert!(world(SHOP).runs_on("a", &identity));
    assert!(!world(SHOP).runs_on("b", &identity));

    let host = world(&SHOP.replacen("nodeName: a", "nodeName: a\n  hostNetwork: true", 1));
    assert!(host.workloads[CART].host_network);
    assert!(!host.local_pods.contains_key("a"));
    assert!(!host.runs_on("a", &identity));
}

#[test]
fn a_static_pod_bears_the_uid_that_its_node_knows() {
    let uid = |annotations: &str| {
        let text = SHOP.replacen("uid: u-cart", &format!("uid: u-cart\n  annotations: {{{annotations}}}"), 1);
        world(&text).local_pods["a"][CART].pod_uid.clone()
    };
    assert_eq!(uid(""), "u-cart");
    assert_eq!(uid("kubernetes.io/config.mirror: abc, kubernetes.io/config.hash: abc"), "abc");
    for other in ["kubernetes.io/config.hash: abc", "kubernetes.io/config.mirror: abc, kubernetes.io/config.hash: d"] {
        assert_eq!(uid(other), "u-cart", "{other}");
    }
}

#[test]
fn the_older_pod_owns_an_address() {
    let world = world(&SHOP.replace("podIP: 10.0.1.1", "podIP: 10.0.0.1"));
    assert_eq!(world.workloads[CART].addresses.len(), 2);
    assert!(world.workloads[CLIENT].addresses.is_empty());
    assert_eq!(
        said(&world),
        ["all.yaml: Pod shop/client: address: 10.0.0.1 belongs to Pod shop/cart-6f5d8-x1 already, which is older"]
    );
}

#[test]
fn a_pod_that_completed_leaves_its_address_to_the_next() {
    let text = SHOP.replace("podIP: 10.0.1.1", "podIP: 10.0.0.1").replacen("phase: Running", "phase: Failed", 1);
    let world = world(&text);
    assert_eq!(world.workloads[CLIENT].addresses, ["10.0.0.1".parse::<IpAddr>().expect("address")]);
    assert!(!world.workloads.contains_key(CART));
    assert_eq!(said(&world), [] as [String; 0]);
}

#[test]
fn endpoints_that_are_not_ready_do_not_serve() {
    let world = world(&SHOP.replace("{ready: true}", "{ready: false}"));
    assert!(world.workloads[CART].services.is_empty());
}

#[test]
fn deltas_name_what_changed() {
    let (before, after) = (world(SHOP), World::new(&settings(), &objects(SHOP), &enabled("a")));
    let delta = after.since(&before);
    assert_eq!(delta.workloads.changed, [CART]);
    assert!(delta.services.is_empty() && delta.policies.is_empty() && delta.local_pods.is_empty());
    assert!(after.since(&after).is_empty());
    assert_eq!(World::default().since(&before).local_pods.keys().collect::<Vec<_>>(), ["a", "b"]);
}

fn peer(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "\n---\napiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn policies_of(world: &World, uid: &str) -> Vec<String> {
    world.workloads[uid].policies.iter().map(ToString::to_string).collect()
}

const STRICT: &str = "istio-system/istio_converted_static_strict";

#[test]
fn peer_authentication_from_wide_to_narrow() {
    let mesh = peer("istio-system", "default", "{mtls: {mode: STRICT}}");
    let strict = world(&format!("{SHOP}{mesh}"));
    assert_eq!(policies_of(&strict, CART), [STRICT]);
    assert_eq!(policies_of(&strict, CLIENT), [STRICT]);

    let namespace = peer("shop", "default", "{mtls: {mode: PERMISSIVE}}");
    assert!(policies_of(&world(&format!("{SHOP}{mesh}{namespace}")), CART).is_empty());
    let unset = peer("shop", "default", "{}");
    assert_eq!(policies_of(&world(&format!("{SHOP}{mesh}{unset}")), CART), [STRICT]);

    let own = peer("shop", "cart", "{selector: {matchLabels: {app: cart}}, mtls: {mode: DISABLE}}");
    let disabled = world(&format!("{SHOP}{mesh}{own}"));
    assert!(policies_of(&disabled, CART).is_empty());
    assert_eq!(policies_of(&disabled, CLIENT), [STRICT]);
}

#[test]
fn peer_authentication_by_port() {
    let refused = |world: &World, port: u16, identity: Option<&str>| {
        let connection = mesh_common::model::Connection {
            source_identity: identity.map(|text| text.parse().expect("identity")),
            source_ip: "10.0.1.1".parse().expect("address"),
            destination: ("10.0.0.1".parse::<IpAddr>().expect("address"), port).into(),
        };
        let policies = world.workloads[CART].policies.iter().map(|name| &*world.policies[name]);
        mesh_common::model::authorize(policies, None, &connection, &mesh_common::model::Passing::BYTES).is_err()
    };
    let anyone = Some("spiffe://cluster.local/ns/x/sa/y");
    let open = peer(
        "shop",
        "cart",
        "{selector: {matchLabels: {app: cart}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}}}",
    );
    let world_open = world(&format!("{SHOP}{open}"));
    assert_eq!(policies_of(&world_open, CART), ["shop/converted_peer_authentication_cart"]);
    assert!(!refused(&world_open, 8080, None));
    assert!(refused(&world_open, 9090, None));
    assert!(!refused(&world_open, 9090, anyone));

    let closed =
        peer("shop", "cart", "{selector: {matchLabels: {app: cart}}, portLevelMtls: {'9090': {mode: STRICT}}}");
    let world_closed = world(&format!("{SHOP}{closed}"));
    assert!(refused(&world_closed, 9090, None));
    assert!(!refused(&world_closed, 8080, None));

    // Exceptions that are none.
    let same = peer("shop", "cart", "{selector: {matchLabels: {app: cart}}, portLevelMtls: {9090: {mode: DISABLE}}}");
    assert!(policies_of(&world(&format!("{SHOP}{same}")), CART).is_empty());
}

#[test]
fn peer_authentication_that_cannot_be_read_counts_as_strict() {
    for (spec, field) in [
        ("{mtls: {mode: STRIKT}}", "spec.mtls.mode"),
        ("{mtls: {mdoe: PERMISSIVE}}", "spec.mtls.mdoe"),
        ("{portLevelMtls: {80: {mode: DISABLE}}}", "spec.portLevelMtls[80]"),
    ] {
        let world = world(&format!("{SHOP}{}", peer("shop", "default", spec)));
        assert_eq!(policies_of(&world, CART), [STRICT], "{spec}");
        let start = format!("all.yaml: PeerAuthentication shop/default: {field}: ");
        assert!(said(&world)[0].starts_with(&start), "{:?}", said(&world));
    }
}

#[test]
fn the_oldest_peer_authentication_wins() {
    let two = peer("shop", "a", "{mtls: {mode: STRICT}}") + &peer("shop", "b", "{mtls: {mode: PERMISSIVE}}");
    let world_two = world(&format!("{SHOP}{two}"));
    assert_eq!(policies_of(&world_two, CART), [STRICT]);
    assert!(said(&world_two)[0].contains("PeerAuthentication shop/b: is not applied: shop/a is older"));
    let aged = two.replace("name: b", "creationTimestamp: '2020-01-01T00:00:00Z', name: b");
    assert!(policies_of(&world(&format!("{SHOP}{aged}")), CART).is_empty());
}

#[test]
fn the_object_that_makes_strict_is_named() {
    let by = |text: &str| world(text).local_pods["a"][CART].strict_by.as_ref().map(ToString::to_string);
    let mesh = peer("istio-system", "all", "{mtls: {mode: STRICT}}");
    let namespace = |mode: &str| peer("shop", "default", &format!("{{mtls: {{mode: {mode}}}}}"));
    let own = |spec: &str| peer("shop", "cart", &format!("{{selector: {{matchLabels: {{app: cart}}}}, {spec}}}"));
    assert_eq!(by(SHOP), None);
    assert_eq!(by(&format!("{SHOP}{mesh}")).as_deref(), Some("istio-system/all"));
    assert_eq!(by(&format!("{SHOP}{mesh}{}", namespace("STRICT"))).as_deref(), Some("shop/default"));
    assert_eq!(by(&format!("{SHOP}{mesh}{}", namespace("PERMISSIVE"))), None);
    assert_eq!(by(&format!("{SHOP}{mesh}{}", namespace("UNSET"))).as_deref(), Some("istio-system/all"));
    assert_eq!(by(&format!("{SHOP}{}", own("mtls: {mode: STRICT}"))).as_deref(), Some("shop/cart"));
    assert_eq!(by(&format!("{SHOP}{}", own("portLevelMtls: {90: {mode: STRICT}}"))).as_deref(), Some("shop/cart"));
    assert_eq!(by(&format!("{SHOP}{mesh}{}", own("mtls: {mode: DISABLE}"))), None);
}

#[test]
fn a_version_that_is_not_read_refuses() {
    let peer = peer("shop", "default", "{mtls: {mode: PERMISSIVE}}").replace("v1beta1", "v9");
    let world_peer = world(&format!("{SHOP}{peer}"));
    assert_eq!(policies_of(&world_peer, CART), [STRICT]);
    assert!(said(&world_peer)[0].contains("PeerAuthentication shop/default: apiVersion: `security.istio.io/v9`"));
    let policy = "\n---\napiVersion: security.istio.io/v1alpha1\nkind: AuthorizationPolicy\n\
                  metadata: {name: p, namespace: shop}\nspec: {action: DENY, rules: [{to: [{operation: {ports: ['1']}}]}]}\n";
    let world = world(&format!("{SHOP}{policy}"));
    let served = &world.policies[&"shop/p".parse().expect("a name")];
    let connection = mesh_common::model::Connection {
        source_identity: None,
        source_ip: "10.0.1.1".parse().expect("address"),
        destination: ("10.0.0.1".parse::<IpAddr>().expect("address"), 80).into(),
    };
    assert!(
        mesh_common::model::authorize([&**served].into_iter(), None, &connection, &mesh_common::model::Passing::BYTES)
            .is_err()
    );
    assert!(said(&world)[0].contains("AuthorizationPolicy shop/p: apiVersion: "), "{:?}", said(&world));
}

#[test]
fn selectors_of_authorization_policies() {
    let policy = |namespace: &str, labels: &str| {
        format!(
            "\n---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: {namespace}}}, \
             spec: {{selector: {{matchLabels: {labels}}}}}}}\n"
        )
    };
    let named = |namespace: &str, labels: &str| {
        let world = world(&format!("{SHOP}{}", policy(namespace, labels)));
        (policies_of(&world, CART), policies_of(&world, CLIENT))
    };
    assert_eq!(named("shop", "{app: cart}"), (vec!["shop/p".to_owned()], vec![]));
    assert_eq!(named("istio-system", "{app: cart}"), (vec!["istio-system/p".to_owned()], vec![]));
    assert_eq!(named("other", "{app: cart}"), (vec![], vec![]));
    // A selector that selects everything is none: the scope says it.
    assert_eq!(named("shop", "{}"), (vec![], vec![]));
}
