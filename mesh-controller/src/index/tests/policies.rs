//! Whom policies are about, and what is told of their ports.

use mesh_common::model::traffic::{Inbound, Protocol};

use super::*;

fn policy(namespace: &str, spec: &str) -> String {
    format!(
        "\n---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: {namespace}}}, \
         spec: {{{spec}}}}}\n"
    )
}

/// The policies that the cart's pod and the client name, and what is said.
fn named(text: &str) -> ([Vec<String>; 2], Vec<String>) {
    let world = world(text);
    ([CART, CLIENT].map(|uid| policies_of(&world, uid)), said(&world))
}

fn cart_only() -> ([Vec<String>; 2], Vec<String>) {
    ([vec!["shop/p".to_owned()], Vec::new()], Vec::new())
}

const CART_TARGET: &str = "targetRefs: [{group: '', kind: Service, name: cart}]";

#[test]
fn a_targeted_service_names_its_pods_ready_or_not() {
    let own = policy("shop", CART_TARGET);
    assert_eq!(named(&format!("{SHOP}{own}")), cart_only());
    assert_eq!(
        named(&format!("{SHOP}{}", own.replace("targetRefs: [", "targetRef: ").replace("]}}", "}}"))),
        cart_only()
    );
    // A pod that is not ready is reached by its address.
    let unready = SHOP.replace("{ready: true}", "{ready: false}").replacen("status: 'True'", "status: 'False'", 1);
    assert_eq!(named(&format!("{unready}{own}")), cart_only());
    // There are no slices yet.
    assert_eq!(named(&format!("{}{own}", SHOP.replace("kind: EndpointSlice", "kind: Other"))).0, cart_only().0);
    // Two ways to the same pod.
    let twice = policy("shop", "targetRefs: [{kind: Service, name: cart}, {kind: Service, name: cart}]");
    assert_eq!(named(&format!("{SHOP}{twice}")), cart_only());
    // A service without selector has the pods that slices name.
    let bare = SHOP.replace("  selector: {app: cart}\n", "");
    for slices in [
        bare.clone(),
        bare.replace("{ready: true}", "{ready: false}"),
        bare.replace(", targetRef: {kind: Pod, name: cart-6f5d8-x1, namespace: shop}", ""),
    ] {
        assert_eq!(named(&format!("{slices}{own}")), cart_only());
    }
    // The address is not the pod's any more.
    let stale = bare.replace("{addresses: [10.0.0.1]", "{addresses: [10.0.0.77]");
    assert_eq!(named(&format!("{stale}{own}")).0, [Vec::<String>::new(), Vec::new()]);
}

#[test]
fn a_target_that_is_not_there_is_told_and_takes_nobody() {
    let nobody = [Vec::<String>::new(), Vec::new()];
    let at = |namespace: &str| format!("all.yaml: AuthorizationPolicy {namespace}/p: spec.targetRefs[0]: there is no");
    for (namespace, spec, why) in [
        ("shop", "targetRefs: [{kind: Service, name: pay}]", "Service shop/pay; the policy holds for nobody"),
        // Also the mesh's root namespace speaks of its own services only.
        ("istio-system", CART_TARGET, "Service istio-system/cart; the policy holds for nobody"),
        ("other", CART_TARGET, "Service other/cart; the policy holds for nobody"),
        (
            "shop",
            "targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: cart}]",
            "ServiceEntry shop/cart; the policy holds for nobody",
        ),
    ] {
        let text = format!("{SHOP}{}", policy(namespace, spec));
        let (found, problems) = named(&text);
        assert_eq!(found, nobody, "{spec}");
        assert!(problems.len() == 1 && problems[0].starts_with(&format!("{} {why}", at(namespace))), "{problems:?}");
        // It is served: agents and lists know of it.
        let world = world(&text);
        let served = &world.policies[&format!("{namespace}/p").parse().expect("a name")];
        assert_eq!(served.scope, mesh_common::model::Scope::WorkloadSelector);
        assert_eq!(world.problems[0].extent, crate::status::Extent::Whole);
    }
    let one = policy("shop", "targetRefs: [{kind: Service, name: pay}, {kind: Service, name: cart}]");
    let (found, problems) = named(&format!("{SHOP}{one}"));
    assert_eq!(found, cart_only().0);
    assert!(
        problems[0].ends_with("there is no Service shop/pay; the policy holds for its other targets"),
        "{problems:?}"
    );
    // It comes.
    let pay = "\n---\n{apiVersion: v1, kind: Service, metadata: {name: pay, namespace: shop}, \
               spec: {clusterIP: 10.96.0.9, selector: {app: cart}, ports: [{port: 1}]}}\n";
    let text = format!("{SHOP}{pay}{}", policy("shop", "targetRefs: [{kind: Service, name: pay}]"));
    assert_eq!(named(&text), cart_only());
}

#[test]
fn an_entry_names_the_pods_that_serve_it() {
    let entry = |name: &str, hosts: &str| {
        format!(
            "\n---\n{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: shop}}, \
             spec: {{hosts: [{hosts}], resolution: STATIC, ports: [{{number: 80, name: http}}], \
             workloadSelector: {{labels: {{app: cart}}}}}}}}\n"
        )
    };
    let own = policy("shop", "targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: db}]");
    assert_eq!(named(&format!("{SHOP}{}{own}", entry("db", "db.example.com"))), cart_only());
    assert_eq!(named(&format!("{SHOP}{}{own}", entry("pay", "db.example.com"))).0, [Vec::<String>::new(), Vec::new()]);
    // An entry that bears a service's name does not get that service.
    let cart = policy("shop", "targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: cart}]");
    let text = format!("{SHOP}{}{cart}", entry("cart", "cart.shop.svc.cluster.local"));
    assert_eq!(named(&text).0, [Vec::<String>::new(), Vec::new()]);
}

/// What is spoken at the cart's ports, and whose tokens it takes.
fn inbound(text: &str) -> (Vec<(u16, Protocol)>, usize) {
    let inbound = &world(text).local_pods["a"][CART].inbound;
    assert!(inbound.limits.is_empty());
    (inbound.protocols.iter().map(|(port, protocol)| (*port, *protocol)).collect(), inbound.tokens.len())
}

/// Otherwise the first policy, or a pod that ends, would cut connections of which nobody has to know what they carry.
#[test]
fn what_is_spoken_and_whose_tokens_are_taken_is_told_at_all_times() {
    let tokens = "\n---\n{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: t, namespace: shop}, \
                  spec: {targetRefs: [{kind: Service, name: cart}], jwtRules: [{issuer: i, jwksUri: 'https://i.example/'}]}}\n";
    let bytes = SHOP.replace("name: http, port: 80, targetPort: web", "name: tcp-db, port: 80, targetPort: web");
    let bytes = bytes.replace("name: http, port: 8080", "name: tcp-db, port: 8080");
    let http = policy("shop", "rules: [{to: [{operation: {methods: [GET]}}]}]");
    for (shop, spoken) in [(SHOP, Protocol::Http), (&bytes, Protocol::Tcp)] {
        for text in [
            shop.to_owned(),
            // Not ready; on its way out, and not the last one.
            shop.replace("{ready: true}", "{ready: false}").replacen("status: 'True'", "status: 'False'", 1),
            shop.replace("{ready: true}", "{ready: false, serving: true, terminating: true}"),
            // No slice names it yet, or it no longer does.
            shop.replace("kind: EndpointSlice", "kind: Other"),
            shop.replace("{addresses: [10.0.0.1]", "{addresses: [10.0.0.77]"),
            // Only the slice says it.
            shop.replace("  selector: {app: cart}\n", ""),
            shop.replace("  selector: {app: cart}\n", "").replace("{ready: true}", "{ready: false}"),
        ] {
            for more in ["", &http] {
                assert_eq!(inbound(&format!("{text}{more}{tokens}")), (vec![(8080, spoken)], 1), "{text}{more}");
                assert_eq!(inbound(&format!("{text}{more}")), (vec![(8080, spoken)], 0), "{text}{more}");
            }
        }
    }
    let client = &world(&format!("{SHOP}{http}{tokens}")).local_pods["b"][CLIENT];
    assert_eq!(client.inbound, Inbound::default(), "it serves nothing");
    // A service of another namespace, or of other pods, says nothing of it.
    for other in [
        SHOP.replace("{name: cart, namespace: shop}", "{name: cart, namespace: web}"),
        SHOP.replace("selector: {app: cart}", "selector: {app: cart, version: v1}")
            .replace("kind: EndpointSlice", "kind: Other"),
    ] {
        assert_eq!(inbound(&format!("{other}{tokens}")), (Vec::new(), 0), "{other}");
    }
}

/// The ports of a slice count, whatever the service's own selection says.
#[test]
fn ports_are_those_of_the_slice_where_there_is_one() {
    let other = SHOP.replace("ports: [{name: http, port: 8080}]", "ports: [{name: http, port: 9090}]");
    assert_eq!(inbound(&other), (vec![(9090, Protocol::Http)], 0));
    let other = other.replace("kind: EndpointSlice", "kind: Other");
    assert_eq!(inbound(&other), (vec![(8080, Protocol::Http)], 0));
}

/// There are no gateways: what one would have refused, the pods behind it do themselves, and nobody else.
#[test]
fn what_is_asked_of_a_waypoint_is_done_by_those_who_use_it() {
    let gateway = |kind: &str, name: &str| {
        format!("targetRefs: [{{group: gateway.networking.k8s.io, kind: {kind}, name: {name}}}]")
    };
    let label = "istio.io/use-waypoint: w";
    let cart = "{name: cart, namespace: shop}";
    let labelled = |label: &str| format!("{{name: cart, namespace: shop, labels: {{{label}}}}}");
    let pod = SHOP.replace("labels: {app: cart,", &format!("labels: {{{label}, app: cart,"));
    let service = SHOP.replace(cart, &labelled(label));
    let all = SHOP.replace("{nodemesh.io/mode: mesh}", &format!("{{nodemesh.io/mode: mesh, {label}}}"));
    let but = all.replace("labels: {app: cart,", "labels: {istio.io/use-waypoint: none, app: cart,");
    let but = but.replace(cart, &labelled("istio.io/use-waypoint: none"));
    let far = pod.replace(label, &format!("{label}, istio.io/use-waypoint-namespace: web"));
    // Whether the cart and the client are about it, by each text and each policy.
    for (text, own, others, every) in [
        (SHOP, [false; 2], [false; 2], [false; 2]),
        (&pod, [true, false], [false; 2], [true, false]),
        (&service, [true, false], [false; 2], [true, false]),
        (&all, [true; 2], [false; 2], [true; 2]),
        (&but, [false, true], [false; 2], [false, true]),
        (&far, [false; 2], [true, false], [true, false]),
    ] {
        for (namespace, target, expected) in [
            ("shop", gateway("Gateway", "w"), own),
            ("shop", gateway("Gateway", "v"), [false; 2]),
            ("web", gateway("Gateway", "w"), others),
            ("istio-system", gateway("GatewayClass", "istio-waypoint"), every),
            ("istio-system", gateway("GatewayClass", "istio"), [false; 2]),
            ("shop", gateway("GatewayClass", "istio-waypoint"), [false; 2]),
        ] {
            let (found, said) = named(&format!("{text}{}", policy(namespace, &format!("{target}, rules: [{{}}]"))));
            assert_eq!(found.map(|policies| !policies.is_empty()), expected, "{namespace} {target} {text}");
            let whom = if expected == [false; 2] { "holds for nobody" } else { "holds for the workloads that use it" };
            assert!(said.len() == 1 && said[0].contains(whom), "{said:?}");
            let tokens = format!(
                "{text}\n---\n{{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {{name: t, \
                 namespace: {namespace}}}, spec: {{{target}, jwtRules: [{{issuer: i, jwksUri: 'https://i.example/'}}]}}}}\n"
            );
            let world = world(&tokens);
            let takes = [("a", CART), ("b", CLIENT)].map(|(node, uid)| &world.local_pods[node][uid].inbound.tokens);
            assert_eq!(takes.map(|tokens| tokens.len() == 1), expected, "{namespace} {target} {text}");
            assert_eq!(world.problems.len(), 1);
        }
    }
}
