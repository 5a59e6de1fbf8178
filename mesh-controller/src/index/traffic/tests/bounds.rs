//! How much rules may become, and who is left out.

use mesh_common::model::traffic::{HttpRoute, PathMatch, RequestMatch};

use super::{
    budget::{Cost, SERVICE},
    *,
};

/// So many rules in place of the one that is there, each with a path of its own.
fn times(ruled: Ruled, count: usize) -> Ruled {
    let one = ruled.routes.http[0].clone();
    let rule = |i: usize| {
        let path = Some(PathMatch::Exact(format!("/{}/{i}", ruled.object.name)));
        HttpRoute { matches: vec![RequestMatch { path, ..RequestMatch::default() }], ..one.clone() }
    };
    let http = (0..count).map(rule).collect();
    Ruled { routes: Routes { http, ..Routes::default() }, ..ruled }
}

fn on_cart(namespace: &str, name: &str, export: &str, count: usize) -> Ruled {
    let spec = format!("{{hosts: [cart.shop.svc], exportTo: [{export}], http: [{{{TO_CART}}}]}}");
    times(ruled(namespace, name, 1, &spec), count)
}

/// What agents are told of all services.
fn told(assembled: &Assembled) -> Cost {
    let routes = assembled.traffic.values().flat_map(|traffic| &traffic.routes);
    routes.fold(Cost::default(), |sum, routes| sum + Cost::of(&routes.value))
}

fn whole(assembled: &Assembled) -> Vec<String> {
    let whole = said(assembled).into_iter().filter(|(_, extent)| *extent == Extent::Whole);
    whole.map(|(text, _)| text).collect()
}

/// With so many services `shop/s0`, ….
fn with_services(count: usize, ruled: &[Ruled]) -> Assembled {
    let settings = settings();
    let facts = || Facts { ports: [(80, Protocol::Http)].into(), exported: Clients::Everybody };
    let cart = (service(&settings, "shop", "cart"), facts());
    let all = (0..count).map(|i| (service(&settings, "shop", &format!("s{i}")), facts())).chain([cart]);
    let services = Services::new(&settings, all.collect());
    assemble(&settings, &services, &GatewayRoutes::new(), &ruled.iter().collect::<Vec<_>>(), Policies::new())
}

#[test]
fn a_wildcard_that_makes_too_many_copies_is_left_out_whole() {
    let wild = |name: &str, created, count| {
        times(ruled("shop", name, created, &format!("{{hosts: ['*'], http: [{{{TO_CART}}}]}}")), count)
    };
    // 101 services.
    let assembled = with_services(100, &[wild("v", 1, 100), wild("evil", 2, 500)]);
    assert!(told(&assembled).rules <= 101 * 100, "{:?}", told(&assembled));
    let [text] = whole(&assembled).try_into().expect("one fault");
    assert_eq!(
        text,
        "VirtualService shop/evil: spec.hosts: what one object says, for each service and each group of clients, may \
         have 50000 rules, 10000 regular expressions and 33554432 bytes: with 101 services this is left out"
    );
    // Of one namespace the youngest go, of others none.
    let many: Vec<Ruled> = (0..6).map(|i| wild(&format!("v{i}"), i, 450)).collect();
    let other = ruled("istio-system", "mesh", 9, &format!("{{hosts: ['*'], http: [{{{TO_CART}}}]}}"));
    let assembled = with_services(100, &[many, vec![other]].concat());
    let said = whole(&assembled);
    assert!(
        said.len() == 2 && said[0].starts_with("VirtualService shop/v4: spec.hosts: what the objects of one"),
        "{said:?}"
    );
    assert!(told(&assembled).rules <= 200_000 + 101, "{:?}", told(&assembled));
}

#[test]
fn rules_are_as_long_as_one_resource_may_be() {
    let long = |name: &str| {
        let mut ruled = on_cart("shop", name, "", 100);
        for route in &mut ruled.routes.http {
            route.matches[0].path = Some(PathMatch::Exact("a".repeat(90_000)));
        }
        ruled
    };
    let assembled = assembled(&[long("a"), long("b")]);
    assert!(told(&assembled).bytes <= SERVICE.bytes, "{:?}", told(&assembled));
    assert!(
        whole(&assembled)[0].starts_with("VirtualService shop/b: spec.http: all that is said of one service to one")
    );
}

#[test]
fn groups_of_clients_are_copies_too() {
    // Ten lists of namespaces: each of 1,024 has a set of rules of its own.
    let lists = (0..10).map(|bit| {
        let list: Vec<String> = (0..1024).filter(|n| n >> bit & 1 == 1).map(|n| format!("n{n}")).collect();
        on_cart("shop", &format!("v{bit}"), &list.join(", "), 990)
    });
    let lists: Vec<Ruled> = lists.collect();
    let assembled = assembled(&lists);
    let sum = told(&assembled);
    assert!(sum.rules <= SERVICE.rules, "{sum:?}");
    assert!(cart(&assembled).routes.len() < 40);
    assert_eq!(routes_of(&assembled, "n1").len(), 990, "the oldest holds");
    let said = whole(&assembled);
    assert!(
        said.iter().all(|text| !text.contains("shop/v0")) && said[0].contains("all that is said of one service may"),
        "{said:?}"
    );
}

#[test]
fn nobody_loses_rules_for_what_another_namespace_says() {
    let consumers = (0..300).map(|i| on_cart(&format!("c{i}"), "mine", "", 1));
    let rules: Vec<Ruled> =
        consumers.chain([on_cart("shop", "own", "", 100), on_cart("istio-system", "mesh", "", 100)]).collect();
    let assembled = assembled(&rules);
    assert!(told(&assembled).rules <= SERVICE.rules);
    let said = whole(&assembled);
    assert!(!said.is_empty() && said.iter().all(|text| text.starts_with("VirtualService c")), "{said:?}");
    // With or without rules of their own they have those of the service.
    for namespace in ["c0", "c299", "x"] {
        assert!(routes_of(&assembled, namespace).len() >= 200, "{namespace}");
    }
    assert_eq!(routes_of(&assembled, "x").len(), 200);
}

#[test]
fn consumers_routes_of_the_gateway_api_are_copies_too() {
    let name = service(&settings(), "shop", "cart");
    let list = |namespace: &str| For {
        clients: only(&[namespace]),
        value: Routes { http: on_cart(namespace, "route", "", 3_000).routes.http, ..Routes::default() },
    };
    let own = For::everybody(on_cart("shop", "route", "", 3_000).routes);
    let lists: Vec<_> = (0..20).map(|i| list(&format!("c{i}"))).chain([own]).collect();
    let rule = on_cart("shop", "v", "", 10);
    let assembled = assemble(&settings(), &services(), &[(name, lists)].into(), &[&rule], Policies::new());
    assert!(told(&assembled).rules <= SERVICE.rules, "{:?}", told(&assembled));
    assert_eq!(routes_of(&assembled, "x").len(), 3_010);
    let said = whole(&assembled);
    assert!(!said.is_empty() && said.iter().all(|text| text.starts_with("VirtualService c")), "{said:?}");
}
