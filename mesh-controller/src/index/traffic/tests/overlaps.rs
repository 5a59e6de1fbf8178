//! Which rules may take the same request: told by whether the later one is `Conflicted`.

use mesh_common::model::traffic::{HeaderMatch, HttpRoute, PathMatch, QueryMatch, RequestMatch, TextMatch};

use super::{
    overlap::{Comparisons, Earlier, disjoint},
    *,
};

/// Whether two rules on one host, with these conditions, overlap; both ways round.
fn overlap(section: &str, a: &str, b: &str) -> bool {
    let rule = |name: &str, created, matched: &str| {
        let sni = if section == "tls" { ", sniHosts: [a.example.com]" } else { "" };
        let matched = match matched {
            "" if section == "tls" => "match: [{sniHosts: ['*']}], ".to_owned(),
            "" => String::new(),
            text if text.contains("sniHosts") => format!("match: [{{{text}}}], "),
            text => format!("match: [{{{text}{sni}}}], "),
        };
        ruled("shop", name, created, &format!("{{hosts: [cart], {section}: [{{{matched}{TO_CART}}}]}}"))
    };
    let conflict = |first: &str, second: &str| {
        let assembled = assembled(&[rule("a", 1, first), rule("b", 2, second)]);
        said(&assembled).iter().any(|(_, extent)| *extent == Extent::Conflict)
    };
    let found = conflict(a, b);
    assert_eq!(conflict(b, a), found, "{a} | {b}");
    found
}

#[test]
fn requests() {
    for (a, b, expected) in [
        ("", "", true),
        ("", "uri: {exact: /a}", true),
        ("uri: {exact: /a}", "uri: {exact: /a}", true),
        ("uri: {exact: /a}", "uri: {exact: /b}", false),
        ("uri: {exact: /a}", "uri: {exact: /A}", false),
        ("uri: {exact: /a}", "uri: {exact: /A}, ignoreUriCase: true", true),
        ("uri: {exact: /a/b}", "uri: {prefix: /a}", true),
        ("uri: {exact: /b}", "uri: {prefix: /a}", false),
        ("uri: {prefix: /a}", "uri: {prefix: /ab}", true),
        ("uri: {prefix: /a}", "uri: {prefix: /b}", false),
        ("uri: {regex: /a.*}", "uri: {prefix: /b}", true),
        ("method: {exact: GET}", "method: {exact: PUT}", false),
        ("method: {exact: GET}", "scheme: {exact: http}", true),
        ("authority: {exact: A}", "authority: {exact: a}", true),
        ("authority: {exact: b}", "authority: {exact: a}", false),
        ("port: 80", "port: 81", false),
        ("port: 80", "uri: {exact: /a}", true),
        ("headers: {x: {exact: a}}", "headers: {x: {exact: b}}", false),
        ("headers: {x: {exact: a}}", "headers: {y: {exact: b}}", true),
        ("headers: {x: {exact: a}}", "withoutHeaders: {x: {exact: a}}", false),
        ("headers: {x: {exact: a}}", "withoutHeaders: {x: {}}", false),
        ("headers: {x: {exact: a}}", "withoutHeaders: {x: {exact: b}}", true),
        ("queryParams: {x: {exact: a}}", "queryParams: {x: {exact: b}}", false),
        ("sourceNamespace: a", "sourceNamespace: b", false),
        ("sourceLabels: {a: b}", "sourceLabels: {a: c}", false),
        ("sourceLabels: {a: b}", "sourceLabels: {c: b}", true),
    ] {
        assert_eq!(overlap("http", a, b), expected, "{a} | {b}");
    }
}

#[test]
fn connections() {
    for (a, b, expected) in [
        ("", "port: 80", true),
        ("port: 81", "port: 80", false),
        ("destinationSubnets: [10.0.0.0/8]", "destinationSubnets: [10.1.0.0/16]", true),
        ("destinationSubnets: [10.0.0.0/16]", "destinationSubnets: [10.1.0.0/16]", false),
        ("sourceLabels: {a: b}", "sourceLabels: {a: c}", false),
    ] {
        assert_eq!(overlap("tcp", a, b), expected, "{a} | {b}");
        assert_eq!(overlap("tls", a, b), expected, "{a} | {b}");
    }
    for (a, b, expected) in [
        ("sniHosts: [a.b]", "sniHosts: [a.b]", true),
        ("sniHosts: [a.b]", "sniHosts: [c.b]", false),
        ("sniHosts: [a.b]", "sniHosts: ['*.b']", true),
        ("sniHosts: [a.b]", "sniHosts: ['*']", true),
        ("sniHosts: [a.b]", "sniHosts: ['*.c']", false),
    ] {
        assert_eq!(overlap("tls", a, b), expected, "{a} | {b}");
    }
}

/// Rules of an object, each with one of these conditions.
fn rules(conditions: Vec<RequestMatch>) -> Routes {
    let one = ruled("shop", "v", 1, &format!("{{hosts: [cart], http: [{{{TO_CART}}}]}}")).routes.http.remove(0);
    let rule = |condition| HttpRoute { matches: vec![condition], ..one.clone() };
    Routes { http: conditions.into_iter().map(rule).collect(), ..Routes::default() }
}

/// How many comparisons it takes to say of each of these objects whether it overlaps those before it.
fn spent(objects: &[Routes]) -> usize {
    let (mut earlier, mut comparisons) = (Earlier::default(), Comparisons::default());
    for routes in objects {
        assert_eq!(earlier.overlap(routes, comparisons.next()), Ok(None));
        earlier.add(routes);
    }
    comparisons.spent()
}

#[test]
fn what_differs_is_told_apart_without_comparing_all_with_all() {
    const OBJECTS: usize = 200;
    const EACH: usize = 300;
    let all = |one: &dyn Fn(usize) -> RequestMatch| -> Vec<Routes> {
        (0..OBJECTS).map(|o| rules((0..EACH).map(|r| one(o * EACH + r)).collect())).collect()
    };
    let plain = RequestMatch::default;
    let exact = |n: usize| Some(TextMatch::Exact(format!("v{n}")));
    let header = |n: usize, value| HeaderMatch { name: format!("h{n}"), value, not: false };
    let slash = || Some(PathMatch::Elements("/".into()));
    for objects in [
        all(&|n| RequestMatch { path: Some(PathMatch::Exact(format!("/{n}"))), ..plain() }),
        all(&|n| RequestMatch { path: Some(PathMatch::Prefix(format!("/p/{n:06}"))), ..plain() }),
        all(&|n| RequestMatch { path: slash(), headers: vec![header(0, exact(n).expect("one"))], ..plain() }),
        all(&|n| RequestMatch { path: slash(), method: exact(n), ..plain() }),
        all(&|n| RequestMatch { source_namespace: Some(format!("n{n}")), ..plain() }),
    ] {
        let spent = spent(&objects);
        assert!(spent <= 8 * OBJECTS * EACH, "{spent} comparisons");
    }
}

#[test]
fn what_cannot_be_told_apart_soon_is_not_said() {
    let regex = |name: &str| {
        let prefix = |i: usize| TextMatch::Prefix(format!("{name}{i:04}"));
        let value = |i| vec![HeaderMatch { name: "h".into(), value: prefix(i), not: false }];
        rules((0..1_000).map(|i| RequestMatch { headers: value(i), ..RequestMatch::default() }).collect())
    };
    let (a, b) = (regex("a"), regex("b"));
    let (mut earlier, mut comparisons) = (Earlier::default(), Comparisons::default());
    earlier.add(&a);
    let unknown = earlier.overlap(&b, comparisons.next()).expect_err("a million pairs");
    assert!(unknown.to_string().starts_with("whether other objects' rules take the same is not said"), "{unknown}");
    assert!(comparisons.spent() <= 100_000);
    for _ in 0..100 {
        earlier.overlap(&b, comparisons.next()).expect_err("no more");
    }
    assert!(comparisons.spent() <= 2_000_000, "for all objects together");
    // It changes nothing: the author is told, and nothing is refused.
    let of = |name: &str, created, routes| Ruled {
        routes,
        ..ruled("shop", name, created, &format!("{{hosts: [cart], http: [{{{TO_CART}}}]}}"))
    };
    let assembled = assembled(&[of("a", 1, a), of("b", 2, b)]);
    let [(text, Extent::Note)] = &said(&assembled)[..] else { panic!("{:?}", said(&assembled)) };
    assert!(text.starts_with("VirtualService shop/b: spec: whether other objects' rules"), "{text}");
    assert_eq!(routes_of(&assembled, "x").len(), 2_000);
}

fn text() -> impl Strategy<Value = TextMatch> {
    let word = || prop::sample::select(vec!["a", "A", "ab", "b"]).prop_map(str::to_owned);
    prop_oneof![
        4 => word().prop_map(TextMatch::Exact),
        1 => word().prop_map(TextMatch::Prefix),
        1 => Just(TextMatch::Regex("a.*".into())),
        1 => Just(TextMatch::Any),
    ]
}

fn condition() -> impl Strategy<Value = RequestMatch> {
    let path = prop::sample::select(vec!["/", "/a", "/A", "/a/b", "/ab", "/b"]).prop_map(str::to_owned);
    let path = prop_oneof![
        path.clone().prop_map(PathMatch::Exact),
        path.clone().prop_map(PathMatch::Prefix),
        path.clone().prop_map(PathMatch::Elements),
        path.prop_map(PathMatch::Regex),
    ];
    let name = || prop::sample::select(vec!["x", "y"]).prop_map(str::to_owned);
    let header = (name(), text(), any::<bool>()).prop_map(|(name, value, not)| HeaderMatch { name, value, not });
    let query = (name(), text()).prop_map(|(name, value)| QueryMatch { name, value });
    let namespace = prop::option::of(name());
    let rest = (prop::option::of(80..82_u16), namespace, prop::option::of(text()), any::<bool>());
    let lists = (prop::collection::vec(header, 0..3), prop::collection::vec(query, 0..2));
    (prop::option::of(path), prop::option::of(text()), lists, rest).prop_map(
        |(path, method, (headers, query), rest)| {
            let (port, source_namespace, authority, ignore_path_case) = rest;
            let known =
                RequestMatch { path, method, headers, query, port, source_namespace, authority, ..Default::default() };
            RequestMatch { ignore_path_case, ..known }
        },
    )
}

proptest! {
    /// Against comparing all with all.
    #[test]
    fn what_is_put_in_order_overlaps_as_if_it_were_not(
        earlier in prop::collection::vec(condition(), 0..12),
        later in condition(),
    ) {
        let free = &mut Comparisons::default();
        let expected = earlier.iter().any(|earlier| !disjoint(earlier, &later, free).expect("few"));
        let (before, after) = (rules(earlier), rules(vec![later]));
        let mut known = Earlier::default();
        known.add(&before);
        prop_assert_eq!(known.overlap(&after, &mut Comparisons::default()).expect("few").is_some(), expected);
    }
}
