//! Conditions one by one.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh_common::{
    model::traffic::{HeaderMatch, Labels, PathMatch, QueryMatch, RequestMatch, TextMatch},
    route::{Effort, Matches, Request},
};

fn exact(text: &str) -> Option<TextMatch> {
    Some(TextMatch::Exact(text.into()))
}

fn header(name: &str, value: TextMatch, not: bool) -> RequestMatch {
    RequestMatch { headers: vec![HeaderMatch { name: name.into(), value, not }], ..RequestMatch::default() }
}

fn query(name: &str, value: TextMatch) -> RequestMatch {
    RequestMatch { query: vec![QueryMatch { name: name.into(), value }], ..RequestMatch::default() }
}

fn path(path: PathMatch, ignore_path_case: bool) -> RequestMatch {
    RequestMatch { path: Some(path), ignore_path_case, ..RequestMatch::default() }
}

/// Whether the condition holds for a request of this path, query, authority and headers.
fn holds(condition: &RequestMatch, target: &str, authority: &str, headers: &[(&'static str, &'static str)]) -> bool {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let labels = Labels::from([("app".into(), "web".into())]);
    let request = Request {
        method: &Method::GET,
        path,
        query,
        scheme: "http",
        authority,
        headers: &map,
        port: 80,
        source_labels: &labels,
        source_namespace: "shop",
    };
    let matches = Matches::new(std::slice::from_ref(condition)).expect("compiles");
    matches.matches(&request, &Effort::default()).expect("short texts")
}

#[test]
fn paths_match_whole_by_beginning_by_elements_and_by_pattern() {
    use PathMatch::{Elements, Exact, Prefix, Regex};
    for (condition, target, matches) in [
        (path(Exact("/a".into()), false), "/a?x", true),
        (path(Exact("/a".into()), false), "/a/", false),
        (path(Exact("/a".into()), false), "/A", false),
        (path(Exact("/a".into()), true), "/A", true),
        (path(Exact("/A".into()), true), "/a", true),
        (path(Prefix("/a".into()), false), "/ab", true),
        (path(Prefix("/a/".into()), false), "/a", false),
        (path(Elements("/a".into()), false), "/a", true),
        (path(Elements("/a".into()), false), "/a/", true),
        (path(Elements("/a".into()), false), "/a/b", true),
        (path(Elements("/a".into()), false), "/ab", false),
        (path(Elements("/A".into()), true), "/a/b", true),
        (path(Elements("/".into()), false), "/a", true),
        (path(Elements("/".into()), false), "*", false),
        (path(Elements("/".into()), false), "", false),
        (RequestMatch::default(), "*", true),
        (path(Regex("/a|/b".into()), false), "/b", true),
        (path(Regex("/a|/b".into()), false), "/bc", false),
        (path(Regex("/a/[0-9]+".into()), true), "/A/1", true),
        (path(Exact("/%41".into()), false), "/A", false),
    ] {
        assert_eq!(holds(&condition, target, "cart", &[]), matches, "{condition:?} {target}");
    }
}

#[test]
fn a_header_that_is_repeated_is_one_text() {
    let two = [("k", "a"), ("k", "b")];
    for (condition, headers, matches) in [
        (header("k", TextMatch::Exact("a,b".into()), false), &two[..], true),
        (header("k", TextMatch::Exact("a".into()), false), &two, false),
        (header("k", TextMatch::Exact("b".into()), false), &two[1..], true),
        (header("k", TextMatch::Prefix("a,".into()), false), &two, true),
        (header("k", TextMatch::Regex("a.b".into()), false), &two, true),
        (header("k", TextMatch::Any, false), &[], false),
        (header("k", TextMatch::Any, false), &[("k", "")], true),
        (header("k", TextMatch::Exact("a".into()), true), &[], true),
        (header("k", TextMatch::Exact("a".into()), true), &two, true),
        (header("k", TextMatch::Exact("a".into()), true), &two[..1], false),
        (header("k", TextMatch::Any, true), &two, false),
        (header("K", TextMatch::Exact("a".into()), false), &two[..1], true),
        (header(":authority", TextMatch::Exact("cart".into()), false), &[], true),
        (header("host", TextMatch::Exact("cart".into()), false), &[("host", "other")], true),
        (header(":method", TextMatch::Exact("GET".into()), false), &[], true),
        (header(":scheme", TextMatch::Exact("https".into()), false), &[], false),
    ] {
        assert_eq!(holds(&condition, "/", "cart", headers), matches, "{condition:?} {headers:?}");
    }
}

#[test]
fn query_parameters_are_decoded_and_the_first_counts() {
    for (condition, target, matches) in [
        (query("k", TextMatch::Exact("a b".into())), "/?k=a%20b", true),
        (query("k", TextMatch::Exact("a+b".into())), "/?k=a+b", true),
        (query("k", TextMatch::Exact("a".into())), "/?k=b&k=a", false),
        (query("k", TextMatch::Exact("a".into())), "/?x=1&%6B=a", true),
        (query("k", TextMatch::Exact("a=b".into())), "/?k=a=b", true),
        (query("k", TextMatch::Any), "/?k", true),
        (query("k", TextMatch::Any), "/?kk=1", false),
        (query("k", TextMatch::Any), "/", false),
        (query("k", TextMatch::Regex("[0-9]+".into())), "/?k=12", true),
        (query("k", TextMatch::Regex("[0-9]+".into())), "/?k=12a", false),
        (query("k", TextMatch::Exact("%zz".into())), "/?k=%zz", true),
    ] {
        assert_eq!(holds(&condition, target, "cart", &[]), matches, "{condition:?} {target}");
    }
}

#[test]
fn an_authority_fits_with_its_port_or_without() {
    let regex = |pattern: &str| Some(TextMatch::Regex(pattern.into()));
    for (text, authority, matches) in [
        (exact("cart"), "cart", true),
        (exact("cart"), "CART:8080", true),
        (exact("Cart:8080"), "cart:8080", true),
        (exact("cart:8080"), "cart", false),
        (exact("[::1]"), "[::1]:80", true),
        (exact("[::1]"), "[::1]", true),
        (exact("[:"), "[::1]", false),
        (exact("cart"), "cart:http", false),
        (regex("c.*t"), "cart:80", true),
        (regex("C.*t"), "cart", true),
        (Some(TextMatch::Prefix("Ca".into())), "cart", true),
        (Some(TextMatch::Any), "", false),
    ] {
        let condition = RequestMatch { authority: text, ..RequestMatch::default() };
        assert_eq!(holds(&condition, "/", authority, &[]), matches, "{condition:?} {authority}");
    }
}

#[test]
fn all_that_is_said_must_hold() {
    let all = RequestMatch {
        path: Some(PathMatch::Exact("/".into())),
        method: exact("GET"),
        scheme: exact("HTTP"),
        authority: exact("cart"),
        port: Some(80),
        source_labels: Labels::from([("app".into(), "web".into())]),
        source_namespace: Some("shop".into()),
        ..RequestMatch::default()
    };
    assert!(holds(&all, "/", "cart", &[]));
    let labels = |value: &str| Labels::from([("app".into(), "web".into()), ("tier".into(), value.into())]);
    for (field, wrong) in [
        ("path", RequestMatch { path: Some(PathMatch::Exact("/x".into())), ..all.clone() }),
        ("method", RequestMatch { method: exact("get"), ..all.clone() }),
        ("scheme", RequestMatch { scheme: exact("https"), ..all.clone() }),
        ("authority", RequestMatch { authority: exact("car"), ..all.clone() }),
        ("port", RequestMatch { port: Some(81), ..all.clone() }),
        ("labels", RequestMatch { source_labels: labels("1"), ..all.clone() }),
        ("namespace", RequestMatch { source_namespace: Some("sho".into()), ..all.clone() }),
    ] {
        assert!(!holds(&wrong, "/", "cart", &[]), "{field}");
    }
}

#[test]
fn an_error_names_the_field() {
    let bad = || TextMatch::Regex("(".into());
    for (condition, field) in [
        (path(PathMatch::Regex("(".into()), false), "matches[1].path.regex"),
        (header("k", bad(), false), "matches[1].headers[0].value.regex"),
        (header("a b", TextMatch::Any, false), "matches[1].headers[0].name"),
        (header(":path", TextMatch::Any, false), "matches[1].headers[0].name"),
        (query("k", bad()), "matches[1].query[0].value.regex"),
        (RequestMatch { method: Some(bad()), ..RequestMatch::default() }, "matches[1].method.regex"),
    ] {
        let error = Matches::new(&[RequestMatch::default(), condition]).expect_err(field);
        assert_eq!(error.field, field);
    }
}
