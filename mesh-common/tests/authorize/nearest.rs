//! What is shown of requests, and which rule is next to permitting one.

use http::{HeaderMap, HeaderValue};
use mesh_common::model::{
    Action, ClaimCondition, Clause, Connection, Considered, HeaderCondition, HttpMatch, Match, Passing, PathPattern,
    Policy, PolicyName, Requested, Rule, Scope, StringMatch, Token, explain, nearest,
};
use serde_json::json;

fn exact(text: &str) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text.into())]
}

fn http(http: HttpMatch) -> Match {
    Match { http: Some(Box::new(http)), ..Match::default() }
}

fn path(text: &str) -> Vec<PathPattern> {
    vec![PathPattern::Text(StringMatch::Exact(text.into()))]
}

/// Each rule by its clauses, each of these by its matches.
fn policy(name: &str, action: Action, rules: Vec<Vec<Vec<Match>>>) -> Policy {
    let clause = |matches| Clause { matches };
    let rule = |clauses: Vec<_>| Rule { clauses: clauses.into_iter().map(clause).collect() };
    Policy {
        name: PolicyName { namespace: "shop".into(), name: name.into() },
        scope: Scope::Namespace,
        action,
        rules: rules.into_iter().map(rule).collect(),
        dry_run: false,
    }
}

/// `POST a.com/cart` of cart, with a token of alice's.
fn considered(
    policies: &[Policy],
    ask: impl FnOnce(&dyn Fn(&Passing<'_>) -> Vec<Considered>, &Requested<'_>) -> Vec<Considered>,
) -> Vec<Considered> {
    let connection = Connection {
        source_identity: Some("spiffe://cluster.local/ns/shop/sa/cart".parse().expect("an identity")),
        source_ip: [10, 0, 0, 9].into(),
        destination: ([10, 0, 0, 1], 80).into(),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-a", "one"),
        ("x-a", "two"),
        ("authorization", "Bearer s3cret"),
        ("x-api-key", "s3cret"),
        ("cookie", "sid=s3cret"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    let claims = json!({ "sub": "alice", "group": ["dev", "ops"], "realm": { "role": "admin" } });
    let token = Token {
        principal: "https://i/alice".into(),
        audiences: vec!["web".into(), "app".into()],
        presenter: Some("portal".into()),
        claims: claims.as_object().expect("an object").clone(),
        ..Token::default()
    };
    let request = Requested { method: "POST", path: "/cart", host: "a.com:80", headers: &headers, token: Some(&token) };
    ask(&|passing| explain(policies.iter(), None, &connection, passing), &request)
}

fn of_request(policies: &[Policy]) -> Vec<Considered> {
    considered(policies, |explained, request| explained(&Passing::Request(request)))
}

fn said(all: &[Considered]) -> Vec<String> {
    let clauses = all.iter().flat_map(|c| &c.rules).flat_map(|rule| &rule.clauses);
    let conditions = clauses.flat_map(|clause| &clause.matches).flat_map(|m| &m.conditions);
    conditions.map(|c| format!("{} [{}] {} {}", c.field, c.values.join(", "), c.actual, c.holds)).collect()
}

fn everything(action: Action) -> Policy {
    let header =
        |name: &str, value: &str| HeaderCondition { name: name.into(), values: exact(value), not_values: vec![] };
    let from = HttpMatch {
        request_principals: exact("https://i/alice"),
        not_remote_ips: vec!["10.0.0.9/32".parse().expect("a network")],
        ..HttpMatch::default()
    };
    let to = HttpMatch {
        methods: exact("GET"),
        not_paths: vec![PathPattern::Template("/{*}".into()), PathPattern::Text(StringMatch::Prefix("/a".into()))],
        hosts: exact("a.com"),
        ..HttpMatch::default()
    };
    let group = ClaimCondition { path: vec!["group".into()], values: exact("ops"), not_values: exact("evil") };
    let role = ClaimCondition { path: vec!["realm".into(), "role".into()], values: exact("admin"), not_values: vec![] };
    let when = HttpMatch {
        headers: vec![
            header("x-a", "two"),
            header("authorization", "x"),
            header("x-api-key", "x"),
            header("cookie", "x"),
        ],
        claims: vec![group, role],
        audiences: exact("app"),
        not_presenters: exact("portal"),
        ..HttpMatch::default()
    };
    let again = HttpMatch { request_principals: exact("https://i/bob"), ..HttpMatch::default() };
    let sni = HttpMatch { server_names: exact("a.com"), ..HttpMatch::default() };
    let clauses = [from, to, when, again, sni].map(|m| vec![http(m)]);
    policy("p", action, vec![clauses.to_vec()])
}

#[test]
fn conditions_on_requests_bear_the_names_of_the_yaml_and_no_secrets() {
    let all = of_request(&[everything(Action::Allow)]);
    assert_eq!(
        said(&all),
        [
            "requestPrincipals [https://i/alice] https://i/alice true",
            "notRemoteIpBlocks [10.0.0.9] 10.0.0.9 false",
            "hosts [a.com] a.com:80 true",
            "methods [GET] POST false",
            "notPaths [/{*}, /a*] /cart false",
            "when[request.auth.audiences].values [app] web, app true",
            "when[request.auth.presenter].notValues [portal] portal false",
            // Beside another value it lets nobody pass.
            "when[request.headers[x-a]].values [two] one,two false",
            "when[request.headers[authorization]].values [x] (set) false",
            "when[request.headers[x-api-key]].values [x] (set) false",
            "when[request.headers[cookie]].values [x] (set) false",
            "when[request.auth.claims[group]].values [ops] dev, ops true",
            "when[request.auth.claims[group]].notValues [evil] dev, ops true",
            "when[request.auth.claims[realm][role]].values [admin] admin true",
            "when[request.auth.principal].values [https://i/bob] https://i/alice false",
            "when[connection.sni].values [a.com]  false",
        ]
    );
    assert!(!format!("{all:?}").contains("s3cret"));
    let deny = said(&of_request(&[everything(Action::Deny)]));
    assert!(deny.contains(&"when[request.headers[x-a]].values [two] one,two true".to_owned()), "{deny:?}");
}

#[test]
fn without_a_request_the_action_says_what_its_conditions_count_as() {
    let open = |policy: Policy| said(&considered(&[policy], |explained, _| explained(&Passing::Open)));
    let bytes = |policy: Policy| {
        said(&considered(&[policy], |explained, _| explained(&Passing::Bytes { server_name: Some("a.com") })))
    };
    let unnamed = |policy: Policy| said(&considered(&[policy], |explained, _| explained(&Passing::Unnamed)));
    for (said, end, server_name) in [
        (open(everything(Action::Allow)), "no request true", "no request true"),
        (open(everything(Action::Deny)), "no request false", "no request false"),
        (bytes(everything(Action::Allow)), "no request false", "a.com true"),
        (bytes(everything(Action::Deny)), "no request true", "a.com true"),
        (unnamed(everything(Action::Allow)), "no request false", "a hello that could not be read false"),
        (unnamed(everything(Action::Deny)), "no request true", "a hello that could not be read true"),
    ] {
        let (last, others) = said.split_last().expect("conditions");
        assert!(last.ends_with(server_name), "{last}");
        assert!(others.len() == 15 && others.iter().all(|one| one.ends_with(end)), "{others:?}");
    }
}

#[test]
fn nearest_is_the_allow_rule_with_the_fewest_conditions_to_turn() {
    let of =
        |method: &str, at: &str| http(HttpMatch { methods: exact(method), paths: path(at), ..HttpMatch::default() });
    let by = |name: &str| Match { namespaces: exact(name), ..Match::default() };
    let policies = [
        policy("far", Action::Allow, vec![vec![vec![by("other")], vec![of("GET", "/x")]]]),
        policy(
            "near",
            Action::Allow,
            vec![
                vec![vec![by("other")], vec![of("POST", "/x")]],
                // The second of two alternatives is nearer.
                vec![vec![by("shop")], vec![of("GET", "/x"), of("GET", "/cart")]],
                vec![vec![by("other")]],
            ],
        ),
        Policy { dry_run: true, ..policy("dry", Action::Allow, vec![vec![]]) },
        policy("deny", Action::Deny, vec![vec![vec![by("other")]]]),
    ];
    let found = nearest(&of_request(&policies)).expect("a rule");
    assert_eq!((found.policy.name.as_str(), found.rule), ("near", 1));
    assert_eq!(found.missing.iter().map(|c| c.field.as_str()).collect::<Vec<_>>(), ["methods"]);

    let permitted = policy("all", Action::Allow, vec![vec![]]);
    assert_eq!(nearest(&of_request(&[permitted])), None);
    assert_eq!(nearest(&of_request(&[policy("none", Action::Allow, vec![])])), None, "there is no rule");
    assert_eq!(nearest(&of_request(&[])), None);
}

#[test]
fn nearest_of_a_deny_is_what_makes_its_rule_stop() {
    let by = |name: &str| Match { namespaces: exact(name), ..Match::default() };
    let method = http(HttpMatch { methods: exact("POST"), ..HttpMatch::default() });
    let at = http(HttpMatch { paths: path("/cart"), ..HttpMatch::default() });
    let deny = policy(
        "deny",
        Action::Deny,
        // Two alternatives hold: both had to stop. One of the method is enough.
        vec![vec![vec![by("other")]], vec![vec![by("shop"), at], vec![method], vec![]]],
    );
    let allow = policy("allow", Action::Allow, vec![vec![]]);
    let found = nearest(&of_request(&[allow, deny])).expect("a rule");
    assert_eq!((found.policy.name.as_str(), found.rule), ("deny", 1));
    let missing: Vec<_> = found.missing.iter().map(|c| (c.field.as_str(), c.holds)).collect();
    assert_eq!(missing, [("methods", true)]);
    assert_eq!(nearest(&of_request(&[policy("always", Action::Deny, vec![vec![]])])), None, "it cannot stop");
}
