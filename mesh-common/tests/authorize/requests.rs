//! Conditions on requests, and requests, of small alphabets.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use mesh_common::model::{
    ClaimCondition, HeaderCondition, HttpMatch, Passed, Passing, PathPattern, RequestFacts, StringMatch, Token,
};
use proptest::{collection, option, prelude::*, sample::select};
use serde_json::{Value, json};

use crate::generate::{net, some, string};

/// Of which patterns are made.
pub const HOSTS: [&str; 11] =
    ["a.com", "a.com:80", "a.com.", "a.", "com", ".com", ":80", "[::1]", "[::1]:80", "b.com.:81", "x.a.com"];
pub const WORDS: [&str; 8] = ["one", "two", "one,two", "one; two", "o", "true", "7", "one two"];

fn host() -> impl Strategy<Value = StringMatch> {
    string(&HOSTS)
}

fn method() -> impl Strategy<Value = StringMatch> {
    string(&["GET", "POST", "P", "T", "get"])
}

const PATHS: [&str; 14] =
    ["/", "/a", "/a/", "/a/b", "/a//b", "/ab", "/a/b/c", "/b/a=b", "/a/b.x", "/b", "/b/c/a", "/c", "/a/c/b", "/é/b"];

fn path() -> impl Strategy<Value = PathPattern> {
    let templates = vec![
        "/{*}",
        "/a/{*}",
        "/{*}/b",
        "/{*}/{*}",
        "/a/{**}",
        "/{**}",
        "/{**}/b",
        "/a/{**}/b",
        "/{**}.x",
        "/a/{*}.x",
        "/{*}/b/{**}",
        "/{*}/{**}/c",
        "/a/{*}/",
        "/b/{**}/",
    ];
    prop_oneof![
        3 => string(&PATHS).prop_map(PathPattern::Text),
        2 => select(templates).prop_map(|template| PathPattern::Template(template.to_owned())),
    ]
}

fn principal() -> impl Strategy<Value = StringMatch> {
    string(&[
        "https://i/s",
        "https://i",
        "https://i/",
        "https://i//",
        "https://i//s",
        "https://i/t/s",
        "https://i/t",
        "i/s",
        "i/",
        "s",
        "/s",
        "t/s",
        "i",
    ])
}

fn word() -> impl Strategy<Value = StringMatch> {
    string(&WORDS)
}

fn header() -> impl Strategy<Value = HeaderCondition> {
    (
        select(vec!["x-a", "x-b", "cookie", "host", ":authority", ":method"]),
        some(prop_oneof![3 => word(), 1 => host(), 1 => method()]),
        some(word()),
    )
        .prop_map(|(name, values, not_values)| {
            let not_values = something(&values, not_values);
            HeaderCondition { name: name.to_owned(), values, not_values }
        })
}

/// Nobody writes a condition without values.
fn something(values: &[StringMatch], not_values: Vec<StringMatch>) -> Vec<StringMatch> {
    if values.is_empty() && not_values.is_empty() { vec![StringMatch::Presence] } else { not_values }
}

fn claim() -> impl Strategy<Value = ClaimCondition> {
    let paths =
        vec![vec!["scope"], vec!["groups"], vec!["realm", "role"], vec!["realm"], vec!["permission"], vec!["name"]];
    (select(paths), some(word()), some(word())).prop_map(|(path, values, not_values)| {
        let not_values = something(&values, not_values);
        ClaimCondition { path: path.into_iter().map(str::to_owned).collect(), values, not_values }
    })
}

pub fn http_match() -> impl Strategy<Value = HttpMatch> {
    let first = (some(host()), some(host()), some(method()), some(method()), some(path()), some(path()));
    let token = (some(principal()), some(principal()), some(word()), some(word()), some(word()), some(word()));
    let rest = (some(net()), some(net()), some(header()), some(claim()));
    let names = (few(host()), few(host()));
    (first, token, rest, names, path()).prop_map(|(first, token, rest, names, fallback)| {
        let mut http = HttpMatch {
            hosts: first.0,
            not_hosts: first.1,
            methods: first.2,
            not_methods: first.3,
            paths: first.4,
            not_paths: first.5,
            request_principals: token.0,
            not_request_principals: token.1,
            audiences: token.2,
            not_audiences: token.3,
            presenters: token.4,
            not_presenters: token.5,
            remote_ips: rest.0,
            not_remote_ips: rest.1,
            headers: rest.2,
            claims: rest.3,
            server_names: names.0,
            not_server_names: names.1,
        };
        if http == HttpMatch::default() {
            http.paths = vec![fallback];
        }
        http
    })
}

fn few(value: impl Strategy<Value = StringMatch>) -> impl Strategy<Value = Vec<StringMatch>> {
    option::weighted(0.03, collection::vec(value, 1..3)).prop_map(Option::unwrap_or_default)
}

fn claims() -> impl Strategy<Value = Value> {
    let text = || select(vec!["one", "two", "one two", "", "other"]);
    let list = collection::vec(prop_oneof![text().prop_map(|t| json!(t)), Just(json!(7)), Just(json!(["one"]))], 0..3);
    prop_oneof![
        text().prop_map(|text| json!(text)),
        list.prop_map(Value::Array),
        Just(json!(true)),
        Just(json!(7)),
        Just(json!({ "role": "one" })),
        Just(json!({ "role": ["two", "one two"] })),
        Just(Value::Null),
    ]
}

fn token() -> impl Strategy<Value = Token> {
    let names = vec!["scope", "groups", "realm", "permission", "name"];
    let subject = select(vec!["s", "t/s", "t", ""]);
    let words = || select(vec!["one", "two", "o"]).prop_map(str::to_owned);
    (
        select(vec!["https://i", "https://i/", "https://i/t", "i", ""]),
        subject,
        collection::vec(words(), 0..3),
        option::of(words()),
        collection::vec((select(names), claims()), 0..4),
    )
        .prop_map(|(issuer, subject, audiences, presenter, claims)| {
            let mut claims: serde_json::Map<_, _> =
                claims.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            claims.insert("iss".into(), json!(issuer));
            claims.insert("sub".into(), json!(subject));
            Token { principal: format!("{issuer}/{subject}"), audiences, presenter, claims, ..Token::default() }
        })
}

fn facts() -> impl Strategy<Value = RequestFacts> {
    let hosts = vec![
        "a.com",
        "a.com:80",
        "a.com.",
        "a.com.:80",
        "x.a.com:81",
        "b.com:81",
        "[::1]",
        "[::1]:80",
        "::1",
        "com",
        "",
    ];
    let value = select(vec!["one", "two", "", "one,two", "other"]);
    let headers = collection::vec((select(vec!["x-a", "x-b", "cookie", "host"]), value), 0..5).prop_map(|list| {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    });
    (select(vec!["GET", "POST", "PUT"]), select(&PATHS[..]), select(hosts), headers, option::of(token())).prop_map(
        |(method, path, host, headers, token)| RequestFacts {
            method: method.into(),
            path: path.into(),
            host: host.into(),
            headers,
            token: token.map(Arc::new),
        },
    )
}

pub fn request() -> impl Strategy<Value = Passed> {
    facts().prop_map(|facts| Passed::Request(Arc::new(facts)))
}

pub fn passed() -> impl Strategy<Value = Passed> {
    let names = vec!["a.com", "x.a.com", "b.com"];
    prop_oneof![
        1 => Just(Passed::Open),
        1 => Just(Passed::BYTES),
        1 => Just(Passed::Unnamed),
        1 => select(names).prop_map(|name| Passed::Bytes { server_name: Some(name.to_owned()) }),
        5 => request(),
    ]
}

pub fn with<R>(passed: &Passed, ask: impl FnOnce(&Passing<'_>) -> R) -> R {
    match passed {
        Passed::Open => ask(&Passing::Open),
        Passed::Bytes { server_name } => ask(&Passing::Bytes { server_name: server_name.as_deref() }),
        Passed::Unnamed => ask(&Passing::Unnamed),
        Passed::Request(facts) => ask(&Passing::Request(&facts.requested())),
    }
}
