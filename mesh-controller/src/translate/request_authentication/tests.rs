//! What users write, and what becomes of it.

use super::*;
use crate::{
    index::tests::settings,
    translate::fields::tests::{any_json, broken, custom, said},
};

const KEY: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk","kid":"one"}]}"#;

fn translated(text: &str) -> (RequestAuthentication, Vec<String>) {
    let mut faults = Vec::new();
    let object = custom(text);
    let found = request_authentication(&settings(), &object, &mut faults);
    (found, said(faults))
}

fn of_rules(rules: &str) -> (RequestAuthentication, Vec<String>) {
    translated(&format!(
        "metadata: {{name: a, namespace: shop}}\nspec: {{jwtRules: [{}]}}",
        rules.replace("KEY", &format!("'{KEY}'"))
    ))
}

#[test]
fn a_rule_is_read_as_written() {
    let (found, said) = of_rules(
        "{issuer: i, audiences: [a, b], jwks: KEY, fromHeaders: [{name: X-Jwt, prefix: 'Jwt '}], fromParams: [t], \
          fromCookies: [c], outputPayloadToHeader: X-Payload, forwardOriginalToken: true, \
          spaceDelimitedClaims: [roles, realm.names], \
          outputClaimToHeaders: [{header: X-Role, claim: realm.role}]}, {issuer: j, jwksUri: 'https://j.example/jwks'}, \
         {issuer: k, jwks_uri: 'http://keys.shop:8080/', timeout: 20s}",
    );
    assert_eq!(said, [] as [String; 0]);
    let [one, two, three] = found.rules.as_slice() else { panic!("three rules") };
    let TokenRule { origin, issuer, audiences, keys, from_headers, .. } = &one.rule;
    assert_eq!((origin.object.as_str(), origin.field.as_str()), ("RequestAuthentication shop/a", "spec.jwtRules[0]"));
    assert_eq!((issuer.as_str(), audiences.as_slice()), ("i", &["a".to_owned(), "b".into()][..]));
    assert!(keys.as_deref().is_some_and(|keys| keys.contains("Ed25519")), "{keys:?}");
    assert_eq!((from_headers[0].name.as_str(), from_headers[0].prefix.as_str()), ("x-jwt", "Jwt "));
    assert_eq!((one.rule.from_params[0].as_str(), one.rule.from_cookies[0].as_str()), ("t", "c"));
    assert_eq!((one.rule.payload_header.as_deref(), one.rule.forward), (Some("x-payload"), true));
    assert_eq!(one.rule.claim_headers[0].claim, ["realm", "role"]);
    assert_eq!(one.rule.space_delimited, ["roles", "realm.names"]);
    assert_eq!(one.remote, None);
    let remote = |uri: &str, timeout| Some(Remote { uri: uri.into(), timeout: Millis(timeout) });
    assert_eq!((two.rule.keys.as_ref(), &two.remote), (None, &remote("https://j.example/jwks", 5000)));
    assert_eq!(three.remote, remote("http://keys.shop:8080/", 20_000));
}

#[test]
fn a_rule_that_cannot_be_read_refuses_its_issuers_tokens() {
    for (rule, field, issuer) in [
        ("{jwks: KEY}", "issuer: is missing", ""),
        ("{issuer: i}", "jwksUri: is missing", "i"),
        ("{issuer: i, jwks: '{}'}", "jwks: is no JWK Set", "i"),
        ("{issuer: i, jwks: 'x'}", "jwks: is no JSON", "i"),
        (
            "{issuer: i, jwks: '{\"keys\":[{\"kty\":\"oct\",\"k\":\"AA\"}]}'}",
            "jwks: has no key that can be used: keys[0]",
            "i",
        ),
        ("{issuer: i, jwks: 7}", "jwks: ", "i"),
        ("{issuer: i, jwksUri: 'file:///etc/passwd'}", "jwksUri: ", "i"),
        ("{issuer: i, jwksUri: 'ftp://a/'}", "jwksUri: is neither http nor https", "i"),
        ("{issuer: i, jwksUri: '/jwks'}", "jwksUri: names no host", "i"),
        ("{issuer: i, jwksUri: 'https://me:pass@a/'}", "jwksUri: says who asks", "i"),
        ("{issuer: i, jwksUri: 'https://a/', timeout: soon}", "timeout: ", "i"),
        ("{issuer: i, jwks: KEY, audiences: shop}", "audiences: ", "i"),
        ("{issuer: i, jwks: KEY, audiences: [a, '']}", "audiences[1]: ", "i"),
        ("{issuer: i, jwks: KEY, fromHeaders: [{prefix: x}]}", "fromHeaders[0].name: is missing", "i"),
        ("{issuer: i, jwks: KEY, fromHeaders: [{name: 'a b'}]}", "fromHeaders[0].name: `a b` is no header name", "i"),
        ("{issuer: i, jwks: KEY, fromHeaders: [{name: a, sufix: b}]}", "fromHeaders[0].sufix: ", "i"),
        ("{issuer: i, jwks: KEY, outputPayloadToHeader: Host}", "outputPayloadToHeader: `host`", "i"),
        (
            "{issuer: i, jwks: KEY, outputPayloadToHeader: X-Forwarded-Client-Cert}",
            "outputPayloadToHeader: `x-forwarded-client-cert` says who the client is",
            "i",
        ),
        (
            "{issuer: i, jwks: KEY, outputClaimToHeaders: [{header: x_forwarded_for, claim: ip}]}",
            "outputClaimToHeaders[0].header: `x_forwarded_for` says who the client is",
            "i",
        ),
        ("{issuer: i, jwks: KEY, outputClaimToHeaders: [{header: x}]}", "outputClaimToHeaders[0].header: ", "i"),
        (
            "{issuer: i, jwks: KEY, outputClaimToHeaders: [{header: x, claim: a..b}]}",
            "outputClaimToHeaders[0].claim: ",
            "i",
        ),
        ("{issuer: i, jwks: KEY, requiredClaims: [sub]}", "requiredClaims: is not a known field", "i"),
    ] {
        let (found, said) = of_rules(rule);
        assert!(said[0].starts_with(&format!("spec.jwtRules[0].{field}")), "{rule}: {said:?}");
        assert!(said.last().is_some_and(|last| last.ends_with("tokens of this issuer are refused")), "{said:?}");
        let [Issued { rule: read, remote: None }] = found.rules.as_slice() else { panic!("{found:?}") };
        assert_eq!((read.keys.as_ref(), read.issuer.as_str()), (None, issuer), "{rule}");
    }
    let (found, said) = translated("metadata: {name: a, namespace: shop}\nspec: {jwtRules: 7}");
    assert!(said[0].starts_with("spec.jwtRules: "), "{said:?}");
    assert_eq!(found.rules[0].rule.keys, None);
    let (found, said) = translated("metadata: {name: a, namespace: shop}");
    assert_eq!((found.rules.len(), said.len()), (0, 0), "an object without rules asks for nothing");
}

#[test]
fn what_is_only_worth_a_word_changes_nothing() {
    let (found, said) = of_rules("{issuer: i, jwks: KEY, jwksUri: 'https://a/', timeout: 2m}");
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(found.rules[0].rule.keys.is_some() && found.rules[0].remote.is_none());
    let (found, said) = of_rules("{issuer: i, jwksUri: 'https://a/', timeout: 2m}");
    assert_eq!(said, ["spec.jwtRules[0].timeout: is more than 30s; 30s it is"]);
    assert_eq!(found.rules[0].remote.as_ref().map(|remote| remote.timeout), Some(Millis(30_000)));
}

#[test]
fn what_selects_nobody_for_sure_selects_the_namespace() {
    let service = |name: &str| Target::Service(hosts::service(&settings(), "shop", name));
    let nobody = || Workloads::Targets(vec![]);
    for (spec, expected, faults) in [
        ("{}", Workloads::All, 0),
        ("{selector: {}}", Workloads::All, 0),
        ("{selector: {matchLabels: {app: cart}}}", Workloads::Labelled([("app".into(), "cart".into())].into()), 0),
        ("{selector: {matchLables: {app: cart}}}", Workloads::All, 1),
        ("{selector: 7}", Workloads::All, 1),
        ("{targetRefs: []}", Workloads::All, 0),
        ("{targetRef: {kind: Service, name: cart}}", Workloads::Targets(vec![service("cart")]), 0),
        (
            "{targetRefs: [{kind: Service, group: '', name: cart}, {kind: Service, group: core, name: pay}]}",
            Workloads::Targets(vec![service("cart"), service("pay")]),
            0,
        ),
        (
            "{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: g}]}",
            Workloads::Targets(vec![Target::Waypoint("g".into())]),
            1,
        ),
        ("{targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint}]}", nobody(), 1),
        ("{targetRefs: [{kind: Gateway, name: g}]}", nobody(), 1),
        ("{targetRefs: [{kind: Service, name: 'Not A Name'}]}", Workloads::All, 2),
        ("{targetRefs: [{kind: Service, name: cart, namespace: other}]}", Workloads::All, 2),
        ("{targetRefs: {name: cart}}", Workloads::All, 1),
        ("{selector: {matchLabels: {app: cart}}, targetRefs: [{kind: Service, name: cart}]}", Workloads::All, 1),
    ] {
        let (found, said) = translated(&format!("metadata: {{name: a, namespace: shop}}\nspec: {spec}"));
        assert_eq!((&found.workloads, said.len()), (&expected, faults), "{spec}: {said:?}");
    }
}

proptest::proptest! {
    #[test]
    fn nothing_that_is_written_crashes_or_counts_unread(value in any_json()) {
        let good = custom(&format!(
            "metadata: {{name: a, namespace: shop}}\nspec: {{selector: {{matchLabels: {{a: b}}}}, jwtRules: [{{issuer: i, \
             jwks: '{KEY}', fromHeaders: [{{name: x, prefix: y}}]}}]}}",
        ));
        for spec in broken(&good.spec, &value) {
            let mut faults = Vec::new();
            let found = request_authentication(&settings(), &Custom { spec, ..good.clone() }, &mut faults);
            let keyed = found.rules.iter().filter(|issued| issued.rule.keys.is_some()).count();
            let refused = faults.iter().any(|fault| fault.why.ends_with("tokens of this issuer are refused"));
            proptest::prop_assert!(keyed <= 1 && !(keyed == 1 && refused));
        }
    }
}
