//! Questions about requests and connections to one pod of this node.

use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use mesh_common::{
    model::{
        Action, Clause, HttpMatch, LocalPod, Match, Mode, PathPattern, Policy, PolicyName, Rule, Scope, StringMatch,
        traffic::{Inbound, Origin, Protocol, TokenRule},
    },
    proto::nodemesh::Header,
};
use serde_json::json;

use super::*;
use crate::state::{
    Object, Store,
    tests::{pod, put, workload},
};

const ISSUER: &str = "https://issuer.example";

struct Issuer(Ed25519KeyPair);

impl Issuer {
    fn rule(&self) -> TokenRule {
        let key = json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(self.0.public_key()) });
        TokenRule::new(
            Origin { object: "RequestAuthentication shop/tokens".into(), field: "jwtRules[0]".into() },
            ISSUER,
            Some(json!({ "keys": [key] }).to_string().into()),
        )
    }

    /// That is over in so many seconds.
    fn token(&self, subject: &str, seconds: i64) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let claims = json!({ "iss": ISSUER, "sub": subject, "exp": now.saturating_add_signed(seconds) });
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(json!({ "alg": "EdDSA" })), part(claims));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes())))
    }
}

fn allow(name: &str, http: HttpMatch) -> Object {
    let matches = vec![Match { http: Some(Box::new(http)), ..Match::default() }];
    let rules = vec![Rule { clauses: vec![Clause { matches }] }];
    let name = PolicyName { namespace: "shop".into(), name: name.into() };
    Object::Policy(Policy { name, scope: Scope::Namespace, action: Action::Allow, rules, dry_run: false })
}

fn reads() -> HttpMatch {
    HttpMatch {
        methods: vec![StringMatch::Exact("GET".into())],
        paths: vec![PathPattern::Text(StringMatch::Prefix("/api/".into()))],
        ..HttpMatch::default()
    }
}

fn snapshot(inbound: Inbound, policies: Vec<Object>) -> Arc<Snapshot> {
    let store = Store::default();
    let pod = LocalPod { inbound, ..pod("a", Mode::Mesh) };
    put(&store, [Object::Workload(workload("a", "10.0.0.1")), Object::LocalPod(pod)]);
    put(&store, policies)
}

fn query(method: &str, path: &str) -> AuthzQuery {
    AuthzQuery {
        destination: "shop/a".into(),
        port: 8080,
        method: method.into(),
        path: path.into(),
        ..AuthzQuery::default()
    }
}

fn asked(snapshot: &Arc<Snapshot>, query: &AuthzQuery) -> AuthzAnswer {
    of_node("n1", snapshot, query).expect("a question")
}

#[test]
fn a_request_is_decided_as_one_that_arrives() {
    let snapshot = snapshot(Inbound::default(), vec![allow("reads", reads())]);
    for (method, path, reason, said) in [
        ("GET", "/api/x?token=1", "", "permitted by policy shop/reads"),
        ("", "/api/%78", "", "The path is passed on as /api/x."),
        ("POST", "/api/x", "POLICY_NO_ALLOW", "no ALLOW rule matches"),
        ("GET", "/api/../x", "POLICY_NO_ALLOW", "The path is passed on as /x."),
        ("GET", "/api/..%2fx", "POLICY_NO_ALLOW", "decided about the path /x, for which a server may take it."),
        ("GET", "/api/%2500", "PATH_AMBIGUOUS", "zero byte"),
        ("GET", "/api/%zz", "REQUEST_MALFORMED", "two hexadecimal digits"),
        ("GET", "/api\\x", "REQUEST_MALFORMED", "bytes that no path may have"),
    ] {
        let answer = asked(&snapshot, &query(method, path));
        assert_eq!(answer.reason, reason, "{method} {path}: {answer:?}");
        assert!(answer.message.contains(said), "{method} {path}: {answer:?}");
        assert_eq!(answer.verdict() == Verdict::Forwarded, reason.is_empty(), "{answer:?}");
        assert!(answer.authoritative && !answer.depends_on_request);
    }
    let refused = asked(&snapshot, &query("POST", "/api/x"));
    let nearest = refused.nearest.expect("one condition is missing");
    assert_eq!((nearest.policy.as_str(), nearest.rule, nearest.missing.len()), ("shop/reads", 0, 1));
    assert_eq!((nearest.missing[0].field.as_str(), nearest.missing[0].actual.as_str()), ("methods", "POST"));
    assert_eq!(refused.policies.len(), 1);
}

#[test]
fn a_connection_of_which_requests_are_asked_is_not_promised_more_than_it_gets() {
    let with_reads = snapshot(Inbound::default(), vec![allow("reads", reads())]);
    let answer = asked(&with_reads, &query("", ""));
    assert!(answer.depends_on_request && answer.verdict() == Verdict::Forwarded, "{answer:?}");
    assert!(answer.message.contains("give --method, --path") && answer.message.contains("no ALLOW rule"), "{answer:?}");
    // Whatever is asked there.
    let everybody = Match { destination_ports: vec![8080], ..Match::default() };
    let rules = vec![Rule { clauses: vec![Clause { matches: vec![everybody] }] }];
    let name = PolicyName { namespace: "shop".into(), name: "port".into() };
    let port = Policy { name, scope: Scope::Namespace, action: Action::Allow, rules, dry_run: false };
    let both = snapshot(Inbound::default(), vec![allow("reads", reads()), Object::Policy(port)]);
    let answer = asked(&both, &query("", ""));
    assert!(!answer.depends_on_request && answer.policy == "shop/port", "{answer:?}");
    // What is declared as no HTTP is never read.
    let inbound = Inbound { protocols: [(8080, Protocol::Tcp)].into(), ..Inbound::default() };
    let answer = asked(&snapshot(inbound, vec![allow("reads", reads())]), &query("GET", "/api/x"));
    assert!(answer.reason == "POLICY_NO_ALLOW" && answer.message.contains("declared as TCP"), "{answer:?}");
}

#[test]
fn a_token_is_verified_by_the_pods_own_rules_and_never_told() {
    let issuer = Issuer(Ed25519KeyPair::generate().expect("a key"));
    let alice =
        HttpMatch { request_principals: vec![StringMatch::Exact(format!("{ISSUER}/alice"))], ..HttpMatch::default() };
    let inbound = Inbound { tokens: vec![issuer.rule()], ..Inbound::default() };
    let with_rule = snapshot(inbound, vec![allow("alice", alice.clone())]);
    let with = |snapshot: &Arc<Snapshot>, token: String| {
        let answer = asked(snapshot, &AuthzQuery { token: token.clone(), ..query("", "") });
        assert!(!format!("{answer:?}").contains(&token), "{answer:?}");
        answer
    };
    assert_eq!(with(&with_rule, issuer.token("alice", 600)).policy, "shop/alice");
    assert_eq!(with(&with_rule, issuer.token("bob", 600)).reason, "POLICY_NO_ALLOW");
    let over = with(&with_rule, issuer.token("alice", -600));
    assert_eq!((over.reason.as_str(), over.message.as_str()), ("JWT_EXPIRED", "the token is over"));
    assert_eq!(with(&with_rule, "a.b.c".into()).reason, "JWT_MALFORMED");
    let stranger = Issuer(Ed25519KeyPair::generate().expect("a key"));
    assert_eq!(with(&with_rule, stranger.token("alice", 600)).reason, "JWT_SIGNATURE");
    let none = asked(&with_rule, &query("GET", "/"));
    assert_eq!(none.reason, "POLICY_NO_ALLOW", "without any");
    // Nobody looks for it.
    let without = with(&snapshot(Inbound::default(), vec![allow("alice", alice)]), issuer.token("alice", 600));
    assert!(without.reason == "POLICY_NO_ALLOW" && without.message.contains("counts for nothing"), "{without:?}");
    let elsewhere = AuthzQuery { token: issuer.token("alice", 600), ..query("", "") };
    assert!(!of_node("n2", &with_rule, &elsewhere).expect("a question").authoritative);
}

#[test]
fn what_no_request_can_have_is_named_by_its_field() {
    let snapshot = snapshot(Inbound::default(), Vec::new());
    let header = |name: &str, value: &str| Header { name: name.into(), value: value.into() };
    for (field, wrong) in [
        ("method", query("GE T", "/")),
        ("method", query("CONNECT", "/")),
        ("path", query("GET", "api")),
        ("path", query("GET", "/a b")),
        ("host", AuthzQuery { host: "a\nb".into(), ..query("", "") }),
        ("headers[0].name", AuthzQuery { headers: vec![header("a b", "c")], ..query("", "") }),
        ("headers[1].value", AuthzQuery { headers: vec![header("a", "b"), header("a", "\n")], ..query("", "") }),
        ("token", AuthzQuery { token: "a\nb".into(), ..query("", "") }),
        ("port", AuthzQuery { port: 0, ..query("GET", "/") }),
    ] {
        let refused = of_node("n1", &snapshot, &wrong).expect_err(field);
        assert!(refused.message().starts_with(&format!("{field}: ")), "{field}: {refused:?}");
    }
}
