//! What Istio's documentation shows, in other words: policies together, and whom they let through.

use serde_json::json;

use super::*;

/// Who asks, over which port, for what; and whether it is let through.
type Asks<'a> = &'a [(Option<&'a str>, u16, Call, bool)];

fn check(specs: &[&str], asks: Asks<'_>) {
    let policies: Vec<_> = specs
        .iter()
        .map(|spec| {
            let (policy, said) = translated(spec);
            assert_eq!(said, [] as [String; 0], "{spec}");
            policy
        })
        .collect();
    let policies: Vec<_> = policies.iter().collect();
    for (who, port, call, expected) in asks {
        assert_eq!(passes(&policies, &from(*who, "10.0.0.1", *port), call), *expected, "{specs:?}: {who:?} {call:?}");
    }
}

const CURL: Option<&str> = Some("spiffe://cluster.local/ns/default/sa/curl");
const TEST: Option<&str> = Some("spiffe://cluster.local/ns/test/sa/any");
const DEV: Option<&str> = Some("spiffe://cluster.local/ns/dev/sa/any");

#[test]
fn an_account_or_a_namespace_with_a_token_reads_and_writes() {
    let issued = |call: Call| call.by(json!({"iss": "https://accounts.example.com", "sub": "x"}));
    let spec = "
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/curl]}}, {source: {namespaces: [test]}}]
    to: [{operation: {methods: [GET], paths: ['/info*']}}, {operation: {methods: [POST], paths: [/data]}}]
    when: [{key: 'request.auth.claims[iss]', values: ['https://accounts.example.com']}]
";
    check(
        &[spec],
        &[
            (CURL, 80, issued(call("GET", "/info")), true),
            (TEST, 80, issued(call("GET", "/information")), true),
            (TEST, 80, issued(call("POST", "/data")), true),
            (TEST, 80, issued(call("POST", "/info")), false),
            (CURL, 80, issued(call("GET", "/data")), false),
            (CURL, 80, call("GET", "/info"), false),
            (CURL, 80, call("GET", "/info").by(json!({"iss": "https://other.example", "sub": "x"})), false),
            (DEV, 80, issued(call("GET", "/info")), false),
            (None, 80, issued(call("GET", "/info")), false),
        ],
    );
}

#[test]
fn a_namespace_may_not_write_and_a_port_takes_no_writes() {
    let dev =
        "  action: DENY\n  rules: [{from: [{source: {namespaces: [dev]}}], to: [{operation: {methods: [POST]}}]}]";
    check(
        &[dev],
        &[(DEV, 80, call("POST", "/"), false), (DEV, 80, call("GET", "/"), true), (TEST, 80, call("POST", "/"), true)],
    );
    let port = "  action: DENY\n  rules: [{to: [{operation: {methods: [POST], ports: ['8080']}}]}]";
    check(
        &[port],
        &[
            (TEST, 8080, call("POST", "/"), false),
            (TEST, 8080, call("GET", "/"), true),
            (TEST, 8081, call("POST", "/"), true),
        ],
    );
}

#[test]
fn nothing_is_allowed_and_everything() {
    check(&["  {}"], &[(CURL, 80, call("GET", "/"), false)]);
    check(&["  rules: [{}]"], &[(None, 80, call("GET", "/"), true)]);
    // Refusals come first.
    check(
        &["  rules: [{}]", "  action: DENY\n  rules: [{to: [{operation: {paths: [/admin]}}]}]"],
        &[(None, 80, call("GET", "/"), true), (None, 80, call("GET", "/admin"), false)],
    );
}

#[test]
fn whoever_has_no_token_is_refused_but_for_one_path() {
    let spec = "
  action: DENY
  rules:
  - from: [{source: {notRequestPrincipals: ['*']}}]
    to: [{operation: {notPaths: [/healthz]}}]
";
    check(
        &[spec],
        &[
            (None, 80, call("GET", "/"), false),
            (None, 80, call("GET", "/healthz"), true),
            (None, 80, call("GET", "/").by(json!({"iss": "i", "sub": "s"})), true),
        ],
    );
}

#[test]
fn a_host_is_for_one_group_only() {
    let spec = "
  action: ALLOW
  rules:
  - to: [{operation: {hosts: [public.example.com]}}]
  - to: [{operation: {hosts: ['*.corp.example.com']}}]
    when: [{key: 'request.auth.claims[groups]', values: [staff]}, {key: 'request.headers[x-version]', notValues: ['v0*']}]
";
    let staff =
        || call("GET", "/").to("a.corp.example.com").by(json!({"iss": "i", "sub": "s", "groups": ["x", "staff"]}));
    check(
        &[spec],
        &[
            (None, 80, call("GET", "/").to("public.example.com:80"), true),
            (None, 80, call("GET", "/").to("a.corp.example.com"), false),
            (None, 80, staff(), true),
            (None, 80, staff().with("x-version", "v01"), false),
            (None, 80, staff().with("x-version", "v1"), true),
        ],
    );
}

#[test]
fn templates_of_paths() {
    for (template, path, expected) in [
        ("/foo/{*}", "/foo/bar", true),
        ("/foo/{*}", "/foo/bar/baz", false),
        ("/foo/{*}", "/foo/", false),
        ("/foo/{**}/", "/foo/bar/", true),
        ("/foo/{**}/", "/foo/bar/baz.txt/", true),
        ("/foo/{**}/", "/foo/bar", false),
        ("/foo/{*}/bar/{**}", "/foo/buzz/bar/", true),
        ("/foo/{*}/bar/{**}", "/foo/buzz/bar/baz/a", true),
        ("/foo/{*}/bar/{**}", "/foo/a/b/bar/baz", false),
    ] {
        let spec = format!("  rules: [{{to: [{{operation: {{paths: ['{template}']}}}}]}}]");
        check(&[&spec], &[(None, 80, call("GET", path), expected)]);
    }
}
