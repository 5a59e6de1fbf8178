//! AuthorizationPolicies as YAML, and whom they let through.

use std::net::IpAddr;

use mesh_common::model::{Connection, Identity, Passing, authorize};

use super::*;
use crate::{
    index::tests::settings,
    source::{CustomKind, Kind},
};

/// The policy that a spec in namespace `shop` becomes, and what is said of it.
fn translated(spec: &str) -> (AuthorizationPolicy, Vec<String>) {
    let text = format!(
        "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n{spec}"
    );
    let documents = crate::source::parse("p.yaml", &text).expect("YAML");
    let Kind::Custom(CustomKind::AuthorizationPolicy, object) = &documents.objects[0].kind else {
        panic!("another kind")
    };
    let mut faults = Vec::new();
    let policy = authorization_policy(&settings(), object, &mut faults);
    (policy, faults.into_iter().map(|f| format!("{}: {}", f.field, f.why)).collect())
}

fn from(identity: Option<&str>, ip: &str, port: u16) -> Connection {
    Connection {
        source_identity: identity.map(|text| text.parse::<Identity>().expect("identity")),
        source_ip: ip.parse().expect("address"),
        destination: (IpAddr::from([10, 0, 0, 9]), port).into(),
    }
}

/// The number of the rule that matches.
fn matching(policy: &AuthorizationPolicy, connection: &Connection) -> Option<usize> {
    policy.policy.rules.iter().position(|rule| rule.matches(policy.policy.action, connection, &Passing::BYTES))
}

const CART: Option<&str> = Some("spiffe://cluster.local/ns/shop/sa/cart");
const EVIL: Option<&str> = Some("spiffe://cluster.local/ns/evil/sa/cart");

#[test]
fn the_shape_that_users_write() {
    let (policy, said) = translated(
        "
  selector: {matchLabels: {app: order-service}}
  rules:
    - from:
        - source:
            principals: [cluster.local/ns/production/sa/api-gateway, cluster.local/ns/production/sa/payment-service]
      to:
        - operation: {methods: [GET, POST], paths: [/api/v1/*]}
    - from:
        - source: {principals: [cluster.local/ns/shop/sa/cart]}
      to:
        - operation: {ports: ['8080']}
",
    );
    assert_eq!(policy.policy.action, Action::Allow);
    assert_eq!(policy.policy.scope, Scope::WorkloadSelector);
    // The rule with HTTP conditions keeps its place and never matches.
    assert_eq!(policy.policy.rules[0], only(Match::nobody()));
    let gateway = Some("spiffe://cluster.local/ns/production/sa/api-gateway");
    assert_eq!(matching(&policy, &from(gateway, "10.0.0.1", 8080)), None);
    assert_eq!(matching(&policy, &from(CART, "10.0.0.1", 8080)), Some(1));
    assert_eq!(matching(&policy, &from(CART, "10.0.0.1", 8081)), None);
    assert_eq!(said.len(), 2);
    assert!(said[0].starts_with("spec.rules[0].to[0].operation.methods: HTTP"), "{}", said[0]);
}

#[test]
fn conditions_of_every_kind() {
    for (rule, yes, no) in [
        (
            "from: [{source: {principals: ['cluster.local/ns/shop/*']}}]",
            from(CART, "1.1.1.1", 1),
            from(EVIL, "1.1.1.1", 1),
        ),
        ("from: [{source: {principals: ['*/sa/cart']}}]", from(EVIL, "1.1.1.1", 1), from(None, "1.1.1.1", 1)),
        ("from: [{source: {principals: ['*']}}]", from(EVIL, "1.1.1.1", 1), from(None, "1.1.1.1", 1)),
        ("from: [{source: {notPrincipals: ['*']}}]", from(None, "1.1.1.1", 1), from(CART, "1.1.1.1", 1)),
        ("from: [{source: {namespaces: [shop]}}]", from(CART, "1.1.1.1", 1), from(EVIL, "1.1.1.1", 1)),
        ("from: [{source: {notNamespaces: ['ev*']}}]", from(CART, "1.1.1.1", 1), from(EVIL, "1.1.1.1", 1)),
        ("from: [{source: {serviceAccounts: [cart]}}]", from(CART, "1.1.1.1", 1), from(EVIL, "1.1.1.1", 1)),
        ("from: [{source: {serviceAccounts: [evil/cart]}}]", from(EVIL, "1.1.1.1", 1), from(CART, "1.1.1.1", 1)),
        (
            "from: [{source: {ipBlocks: [10.1.0.0/16, 'fd00::1']}}]",
            from(None, "10.1.2.3", 1),
            from(None, "10.2.2.3", 1),
        ),
        ("from: [{source: {notIpBlocks: [10.1.0.0/16]}}]", from(None, "10.2.2.3", 1), from(None, "::ffff:10.1.2.3", 1)),
        ("to: [{operation: {ports: ['80', '81']}}]", from(None, "1.1.1.1", 81), from(None, "1.1.1.1", 82)),
        ("to: [{operation: {notPorts: ['80']}}]", from(None, "1.1.1.1", 81), from(None, "1.1.1.1", 80)),
        ("when: [{key: source.ip, values: [10.0.0.1]}]", from(None, "10.0.0.1", 1), from(None, "10.0.0.2", 1)),
        ("when: [{key: source.namespace, notValues: [evil]}]", from(CART, "1.1.1.1", 1), from(EVIL, "1.1.1.1", 1)),
        ("when: [{key: destination.ip, values: [10.0.0.0/24]}]", from(None, "1.1.1.1", 1), {
            let mut other = from(None, "1.1.1.1", 1);
            other.destination = "10.0.1.9:1".parse().expect("address");
            other
        }),
        (
            "when: [{key: destination.port, values: ['80']}, {key: source.principal, values: ['*']}]",
            from(CART, "1.1.1.1", 80),
            from(None, "1.1.1.1", 80),
        ),
    ] {
        let (policy, said) = translated(&format!("  rules:\n  - {rule}\n"));
        assert_eq!(said, [] as [String; 0], "{rule}");
        assert_eq!(matching(&policy, &yes), Some(0), "{rule}");
        assert_eq!(matching(&policy, &no), None, "{rule}");
    }
}

#[test]
fn no_rules_and_empty_rules() {
    let anyone = from(None, "1.1.1.1", 1);
    let (nothing, _) = translated("  {}");
    assert!(authorize([&*nothing.policy].into_iter(), None, &anyone, &Passing::BYTES).is_err());
    let (all, _) = translated("  rules: [{}]");
    assert_eq!(all.policy.rules, [Rule::default()]);
    assert!(authorize([&*all.policy].into_iter(), None, &anyone, &Passing::BYTES).is_ok());
    let (never, _) = translated("  action: DENY");
    assert!(authorize([&*never.policy].into_iter(), None, &anyone, &Passing::BYTES).is_ok());
}

#[test]
fn a_deny_rule_loses_its_http_conditions_only() {
    let (policy, said) = translated(
        "
  action: DENY
  rules:
  - from: [{source: {namespaces: [evil], requestPrincipals: ['*']}}]
    to: [{operation: {paths: [/admin]}}]
  - to: [{operation: {methods: [DELETE]}}]
",
    );
    assert_eq!(said.len(), 3);
    assert_eq!(matching(&policy, &from(EVIL, "1.1.1.1", 1)), Some(0));
    assert_eq!(matching(&policy, &from(CART, "1.1.1.1", 1)), Some(1));
    assert_eq!(policy.policy.rules[1], only(everybody()));
    // A source that is left without conditions stands for everybody, whatever the other sources say.
    let (policy, _) = translated(
        "
  action: DENY
  rules:
  - from: [{source: {namespaces: [evil]}}, {source: {remoteIpBlocks: [1.2.3.4]}}]
    to: [{operation: {ports: ['80']}}]
",
    );
    assert_eq!(matching(&policy, &from(CART, "1.1.1.1", 80)), Some(0));
    assert_eq!(matching(&policy, &from(CART, "1.1.1.1", 81)), None);
}

#[test]
fn what_cannot_be_honoured_refuses() {
    for (spec, field) in [
        ("  rules: [{from: [{source: {principal: [a]}}]}]", "spec.rules[0].from[0].source.principal: unknown field"),
        ("  rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]", "spec.rules[0].from[0].source.ipBlocks[0]: "),
        ("  rules: [{from: [{source: {principals: ['spiffe://a/ns/b/sa/c']}}]}]", "spec.rules[0].from[0].source.prin"),
        ("  rules: [{from: [{source: {namespaces: ['a*b']}}]}]", "spec.rules[0].from[0].source.namespaces[0]: "),
        ("  rules: [{from: [{source: {}}]}]", "spec.rules[0].from[0].source: has no condition"),
        ("  rules: [{to: [{operation: {ports: ['0']}}]}]", "spec.rules[0].to[0].operation.ports[0]: `0` is not a port"),
        ("  rules: [{to: [{operation: {ports: [80]}}]}]", "spec.rules[0].to[0].operation.ports[0]: invalid type"),
        ("  rules: [{when: [{key: source.colour, values: [red]}]}]", "spec.rules[0].when[0].key: `source.colour`"),
        ("  rules: [{when: [{key: source.ip}]}]", "spec.rules[0].when[0]: has neither"),
        ("  targetRefs: [{kind: Service, name: a}]\n  rules: [{}]", "spec.targetRefs: is not supported yet"),
        ("  selector: {matchExpressions: []}\n  rules: [{}]", "spec.selector.matchExpressions: unknown field"),
        ("  action: CUSTOM\n  provider: {name: x}\n  rules: [{}]", "spec.provider: is not supported yet"),
        ("  action: allow\n  rules: [{}]", "spec.action: `allow`"),
    ] {
        let (policy, said) = translated(spec);
        assert!(said[0].starts_with(field), "{spec}: {said:?}");
        let verdict = authorize([&*policy.policy].into_iter(), None, &from(CART, "10.0.0.1", 80), &Passing::BYTES);
        assert!(verdict.is_err(), "{spec} lets traffic through");
        let verdict = authorize([&*policy.policy].into_iter(), None, &from(None, "fd00::1", 80), &Passing::BYTES);
        assert!(verdict.is_err(), "{spec} lets traffic through");
    }
}

#[test]
fn audit_refuses_nobody_and_is_no_problem() {
    let (policy, said) = translated("  action: AUDIT\n  rules: [{from: [{source: {namespaces: [shop]}}]}]");
    assert_eq!(said, [] as [String; 0]);
    assert_eq!((policy.policy.action, policy.policy.dry_run), (Action::Audit, false));
    assert_eq!(matching(&policy, &from(CART, "10.0.0.1", 80)), Some(0));
    assert!(authorize([&*policy.policy].into_iter(), None, &from(CART, "10.0.0.1", 80), &Passing::BYTES).is_ok());
    // One that cannot be honoured refuses nobody either, and is told.
    let (policy, said) = translated("  action: AUDIT\n  rules: [{form: []}]");
    assert!(said[0].contains("until that is mended it audits nothing"), "{said:?}");
    assert!(authorize([&*policy.policy].into_iter(), None, &from(None, "10.0.0.1", 80), &Passing::BYTES).is_ok());
}

#[test]
fn a_broken_deny_still_selects_its_workloads() {
    let (policy, said) = translated("  action: DENY\n  selector: {matchLabels: {app: a}}\n  rules: [{form: []}]");
    assert_eq!(policy.policy.scope, Scope::WorkloadSelector);
    assert_eq!(policy.policy.rules, [only(everybody())]);
    assert_eq!(said.len(), 1);
}

#[test]
fn root_namespace_and_dry_run() {
    let text = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
                metadata: {name: p, namespace: istio-system, annotations: {istio.io/dry-run: 'true'}}}";
    let documents = crate::source::parse("p.yaml", text).expect("YAML");
    let Kind::Custom(CustomKind::AuthorizationPolicy, object) = &documents.objects[0].kind else {
        panic!("another kind")
    };
    let policy = authorization_policy(&settings(), object, &mut Vec::new());
    assert_eq!(policy.policy.scope, Scope::Global);
    assert!(policy.policy.dry_run);
}
