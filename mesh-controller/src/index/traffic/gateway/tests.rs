//! Routes together: which hold, and what is said of those that do not.

use std::collections::BTreeSet;

use mesh_common::model::traffic::{Action, Protocol, Target};

use super::*;
use crate::{
    index::traffic::tests::conformance::gathered,
    source::CustomKind,
    status::Extent,
    translate::{http_route::http_route, reference_grant::ReferenceGrant},
};

const SERVICES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{name: a, port: 80}, {name: b, port: 81}, {name: tls, port: 443}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: pay, namespace: other}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
";

/// A route of this kind and name about `cart`.
fn route(kind: &str, name: &str, parent: &str, rest: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
    let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
    format!(
        "\n---\n{{apiVersion: gateway.networking.k8s.io/{version}, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, namespace: shop, name: cart{parent}}}], {rest}}}}}"
    )
}

fn told(routes: &[String]) -> Gathered {
    gathered(&format!("{SERVICES}{}", routes.concat()))
}

fn said(gathered: &Gathered) -> Vec<String> {
    gathered.faults.iter().map(|(key, fault)| format!("{key}: {}: {}", fault.field, fault.why)).collect()
}

fn cart(gathered: &Gathered) -> &[For<Routes>] {
    gathered.routes.iter().find(|(name, _)| name.hostname.starts_with("cart.")).map_or(&[], |(_, routes)| routes)
}

const TO_CART: &str = "rules: [{backendRefs: [{name: cart, port: 80}]}]";

#[test]
fn a_consumer_has_its_own_routes_at_their_ports_and_the_producers_elsewhere() {
    let to = "rules: [{backendRefs: [{name: cart, namespace: shop, port: 80}]}]";
    let gathered = told(&[
        route("HTTPRoute", "producer", "", TO_CART),
        route("HTTPRoute", "web/mine", ", port: 80", to),
        route("HTTPRoute", "api/mine", "", to),
    ]);
    assert_eq!(said(&gathered), Vec::<String>::new());
    let mut shown = Vec::new();
    for For { clients, value } in cart(&gathered) {
        for route in &value.http {
            let ports: Vec<_> = route.matches.iter().map(|matched| matched.port).collect();
            shown.push((clients.has("web"), clients.has("api"), clients.has("x"), route.name.clone(), ports));
        }
    }
    assert_eq!(
        shown,
        [
            (true, false, false, "shop/producer/0".into(), vec![Some(81)]),
            (true, false, false, "web/mine/0".into(), vec![Some(80)]),
            (false, true, false, "api/mine/0".into(), vec![Some(80), Some(81)]),
            (true, true, true, "shop/producer/0".into(), vec![Some(80), Some(81)]),
        ]
    );
}

#[test]
fn server_names_go_from_the_one_that_says_most_to_the_one_that_says_nothing() {
    let tls = |name: &str, hosts: &str| {
        let backend = "rules: [{backendRefs: [{name: cart, port: 443}]}]";
        route("TLSRoute", name, ", port: 443", &format!("hostnames: [{hosts}], {backend}"))
    };
    let gathered = told(&[
        tls("any", ""),
        tls("star", "'*.example.com', '*.b.example.com'"),
        tls("exact", "a.example.com, very-long-name.org"),
    ]);
    assert_eq!(said(&gathered), Vec::<String>::new());
    let tls = &cart(&gathered)[0].value.tls;
    let names: Vec<_> = tls.iter().map(|route| route.server_names.clone()).collect();
    assert_eq!(
        names,
        [vec!["very-long-name.org", "a.example.com"], vec!["*.b.example.com", "*.example.com"], vec!["*"]]
    );
    assert!(tls.iter().all(|route| route.matches[0].port == Some(443)));
}

#[test]
fn connections_that_can_go_nowhere_are_refused() {
    let gathered = told(&[
        route("TCPRoute", "missing", ", port: 80", "rules: [{backendRefs: [{name: nowhere, port: 80}]}]"),
        route("TCPRoute", "none", ", port: 81", "rules: [{}, {}]"),
    ]);
    let tcp = &cart(&gathered)[0].value.tcp;
    for (route, port) in tcp.iter().zip([80, 81]) {
        assert_eq!(route.matches[0].port, Some(port));
        assert!(
            matches!(route.backends.as_slice(), [one] if matches!(one.target, Target::Invalid { .. })),
            "{route:?}"
        );
    }
    assert_eq!(
        said(&gathered),
        ["TCPRoute shop/missing: spec.rules[0].backendRefs[0]: Service shop/nowhere does not exist"]
    );
}

#[test]
fn whoever_may_not_refer_to_a_service_does_not_learn_whether_it_is_there() {
    let why = |name: &str| {
        let rest = format!("rules: [{{backendRefs: [{{name: {name}, namespace: other, port: 80}}]}}]");
        let gathered = told(&[route("HTTPRoute", "r", "", &rest)]);
        let Action::Forward(list) = &cart(&gathered)[0].value.http[0].action else { panic!("it forwards") };
        assert!(matches!(list[0].target, Target::Invalid { status: 500, .. }));
        said(&gathered).join("\n").replace(name, "NAME")
    };
    assert!(why("pay").contains("no ReferenceGrant in other allows"));
    assert_eq!(why("pay"), why("absent"));
}

#[test]
fn a_parent_lends_the_others_no_reference_to_it() {
    // Clients of `cart` in `shop` are sent to `other/pay`, which let nobody in; for those of `pay` it is where they go.
    let pay = "{name: pay, namespace: other, port: 80}";
    let mirror =
        "{type: RequestMirror, requestMirror: {backendRef: {name: pay, namespace: other, port: 80}}}".to_owned();
    let rest = format!("rules: [{{filters: [{mirror}], backendRefs: [{pay}]}}]");
    let both = route("HTTPRoute", "r", "}, {group: '', kind: Service, namespace: other, name: pay", &rest);
    let gathered = told(&[both]);
    let of = |service: &str| {
        let (_, told) = gathered.routes.iter().find(|(name, _)| name.hostname.starts_with(service)).expect("routes");
        let route = &told[0].value.http[0];
        let Action::Forward(list) = &route.action else { panic!("it forwards") };
        (matches!(list[0].target, Target::Backend(_)), route.mirrors.len())
    };
    assert_eq!(of("cart."), (false, 0), "another parent is no grant");
    assert_eq!(of("pay."), (true, 1));
    let conditions = gathered.parents.values().next().expect("a status").iter().map(|parent| &parent.conditions[1]);
    let refs: Vec<_> = conditions.map(|refs| (refs.status, refs.reason)).collect();
    assert_eq!(refs, [(false, "RefNotPermitted"), (true, "ResolvedRefs")]);
    let why = "no ReferenceGrant in other allows Service other/pay";
    let field = "HTTPRoute shop/r: spec.rules[0]";
    assert_eq!(
        said(&gathered),
        [format!("{field}.backendRefs[0]: {why}"), format!("{field}.filters[0].requestMirror.backendRef: {why}"),]
    );
}

#[test]
fn a_route_of_gateways_is_not_judged() {
    let ingress = |kind: &str, parent: &str| {
        let rest = "hostnames: ['*bad*'], unknown: 1, rules: [{filters: [{type: ExtensionRef, extensionRef: {group: a, kind: \
                    b, name: c}}], backendRefs: [{name: nowhere, port: 80}]}, {name: 7}]";
        route(kind, "r", "", rest).replace("{group: '', kind: Service, namespace: shop, name: cart}", parent)
    };
    for kind in ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"] {
        let of_gateway = ingress(kind, "{name: front}");
        let world = crate::index::tests::world(&format!("{SERVICES}{of_gateway}"));
        assert_eq!(crate::index::tests::said(&world), [] as [String; 0], "{kind}");
        assert!(told(&[of_gateway]).parents.is_empty());
        for ours in ["{name: front}, {group: '', kind: Service, name: cart}", "{group: '', kind: Service}"] {
            let world = crate::index::tests::world(&format!("{SERVICES}{}", ingress(kind, ours)));
            assert!(!world.problems.is_empty(), "{kind}: {ours}");
        }
    }
}

#[test]
fn a_mirror_that_leads_nowhere_is_left_out_and_said() {
    let filter = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: nowhere, port: 80}}}]";
    let gathered = told(&[route(
        "HTTPRoute",
        "r",
        "",
        &format!("rules: [{{{filter}, backendRefs: [{{name: cart, port: 80}}]}}]"),
    )]);
    let route = &cart(&gathered)[0].value.http[0];
    assert!(route.mirrors.is_empty());
    assert!(matches!(&route.action, Action::Forward(list) if matches!(list[0].target, Target::Backend(_))));
    let field = "HTTPRoute shop/r: spec.rules[0].filters[0].requestMirror.backendRef: ";
    assert!(said(&gathered)[0].starts_with(field), "{:?}", said(&gathered));
}

#[test]
fn a_refused_rule_answers_and_does_nothing_else() {
    let gathered = told(&[route(
        "HTTPRoute",
        "r",
        "",
        "rules: [{matches: [{path: {value: /a}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}, \
         {type: RequestMirror, requestMirror: {backendRef: {name: cart, port: 80}}}, {type: What}], timeouts: {request: 1s}, \
         backendRefs: [{name: cart, port: 80}]}]",
    )]);
    let route = &cart(&gathered)[0].value.http[0];
    assert!(route.headers.is_none() && route.mirrors.is_empty() && route.timeout.is_none());
    let Action::Forward(list) = &route.action else { panic!("{:?}", route.action) };
    assert!(matches!(list.as_slice(), [one] if matches!(one.target, Target::Invalid { status: 500, .. })));
    let conditions = &gathered.parents.values().next().expect("a status")[0].conditions;
    assert_eq!((conditions[0].status, conditions[0].reason), (false, "UnsupportedValue"));
    assert_eq!(conditions.len(), 2, "nothing of it is in force: it is not partially invalid");
}

#[test]
fn of_a_service_entry_every_host_is_a_parent() {
    let place = |hostname: &str, namespaces: Option<&str>| Place {
        name: ServiceName { namespace: "shop".into(), hostname: hostname.into() },
        ports: [(443, ("https".to_owned(), Protocol::Tls)), (80, ("http".to_owned(), Protocol::Http))].into(),
        is_dialled: true,
        exported: namespaces.map_or(Clients::Everybody, |one| Clients::Namespaces([one.to_owned()].into())),
    };
    let none: [ReferenceGrant; 0] = [];
    let mut known = Known::new([], &none);
    known.add_entry("shop", "outside", vec![place("a.example.com", None), place("b.example.com", Some("shop"))]);
    let read = |namespace: &str| {
        let text = format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: {namespace}}}, \
             spec: {{parentRefs: [{{group: networking.istio.io, kind: ServiceEntry, namespace: shop, name: outside}}]}}}}"
        );
        let update = crate::index::tests::objects(&text);
        match &update.objects[0].kind {
            crate::source::Kind::Custom(CustomKind::HttpRoute, custom) => http_route(custom, &mut Vec::new()),
            other => panic!("{other:?}"),
        }
    };
    let (own, other) = (read("shop"), read("web"));
    let gathered = gather(&known, &[&own, &other]);
    let shown: Vec<_> = gathered.routes.iter().map(|(name, list)| (name.hostname.as_str(), list.len())).collect();
    assert_eq!(shown, [("a.example.com", 2), ("b.example.com", 1)], "the second is not exported to `web`");
    let b = &gathered.routes.values().last().expect("routes")[0];
    assert!(b.clients.has("shop") && !b.clients.has("web"));
    assert_eq!(b.value.http[0].matches[0].port, Some(80), "HTTP is not seen in TLS");
}

#[test]
fn who_loses_one_port_of_two_is_told_which() {
    let gathered = told(&[
        route("GRPCRoute", "a", ", port: 80", "rules: [{backendRefs: [{name: cart, port: 80}]}]"),
        route("HTTPRoute", "b", "", TO_CART),
    ]);
    assert_eq!(
        said(&gathered),
        ["HTTPRoute shop/b: spec.parentRefs[0]: shop/cart.shop.svc.cluster.local: GRPCRoute shop/a holds at port 80"]
    );
    assert_eq!(gathered.faults[0].1.extent, Extent::Part);
    let status = gathered.parents.iter().find(|(key, _)| key.name == "b").map(|(_, parents)| &parents[0].conditions[0]);
    assert!(status.is_some_and(|accepted| accepted.status));
    let http = &cart(&gathered)[0].value.http;
    let ports: Vec<_> = http.iter().map(|route| (route.name.as_str(), route.matches[0].port)).collect();
    assert_eq!(ports, [("shop/b/0", Some(81)), ("shop/a/0", Some(80))]);
}

#[test]
fn the_order_of_objects_does_not_matter() {
    let routes = [
        route("HTTPRoute", "a", "", "rules: [{matches: [{path: {value: /a}}], backendRefs: [{name: cart, port: 80}]}]"),
        route("HTTPRoute", "b", "", "rules: [{matches: [{path: {value: /a}}], backendRefs: [{name: cart, port: 81}]}]"),
        route("GRPCRoute", "c", ", port: 80", TO_CART),
        route("TCPRoute", "d", "", TO_CART),
        route("TCPRoute", "e", "", TO_CART),
    ];
    let mut turned = routes.clone();
    turned.reverse();
    assert_eq!(told(&routes), told(&turned));
}

#[test]
fn what_an_agent_has_no_room_for_is_left_out_route_by_route() {
    let many = |name: &str| {
        let headers: Vec<_> =
            (0..16).map(|i| format!("{{name: h{i}, type: RegularExpression, value: '{name}{i}'}}")).collect();
        let matched = format!("{{headers: [{}]}}", headers.join(", "));
        let matches = vec![matched; 64].join(", ");
        let rule = format!("{{matches: [{matches}], backendRefs: [{{name: cart, port: 80}}]}}");
        // 64 conditions with 16 expressions each, at one port.
        route("HTTPRoute", name, ", port: 80", &format!("rules: [{rule}]"))
    };
    let gathered = told(&["a", "b", "c", "d"].map(many));
    let lists = cart(&gathered);
    let names: BTreeSet<_> = lists[0].value.http.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["shop/a/0", "shop/b/0", "shop/c/0"].into(), "4000 are the most");
    let [said] = &said(&gathered)[..] else { panic!("one fault") };
    assert!(said.starts_with("HTTPRoute shop/d: spec.parentRefs[0]: all routes of shop/cart.shop.svc"), "{said}");
    let accepted: Vec<_> = gathered.parents.values().map(|parents| parents[0].conditions[0].clone()).collect();
    let accepted: Vec<_> = accepted.iter().map(|condition| (condition.status, condition.reason)).collect();
    assert_eq!(accepted[2..], [(true, "Accepted"), (false, "UnsupportedValue")]);
}

/// One rule that an agent does not take would make it refuse all that is said of the service.
#[test]
fn what_is_merged_of_several_authors_is_what_an_agent_takes() {
    let paths = ["/<", "/`", "/a>b", "/{a}", "/%zz", "/\\\"", "/a b", "/\u{e9}"];
    let filters = paths.iter().flat_map(|path| {
        let path = format!("path: {{type: ReplaceFullPath, replaceFullPath: \"{path}\"}}");
        [
            format!("filters: [{{type: URLRewrite, urlRewrite: {{{path}}}}}]"),
            format!("filters: [{{type: RequestRedirect, requestRedirect: {{{path}}}}}]"),
        ]
    });
    for filter in filters {
        let evil = route("HTTPRoute", "web/evil", "", &format!("rules: [{{{filter}}}]"));
        let own = route("HTTPRoute", "own", "", &format!("rules: [{{{filter}}}]"));
        let gathered = told(&[route("HTTPRoute", "producer", "", TO_CART), evil, own]);
        assert!(!cart(&gathered).is_empty());
        for routes in cart(&gathered) {
            assert_eq!(mesh_common::route::check(&routes.value), Ok(()), "{filter}");
        }
    }
}
