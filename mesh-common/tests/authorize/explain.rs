//! What is said of a decision, against the decision; what idle policies say, against decisions with them enforced.

use std::sync::Arc;

use mesh_common::model::{
    Action, Asked, Clause, Connection, Considered, Denied, Match, ObservedAs, Passed, Passing, Permit, Policy,
    PolicyName, Reason, Rule, Scope, ServiceAccountMatch, StringMatch, authorize, explain, observe,
};
use proptest::{option, prelude::*, test_runner::TestRunner};

use crate::{
    config, generate, reference,
    requests::{passed, with},
};

/// Permitted by this rule of an ALLOW policy, or denied by a policy and, if one matched, its rule.
type Shown = Result<Option<(String, usize)>, (Option<String>, Option<usize>)>;

/// The decision that a reader of the explanation sees: the deciding policy and the first of its rules that matched.
fn shown(all: &[Considered]) -> Shown {
    let deciding: Vec<_> = all.iter().filter(|c| c.decided).collect();
    assert!(deciding.len() <= 1, "{all:?}");
    let Some(decided) = deciding.first() else { return Ok(None) };
    let rule = decided.rules.iter().position(|rule| rule.matched);
    match (decided.known.map(|known| (known.action, known.strict)), rule) {
        (Some((Action::Allow, _)), Some(rule)) => Ok(Some((decided.name.to_string(), rule))),
        (Some((Action::Deny, true)), _) => Err((Some(decided.name.to_string()), None)),
        (_, rule) => Err((Some(decided.name.to_string()), rule)),
    }
}

fn decided(outcome: &Result<Permit, Denied>) -> Shown {
    match outcome {
        Ok(permit) => Ok(permit.policy().map(ToString::to_string).zip(permit.rule())),
        Err(denied) => Err((denied.policy.as_ref().map(ToString::to_string), denied.rule)),
    }
}

#[test]
fn the_explanation_shows_the_decision_and_every_rule_as_it_is() {
    let unknown = option::weighted(0.05, Just(PolicyName { namespace: "a".into(), name: "unknown".into() }));
    TestRunner::new(config())
        .run(
            &(generate::policies(), unknown, generate::connection(), passed()),
            |(policies, unknown, connection, passed)| {
                let (all, outcome) = with(&passed, |passing| {
                    let all = explain(policies.iter(), unknown.as_ref(), &connection, passing);
                    (all, authorize(policies.iter(), unknown.as_ref(), &connection, passing))
                });
                prop_assert_eq!(shown(&all), decided(&outcome));
                prop_assert_eq!(all.len(), policies.len() + usize::from(unknown.is_some()));
                for policy in &policies {
                    let matches =
                        |rule: &Rule| with(&passed, |passing| rule.matches(policy.action, &connection, passing));
                    let same = |c: &&Considered| {
                        c.name == policy.name
                            && c.rules.iter().map(|rule| rule.matched).eq(policy.rules.iter().map(matches))
                    };
                    prop_assert!(all.iter().any(|c| same(&c)), "{:?} in {:?}", policy, all);
                }
                // What holds is what a reader adds up from the conditions.
                for rule in all.iter().flat_map(|c| &c.rules) {
                    for clause in &rule.clauses {
                        for m in &clause.matches {
                            prop_assert_eq!(m.matched, m.conditions.iter().all(|condition| condition.holds));
                        }
                        prop_assert_eq!(
                            clause.matched,
                            clause.matches.is_empty() || clause.matches.iter().any(|m| m.matched)
                        );
                    }
                    prop_assert_eq!(rule.matched, rule.clauses.iter().all(|clause| clause.matched));
                }
                Ok(())
            },
        )
        .expect("both agree");
}

#[test]
fn observations_are_the_decisions_that_would_have_turned() {
    let mut turned = 0;
    let seen = std::cell::RefCell::new([0; 4]);
    TestRunner::new(config())
        .run(&(generate::policies(), generate::connection()), |(policies, connection)| {
            let outcome = authorize(policies.iter(), None, &connection, &Passing::BYTES);
            let said = observe(policies.iter(), &outcome, &connection, &Passing::BYTES);
            let permitted = |policies: &[Policy]| {
                matches!(
                    reference::decide(policies, None, &connection, &Passed::BYTES),
                    reference::Outcome::Permitted(_)
                )
            };
            // As Istio tries them: one DENY alone, all ALLOW policies together.
            let enforced = |which: &dyn Fn(usize, &Policy) -> bool| {
                let all = policies.iter().enumerate();
                let with = all.map(|(i, p)| Policy { dry_run: p.dry_run && !which(i, p), ..p.clone() });
                permitted(&with.collect::<Vec<_>>())
            };
            let allows = enforced(&|_, p| p.action == Action::Allow);
            let mut wanted = 0;
            for (i, policy) in policies.iter().enumerate() {
                let rule =
                    policy.rules.iter().position(|rule| rule.matches(policy.action, &connection, &Passing::BYTES));
                let want = match policy.action {
                    Action::Audit => rule.map(|_| (ObservedAs::Audited, false)),
                    _ if !policy.dry_run => None,
                    Action::Deny => {
                        (outcome.is_ok() && !enforced(&|j, _| i == j)).then_some((ObservedAs::DryRun, true))
                    }
                    Action::Allow if outcome.is_ok() != allows && allows == rule.is_some() => {
                        Some((ObservedAs::DryRun, !allows))
                    }
                    Action::Allow => None,
                };
                let got = said.iter().find(|o| {
                    o.policy == policy.name && o.rule == rule && Some((o.observed_as, o.would_refuse)) == want
                });
                prop_assert_eq!(got.is_some(), want.is_some(), "{:?}: {:?} of {:?}", policy, said, policies);
                wanted += usize::from(want.is_some());
                if let Some((as_what, refuse)) = want {
                    seen.borrow_mut()[match (as_what, policy.action, refuse) {
                        (ObservedAs::Audited, _, _) => 0,
                        (_, Action::Deny, _) => 1,
                        (_, _, true) => 2,
                        (_, _, false) => 3,
                    }] += 1;
                }
            }
            prop_assert_eq!(said.len(), wanted, "{:?} of {:?}", said, policies);
            Ok(())
        })
        .expect("both agree");
    for count in seen.into_inner() {
        assert!(count >= 5, "every sort of observation is met");
        turned += count;
    }
    assert!(turned > 100, "and often: {turned}");
}

fn policy(name: &str, action: Action, clauses: Vec<Match>) -> Policy {
    let clauses = clauses.into_iter().map(|m| Clause { matches: vec![m] }).collect();
    Policy {
        name: PolicyName { namespace: "shop".into(), name: name.into() },
        scope: Scope::Namespace,
        action,
        rules: vec![Rule { clauses }],
        dry_run: false,
    }
}

fn cart() -> Connection {
    Connection {
        source_identity: Some("spiffe://cluster.local/ns/shop/sa/cart".parse().expect("an identity")),
        source_ip: [10, 0, 0, 9].into(),
        destination: ([10, 0, 0, 1], 80).into(),
    }
}

#[test]
fn conditions_bear_the_names_of_the_yaml() {
    let strings = |text: &str| vec![StringMatch::Prefix(text.into())];
    let from = Match {
        principals: strings("cluster.local/ns/shop/"),
        not_namespaces: vec![StringMatch::Exact("evil".into())],
        not_source_ips: vec!["10.0.0.9/32".parse().expect("a network"), "fd00::/8".parse().expect("a network")],
        service_accounts: vec![ServiceAccountMatch { namespace: "shop".into(), service_account: "cart".into() }],
        ..Match::default()
    };
    let to = Match { destination_ports: vec![80, 443], ..Match::default() };
    let when = Match { source_ips: vec!["10.0.0.0/8".parse().expect("a network")], ..Match::default() };
    let at = Match { not_destination_ips: vec!["10.0.0.1/32".parse().expect("a network")], ..Match::default() };
    let policy = policy("p", Action::Deny, vec![from, to, when, at]);
    let all = explain([&policy].into_iter(), None, &cart(), &Passing::BYTES);
    let rule = &all[0].rules[0];
    let said: Vec<_> = rule
        .clauses
        .iter()
        .flat_map(|clause| &clause.matches[0].conditions)
        .map(|c| format!("{} [{}] {} {}", c.field, c.values.join(", "), c.actual, c.holds))
        .collect();
    assert_eq!(
        said,
        [
            "notNamespaces [evil] shop true",
            "principals [cluster.local/ns/shop/*] cluster.local/ns/shop/sa/cart true",
            "serviceAccounts [shop/cart] shop/cart true",
            "notIpBlocks [10.0.0.9, fd00::/8] 10.0.0.9 false",
            "ports [80, 443] 80 true",
            "when[source.ip].values [10.0.0.0/8] 10.0.0.9 true",
            "when[destination.ip].notValues [10.0.0.1] 10.0.0.1 false",
        ]
    );
    assert_eq!(rule.clauses.iter().map(|c| c.matched).collect::<Vec<_>>(), [false, true, true, false]);
    assert!(!rule.matched && !all[0].decided);
}

#[test]
fn a_rule_of_http_conditions_says_so() {
    let policy = policy("p", Action::Allow, vec![Match::nobody()]);
    let all = explain([&policy].into_iter(), None, &cart(), &Passing::BYTES);
    let m = &all[0].rules[0].clauses[0].matches[0];
    assert!(!m.matched && m.conditions[0].field == "(HTTP conditions)", "{m:?}");
    assert!(all[0].decided, "an ALLOW that does not match refuses");
}

#[test]
fn strict_bears_the_name_of_the_users_peer_authentication() {
    let anonymous = Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
    let strict = policy(Policy::STRICT_STATIC, Action::Deny, vec![anonymous]);
    let name = PolicyName { namespace: "shop".into(), name: "web-strict".into() };
    let asked = Asked {
        policies: [Arc::new(strict)].into(),
        unknown: None,
        strict_by: Some(name.clone()),
        connection: Connection { source_identity: None, ..cart() },
        passed: Passed::Open,
    };
    let all = asked.explain();
    assert_eq!((&all[0].name, all[0].decided), (&name, true));
    let outcome = Err(Denied::without_policy(Reason::PlaintextStrict));
    let decision = asked.decided(outcome, Vec::new(), 7);
    let denied = decision.outcome.expect_err("no identity");
    assert_eq!((denied.reason, denied.policy), (Reason::PlaintextStrict, Some(name)));
    assert!(decision.asked.is_some() && decision.generation == 7);
    let nothing =
        Asked { policies: [].into(), unknown: None, strict_by: None, connection: cart(), passed: Passed::Open };
    assert!(
        nothing.decided(Err(Denied::without_policy(Reason::PolicyDeny)), Vec::new(), 7).asked.is_none(),
        "what nobody was asked about is not kept"
    );
}
