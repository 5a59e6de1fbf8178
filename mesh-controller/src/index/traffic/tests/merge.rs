//! Several objects on one host.

use mesh_common::model::traffic::{Delay, Millis, OverlaidFault, Percent};

use super::*;

fn simple(namespace: &str, name: &str, created: i64, fields: &str) -> Ruled {
    ruled(namespace, name, created, &format!("{{hosts: [cart.shop.svc], {fields} http: [{{{TO_CART}}}]}}"))
}

#[test]
fn the_samples_of_the_same_host() {
    let sample = |name: &str, created, text: &str| {
        let documents = serde_yaml_ng::Deserializer::from_str(text);
        let values = documents.map(|document| serde::Deserialize::deserialize(document).expect("YAML"));
        let found: Option<serde_json::Value> =
            values.into_iter().find(|v: &serde_json::Value| v["kind"] == "VirtualService");
        let spec = serde_yaml_ng::to_string(&found.expect("one")["spec"]).expect("YAML");
        ruled("shop", name, created, &spec)
    };
    let routing = include_str!("../../../translate/virtual_service/tests/samples/003-1-traffic-management.yaml");
    let faults = include_str!("../../../translate/virtual_service/tests/samples/003-3-fault-injection.yaml");
    let name = service(&settings(), "shop", "order-service");
    let policies: Policies = [(name.clone(), vec![subsets(Clients::Everybody, &["stable", "canary"])])].into();
    let both = [sample("order-service", 1, routing), sample("order-service-chaos", 2, faults)];
    let assembled =
        assemble(&settings(), &services(), &GatewayRoutes::new(), &both.iter().collect::<Vec<_>>(), policies);
    let [For { clients: Clients::Everybody, value: routes }] = assembled.traffic[&name].routes.as_slice() else {
        panic!("{assembled:?}")
    };
    let names: Vec<_> = routes.http.iter().map(|route| (route.name.as_str(), route.fault.is_some())).collect();
    assert_eq!(
        names,
        [("shop/order-service/0", false), ("shop/order-service/1", false), ("shop/order-service-chaos/0", false)]
    );
    let [OverlaidFault { origin, matches, fault }] = routes.faults.as_slice() else { panic!("{routes:?}") };
    assert_eq!((origin.object.as_str(), matches.len()), ("VirtualService shop/order-service-chaos", 0));
    assert_eq!(fault.delay, Some(Delay { percent: Percent(100_000), fixed: Millis(5_000) }));
    assert_eq!(fault.abort.as_ref().and_then(|abort| abort.status), Some(503));
    let [(text, Extent::Conflict)] = &said(&assembled)[..] else { panic!("{:?}", said(&assembled)) };
    assert!(
        text.starts_with(
            "VirtualService shop/order-service-chaos: spec.http[0]: VirtualService shop/order-service comes first for \
             order-service.shop.svc.cluster.local"
        ),
        "{text}"
    );
}

#[test]
fn the_older_is_asked_first_and_names_decide_between_equals() {
    let names = |a: i64, b: i64| routes_of(&assembled(&[simple("shop", "b", b, ""), simple("shop", "a", a, "")]), "x");
    assert_eq!(names(1, 2), ["shop/a/0", "shop/b/0"]);
    assert_eq!(names(2, 1), ["shop/b/0", "shop/a/0"]);
    assert_eq!(names(1, 1), ["shop/a/0", "shop/b/0"]);
    // Who names the service is asked before who names all; the longer wildcard before the shorter.
    let wild =
        |name: &str, host: &str| ruled("shop", name, 0, &format!("{{hosts: ['{host}'], http: [{{{TO_CART}}}]}}"));
    let rules = [wild("c", "*"), wild("d", "*.svc.cluster.local"), wild("e", "*.shop.svc"), simple("shop", "z", 9, "")];
    assert_eq!(routes_of(&assembled(&rules), "x"), ["shop/z/0", "shop/e/0", "shop/d/0", "shop/c/0"]);
}

#[test]
fn who_rules_which_clients() {
    let rules = [
        simple("shop", "own", 1, ""),
        simple("a", "consumer", 2, ""),
        simple("shop", "for-b", 3, "exportTo: [b],"),
        simple("istio-system", "mesh", 4, ""),
        simple("c", "elsewhere", 5, "exportTo: [shop],"),
    ];
    let assembled = assembled(&rules);
    // One's own rules about others' services come first; nobody else's are asked.
    assert_eq!(routes_of(&assembled, "a"), ["a/consumer/0", "shop/own/0", "istio-system/mesh/0"]);
    assert_eq!(routes_of(&assembled, "b"), ["shop/own/0", "shop/for-b/0", "istio-system/mesh/0"]);
    for namespace in ["c", "shop", "x"] {
        assert_eq!(routes_of(&assembled, namespace), ["shop/own/0", "istio-system/mesh/0"], "{namespace}");
    }
    let clients: Vec<_> = cart(&assembled).routes.iter().map(|routes| routes.clients.clone()).collect();
    assert_eq!(clients.len(), 3);
    assert_eq!(clients.last(), Some(&Clients::Everybody));
    // To have one's own is no conflict.
    let conflicts = said(&assembled).into_iter().filter(|(_, extent)| *extent == Extent::Conflict);
    let conflicts: Vec<_> = conflicts.map(|(text, _)| text.split(':').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(conflicts, ["VirtualService istio-system/mesh", "VirtualService shop/for-b"]);
}

#[test]
fn clients_who_are_told_the_same_are_one_group() {
    let rules = [simple("shop", "v", 1, "exportTo: [a, b, c],"), simple("b", "own", 2, "")];
    let assembled = assembled(&rules);
    let mut clients: Vec<_> = cart(&assembled).routes.iter().map(|routes| routes.clients.clone()).collect();
    clients.sort_by_key(|clients| format!("{clients:?}"));
    assert_eq!(clients, [only(&["a", "c"]), only(&["b"])]);
    assert_eq!(routes_of(&assembled, "x"), [] as [String; 0]);
}

#[test]
fn faults_spare_what_their_author_spared() {
    let later = ruled(
        "shop",
        "b",
        2,
        &format!(
            "{{hosts: [cart], http: [{{match: [{{uri: {{prefix: /a}}}}], {TO_CART}}}, \
             {{fault: {{delay: {{fixedDelay: 1s, percentage: {{value: 100}}}}}}, {TO_CART}}}, {{name: last, {TO_CART}}}]}}"
        ),
    );
    let assembled = assembled(&[simple("shop", "a", 1, ""), later]);
    let faults = &cart(&assembled).routes[0].value.faults;
    let seen: Vec<_> = faults.iter().map(|f| (f.matches.len(), f.fault.delay.is_some())).collect();
    assert_eq!(seen, [(1, false), (0, true)]);
    assert!(cart(&assembled).routes[0].value.http.iter().all(|route| route.fault.is_none()));
    assert_eq!(routes_of(&assembled, "x"), ["shop/a/0", "shop/b/0", "shop/b/1", "shop/b/last"]);
}

#[test]
fn rules_of_the_gateway_api_are_asked_first() {
    let gateway = simple("shop", "http-route", 9, "").routes;
    let name = service(&settings(), "shop", "cart");
    let special = simple("a", "consumer", 9, "").routes;
    let routes: GatewayRoutes =
        [(name, vec![For { clients: only(&["a"]), value: special }, For::everybody(gateway)])].into();
    let rule = simple("shop", "v", 1, "");
    let assembled = assemble(&settings(), &services(), &routes, &[&rule], Policies::new());
    assert_eq!(routes_of(&assembled, "x"), ["shop/http-route/0", "shop/v/0"]);
    assert_eq!(routes_of(&assembled, "a"), ["a/consumer/0", "shop/v/0"]);
    assert!(said(&assembled).iter().all(|(_, extent)| *extent == Extent::Conflict));
}

#[test]
fn too_much_for_one_service_is_left_out() {
    let many = |name: &str, created| {
        let rule = format!("{{match: [{{uri: {{exact: /{name}}}}}], {TO_CART}}}");
        ruled("shop", name, created, &format!("{{hosts: [cart], http: [{}]}}", vec![rule; 4_000].join(", ")))
    };
    let assembled = assembled(&[many("a", 1), many("b", 2), many("c", 3)]);
    assert_eq!(routes_of(&assembled, "x").len(), 8_000);
    let whole: Vec<_> = said(&assembled).into_iter().filter(|(_, extent)| *extent == Extent::Whole).collect();
    assert!(
        whole.len() == 1 && whole[0].0.starts_with("VirtualService shop/c: spec.http: all that is said"),
        "{whole:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn the_order_of_objects_does_not_matter(order in Just((0..7).collect::<Vec<usize>>()).prop_shuffle(), ages in prop::collection::vec(0..3_i64, 7)) {
        let path = |path: &str| format!("{{match: [{{uri: {{prefix: {path}}}}}], {TO_CART}}}");
        let spec = |hosts: &str, export: &str, rule: &str| format!("{{hosts: [{hosts}], exportTo: [{export}], http: [{rule}]}}");
        let rules = [
            ruled("shop", "a", ages[0], &spec("cart", "", &path("/a"))),
            ruled("shop", "b", ages[1], &spec("cart, stock", "", &path("/b"))),
            ruled("shop", "c", ages[2], &spec("'*'", "a", &path("/"))),
            ruled("a", "c", ages[3], &spec("cart.shop", "", &path("/"))),
            ruled("istio-system", "c", ages[4], &spec("'*.shop.svc'", "a, b", &path("/ab"))),
            ruled("b", "c", ages[5], &spec("'*.svc.cluster.local'", "", &path("/c"))),
            ruled("shop", "d", ages[6], &spec("cart", "'.', b", "{fault: {abort: {httpStatus: 500, percentage: {value: 1}}}, route: [{destination: {host: nobody}}]}")),
        ];
        let shuffled: Vec<Ruled> = order.iter().map(|i| rules[*i].clone()).collect();
        prop_assert_eq!(assembled(&shuffled), assembled(&rules));
    }
}
