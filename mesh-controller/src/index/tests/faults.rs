//! Objects that are partly wrong: what is left of them, and what is not forgotten with them.

use super::*;
use crate::source::CustomKind;

#[test]
fn nobody_replaces_a_generated_policy() {
    // As a source without checks of names would have it.
    let mesh = peer("istio-system", "default", "{mtls: {mode: STRICT}}");
    let object = "\n---\n{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
                  metadata: {name: harmless, namespace: istio-system}, \
                  spec: {selector: {matchLabels: {app: none}}, rules: [{}]}}\n";
    let mut update = objects(&format!("{SHOP}{mesh}{object}"));
    for object in Arc::make_mut(&mut update.objects) {
        if let Kind::Custom(CustomKind::AuthorizationPolicy, policy) = &mut Arc::make_mut(object).kind {
            policy.metadata.name = Some(Policy::STRICT_STATIC.to_owned());
        }
    }
    let world = World::new(&settings(), &update, &Redirection::default());
    let strict = &world.policies[&STRICT.parse::<PolicyName>().expect("a name")];
    assert_eq!(strict.action, mesh_common::model::Action::Deny);
}

#[test]
fn a_bad_address_or_port_is_left_out_alone() {
    let bad = SHOP
        .replace("{ip: 'fd00::1'}", "{ip: '127.0.0.1'}, {ip: nonsense}, {ip: 'fd00::1'}")
        .replace("containerPort: 8080", "containerPort: 8080}, {name: big, containerPort: 70000")
        .replace("clusterIPs: [10.96.0.1]", "clusterIPs: [10.96.0.1, 'fe80::1']")
        .replace(
            "targetPort: web}",
            "targetPort: web}, {name: zero, port: 0}, {name: far, port: 81, targetPort: 70000}",
        )
        .replace("ports: [{name: http, port: 8080}]", "ports: [{name: http, port: 8080}, {name: zero, port: 0}]")
        .replace("addresses: [10.0.0.1]", "addresses: [10.0.0.1, x]");
    let (world, good) = (world(&bad), world(SHOP));
    assert_eq!((&world.workloads, &world.services), (&good.workloads, &good.services));
    let all = said(&world);
    for (object, field) in [
        ("Pod shop/cart-6f5d8-x1", "status.podIPs[1].ip"),
        ("Pod shop/cart-6f5d8-x1", "status.podIPs[2].ip"),
        ("Pod shop/cart-6f5d8-x1", "spec.containers[0].ports[1].containerPort"),
        ("Service shop/cart", "spec.clusterIPs[1]"),
        ("Service shop/cart", "spec.ports[1].port"),
        ("Service shop/cart", "spec.ports[2].targetPort"),
        ("EndpointSlice shop/cart-1", "ports[1].port"),
        ("EndpointSlice shop/cart-1", "endpoints[0].addresses"),
    ] {
        let start = format!("all.yaml: {object}: {field}: ");
        let found = all.iter().any(|problem| problem.starts_with(&start) && problem.ends_with("; it is left out"));
        assert!(found, "{start} {all:?}");
    }
    assert_eq!(all.len(), 8, "{all:?}");
}

#[test]
fn only_what_may_hide_a_pod_keeps_it_in_memory() {
    let remembered = World::new(&settings(), &objects(SHOP), &enabled("a")).redirected;
    let redirection = Redirection { remembered: remembered.clone(), ..Redirection::default() };
    let kept = |update: &Update| World::new(&settings(), update, &redirection).redirected == remembered;
    let unsupported = "{apiVersion: networking.istio.io/v1, kind: EnvoyFilter, metadata: {name: v}}";
    let problem = Problem::of_file("b.yaml", "is wrong");
    let bare = Update { problems: vec![problem], ..objects(unsupported) };
    assert!(!bare.problems.is_empty() && !kept(&bare));

    let hiding = |hidden: Hidden| Update { hidden, ..bare.clone() };
    assert!(kept(&hiding(Hidden { any: true, ..Hidden::default() })));
    let pods = |name: &str| Hidden { any: false, pods: [Key::pod("shop", name)].into() };
    assert!(kept(&hiding(pods("cart-6f5d8-x1"))));
    assert!(!kept(&hiding(pods("cart-6f5d8-x2"))));

    // A pod that cannot be translated is no longer a workload, but still there.
    let mut lost = objects(SHOP);
    for object in Arc::make_mut(&mut lost.objects) {
        if let Kind::Pod(pod) = &mut Arc::make_mut(object).kind {
            pod.spec.get_or_insert_default().service_account_name = Some("a_b".into());
        }
    }
    assert!(kept(&lost));
}
