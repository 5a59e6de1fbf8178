//! DestinationRules of several namespaces, and for whom they hold.

use mesh_common::model::traffic::{Protocol, TrustedRoots};

use super::*;
use crate::{
    index::tests::settings,
    translate::{
        backend_tls_policy::backend_tls_policy, destination_rule::destination_rule, fields::tests::custom, hosts,
        traffic::Facts,
    },
};

struct Mesh {
    policies: Policies,
    said: Vec<String>,
}

/// Services `cart` and `pay` of namespace `shop`, and rules as `namespace/name created: spec`.
fn mesh(rules: &[&str], tls: &[&str]) -> Mesh {
    let settings = settings();
    let facts = || Facts { ports: BTreeMap::from([(80, Protocol::Http)]), exported: Clients::Everybody };
    let names = ["cart", "pay"].map(|name| hosts::service(&settings, "shop", name));
    let services = Services::new(&settings, names.into_iter().map(|name| (name, facts())).collect());
    let read = |text: &str| {
        let (head, spec) = text.split_once(": ").expect("a head");
        let (name, year) = head.split_once(' ').expect("a year");
        let (namespace, name) = name.split_once('/').expect("a namespace");
        custom(&format!(
            "metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{year}-01-01T00:00:00Z'}}\nspec: \
             {spec}"
        ))
    };
    let mut faults = Vec::new();
    let rules: Vec<_> = rules.iter().filter_map(|text| destination_rule(&settings, &read(text), &mut faults)).collect();
    let tls: Vec<_> = tls.iter().map(|text| backend_tls_policy(&settings, &read(text), &mut faults)).collect();
    assert_eq!(faults, []);
    let rules: Vec<_> = rules.iter().collect();
    let tls: Vec<_> = tls.iter().collect();
    let port = |_: &ServiceName, name: &str| (name == "http").then_some(80);
    let (policies, said) = policies(&settings, &services, &rules, &tls, port);
    let said = said.into_iter().map(|(key, fault)| format!("{key}: {}: {}", fault.field, fault.why)).collect();
    Mesh { policies, said }
}

impl Mesh {
    fn of(&self, service: &str, client: &str) -> Option<&DestinationPolicy> {
        let policies = self.policies.get(&hosts::service(&settings(), "shop", service))?;
        policies.iter().find(|policy| policy.clients.has(client)).map(|policy| &policy.value)
    }

    /// The bound on connections that is the mark of a rule.
    fn mark(&self, service: &str, client: &str) -> Option<u32> {
        self.of(service, client)?.all.pool.max_connections
    }
}

fn marked(head: &str, host: &str, mark: u32, rest: &str) -> String {
    format!("{head}: {{host: '{host}', trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {mark}}}}}}}{rest}}}")
}

const CART: &str = "cart.shop.svc.cluster.local";

#[test]
fn the_clients_namespace_then_the_services_then_the_root() {
    let rules = [
        marked("istio-system/r 2020", "*", 1, ""),
        marked("shop/r 2021", CART, 2, ""),
        marked("web/r 2022", CART, 3, ""),
        marked("web/wide 2019", "*.shop.svc.cluster.local", 4, ""),
    ];
    let mesh = mesh(&rules.each_ref().map(String::as_str), &[]);
    assert_eq!(mesh.said, [""; 0]);
    for (service, client, expected) in
        [("cart", "web", 3), ("cart", "shop", 2), ("cart", "any", 2), ("pay", "web", 4), ("pay", "any", 1)]
    {
        assert_eq!(mesh.mark(service, client), Some(expected), "{service} from {client}");
    }
    let origins = &mesh.of("cart", "web").expect("a policy").origins;
    assert_eq!(origins[0].object, "DestinationRule web/r");
}

#[test]
fn what_is_not_exported_holds_for_nobody_else() {
    let mesh1 = mesh(&[&marked("shop/r 2020", CART, 1, ", exportTo: ['.']")], &[]);
    assert_eq!((mesh1.mark("cart", "shop"), mesh1.mark("cart", "web")), (Some(1), None));
    assert!(mesh1.of("cart", "web").is_none());
    let rules = [marked("shop/r 2020", CART, 1, ", exportTo: [web]"), marked("istio-system/r 2020", CART, 2, "")];
    let mesh2 = mesh(&rules.each_ref().map(String::as_str), &[]);
    assert_eq!((mesh2.mark("cart", "shop"), mesh2.mark("cart", "web")), (Some(2), Some(1)));
    // A rule of a namespace that has nothing to do with the service rules its own clients only.
    let mesh3 = mesh(&[&marked("evil/r 2000", CART, 9, "")], &[]);
    assert_eq!((mesh3.mark("cart", "shop"), mesh3.mark("cart", "evil")), (None, Some(9)));
    assert!(mesh3.of("cart", "shop").is_none());
    // One for whom nothing holds, among others for whom something does.
    let rules = [marked("shop/r 2020", CART, 1, ""), "web/r 2020: {host: cart.shop.svc}".to_owned()];
    let mesh4 = mesh(&rules.each_ref().map(String::as_str), &[]);
    assert_eq!((mesh4.mark("cart", "any"), mesh4.mark("cart", "web")), (Some(1), None));
    assert!(mesh4.of("cart", "web").is_some());
}

#[test]
fn rules_about_one_host_are_put_together() {
    let rules = [
        marked("shop/young 2022", CART, 2, ", subsets: [{name: v1, labels: {v: '9'}}, {name: v2, labels: {v: '2'}}]"),
        marked("shop/old 2021", CART, 1, ", subsets: [{name: v1, labels: {v: '1'}}]"),
        "shop/oldest 2020: {host: cart, subsets: [{name: v0}]}".to_owned(),
    ];
    let mesh = mesh(&rules.each_ref().map(String::as_str), &[]);
    let policy = mesh.of("cart", "any").expect("a policy");
    assert_eq!(policy.all.pool.max_connections, Some(1));
    assert_eq!(policy.subsets.keys().collect::<Vec<_>>(), ["v0", "v1", "v2"]);
    assert_eq!(policy.subsets["v1"].labels["v"], "1");
    // Of whichever rule, subsets take over from the policy that holds.
    assert!(policy.subsets.values().all(|subset| subset.all.pool.max_connections == Some(1)));
    assert_eq!(policy.origins.len(), 3);
    let older = "is not applied: DestinationRule shop/old is older and says it for the same";
    assert_eq!(
        mesh.said,
        [
            format!("DestinationRule shop/young: spec.trafficPolicy: {older}"),
            format!("DestinationRule shop/young: spec.subsets[v1]: {older}"),
        ]
    );
}

#[test]
fn what_asks_nothing_of_agents_is_not_told() {
    for spec in ["{host: cart}", "{host: cart, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}"] {
        assert_eq!(mesh(&[&format!("shop/r 2020: {spec}")], &[]).policies.len(), 0, "{spec}");
    }
    let subsets = mesh(&["shop/r 2020: {host: cart, subsets: [{name: v1}]}"], &[]);
    assert!(subsets.policies.values().all(|policies| only_subsets(policies)) && subsets.policies.len() == 1);
    let rules = [marked("shop/r 2020", CART, 1, ", subsets: [{name: v1}]")];
    assert!(!mesh(&[&rules[0]], &[]).policies.values().any(|policies| only_subsets(policies)));
    let nowhere = mesh(&["shop/r 2020: {host: gone}"], &[]);
    assert_eq!(nowhere.policies.len(), 0);
    assert_eq!(
        nowhere.said,
        ["DestinationRule shop/r: spec.host: no service has this name, or none that may be named"]
    );
}

#[test]
fn tls_of_a_services_owner_lies_over_all() {
    let validation = "validation: {hostname: a.b, wellKnownCACertificates: System}";
    let target =
        |name: &str, section: &str| format!("{{targetRefs: [{{kind: Service, name: {name}{section}}}], {validation}}}");
    let rule = "web/r 2020: {host: cart.shop.svc, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}, \
                subsets: [{name: v1}]}";
    let policies = [
        format!("shop/all 2021: {}", target("cart", "")),
        format!("shop/late 2022: {}", target("cart", "")),
        format!("shop/port 2021: {}", target("pay", ", sectionName: http")),
        format!("shop/none 2021: {}", target("pay", ", sectionName: nope")),
        format!("shop/gone 2021: {}", target("gone", "")),
    ];
    let mesh = mesh(&[rule], &policies.each_ref().map(String::as_str));
    let roots = |policy: &TrafficPolicy| policy.tls.as_ref().map(|tls| tls.roots.clone());
    let web = mesh.of("cart", "web").expect("a policy");
    assert_eq!(roots(&web.all), Some(TrustedRoots::System));
    assert_eq!(roots(&web.subsets["v1"].all), Some(TrustedRoots::System));
    assert_eq!(roots(&mesh.of("cart", "any").expect("a policy").all), Some(TrustedRoots::System));
    let pay = mesh.of("pay", "any").expect("a policy");
    assert_eq!((roots(&pay.all), roots(&pay.ports[&80])), (None, Some(TrustedRoots::System)));
    let starts: Vec<_> = mesh.said.iter().map(|said| said.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect();
    assert_eq!(
        starts,
        [
            "BackendTLSPolicy shop/gone: spec.targetRefs[0]",
            "BackendTLSPolicy shop/none: spec.targetRefs[0].sectionName",
            "BackendTLSPolicy shop/late: spec.targetRefs[0]",
            "BackendTLSPolicy shop/all: spec.validation",
        ]
    );
}
