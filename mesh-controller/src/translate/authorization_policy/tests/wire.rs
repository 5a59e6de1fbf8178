//! Over the wire: who knows HTTP gets every condition, who does not permits nothing more.

use mesh_common::proto::security::Authorization;
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use super::*;

fn of_spec(spec: &Value) -> AuthorizationPolicy {
    let metadata = serde_json::from_value(json!({"name": "p", "namespace": "shop"})).expect("metadata");
    let mut faults = Vec::new();
    let policy = authorization_policy(&settings(), &Custom { metadata, spec: spec.clone(), fault: None }, &mut faults);
    assert!(faults.iter().all(|fault| fault.extent == Extent::Note), "{spec}: {faults:?}");
    policy
}

/// What a reader makes of it that does not know the fields that came with HTTP.
fn narrowed(policy: &Policy) -> Policy {
    let mut message = Authorization::from(policy);
    message.http_rules.clear();
    Policy::try_from(message).expect("readable")
}

fn source() -> impl Strategy<Value = Value> {
    select(vec![
        json!({"namespaces": ["shop"]}),
        json!({"notNamespaces": ["evil"], "requestPrincipals": ["i/*"]}),
        json!({"principals": ["*/sa/cart"], "notRemoteIpBlocks": ["10.0.0.0/8"]}),
        json!({"notRequestPrincipals": ["*"]}),
        json!({"remoteIpBlocks": ["10.0.0.0/8"]}),
        json!({"ipBlocks": ["10.0.0.1"]}),
        json!({"notPrincipals": ["*"], "requestPrincipals": ["*"]}),
    ])
}

fn operation() -> impl Strategy<Value = Value> {
    select(vec![
        json!({"ports": ["80"]}),
        json!({"methods": ["GET"], "notPorts": ["80"]}),
        json!({"paths": ["/a/{*}", "/b"]}),
        json!({"notPaths": ["/a/*"]}),
        json!({"hosts": ["*.example"], "ports": ["80"]}),
        json!({"notHosts": ["a.example"], "notMethods": ["PUT"]}),
    ])
}

fn condition() -> impl Strategy<Value = Value> {
    select(vec![
        json!({"key": "request.headers[x-a]", "values": ["b"]}),
        json!({"key": "request.headers[x-a]", "notValues": ["*"]}),
        json!({"key": "request.auth.claims[g]", "values": ["x"], "notValues": ["y"]}),
        json!({"key": "connection.sni", "values": ["*.example"]}),
        json!({"key": "connection.sni", "notValues": ["a.example"]}),
        json!({"key": "source.namespace", "values": ["shop"]}),
        json!({"key": "destination.port", "notValues": ["81"]}),
        json!({"key": "remote.ip", "notValues": ["10.0.0.2"]}),
    ])
}

fn spec() -> impl Strategy<Value = Value> {
    let from = proptest::collection::vec(source().prop_map(|source| json!({ "source": source })), 0..3);
    let to = proptest::collection::vec(operation().prop_map(|operation| json!({ "operation": operation })), 0..3);
    let when = proptest::collection::vec(condition(), 0..3);
    // Empty lists of who and what are refused.
    let some = |list: Vec<Value>| if list.is_empty() { Value::Null } else { list.into() };
    let rule =
        (from, to, when).prop_map(move |(from, to, when)| json!({"from": some(from), "to": some(to), "when": when}));
    let rules = proptest::collection::vec(rule, 0..3);
    (select(vec!["ALLOW", "DENY", "AUDIT"]), rules)
        .prop_map(|(action, rules)| json!({"action": action, "rules": rules}))
}

fn any_call() -> impl Strategy<Value = Call> {
    let token = select(vec![
        None,
        Some(json!({"iss": "i", "sub": "s", "g": ["x"]})),
        Some(json!({"iss": "j", "sub": "s", "g": "y"})),
    ]);
    let header = select(vec![None, Some("b"), Some("c")]);
    let places = (select(vec!["/a/b", "/a/b/c", "/b", "/"]), select(vec!["a.example", "b.example:80", "c"]));
    (select(vec!["GET", "PUT"]), places, header, token).prop_map(|(method, (path, host), header, token)| {
        let call = call(method, path).to(host);
        let call = header.into_iter().fold(call, |call, value| call.with("x-a", value));
        token.into_iter().fold(call, Call::by)
    })
}

fn any_connection() -> impl Strategy<Value = Connection> {
    let ip = select(vec!["10.0.0.1", "10.0.0.2", "192.0.2.1"]);
    (select(vec![None, CART, EVIL]), ip, select(vec![80_u16, 81])).prop_map(|(who, ip, port)| from(who, ip, port))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_without_http_permits_nothing_more(
        specs in proptest::collection::vec(spec(), 1..4),
        connection in any_connection(),
        call in any_call(),
        server_name in select(vec![None, Some("a.example"), Some("b.example"), Some("c")]),
    ) {
        let policies: Vec<_> = specs.iter().map(of_spec).collect();
        for policy in &policies {
            let message = Authorization::from(&*policy.policy);
            prop_assert_eq!(&Policy::try_from(message).expect("readable"), &*policy.policy);
            prop_assert_eq!(narrowed(&policy.policy).rules.len(), policy.policy.rules.len());
        }
        let old: Vec<_> = policies.iter().map(|policy| narrowed(&policy.policy)).collect();
        let old_permits = authorize(old.iter(), None, &connection, &Passing::BYTES).is_ok();
        let all: Vec<_> = policies.iter().collect();
        let bytes = |passing: Passing<'_>| {
            authorize(policies.iter().map(|policy| &*policy.policy), None, &connection, &passing).is_ok()
        };
        let as_request = passes(&all, &connection, &call);
        let as_bytes = bytes(Passing::Bytes { server_name });
        if old_permits {
            prop_assert!(as_request, "the request is refused: {specs:?} {connection:?} {call:?}");
            prop_assert!(as_bytes, "the bytes are refused: {specs:?} {connection:?} {server_name:?}");
        }
        // What is not known yet refuses nothing that could be permitted.
        if as_request || as_bytes {
            prop_assert!(bytes(Passing::Open), "{specs:?} {connection:?} {call:?} {server_name:?}");
        }
    }
}
