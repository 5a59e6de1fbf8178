//! GRPCRoutes as YAML, and what they become.

use super::*;
use crate::translate::{gateway::Rule, http_route::tests::custom};

fn rule_of(rule: &str) -> (Rule, Vec<String>) {
    let spec = format!("  {{parentRefs: [{{group: '', kind: Service, name: cart}}], rules: [{rule}]}}");
    let mut faults = Vec::new();
    let mut route = grpc_route(&custom("GRPCRoute", "v1", &spec), &mut faults);
    assert_eq!(route.rules.len(), 1);
    (route.rules.remove(0), faults.into_iter().map(|fault| format!("{}: {}", fault.field, fault.why)).collect())
}

#[test]
fn methods_are_paths() {
    for (method, rank, path) in [
        ("service: a.B, method: C", [3, 1, 0, 0, 0], PathMatch::Exact("/a.B/C".into())),
        ("service: a.B", [3, 0, 0, 0, 0], PathMatch::Elements("/a.B".into())),
        ("method: Get_1", [0, 5, 0, 0, 0], PathMatch::Regex("/[^/]+/Get_1".into())),
        (
            "type: RegularExpression, service: 'a|b', method: 'C.*'",
            [3, 3, 0, 0, 0],
            PathMatch::Regex("/(?:a|b)/(?:C.*)".into()),
        ),
        ("type: RegularExpression, method: Get", [0, 3, 0, 0, 0], PathMatch::Regex("/[^/]+/(?:Get)".into())),
    ] {
        let (rule, said) = rule_of(&format!("{{matches: [{{method: {{{method}}}}}]}}"));
        assert_eq!(said, Vec::<String>::new(), "{method}");
        assert_eq!((rule.matches[0].rank, &rule.matches[0].request.path), (rank, &Some(path)), "{method}");
    }
    let (rule, _) = rule_of("{}");
    assert_eq!(rule.matches[0].request, Default::default(), "every request");
}

#[test]
fn every_hostile_rule_is_refused_by_its_field() {
    for (rule, field) in [
        ("matches: [{method: {}}]", "matches[0].method"),
        ("matches: [{method: {service: a/b}}]", "matches[0].method.service"),
        ("matches: [{method: {service: a..b}}]", "matches[0].method.service"),
        ("matches: [{method: {method: a.b}}]", "matches[0].method.method"),
        ("matches: [{method: {service: a, type: Prefix}}]", "matches[0].method.type"),
        ("matches: [{method: {service: 'a)|(b', type: RegularExpression}}]", "matches[0].method.service"),
        ("matches: [{method: {service: a, unless: b}}]", "matches[0].method.unless"),
        ("matches: [{path: {value: /a}}]", "matches[0].path"),
        ("matches: [{headers: [{name: a, value: b, type: X}]}]", "matches[0].headers[0].type"),
        ("filters: [{type: URLRewrite, urlRewrite: {}}]", "filters[0].type"),
        ("filters: [{type: RequestRedirect, requestRedirect: {}}]", "filters[0].type"),
        ("timeouts: {}", "timeouts"),
    ] {
        let (read, said) = rule_of(&format!("{{{rule}}}"));
        assert_eq!(said.len(), 1, "{rule}: {said:?}");
        assert!(said[0].starts_with(&format!("spec.rules[0].{field}: ")), "{rule}: {said:?}");
        assert!(read.refused.is_some(), "{rule}");
    }
}
