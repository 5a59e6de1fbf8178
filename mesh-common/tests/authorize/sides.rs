//! Attributes with several values or readings: every small case, against the slow reading, compiled and explained.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_common::{
    authz::Rules,
    model::{
        Action, Clause, Connection, HeaderCondition, HttpMatch, Match, Passed, Policy, PolicyName, RequestFacts, Rule,
        Scope, StringMatch, Token, authorize, explain,
    },
};
use serde_json::json;

use crate::{
    reference::{self, Outcome},
    requests::with,
};

fn policies(action: Action, http: &HttpMatch) -> Vec<Policy> {
    let one = Match { http: Some(Box::new(http.clone())), ..Match::default() };
    let policy = |name: &str, action, clauses| Policy {
        name: PolicyName { namespace: "a".into(), name: name.into() },
        scope: Scope::Global,
        action,
        rules: vec![Rule { clauses }],
        dry_run: false,
    };
    // Many others beside it, so that it is found by its keys.
    let others = (0..9).map(|n| Clause {
        matches: vec![Match {
            http: Some(Box::new(HttpMatch {
                methods: vec![StringMatch::Exact(format!("M{n}"))],
                ..HttpMatch::default()
            })),
            ..Match::default()
        }],
    });
    let mut asked = policy("asked", action, vec![Clause { matches: vec![one] }]);
    asked.rules.extend(others.map(|clause| Rule { clauses: vec![clause] }));
    vec![asked]
}

/// How many were met.
fn agree(http: &HttpMatch, facts: &[RequestFacts]) -> usize {
    let connection =
        Connection { source_identity: None, source_ip: [10, 0, 0, 1].into(), destination: ([10, 0, 0, 2], 80).into() };
    let mut met = 0;
    for action in [Action::Allow, Action::Deny, Action::Audit] {
        let policies = policies(action, http);
        let shared: Arc<[Arc<Policy>]> = policies.iter().cloned().map(Arc::new).collect();
        let rules = Rules::new(&shared);
        for facts in facts {
            let passed = Passed::Request(Arc::new(facts.clone()));
            let (plain, compiled, matched, explained) = with(&passed, |passing| {
                (
                    authorize(policies.iter(), None, &connection, passing),
                    rules.decide(None, &connection, passing),
                    policies[0].matching_rule(&connection, passing),
                    explain(policies.iter(), None, &connection, passing),
                )
            });
            let why = || format!("{action:?} {http:?} {facts:?}");
            assert_eq!(compiled, plain, "{}", why());
            assert_eq!(Outcome::of(&plain), reference::decide(&policies, None, &connection, &passed), "{}", why());
            let shown = explained[0].rules.iter().position(|rule| rule.matched);
            assert_eq!(shown, matched, "{}", why());
            met += usize::from(matched.is_some());
        }
    }
    met
}

#[test]
fn repeated_headers_are_read_for_the_safe_side() {
    let lines: Vec<Vec<&str>> = vec![
        vec![],
        vec!["a"],
        vec!["b"],
        vec![""],
        vec!["a", "b"],
        vec!["b", "a"],
        vec!["a", "a"],
        vec!["a", ""],
        vec!["a,b"],
        vec!["a; b"],
        vec!["ab", "a"],
        vec!["a", "b", "c"],
    ];
    use StringMatch::{Exact, Prefix, Presence, Suffix};
    let wants: Vec<Vec<StringMatch>> = vec![
        vec![],
        vec![Exact("a".into())],
        vec![Exact("a".into()), Exact("b".into())],
        vec![Exact("a".into()), Exact("b".into()), Exact("a,b".into())],
        vec![Exact("a; b".into())],
        vec![Prefix("a".into())],
        vec![Suffix("b".into())],
        vec![Presence],
    ];
    let mut met = 0;
    for name in ["x-a", "cookie"] {
        let requests = lines.iter().map(|lines| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(line));
            }
            let [method, path, host] = ["GET", "/", "a.com"].map(str::to_owned);
            RequestFacts { method, path, host, headers, token: None }
        });
        let requests: Vec<_> = requests.collect();
        for values in &wants {
            for not_values in &wants {
                let (values, not_values) = (values.clone(), not_values.clone());
                let condition = HeaderCondition { name: name.into(), values, not_values };
                met += agree(&HttpMatch { headers: vec![condition], ..HttpMatch::default() }, &requests);
            }
        }
    }
    assert!(met > 500, "{met}");
}

#[test]
fn principals_are_read_for_the_safe_side() {
    use StringMatch::{Exact, Prefix, Presence, Suffix};
    let texts = [
        "https://i/t/s",
        "https://i/t",
        "https://i/",
        "https://i//",
        "https://i//s",
        "https://",
        "https://i",
        "i/s",
        "/s",
        "t/s",
        "/t/s",
        "s",
    ];
    let mut wants: Vec<StringMatch> = vec![Presence];
    for text in texts {
        wants.extend([Exact(text.into()), Prefix(text.into()), Suffix(text.into())]);
    }
    let mut requests = Vec::new();
    for issuer in ["https://i", "https://i/", "https://i/t", "i", ""] {
        for subject in ["s", "t/s", "t/", "/s", ""] {
            let mut claims = serde_json::Map::new();
            claims.insert("iss".into(), json!(issuer));
            claims.insert("sub".into(), json!(subject));
            let token = Token { principal: format!("{issuer}/{subject}"), claims, ..Token::default() };
            let [method, path, host] = ["GET", "/", "a.com"].map(str::to_owned);
            let token = Some(Arc::new(token));
            requests.push(RequestFacts { method, path, host, headers: HeaderMap::new(), token });
        }
    }
    let mut met = 0;
    for want in wants {
        met += agree(&HttpMatch { request_principals: vec![want.clone()], ..HttpMatch::default() }, &requests);
        met += agree(&HttpMatch { not_request_principals: vec![want], ..HttpMatch::default() }, &requests);
    }
    assert!(met > 500, "{met}");
}
