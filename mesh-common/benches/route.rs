//! What it costs to find a request's route among 10,000 of one service. `cargo bench -p mesh-common --features route`.

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method};
use mesh_common::{
    model::traffic::{
        Action, DirectResponse, HeaderMatch, HttpRoute, Labels, Origin, PathMatch, RequestMatch, TextMatch,
    },
    route::{Effort, Request, Router},
};
use std::hint::black_box;

const ROUTES: usize = 10_000;
/// The service's patterns; others are whole paths, beginnings and headers.
const PATTERNS: usize = 2_000;

fn route(matched: RequestMatch) -> HttpRoute {
    let action = Action::Respond(DirectResponse { status: 200, body: None });
    HttpRoute { matches: vec![matched], ..HttpRoute::new("", Origin::default(), action) }
}

fn by_path(path: PathMatch) -> HttpRoute {
    route(RequestMatch { path: Some(path), ..RequestMatch::default() })
}

fn by_header(value: String) -> HttpRoute {
    let header = HeaderMatch { name: "x-tenant".into(), value: TextMatch::Exact(value), not: false };
    route(RequestMatch { headers: vec![header], ..RequestMatch::default() })
}

fn request<'a>(path: &'a str, headers: &'a HeaderMap, labels: &'a Labels) -> Request<'a> {
    Request {
        method: &Method::GET,
        path,
        query: Some("page=2"),
        scheme: "http",
        authority: "shop.shop.svc.cluster.local",
        headers,
        port: 80,
        source_labels: labels,
        source_namespace: "shop",
    }
}

fn find(criterion: &mut Criterion) {
    let exact = |n: usize| by_path(PathMatch::Exact(format!("/api/v1/products/{n}/details")));
    let prefix = |n: usize| by_path(PathMatch::Prefix(format!("/static/{n}/")));
    let elements = |n: usize| by_path(PathMatch::Elements(format!("/shop/{n}/cart")));
    let regex = |n: usize| by_path(PathMatch::Regex(format!("/users/[0-9]+/orders/{n}")));
    let header = |n: usize| by_header(format!("tenant-{n}"));
    let mixed: Vec<_> = (0..ROUTES / 5).flat_map(|n| [exact(n), prefix(n), elements(n), regex(n), header(n)]).collect();
    let uncertain: Vec<_> =
        (1..=200).map(|n| by_path(PathMatch::Regex(format!("[/][a-w]+([0-9]{{{n}}}|z)")))).collect();
    let middle: Vec<_> = (0..PATTERNS).map(|n| by_path(PathMatch::Regex(format!(".*[^0-9]{n}[^0-9].*")))).collect();
    let lists = [
        ("10k exact", (0..ROUTES).map(exact).collect::<Vec<_>>()),
        ("10k prefix", (0..ROUTES).map(prefix).collect()),
        ("10k elements", (0..ROUTES).map(elements).collect()),
        ("10k header", (0..ROUTES).map(header).collect()),
        ("2k regex", (0..PATTERNS).map(regex).collect()),
        ("2k regex, certain in the middle", middle),
        ("200 regex, nothing certain", uncertain),
        ("10k mixed", mixed),
    ];
    let labels = Labels::from([("app".into(), "web".into())]);
    let mut headers = HeaderMap::new();
    for name in ["accept", "user-agent", "x-request-id", "traceparent", "cookie", "authorization", "content-type"] {
        headers.insert(name, HeaderValue::from_static("some value of the usual length"));
    }
    let mut tenant = headers.clone();
    tenant.insert("x-tenant", HeaderValue::from_static("tenant-1990"));
    for (name, routes) in &lists {
        let router = Router::new(routes).expect("compiles");
        let mut group = criterion.benchmark_group(*name);
        for (what, path, headers) in [
            ("exact", "/api/v1/products/1990/details", &headers),
            ("prefix", "/static/1990/logo.png", &headers),
            ("elements", "/shop/1990/cart/items", &headers),
            ("regex", "/users/4711/orders/1990", &headers),
            ("header", "/anything/else", &tenant),
            ("none", "/nobody/knows/this", &headers),
        ] {
            let request = request(path, headers, &labels);
            let found = router.find(&request, &Effort::default()).is_ok_and(|found| found.is_some());
            group.bench_function(format!("{what}, {}", if found { "found" } else { "not found" }), |bencher| {
                bencher.iter(|| black_box(&router).find(black_box(&request), &Effort::default()));
            });
        }
        group.finish();
    }
}

fn compile(criterion: &mut Criterion) {
    let patterns: Vec<_> =
        (0..PATTERNS).map(|n| by_path(PathMatch::Regex(format!("/users/[0-9]+/orders/{n}")))).collect();
    let exact: Vec<_> =
        (0..ROUTES).map(|n| by_path(PathMatch::Exact(format!("/api/v1/products/{n}/details")))).collect();
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    group.bench_function("10k exact", |bencher| bencher.iter(|| Router::new(black_box(&exact))));
    group.bench_function("2k regex", |bencher| bencher.iter(|| Router::new(black_box(&patterns))));
    group.finish();
}

criterion_group!(benches, find, compile);
criterion_main!(benches);
