//! Whom AuthorizationPolicies are about, and of whom it is told what is spoken.

use mesh_common::model::traffic::Inbound;

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

/// The pods of which it is told what is spoken.
fn told(text: &str) -> Vec<String> {
    let world = world(text);
    let pods = world.local_pods.values().flatten();
    pods.filter(|(_, local)| local.inbound != Inbound::default()).map(|(uid, _)| uid.clone()).collect()
}

#[test]
fn what_is_spoken_is_told_where_a_policy_asks() {
    let http = "rules: [{to: [{operation: {methods: [GET]}}]}]";
    let sni = "rules: [{when: [{key: connection.sni, values: [a.example]}]}]";
    let l4 = "rules: [{from: [{source: {namespaces: [shop]}}]}]";
    let cart = "selector: {matchLabels: {app: cart}}";
    let of = |namespace: &str, spec: &str| told(&format!("{SHOP}{}", policy(namespace, spec)));
    assert_eq!(told(SHOP), [] as [&str; 0]);
    for rules in [http, sni] {
        for (namespace, workloads) in [
            ("istio-system", String::new()),
            ("shop", String::new()),
            ("istio-system", format!("{cart}, ")),
            ("shop", format!("{cart}, ")),
            ("shop", format!("{CART_TARGET}, ")),
            ("shop", format!("action: AUDIT, {cart}, ")),
        ] {
            // The client serves nothing.
            assert_eq!(of(namespace, &format!("{workloads}{rules}")), [CART], "{namespace} {workloads}{rules}");
        }
    }
    for (namespace, spec) in [
        ("other", http.to_owned()),
        ("other", format!("{cart}, {http}")),
        ("shop", format!("selector: {{matchLabels: {{app: pay}}}}, {http}")),
        ("shop", format!("selector: {{matchLabels: {{app: cart, version: v1}}}}, {http}")),
        ("shop", l4.to_owned()),
        ("shop", format!("{CART_TARGET}, {l4}")),
        ("shop", "rules: [{to: [{operation: {paths: ['/{']}}]}]".to_owned()),
    ] {
        assert_eq!(of(namespace, &spec), [] as [&str; 0], "{namespace} {spec}");
    }
    let world = world(&format!("{SHOP}{}", policy("shop", http)));
    let inbound = &world.local_pods["a"][CART].inbound;
    let spoken: Vec<_> = inbound.protocols.iter().map(|(port, protocol)| (*port, *protocol)).collect();
    assert_eq!(spoken, [(8080, mesh_common::model::traffic::Protocol::Http)]);
    assert!(inbound.limits.is_empty());
}
