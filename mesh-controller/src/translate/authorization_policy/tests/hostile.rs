//! What careless and hostile authors write.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::translate::fields::tests::{any_json, broken};

fn of_spec(action: &str, mut spec: serde_json::Value) -> (AuthorizationPolicy, Vec<Fault>) {
    if let serde_json::Value::Object(map) = &mut spec {
        map.insert("action".into(), action.into());
    }
    let metadata = serde_json::from_value(json!({"name": "p", "namespace": "shop"})).expect("metadata");
    let mut faults = Vec::new();
    let object = Custom { metadata, spec, fault: None };
    (authorization_policy(&settings(), &object, &mut faults), faults)
}

/// Every field once.
fn whole() -> serde_json::Value {
    json!({
        "selector": {"matchLabels": {"app": "a"}},
        "rules": [{
            "from": [{"source": {
                "principals": ["cluster.local/ns/shop/sa/cart"], "notPrincipals": ["a/*"], "namespaces": ["shop"],
                "notNamespaces": ["x"], "serviceAccounts": ["cart"], "notServiceAccounts": ["x/y"],
                "ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["10.9.0.0/16"], "requestPrincipals": ["*"],
                "notRequestPrincipals": ["x/y"], "remoteIpBlocks": ["10.0.0.0/8"], "notRemoteIpBlocks": ["10.8.0.1"],
            }}],
            "to": [{"operation": {
                "ports": ["80"], "notPorts": ["81"], "hosts": ["a.example"], "notHosts": ["b.example"],
                "methods": ["GET"], "notMethods": ["PUT"], "paths": ["/a/{*}"], "notPaths": ["/a/b"],
            }}],
            "when": [{"key": "request.headers[x-a]", "values": ["b*"], "notValues": ["bc"]},
                {"key": "request.auth.claims[a][b]", "values": ["c"], "notValues": ["d"]}],
        }],
    })
}

/// A request that meets all of it.
fn fitting() -> (Connection, Call) {
    let call = call("GET", "/a/c").to("a.example").with("x-a", "b");
    (from(CART, "10.0.0.1", 80), call.by(json!({"iss": "i", "sub": "s", "a": {"b": ["c"]}})))
}

#[test]
fn each_condition_counts() {
    let (connection, call) = fitting();
    let (policy, faults) = of_spec("ALLOW", whole());
    assert_eq!(faults, []);
    assert!(passes(&[&policy], &connection, &call));
    for other in [
        Call { method: "PUT", ..call.clone() },
        Call { path: "/a/b", ..call.clone() },
        Call { path: "/a", ..call.clone() },
        Call { host: "b.example", ..call.clone() },
        Call { headers: vec![("x-a", "bc")], ..call.clone() },
        Call { headers: Vec::new(), ..call.clone() },
        Call { token: None, ..call.clone() },
        call.clone().by(json!({"iss": "x", "sub": "y", "a": {"b": ["c"]}})),
        call.clone().by(json!({"iss": "i", "sub": "s", "a": {"b": ["c", "d"]}})),
        call.clone().by(json!({"iss": "i", "sub": "s", "a": "c"})),
    ] {
        assert!(!passes(&[&policy], &connection, &other), "{other:?}");
    }
    for (who, ip, port) in [
        (None, "10.0.0.1", 80),
        (EVIL, "10.0.0.1", 80),
        (CART, "11.0.0.1", 80),
        (CART, "10.9.0.1", 80),
        (CART, "10.8.0.1", 80),
        (CART, "10.0.0.1", 81),
    ] {
        assert!(!passes(&[&policy], &from(who, ip, port), &call), "{who:?} {ip} {port}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever stands in the place of one field: a request that the whole policy refuses for another reason too is
    /// refused still, or the field was one that selects or refuses by itself. A spec that is told to be unreadable
    /// refuses everybody.
    #[test]
    fn what_cannot_be_read_never_lets_through(value in any_json(), action in prop_oneof![Just("ALLOW"), Just("DENY")]) {
        let (connection, call) = fitting();
        for spec in broken(&whole(), &value) {
            let (policy, faults) = of_spec(action, spec.clone());
            prop_assert!(faults.len() <= TOLD + 2);
            if faults.iter().any(|fault| fault.extent == Extent::Whole) {
                prop_assert!(!passes(&[&policy], &connection, &call), "{spec}");
                prop_assert!(!policy.policy.asks());
            }
        }
    }

    /// A field that nobody knows refuses, wherever it stands.
    #[test]
    fn an_unknown_field_never_widens(name in "[a-z]{1,10}[0-9]", value in any_json()) {
        for at in ["", "/selector", "/rules/0", "/rules/0/from/0", "/rules/0/from/0/source", "/rules/0/to/0",
            "/rules/0/to/0/operation", "/rules/0/when/0"] {
            let mut spec = whole();
            let place = spec.pointer_mut(at).and_then(serde_json::Value::as_object_mut).expect("an object");
            place.insert(name.clone(), value.clone());
            for action in ["ALLOW", "DENY"] {
                let (policy, faults) = of_spec(action, spec.clone());
                prop_assert!(faults.iter().any(|fault| fault.extent == Extent::Whole), "{spec}");
                let (connection, call) = fitting();
                prop_assert!(!passes(&[&policy], &connection, &call), "{action} {spec}");
            }
        }
    }
}

#[test]
fn huge_policies_are_refused_in_few_words() {
    let bad: Vec<_> = (0..4_000).map(|i| format!("a*{i}")).collect();
    let from: Vec<_> = (0..50).map(|_| json!({"source": {"namespaces": bad}})).collect();
    let (policy, faults) = of_spec("ALLOW", json!({"rules": [{"from": from}]}));
    assert_eq!((faults.len(), policy.policy.rules.len()), (TOLD + 1, 0));
    assert_eq!(faults[TOLD].why, format!("{} more are not told", 200_000 - TOLD));
    let (policy, faults) = of_spec("DENY", json!({"rules": vec![json!({}); 513]}));
    assert_eq!((faults.len(), &*policy.policy.rules), (1, &[everybody()][..]));
    // As many as the kind allows.
    let networks: Vec<_> = (0..65_536_u32).map(|i| std::net::Ipv4Addr::from(i << 8).to_string() + "/24").collect();
    let (policy, faults) = of_spec("ALLOW", json!({"rules": [{"from": [{"source": {"ipBlocks": networks}}]}]}));
    assert_eq!((faults.len(), policy.policy.rules.len()), (0, 1));
}
