//! AuthorizationPolicies as YAML, and whom they let through.

use std::net::IpAddr;

mod examples;
mod fields;
mod hostile;
mod wire;

use mesh_common::model::{Connection, Identity, Passing, Requested, Token, authorize};

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

/// A request, as far as policies may ask.
#[derive(Clone, Debug, Default)]
struct Call {
    method: &'static str,
    path: &'static str,
    host: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    token: Option<Token>,
}

fn call(method: &'static str, path: &'static str) -> Call {
    Call { method, path, host: "web.shop:8080", ..Call::default() }
}

impl Call {
    fn to(self, host: &'static str) -> Self {
        Self { host, ..self }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The token has these claims.
    fn by(self, claims: serde_json::Value) -> Self {
        let text = |name: &str| claims[name].as_str().map(ToOwned::to_owned);
        let audiences =
            claims["aud"].as_array().into_iter().flatten().filter_map(|a| a.as_str().map(ToOwned::to_owned));
        let token = Token {
            principal: format!("{}/{}", text("iss").unwrap_or_default(), text("sub").unwrap_or_default()),
            audiences: audiences.collect(),
            presenter: text("azp"),
            claims: claims.as_object().cloned().unwrap_or_default(),
            ..Token::default()
        };
        Self { token: Some(token), ..self }
    }
}

/// Whether the policies let the request through.
fn passes(policies: &[&AuthorizationPolicy], connection: &Connection, call: &Call) -> bool {
    let Call { method, path, host, headers, token } = call;
    let pairs = headers.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
    let headers: http::HeaderMap = pairs.collect();
    let requested = Requested { method, path, host, headers: &headers, token: token.as_ref() };
    let policies = policies.iter().map(|policy| &*policy.policy);
    authorize(policies, None, connection, &Passing::Request(&requested)).is_ok()
}

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
        - source: {principals: [cluster.local/ns/production/sa/inventory-service]}
      to:
        - operation: {methods: [GET], paths: [/api/v1/inventory/*]}
",
    );
    assert_eq!(said, [] as [String; 0]);
    assert_eq!((policy.policy.action, policy.policy.scope), (Action::Allow, Scope::WorkloadSelector));
    assert!(policy.policy.asks() && policy.policy.rules.len() == 2);
    let of =
        |account: &str| from(Some(&format!("spiffe://cluster.local/ns/production/sa/{account}")), "10.0.0.1", 8080);
    for (account, method, path, expected) in [
        ("api-gateway", "GET", "/api/v1/orders", true),
        ("payment-service", "POST", "/api/v1/orders/7", true),
        ("api-gateway", "DELETE", "/api/v1/orders", false),
        ("api-gateway", "GET", "/api/v2/orders", false),
        ("api-gateway", "GET", "/admin", false),
        ("inventory-service", "GET", "/api/v1/inventory/7", true),
        ("inventory-service", "GET", "/api/v1/orders", false),
        ("inventory-service", "POST", "/api/v1/inventory/7", false),
        ("other", "GET", "/api/v1/orders", false),
    ] {
        assert_eq!(passes(&[&policy], &of(account), &call(method, path)), expected, "{account} {method} {path}");
    }
    assert!(!passes(&[&policy], &from(None, "10.0.0.1", 8080), &call("GET", "/api/v1/orders")));
    // As bytes nothing of it fits.
    assert_eq!(matching(&policy, &of("api-gateway")), None);
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
fn of_bytes_a_deny_rule_goes_by_its_other_conditions() {
    let (policy, said) = translated(
        "
  action: DENY
  rules:
  - from: [{source: {namespaces: [evil], requestPrincipals: ['*']}}]
    to: [{operation: {paths: [/admin]}}]
  - to: [{operation: {methods: [DELETE], ports: ['80']}}]
",
    );
    assert_eq!(said, [] as [String; 0]);
    assert_eq!(matching(&policy, &from(EVIL, "1.1.1.1", 1)), Some(0));
    assert_eq!(matching(&policy, &from(CART, "1.1.1.1", 80)), Some(1));
    assert_eq!(matching(&policy, &from(CART, "1.1.1.1", 1)), None);
    assert!(passes(&[&policy], &from(CART, "1.1.1.1", 80), &call("GET", "/admin")));
    assert!(!passes(&[&policy], &from(CART, "1.1.1.1", 80), &call("DELETE", "/")));
    // Without a token nobody is a principal.
    assert!(passes(&[&policy], &from(EVIL, "1.1.1.1", 1), &call("GET", "/admin")));
}

#[test]
fn what_cannot_be_honoured_refuses() {
    for (spec, field) in [
        ("  rules: [{from: [{source: {principal: [a]}}]}]", "spec.rules[0].from[0].source.principal: unknown field"),
        ("  rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]", "spec.rules[0].from[0].source.ipBlocks[0]: "),
        ("  rules: [{from: [{source: {principals: ['spiffe://a/ns/b/sa/c']}}]}]", "spec.rules[0].from[0].source.prin"),
        ("  rules: [{from: [{source: {namespaces: ['a*b']}}]}]", "spec.rules[0].from[0].source.namespaces[0]: "),
        ("  rules: [{from: [{source: {}}]}]", "spec.rules[0].from[0].source: has no condition"),
        ("  rules: [{from: []}]", "spec.rules[0].from: has no items; who means anybody leaves it out"),
        ("  rules: [{from: [{source: {namespaces: [a]}}], to: []}]", "spec.rules[0].to: has no items"),
        (
            "  action: DENY\n  rules: [{from: [], to: [{operation: {ports: ['1']}}]}]",
            "spec.rules[0].from: has no items",
        ),
        ("  rules: [{to: [{operation: {ports: ['0']}}]}]", "spec.rules[0].to[0].operation.ports[0]: `0` is not a port"),
        ("  rules: [{to: [{operation: {ports: [80]}}]}]", "spec.rules[0].to[0].operation.ports[0]: invalid type"),
        ("  rules: [{when: [{key: source.colour, values: [red]}]}]", "spec.rules[0].when[0].key: `source.colour`"),
        ("  rules: [{when: [{key: source.ip}]}]", "spec.rules[0].when[0]: has neither"),
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
fn an_empty_list_beside_conditions_counts_as_absent_and_is_noted() {
    let (policy, said) = translated(
        "  rules: [{from: [{source: {principals: [], namespaces: [shop]}}], when: [{key: source.ip, values: [10.0.0.1], \
         notValues: []}]}, {from: null, to: [{operation: {ports: ['80']}}], when: []}]",
    );
    let why = "has no values and counts as absent: it restricts nothing";
    let fields = ["from[0].source.principals", "when[0].notValues"];
    assert_eq!(said, fields.map(|field| format!("spec.rules[0].{field}: {why}")));
    assert_eq!(matching(&policy, &from(CART, "10.0.0.1", 1)), Some(0));
    assert_eq!(matching(&policy, &from(EVIL, "10.0.0.1", 1)), None);
    assert_eq!(matching(&policy, &from(EVIL, "10.0.0.1", 80)), Some(1));
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
fn audit_and_dry_run_with_conditions_on_requests() {
    let rules = "  rules: [{to: [{operation: {methods: [GET], paths: ['/user/*']}}]}]";
    let (audit, said) = translated(&format!("  action: AUDIT\n{rules}"));
    assert_eq!((said, audit.policy.asks(), audit.policy.rules.len()), (Vec::new(), true, 1));
    assert!(passes(&[&audit], &from(CART, "10.0.0.1", 80), &call("GET", "/user/me")));
    assert_eq!(matching(&audit, &from(CART, "10.0.0.1", 80)), None);
    let text = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop, \
                annotations: {istio.io/dry-run: 'true'}}, spec: {action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}]}}";
    let documents = crate::source::parse("p.yaml", text).expect("YAML");
    let Kind::Custom(CustomKind::AuthorizationPolicy, object) = &documents.objects[0].kind else {
        panic!("another kind")
    };
    let mut faults = Vec::new();
    let dry = authorization_policy(&settings(), object, &mut faults);
    assert!(faults.is_empty() && dry.policy.dry_run && dry.policy.asks());
    assert!(passes(&[&dry], &from(CART, "10.0.0.1", 80), &call("GET", "/a")));
}

#[test]
fn a_broken_deny_still_selects_its_workloads() {
    let (policy, said) = translated("  action: DENY\n  selector: {matchLabels: {app: a}}\n  rules: [{form: []}]");
    assert_eq!(policy.policy.scope, Scope::WorkloadSelector);
    assert_eq!(policy.policy.rules, [everybody()]);
    assert_eq!(said.len(), 1);
    let (policy, _) = translated("  action: DENY\n  targetRefs: [{kind: Service, name: a}]\n  rules: [{form: []}]");
    let target = Target { field: "spec.targetRefs[0]".into(), kind: TargetKind::Service, name: "a".into() };
    assert_eq!(policy.workloads, Workloads::Targets(vec![target]));
    assert_eq!(policy.policy.rules, [everybody()]);
}

#[test]
fn targets_that_are_none_refuse_in_the_whole_namespace() {
    let many = vec!["{kind: Service, name: a}"; 17].join(", ");
    for (targets, field) in [
        ("targetRefs: [{kind: Service, name: a}, {kind: GatewayClass, name: a}]", "targetRefs[1].kind: `GatewayClass`"),
        ("targetRef: {kind: Gateway, group: networking.istio.io, name: a}", "targetRef.kind: `Gateway` of group"),
        ("targetRefs: [{kind: Pod, name: a}]", "targetRefs[0].kind: `Pod` of group ``"),
        ("targetRefs: [{kind: Service, group: apps, name: a}]", "targetRefs[0].kind: `Service` of group `apps`"),
        ("targetRefs: [{kind: ServiceEntry, name: a}]", "targetRefs[0].kind: `ServiceEntry`"),
        ("targetRefs: [{name: a}]", "targetRefs[0].kind: is missing"),
        ("targetRefs: [{kind: Service}]", "targetRefs[0].name: `` is no name"),
        ("targetRefs: [{kind: Service, name: 'a/b'}]", "targetRefs[0].name: `a/b` is no name"),
        ("targetRefs: [{kind: Service, name: a, sectionName: x}]", "targetRefs[0].sectionName: unknown field"),
        ("targetRefs: [7]", "targetRefs[0]: "),
        ("targetRefs: {kind: Service, name: a}", "targetRefs: is no list"),
        (&format!("targetRefs: [{many}]"), "targetRefs: has 17 items"),
        (
            "targetRefs: [{kind: Service, name: a}]\n  selector: {matchLabels: {app: a}}",
            "targetRefs: stands beside `sel",
        ),
        ("targetRef: {kind: Service, name: a}\n  selector: {}", "targetRef: stands beside `selector`"),
        (
            "targetRef: {kind: Service, name: a}\n  targetRefs: [{kind: Service, name: b}]",
            "targetRef: stands beside `tar",
        ),
    ] {
        for action in ["ALLOW", "DENY"] {
            let (policy, said) = translated(&format!("  action: {action}\n  {targets}\n  rules: [{{}}]"));
            assert!(said.len() == 1 && said[0].starts_with(&format!("spec.{field}")), "{targets}: {said:?}");
            assert_eq!((&policy.workloads, policy.policy.scope), (&Workloads::All, Scope::Namespace), "{targets}");
            assert!(!passes(&[&policy], &from(CART, "10.0.0.1", 80), &call("GET", "/")), "{targets}");
        }
    }
    let (policy, said) = translated("  targetRefs: []\n  targetRef: null\n  selector: {matchLabels: {app: a}}");
    assert_eq!((said.len(), policy.policy.scope), (0, Scope::WorkloadSelector));
    // Another namespace's workloads are not this one's to speak of; its own are not meant.
    let elsewhere = "{kind: Service, name: b, namespace: other}";
    let (policy, said) =
        translated(&format!("  targetRefs: [{{kind: Service, name: a, namespace: shop}}, {elsewhere}]"));
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("spec.targetRefs[1].namespace: is not the policy's own namespace, shop;"), "{said:?}");
    assert!(matches!(&policy.workloads, Workloads::Targets(targets) if targets.len() == 1));
    let (policy, said) = translated(&format!("  targetRefs: [{elsewhere}]"));
    assert!(said[0].ends_with("the policy holds for nobody"), "{said:?}");
    assert_eq!((policy.workloads, policy.policy.scope), (Workloads::Targets(Vec::new()), Scope::WorkloadSelector));
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
