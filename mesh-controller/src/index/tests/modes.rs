//! What the labels `nodemesh.io/mode` and `nodemesh.io/same-node` make of a pod.

use super::*;

#[test]
fn an_observed_pod_is_known_to_its_agent_and_no_pod_of_the_mesh_to_its_peers() {
    let observed = objects(&SHOP.replace("mode: mesh", "mode: observe"));
    // It was in the mesh a moment ago.
    let mut redirection = enabled("a");
    redirection.remembered = World::new(&settings(), &objects(SHOP), &redirection).redirected;
    assert_eq!(redirection.remembered.len(), 1);
    let world = World::new(&settings(), &observed, &redirection);
    assert_eq!(said(&world), [] as [String; 0]);
    assert_eq!(world.local_pods["a"][CART].mode, Mode::Observe);
    assert_eq!(world.workloads[CART].tunnel, Tunnel::None);
    assert!(world.redirected.is_empty());
    assert!(!world.runs_on("a", &"spiffe://cluster.local/ns/shop/sa/cart".parse().expect("identity")));
}

#[test]
fn an_observed_pod_needs_no_account() {
    let account = "\n---\n{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: shop}}\n";
    let missed = |mode: &str| {
        let text = format!("{SHOP}{account}").replace("mode: mesh", &format!("mode: {mode}"));
        said(&World::new(&settings(), &Update { has_accounts: true, ..objects(&text) }, &Redirection::default())).len()
    };
    assert_eq!((missed("mesh"), missed("observe")), (1, 0));
}

#[test]
fn same_node_comes_from_pod_namespace_or_mesh() {
    let of = |text: &str, uid: &str| {
        let world = world(text);
        let pod = world.local_pods.values().find_map(|pods| pods.get(uid)).expect("a pod").same_node;
        (pod, said(&world))
    };
    let tls = SHOP.replace("nodemesh.io/mode: mesh", "nodemesh.io/mode: mesh, nodemesh.io/same-node: tls");
    assert_eq!(of(SHOP, CART), (SameNode::Direct, vec![]));
    assert_eq!(of(&tls, CART), (SameNode::Tls, vec![]));
    let own = tls.replace("{app: cart, version", "{nodemesh.io/same-node: direct, app: cart, version");
    assert_eq!((of(&own, CART), of(&own, CLIENT)), ((SameNode::Direct, vec![]), (SameNode::Tls, vec![])));
    // What cannot be read is the stricter one.
    let unread = SHOP.replace("{app: cart, version", "{nodemesh.io/same-node: mtls, app: cart, version");
    let (same_node, problems) = of(&unread, CART);
    assert_eq!(same_node, SameNode::Tls);
    let why = "`mtls` is none of direct, tls; it counts as tls";
    let pod = format!("all.yaml: Pod shop/cart-6f5d8-x1: metadata.labels[nodemesh.io/same-node]: {why}");
    assert_eq!(problems, [pod]);
    assert_eq!(of(&unread, CLIENT).0, SameNode::Direct);
    let unread = SHOP.replace("nodemesh.io/mode: mesh", "nodemesh.io/mode: mesh, nodemesh.io/same-node: mtls");
    let (same_node, problems) = of(&unread, CLIENT);
    assert_eq!(same_node, SameNode::Tls);
    let namespace = format!("all.yaml: Namespace shop: metadata.labels[nodemesh.io/same-node]: {why}");
    assert_eq!(problems, [namespace]);
}
