//! Which rules may take the same request: told by whether the later one is `Conflicted`.

use super::*;

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
