//! TLSRoutes and TCPRoutes as YAML, and what they become.

use super::*;
use crate::translate::{http_route::tests::custom, tcp_route::tcp_route};

const PARENT: &str = "parentRefs: [{group: '', kind: Service, name: cart}]";

fn read(rest: &str) -> (Route, Vec<Fault>) {
    let mut faults = Vec::new();
    let route = tls_route(&custom("TLSRoute", "v1alpha2", &format!("  {{{PARENT}, {rest}}}")), &mut faults);
    (route, faults)
}

#[test]
fn host_names_are_server_names() {
    let rules = "rules: [{backendRefs: [{name: cart, port: 443}]}]";
    let (route, faults) = read(&format!("hostnames: [a.example.com, '*.example.org'], {rules}"));
    assert!(faults.is_empty());
    assert_eq!(route.server_names, ["a.example.com", "*.example.org"]);
    let (route, faults) = read(rules);
    assert!(faults.is_empty());
    assert_eq!(route.server_names, ["*"]);
}

#[test]
fn a_name_that_cannot_be_read_refuses_every_connection() {
    let rules = "rules: [{backendRefs: [{name: cart, port: 443}]}]";
    for (names, field) in [
        ("[a.example.com, '*']", "spec.hostnames[1]"),
        ("['a.*.com']", "spec.hostnames[0]"),
        ("[10.0.0.1]", "spec.hostnames[0]"),
        ("[7]", "spec.hostnames[0]"),
        ("a.example.com", "spec.hostnames"),
        (&format!("[{}]", vec!["a"; 1025].join(",")), "spec.hostnames"),
    ] {
        let (route, faults) = read(&format!("hostnames: {names}, {rules}"));
        assert_eq!((faults[0].field.as_str(), faults[0].extent), (field, Extent::Whole));
        assert_eq!(route.server_names, ["*"]);
        assert!(route.rules[0].refused.is_some());
    }
}

#[test]
fn only_the_first_rule_can_get_anything() {
    let (route, faults) = read("rules: [{name: a}, {name: b}]");
    assert_eq!(route.rules.len(), 1);
    assert_eq!(faults[0].field, "spec.rules[1]");
}

#[test]
fn a_tcp_route_has_backends_and_nothing_else() {
    for (rest, field) in [
        ("rules: [{matches: []}]", "spec.rules[0].matches"),
        ("rules: [{filters: []}]", "spec.rules[0].filters"),
        ("hostnames: [a], rules: [{}]", "spec.hostnames"),
        ("rules: []", "spec.rules"),
    ] {
        let mut faults = Vec::new();
        let route = tcp_route(&custom("TCPRoute", "v1alpha2", &format!("  {{{PARENT}, {rest}}}")), &mut faults);
        assert_eq!(faults[0].field, field, "{rest}");
        assert!(route.rules[0].refused.is_some(), "{rest}");
    }
}
