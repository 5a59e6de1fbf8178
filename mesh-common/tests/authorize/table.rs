//! The rules one by one.

use std::net::SocketAddr;

use mesh_common::model::{
    Action, Clause, Connection, Denied, Match, Passing, Permit, Policy, PolicyName, Reason, Rule, Scope,
    ServiceAccountMatch, StringMatch, authorize,
};

fn policy(name: &str, action: Action, matches: Vec<Match>) -> Policy {
    let rules = matches.into_iter().map(|m| Rule { clauses: vec![Clause { matches: vec![m] }] }).collect();
    Policy {
        name: PolicyName { namespace: "shop".into(), name: name.into() },
        scope: Scope::Namespace,
        action,
        rules,
        dry_run: false,
    }
}

fn ports(ports: &[u16]) -> Match {
    Match { destination_ports: ports.into(), ..Match::default() }
}

/// From 10.0.0.9 to 10.0.0.1:80.
fn from(identity: Option<&str>) -> Connection {
    Connection {
        source_identity: identity.map(|id| format!("spiffe://{id}").parse().expect("an identity")),
        source_ip: [10, 0, 0, 9].into(),
        destination: SocketAddr::from(([10, 0, 0, 1], 80)),
    }
}

fn cart() -> Connection {
    from(Some("cluster.local/ns/shop/sa/cart"))
}

fn decide(policies: &[Policy], connection: &Connection) -> Result<Permit, Denied> {
    authorize(policies.iter(), None, connection, &Passing::BYTES)
}

fn reason(policies: &[Policy], connection: &Connection) -> Reason {
    decide(policies, connection).expect_err("denied").reason
}

#[test]
fn deny_comes_before_allow_wherever_it_stands() {
    let allow = policy("allow", Action::Allow, vec![ports(&[80])]);
    let deny = policy("deny", Action::Deny, vec![ports(&[443]), ports(&[80])]);
    for policies in [[allow.clone(), deny.clone()], [deny, allow]] {
        let denied = decide(&policies, &cart()).expect_err("denied");
        assert_eq!(denied.to_string(), "denied by policy shop/deny, rule 1");
        assert_eq!((denied.reason, denied.rule), (Reason::PolicyDeny, Some(1)));
    }
}

#[test]
fn without_an_allow_policy_what_is_not_denied_is_permitted() {
    let permit = decide(&[], &cart()).expect("permitted");
    assert_eq!((permit.policy(), permit.rule()), (None, None));
    let other = policy("deny", Action::Deny, vec![ports(&[443])]);
    assert_eq!(decide(&[other], &from(None)).expect("permitted").policy(), None);
}

#[test]
fn an_allow_policy_without_rules_denies_and_a_deny_policy_without_rules_does_nothing() {
    let nothing = policy("nothing", Action::Allow, vec![]);
    let denied = decide(std::slice::from_ref(&nothing), &cart()).expect_err("denied");
    assert_eq!((denied.reason, denied.rule), (Reason::PolicyNoAllow, None));
    assert_eq!(denied.policy.expect("named").to_string(), "shop/nothing");
    let also = policy("allow", Action::Allow, vec![ports(&[443]), ports(&[80])]);
    let permit = decide(&[nothing, also], &cart()).expect("one ALLOW policy is enough");
    assert_eq!((permit.policy().expect("named").name.as_str(), permit.rule()), ("allow", Some(1)));
    assert!(decide(&[policy("deny", Action::Deny, vec![])], &cart()).is_ok());
}

#[test]
fn strict_is_told_from_policy_by_name() {
    let no_identity = || vec![Match { not_principals: vec![StringMatch::Presence], ..Match::default() }];
    for name in ["istio_converted_static_strict", "converted_peer_authentication_db"] {
        let strict = policy(name, Action::Deny, no_identity());
        let denied = decide(std::slice::from_ref(&strict), &from(None)).expect_err("plaintext");
        assert_eq!((denied.reason, denied.rule), (Reason::PlaintextStrict, None));
        assert!(denied.to_string().contains(name), "{denied}");
        assert!(decide(&[strict], &cart()).is_ok());
    }
    for name in ["istio_converted_static_strict2", "my_converted_peer_authentication_db", "strict"] {
        assert_eq!(reason(&[policy(name, Action::Deny, no_identity())], &from(None)), Reason::PolicyDeny, "{name}");
    }
}

#[test]
fn an_unknown_policy_denies_whatever_the_others_say() {
    let unknown = PolicyName { namespace: "shop".into(), name: "later".into() };
    let allow = policy("allow", Action::Allow, vec![ports(&[80])]);
    let denied = authorize([allow].iter(), Some(&unknown), &cart(), &Passing::BYTES).expect_err("denied");
    assert_eq!(denied, Denied { policy: Some(unknown), ..Denied::without_policy(Reason::PolicyUnknown) });
}

#[test]
fn a_dry_run_policy_decides_nothing() {
    let dry = |policy: Policy| Policy { dry_run: true, ..policy };
    let deny = dry(policy("deny", Action::Deny, vec![ports(&[80])]));
    let nothing = dry(policy("nothing", Action::Allow, vec![]));
    assert_eq!(decide(&[deny, nothing], &cart()).expect("permitted").policy(), None);
}

#[test]
fn a_client_without_identity_has_nothing_that_a_condition_could_name() {
    let account = ServiceAccountMatch { namespace: "shop".into(), service_account: "cart".into() };
    let exact = |text: &str| vec![StringMatch::Exact(text.into())];
    let positive = [
        Match { namespaces: exact("shop"), ..Match::default() },
        Match { namespaces: vec![StringMatch::Presence], ..Match::default() },
        Match { principals: exact("cluster.local/ns/shop/sa/cart"), ..Match::default() },
        Match { principals: vec![StringMatch::Presence], ..Match::default() },
        Match { service_accounts: vec![account.clone()], ..Match::default() },
    ];
    for m in positive {
        assert!(m.matches(Action::Allow, &cart(), &Passing::BYTES), "{m:?}");
        assert!(!m.matches(Action::Allow, &from(None), &Passing::BYTES), "{m:?}");
    }
    let negative = [
        Match { not_namespaces: exact("shop"), ..Match::default() },
        Match { not_principals: exact("cluster.local/ns/shop/sa/cart"), ..Match::default() },
        Match { not_principals: vec![StringMatch::Presence], ..Match::default() },
        Match { not_service_accounts: vec![account], ..Match::default() },
    ];
    for m in negative {
        assert!(!m.matches(Action::Allow, &cart(), &Passing::BYTES), "{m:?}");
        assert!(m.matches(Action::Allow, &from(None), &Passing::BYTES), "{m:?}");
    }
}

#[test]
fn a_mapped_address_is_the_ipv4_address_on_either_side() {
    let net = |text: &str| vec![text.parse().expect("a network")];
    let mapped = Connection {
        source_ip: "::ffff:10.0.0.9".parse().expect("an address"),
        destination: "[::ffff:10.0.0.1]:80".parse().expect("an address"),
        ..cart()
    };
    for text in ["10.0.0.0/24", "0.0.0.0/0", "::ffff:10.0.0.0/120", "::ffff:0:0/96"] {
        let source = Match { source_ips: net(text), ..Match::default() };
        let destination = Match { destination_ips: net(text), ..Match::default() };
        let not = Match { not_source_ips: net(text), ..Match::default() };
        for connection in [&mapped, &cart()] {
            assert!(
                source.matches(Action::Allow, connection, &Passing::BYTES)
                    && destination.matches(Action::Allow, connection, &Passing::BYTES),
                "{text}"
            );
            assert!(!not.matches(Action::Allow, connection, &Passing::BYTES), "{text}");
        }
    }
    for text in ["::/0", "10.0.1.0/24", "::ffff:10.0.1.0/120"] {
        assert!(
            !Match { source_ips: net(text), ..Match::default() }.matches(Action::Allow, &mapped, &Passing::BYTES),
            "{text}"
        );
    }
}

#[test]
fn rules_or_clauses_and_matches_or() {
    let cart_only = Match { principals: vec![StringMatch::Suffix("/sa/cart".into())], ..Match::default() };
    let policy = |clauses: Vec<Vec<Match>>| {
        let clauses = clauses.into_iter().map(|matches| Clause { matches }).collect();
        Policy { rules: vec![Rule { clauses }], ..policy("allow", Action::Allow, vec![]) }
    };
    let both = policy(vec![vec![ports(&[443]), ports(&[80])], vec![cart_only.clone()]]);
    assert!(decide(std::slice::from_ref(&both), &cart()).is_ok());
    assert_eq!(reason(&[both], &from(Some("cluster.local/ns/shop/sa/web"))), Reason::PolicyNoAllow);
    // A rule without clauses and a clause without matches hold for everybody.
    for open in [policy(vec![]), policy(vec![vec![]])] {
        assert!(decide(&[open], &from(None)).is_ok());
    }
    // The kinds of condition within one match are AND-ed.
    let narrow = Match { destination_ports: vec![443], ..cart_only };
    assert_eq!(reason(&[policy(vec![vec![narrow]])], &cart()), Reason::PolicyNoAllow);
}
