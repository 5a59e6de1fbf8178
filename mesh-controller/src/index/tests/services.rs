//! Services of every kind, and who serves them when.

use mesh_common::model::Affinity;

use super::*;

const HOST: &str = "shop/cart.shop.svc.cluster.local";

/// The shop with these endpoints of the service: the cart's pod, and the client's.
fn with(service: &str, cart: &str, client: &str) -> World {
    let start = SHOP.find("apiVersion: v1\nkind: Service").expect("the service");
    let ports = "ports: [{name: http, port: 80, targetPort: 8080}]";
    let service = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: cart, namespace: shop}}, spec: {{{service}, {ports}}}}}"
    );
    let endpoint = |ip: &str, pod: &str, conditions: &str| {
        format!("{{addresses: [{ip}], conditions: {conditions}, targetRef: {{kind: Pod, name: {pod}}}}}")
    };
    let slice = format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: cart-1, namespace: shop, \
         labels: {{kubernetes.io/service-name: cart}}}}, addressType: IPv4, ports: [{{name: http, port: 8080}}], \
         endpoints: [{}, {}]}}",
        endpoint("10.0.0.1", "cart-6f5d8-x1", cart),
        endpoint("10.0.1.1", "client", client)
    );
    world(&format!("{}{service}\n---\n{slice}\n", &SHOP[..start]))
}

/// Whether new connections go to the cart's pod, and to the client's.
fn used(world: &World) -> (bool, bool) {
    let is_used = |uid: &str| world.workloads[uid].healthy && !world.workloads[uid].services.is_empty();
    (is_used(CART), is_used(CLIENT))
}

const CLUSTER: &str = "clusterIP: 10.96.0.1";
const READY: &str = "{ready: true, serving: true, terminating: false}";
const UNREADY: &str = "{ready: false, serving: false, terminating: false}";
const DRAINING: &str = "{ready: false, serving: true, terminating: true}";
const ENDED: &str = "{ready: false, serving: false, terminating: true}";

#[test]
fn who_ends_is_drained_while_others_are_ready() {
    // The client's pod is not ready.
    for (cart, client, expected) in [
        (READY, UNREADY, (true, false)),
        (DRAINING, UNREADY, (true, false)),
        (DRAINING, READY, (false, false)),
        (READY, DRAINING, (true, false)),
        (UNREADY, DRAINING, (false, true)),
        (DRAINING, DRAINING, (true, true)),
        (DRAINING, ENDED, (true, false)),
        (ENDED, ENDED, (false, false)),
    ] {
        assert_eq!(used(&with(CLUSTER, cart, client)), expected, "{cart} {client}");
    }
}

#[test]
fn what_is_published_unready_is_used_unready() {
    assert_eq!(used(&with(CLUSTER, READY, READY)), (true, false));
    let published = format!("{CLUSTER}, publishNotReadyAddresses: true");
    assert_eq!(used(&with(&published, READY, READY)), (true, true));
    assert_eq!(used(&with(&published, READY, UNREADY)), (true, false));
}

#[test]
fn a_headless_service_is_who_serves_it() {
    let world = with("clusterIP: None, clusterIPs: [None]", READY, UNREADY);
    let service = &world.services[&HOST.parse().expect("a name")];
    assert!(service.addresses.is_empty());
    // The names of its pods are their addresses, which are known.
    assert_eq!(world.workloads[CART].services.len(), 1);
    assert_eq!(world.problems, []);
}

#[test]
fn a_dns_alias_is_nothing_of_the_mesh() {
    let world = with("type: ExternalName, externalName: example.com", READY, READY);
    assert!(world.services.is_empty() && world.workloads[CART].services.is_empty());
    assert_eq!(world.problems, []);
}

#[test]
fn what_comes_from_outside_has_no_address_of_the_mesh() {
    for kind in ["NodePort", "LoadBalancer"] {
        let outside = format!("type: {kind}, {CLUSTER}, externalIPs: [192.0.2.1], loadBalancerIP: 192.0.2.2");
        let world = with(&outside, READY, UNREADY);
        let service = &world.services[&HOST.parse().expect("a name")];
        assert_eq!(service.addresses, ["10.96.0.1".parse::<IpAddr>().expect("an address")], "{kind}");
        let ports: Vec<_> = service.ports.iter().map(|port| port.port).collect();
        assert_eq!((ports, world.problems.len()), (vec![80], 0), "{kind}");
    }
}

#[test]
fn affinity_is_the_services() {
    let seconds = |fields: &str| {
        let world = with(&format!("{CLUSTER}, {fields}"), READY, UNREADY);
        assert_eq!(used(&world), (true, false));
        let kept = world.services[&HOST.parse().expect("a name")].affinity.map_or(0, Affinity::seconds);
        (kept, said(&world))
    };
    assert_eq!(seconds("sessionAffinity: ClientIP"), (10_800, vec![]));
    assert_eq!(seconds("sessionAffinity: None"), (0, vec![]));
    let config = |seconds: &str| {
        format!("sessionAffinity: ClientIP, sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}")
    };
    assert_eq!(seconds(&config("60")), (60, vec![]));
    let why = "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not from 1 to 86400 seconds; 10800 hold";
    assert_eq!(seconds(&config("86401")), (10_800, vec![format!("all.yaml: Service shop/cart: {why}")]));
}
