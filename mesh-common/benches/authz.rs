//! What a decision costs among 10,000 policies of 10 rules. `cargo bench -p mesh-common --features route --bench
//! authz`.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue};
use mesh_common::{
    authz::Rules,
    model::{
        Action, Clause, Connection, HeaderCondition, HttpMatch, Match, Passing, PathPattern, Policy, PolicyName,
        Requested, Rule, Scope, StringMatch,
    },
};

const POLICIES: usize = 10_000;
const RULES: usize = 10;

fn exact(text: String) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text)]
}

/// 10 rules each; `clauses` makes them from their number among all.
fn policies(clauses: impl Fn(usize) -> Vec<Match>) -> Arc<[Arc<Policy>]> {
    let clause = |m| Clause { matches: vec![m] };
    let rule = |number| Rule { clauses: clauses(number).into_iter().map(clause).collect() };
    let policy = |number: usize| Policy {
        name: PolicyName { namespace: "shop".into(), name: format!("p{number}") },
        scope: Scope::Namespace,
        // One of ten denies.
        action: if number.is_multiple_of(10) { Action::Deny } else { Action::Allow },
        rules: (0..RULES).map(|of| rule(number * RULES + of)).collect(),
        dry_run: false,
    };
    (0..POLICIES).map(|number| Arc::new(policy(number))).collect()
}

fn from(account: usize) -> Match {
    Match { principals: exact(format!("cluster.local/ns/shop/sa/client-{account}")), ..Match::default() }
}

fn to(method: &str, paths: Vec<PathPattern>) -> Match {
    let http = HttpMatch { methods: exact(method.into()), paths, ..HttpMatch::default() };
    Match { http: Some(Box::new(http)), ..Match::default() }
}

fn path(text: String) -> Vec<PathPattern> {
    vec![PathPattern::Text(StringMatch::Exact(text))]
}

fn prefix(text: String) -> Vec<PathPattern> {
    vec![PathPattern::Text(StringMatch::Prefix(text))]
}

fn header(value: String) -> Match {
    let header = HeaderCondition { name: "x-tenant".into(), values: exact(value), not_values: vec![] };
    Match { http: Some(Box::new(HttpMatch { headers: vec![header], ..HttpMatch::default() })), ..Match::default() }
}

fn network(number: usize) -> Match {
    let [a, b] = [number / 256 % 256, number % 256];
    Match { source_ips: vec![format!("10.{a}.{b}.0/24").parse().expect("a network")], ..Match::default() }
}

fn decide(criterion: &mut Criterion) {
    let template = |n: usize| vec![PathPattern::Template(format!("/users/{{*}}/orders/{n}/{{**}}"))];
    let sets = [
        ("principal, method, path", policies(|n| vec![from(n), to("GET", path(format!("/api/{n}/items")))])),
        // Alone neither tells few apart.
        (
            "100 principals by 1000 paths",
            policies(|n| vec![from(n % 100), to("GET", path(format!("/api/{}/items", n / 100)))]),
        ),
        ("one principal, prefixes", policies(|n| vec![from(1), to("GET", prefix(format!("/static/{n}/")))])),
        ("templates", policies(|n| vec![to("GET", template(n))])),
        ("headers", policies(|n| vec![to("GET", prefix("/".into())), header(format!("tenant-{n}"))])),
        ("networks", policies(|n| vec![network(n), to("GET", path(format!("/api/{n}/items")))])),
    ];
    let mut headers = HeaderMap::new();
    for name in ["accept", "user-agent", "x-request-id", "traceparent", "cookie", "authorization", "content-type"] {
        headers.insert(name, HeaderValue::from_static("some value of the usual length"));
    }
    let mut tenant = headers.clone();
    tenant.insert("x-tenant", HeaderValue::from_static("tenant-54321"));
    let client = |account: usize| Connection {
        source_identity: Some(
            format!("spiffe://cluster.local/ns/shop/sa/client-{account}").parse().expect("an identity"),
        ),
        source_ip: [10, 212, 49, 7].into(),
        destination: ([10, 0, 0, 1], 8080).into(),
    };
    for (name, policies) in &sets {
        let rules = Rules::new(policies);
        let mut group = criterion.benchmark_group(*name);
        for (what, account, path, headers) in [
            ("own", 54_321, "/api/54321/items", &headers),
            ("of few", 21, "/api/543/items", &headers),
            ("prefix", 1, "/static/54321/logo.png", &headers),
            ("template", 7, "/users/4711/orders/54321/lines/3", &headers),
            ("header", 7, "/anything", &tenant),
            ("nobody's", 999_999, "/nobody/knows/this", &headers),
        ] {
            let connection = client(account);
            let request = Requested { method: "GET", path, host: "shop.shop:8080", headers, token: None };
            let passing = Passing::Request(&request);
            let permitted = rules.decide(None, &connection, &passing).is_ok();
            group.bench_function(format!("{what}, {}", if permitted { "permitted" } else { "refused" }), |bencher| {
                bencher.iter(|| black_box(&rules).decide(None, black_box(&connection), black_box(&passing)));
            });
        }
        group.finish();
    }
}

fn compile(criterion: &mut Criterion) {
    let policies = policies(|n| vec![from(n), to("GET", path(format!("/api/{n}/items")))]);
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    group.bench_function("10k policies", |bencher| bencher.iter(|| Rules::new(black_box(&policies))));
    group.finish();
}

criterion_group!(benches, decide, compile);
criterion_main!(benches);
