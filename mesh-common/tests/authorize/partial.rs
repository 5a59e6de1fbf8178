//! Decisions with part of what they need, against those with all of it.

use std::cell::RefCell;

use http::HeaderMap;
use mesh_common::{
    authz::partial::{Attribute, Bearer, Carried, Known, Outcomes, Seen, decide, outcomes},
    model::{Connection, Passed, Passing, Policy, RequestFacts, Requested, Token, authorize},
};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::{
    config,
    generate::{connection, policies},
    requests::{HOSTS, WORDS, passed, request, with},
};

/// What may come out, if this is what is known.
fn possible(policies: &[Policy], connection: &Connection, carried: Carried<'_>) -> Outcomes<bool> {
    let known = Known { connection, carried };
    outcomes(4096, |assumed| decide(policies.iter(), None, &known, assumed).map(|outcome| outcome.is_ok()))
}

fn seen(facts: &RequestFacts) -> Seen<'_> {
    Seen {
        method: Some(&facts.method),
        path: Some(&facts.path),
        host: Some(&facts.host),
        headers: Some(&facts.headers),
        bearer: Bearer::Exactly(facts.token.as_deref()),
    }
}

#[test]
fn with_full_knowledge_it_is_the_decision() {
    TestRunner::new(config())
        .run(&(policies(), connection(), passed()), |(policies, connection, passed)| {
            let carried = match &passed {
                Passed::Open | Passed::Unnamed => return Ok(()),
                Passed::Bytes { server_name } => Carried::Bytes { server_name: Some(server_name.as_deref()) },
                Passed::Request(facts) => Carried::Request(seen(facts)),
            };
            let known = Known { connection: &connection, carried };
            let partial = decide(policies.iter(), None, &known, &Default::default());
            let whole = with(&passed, |passing| authorize(policies.iter(), None, &connection, passing));
            prop_assert_eq!(partial, Ok(whole));
            Ok(())
        })
        .expect("both agree");
}

#[test]
fn what_is_left_out_makes_no_decision_wrong() {
    let counts = RefCell::new([0; 2]);
    let masks = (any::<[bool; 6]>(), any::<bool>());
    TestRunner::new(config())
        .run(&(policies(), connection(), request(), masks), |(policies, connection, passed, (mask, issued))| {
            let Passed::Request(facts) = &passed else { return Ok(()) };
            let all = seen(facts);
            let issuers: Vec<&str> =
                if issued { vec!["https://i", "i", "https://i/t", "https://i/", ""] } else { Vec::new() };
            let bearer = match &facts.token {
                _ if mask[4] => all.bearer,
                Some(token) if mask[5] => Bearer::Principal { principal: &token.principal, issuers: &issuers },
                None if mask[5] => Bearer::Exactly(None),
                _ => Bearer::Unknown { anew: false },
            };
            let part = Seen {
                method: all.method.filter(|_| mask[0]),
                path: all.path.filter(|_| mask[1]),
                host: all.host.filter(|_| mask[2]),
                headers: all.headers.filter(|_| mask[3]),
                bearer,
            };
            let found = possible(&policies, &connection, Carried::Request(part));
            let is = with(&passed, |passing| authorize(policies.iter(), None, &connection, passing)).is_ok();
            prop_assert!(found.cut || found.all.contains(&is), "{:?} of {:?}", is, found);
            prop_assert_eq!(found.all.len() > 1, !found.depends_on.is_empty() && !found.cut);
            counts.borrow_mut()[usize::from(found.all.len() > 1)] += 1;
            Ok(())
        })
        .expect("no decision is wrong");
    let [known, open] = counts.into_inner();
    assert!(known > 500 && open > 10, "{known} {open}");
}

/// All that a method may be, as far as the alphabet of the policies tells methods apart.
fn methods() -> Vec<String> {
    // `:method` is a header too.
    let parts = ["", "GET", "POST", "P", "T", "get"].into_iter().chain(WORDS).chain(HOSTS).collect::<Vec<_>>();
    let joined = parts.iter().flat_map(|head| parts.iter().map(move |tail| format!("{head}~{tail}")));
    joined.chain(parts[1..].iter().map(|part| (*part).to_owned())).collect()
}

#[test]
fn it_is_open_only_if_it_depends_on_what_is_left_out() {
    let open = RefCell::new(0);
    TestRunner::new(config())
        .run(&(policies(), connection(), request()), |(policies, connection, passed)| {
            let Passed::Request(facts) = &passed else { return Ok(()) };
            let part = Seen { method: None, ..seen(facts) };
            let found = possible(&policies, &connection, Carried::Request(part));
            let is = |method: &str| {
                let request = Requested { method, ..facts.requested() };
                authorize(policies.iter(), None, &connection, &Passing::Request(&request)).is_ok()
            };
            for outcome in [true, false] {
                let may_be = methods().iter().any(|method| is(method) == outcome);
                prop_assert!(found.all.contains(&outcome) || !may_be, "{} is left out", outcome);
                prop_assert!(may_be || !found.all.contains(&outcome), "{} cannot be", outcome);
            }
            *open.borrow_mut() += usize::from(found.all.len() > 1);
            Ok(())
        })
        .expect("it is exact");
    assert!(open.into_inner() > 0);
}

#[test]
fn the_same_condition_holds_or_not_wherever_it_stands() {
    use mesh_common::model::{Action, Clause, HeaderCondition, HttpMatch, Match, PolicyName, Rule, Scope, StringMatch};
    let condition = |yes: &[&str], no: &[&str]| {
        let list = |values: &[&str]| values.iter().map(|value| StringMatch::Exact((*value).to_owned())).collect();
        let header = HeaderCondition { name: "x-team".into(), values: list(yes), not_values: list(no) };
        let http = Some(Box::new(HttpMatch { headers: vec![header], ..HttpMatch::default() }));
        Rule { clauses: vec![Clause { matches: vec![Match { http, ..Match::default() }] }] }
    };
    let policy = |action, rules| Policy {
        name: PolicyName { namespace: "shop".into(), name: "teams".into() },
        scope: Scope::Namespace,
        action,
        rules,
        dry_run: false,
    };
    let headers = HeaderMap::new();
    let connection =
        Connection { source_identity: None, source_ip: [10, 0, 0, 1].into(), destination: ([10, 0, 0, 2], 80).into() };
    let request = Seen { method: Some("GET"), path: Some("/"), host: Some("a"), headers: None, ..Seen::NOTHING };
    let of = |policies: &[Policy], seen| possible(policies, &connection, Carried::Request(seen));

    let either = policy(Action::Allow, vec![condition(&["a"], &[]), condition(&[], &["a"])]);
    assert_eq!(of(&[either], request).all, [true], "one of the two rules matches");
    let deny = policy(Action::Deny, vec![condition(&["a"], &[])]);
    let found = of(std::slice::from_ref(&deny), request);
    assert_eq!(
        (found.all.as_slice(), found.depends_on),
        (&[false, true][..], vec![Attribute::Header("x-team".into())])
    );
    let contrary = [policy(Action::Allow, vec![condition(&["a"], &[])]), deny.clone()];
    assert_eq!(of(&contrary, request).all, [false], "whom it permits it refuses");
    let known = Seen { headers: Some(&headers), ..request };
    assert_eq!(of(&[deny], known).all, [true], "there are no headers");
    let token = Token { principal: "https://i/s".into(), ..Token::default() };
    assert_eq!(of(&[], Seen { bearer: Bearer::Exactly(Some(&token)), ..request }).all, [true]);
}
