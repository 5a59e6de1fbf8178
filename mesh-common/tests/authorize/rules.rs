//! The compiled form against the decision and against the slow reading; and what is known of a connection against what
//! is known of its requests.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use http::HeaderMap;
use mesh_common::{
    authz::Rules,
    model::{
        Action, Clause, Connection, HeaderCondition, HttpMatch, Match, Passed, Passing, PathPattern, Policy,
        PolicyName, Requested, Rule, Scope, StringMatch, authorize, observe,
    },
};
use proptest::{
    collection, option,
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{
    config,
    generate::{connection, many_policies, policies},
    reference::{self, Outcome},
    requests::{passed, request, with},
};

fn shared(policies: &[Policy]) -> Arc<[Arc<Policy>]> {
    policies.iter().cloned().map(Arc::new).collect()
}

#[test]
fn compiled_rules_decide_as_the_reference_does() {
    let unknown = option::weighted(0.02, Just(PolicyName { namespace: "a".into(), name: "unknown".into() }));
    let outcomes = RefCell::new(BTreeMap::<String, u32>::new());
    let asked = collection::vec((connection(), passed()), 3);
    TestRunner::new(config())
        .run(&(many_policies(), unknown, asked), |(policies, unknown, asked)| {
            let rules = Rules::new(&shared(&policies));
            for (connection, passed) in &asked {
                let (compiled, plain, seen) = with(passed, |passing| {
                    let compiled = rules.decide(unknown.as_ref(), connection, passing);
                    let plain = authorize(policies.iter(), unknown.as_ref(), connection, passing);
                    let seen = rules.observe(&plain, connection, passing)
                        == observe(policies.iter(), &plain, connection, passing);
                    (compiled, plain, seen)
                });
                let want = reference::decide(&policies, unknown.as_ref(), connection, passed);
                let kind = match (passed, &want) {
                    (Passed::Open, _) => "open".to_owned(),
                    (Passed::Bytes { .. } | Passed::Unnamed, _) => "bytes".to_owned(),
                    (_, Outcome::Permitted(None)) => "no ALLOW policy".to_owned(),
                    (_, Outcome::Permitted(Some(_))) => "an ALLOW policy".to_owned(),
                    (_, Outcome::Denied { code, .. }) => (*code).to_owned(),
                };
                *outcomes.borrow_mut().entry(kind).or_default() += 1;
                prop_assert_eq!(&compiled, &plain, "compiled, {:?} {:?}", connection, passed);
                prop_assert_eq!(Outcome::of(&compiled), want, "{:?} {:?}", connection, passed);
                prop_assert!(seen);
            }
            Ok(())
        })
        .expect("all three agree");
    let outcomes = outcomes.into_inner();
    assert_eq!(outcomes.len(), 8, "every outcome is met: {outcomes:?}");
    assert!(outcomes.values().all(|count| *count >= 20), "and often: {outcomes:?}");
}

#[test]
fn what_is_not_known_yet_refuses_nothing_that_a_request_could_be_permitted() {
    let counts = RefCell::new([0; 4]);
    TestRunner::new(config())
        .run(&(policies(), connection(), request()), |(policies, connection, request)| {
            let decide = |passing: &Passing<'_>| authorize(policies.iter(), None, &connection, passing).is_ok();
            let (open, bytes) = (decide(&Passing::Open), decide(&Passing::BYTES));
            let request = with(&request, decide);
            prop_assert!(open || !request, "a request is permitted on a refused connection");
            prop_assert!(request || !bytes, "bytes are permitted where a request is refused");
            let turned = [open && !request, !open, request && !bytes, bytes];
            counts.borrow_mut().iter_mut().zip(turned).for_each(|(count, met)| *count += u32::from(met));
            Ok(())
        })
        .expect("they are in order");
    assert!(counts.borrow().iter().all(|count| *count >= 20), "every case is met: {counts:?}");
}

/// Rules of three clauses each, of so few values that many rules share each: only all three tell them apart.
fn crowded() -> impl Strategy<Value = Vec<Policy>> {
    let rule = (0..6_u8, 0..6_u8, 0..6_u8).prop_map(|(account, path, header)| {
        let principals = vec![StringMatch::Exact(format!("td/ns/a/sa/x{account}"))];
        let paths = vec![PathPattern::Text(StringMatch::Prefix(format!("/{path}/")))];
        let values = vec![StringMatch::Exact(header.to_string())];
        let headers = vec![HeaderCondition { name: "x-a".into(), values, not_values: vec![] }];
        let http = |http| Match { http: Some(Box::new(http)), ..Match::default() };
        let from = Match { principals, ..Match::default() };
        let to = http(HttpMatch { paths, ..HttpMatch::default() });
        let when = http(HttpMatch { headers, ..HttpMatch::default() });
        Rule { clauses: [from, to, when].map(|m| Clause { matches: vec![m] }).to_vec() }
    });
    let policy = (collection::vec(rule, 60..100), any::<bool>()).prop_map(|(rules, deny)| Policy {
        name: PolicyName { namespace: "a".into(), name: "p".into() },
        scope: Scope::Namespace,
        action: if deny { Action::Deny } else { Action::Allow },
        rules,
        dry_run: false,
    });
    collection::vec(policy, 1..4)
}

#[test]
fn rules_that_share_each_of_their_keys_are_told_apart_by_all_of_them() {
    let found = RefCell::new([0; 2]);
    TestRunner::new(Config { cases: 30, failure_persistence: None, ..Config::default() })
        .run(&crowded(), |policies| {
            let rules = Rules::new(&shared(&policies));
            for (account, path, header) in (0..216).map(|n| (n / 36, n / 6 % 6, n % 6)) {
                let connection = Connection {
                    source_identity: Some(format!("spiffe://td/ns/a/sa/x{account}").parse().expect("an identity")),
                    source_ip: [10, 0, 0, 9].into(),
                    destination: ([10, 0, 0, 1], 80).into(),
                };
                let mut headers = HeaderMap::new();
                headers.insert("x-a", header.to_string().parse().expect("a value"));
                let path = format!("/{path}/x");
                let request = Requested { method: "GET", path: &path, host: "a", headers: &headers, token: None };
                let passing = Passing::Request(&request);
                let want = authorize(policies.iter(), None, &connection, &passing);
                let rule = want.as_ref().map_or_else(|denied| denied.rule, |permit| permit.rule());
                found.borrow_mut()[usize::from(rule.is_some())] += 1;
                prop_assert_eq!(rules.decide(None, &connection, &passing), want);
            }
            Ok(())
        })
        .expect("both agree");
    assert!(found.borrow().iter().all(|count| *count > 500), "found and not: {found:?}");
}

/// Rules that share thousands of values: finding keys that tell them apart must not cost each pair of them.
#[test]
fn shared_values_are_compiled_in_the_time_of_their_number() {
    let paths = |rule: usize| {
        let text = |value: usize| PathPattern::Text(StringMatch::Exact(format!("/{value}")));
        (0..2000).map(text).chain([text(10_000 + rule)]).collect::<Vec<_>>()
    };
    let rule = |number| {
        let http = HttpMatch { paths: paths(number), ..HttpMatch::default() };
        Rule { clauses: vec![Clause { matches: vec![Match { http: Some(Box::new(http)), ..Match::default() }] }] }
    };
    let policy = Policy {
        name: PolicyName { namespace: "shop".into(), name: "shared".into() },
        scope: Scope::Namespace,
        action: Action::Allow,
        rules: (0..60).map(rule).collect(),
        dry_run: false,
    };
    // Each pair of 120,000 keys would take minutes, and the test would be ended.
    let rules = Rules::new(&shared(&[policy]));
    let headers = HeaderMap::new();
    let connection =
        Connection { source_identity: None, source_ip: [10, 0, 0, 1].into(), destination: ([10, 0, 0, 2], 80).into() };
    for (path, place) in [("/7", Some(0)), ("/10059", Some(59)), ("/10060", None)] {
        let request = Requested { method: "GET", path, host: "a", headers: &headers, token: None };
        let decided = rules.decide(None, &connection, &Passing::Request(&request));
        assert_eq!(decided.ok().and_then(|permit| permit.rule()), place, "{path}");
    }
}
