//! Routes of the Gateway API, from manifests to what agents are told.

use super::*;

const ROUTED: &str = "
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: cart}], rules: [{backendRefs: [{name: nowhere, port: 80}]}]}}
";

#[test]
fn a_route_reaches_agents_and_its_problems_their_author() {
    let world = world(ROUTED);
    let (name, traffic) = world.traffic.first_key_value().expect("something is said of a service");
    assert_eq!(name.to_string(), "shop/cart.shop.svc.cluster.local");
    assert_eq!(traffic.routes_for("anywhere").map(|routes| routes.http[0].name.as_str()), Some("shop/r/0"));
    assert_eq!(
        said(&world),
        ["all.yaml: HTTPRoute shop/r: spec.rules[0].backendRefs[0]: Service shop/nowhere does not exist"]
    );
    let (key, parents) = world.route_parents.first_key_value().expect("a status");
    assert_eq!((key.to_string().as_str(), parents.len()), ("HTTPRoute shop/r", 1));
    assert_eq!(parents[0].parent["name"], "cart");
}
