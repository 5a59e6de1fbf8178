//! Which route takes a request, and what it does to it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Request;
use mesh_common::model::traffic::{
    Abort, Action, Cors, Delay, DirectResponse, Fault, HeaderChanges, HeaderEdit, HeaderMatch, Labels, Millis, Origin,
    OverlaidFault, PathMatch, PathRewrite, Percent, QueryMatch, Redirect, RedirectPort, RequestMatch, Rewrite, Subset,
    Target, TextMatch, TrafficPolicy, WeightedBackend,
};

use super::world::*;
use crate::state::{Object, Rules, tests::put};

fn on(matched: RequestMatch, name: &str, status: u16) -> mesh_common::model::traffic::HttpRoute {
    let action = Action::Respond(DirectResponse { status, body: Some(name.to_owned()) });
    mesh_common::model::traffic::HttpRoute { matches: vec![matched], ..route(name, action) }
}

#[tokio::test]
async fn without_routes_the_service_itself_is_asked() {
    let world = World::with_server().await;
    let answer = world.ask(get("/a?b=c")).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"hello"[..]));
    let seen = world.log.last();
    assert_eq!((seen.uri.as_str(), seen.headers["host"].to_str().unwrap()), ("/a?b=c", "cart"));
    let counted = world.counts("");
    assert_eq!((counted.requests, counted.active, counted.answers), (1, 0, [0, 0, 1, 0, 0, 0]));
}

#[tokio::test]
async fn a_request_that_is_too_long_for_the_patterns_of_its_routes_is_refused() {
    let world = World::with_server().await;
    let pattern = |number| RequestMatch {
        path: Some(PathMatch::Regex(format!(".*[0-9]{{{number}}}"))),
        ..RequestMatch::default()
    };
    let routes = |count| (1..=count).map(|number| on(pattern(number), "number", 201)).chain([route("r", to_cart())]);
    let long = format!("/{}", "a".repeat(60_000));
    for (count, status) in [(16, 200), (63, 414)] {
        world.rules(routes(count).collect(), TrafficPolicy::default());
        let answer = world.ask(get(&long)).await;
        assert_eq!(answer.status, status, "{count} patterns");
        assert_eq!(answer.flag(), (status == 414).then(|| "DPE".into()));
        assert_eq!(world.status("/a").await.0, 200);
        assert_eq!(world.status("/a1").await.0, 201);
    }
}

#[tokio::test]
async fn rules_that_cannot_be_read_let_nothing_pass() {
    let world = World::with_server().await;
    let unreadable = Rules::unreadable(cart(), "rules.quota: unknown field");
    put(&world.store, [Object::Traffic(Arc::new(unreadable))]);
    let answer = world.ask(get("/")).await;
    assert_eq!((answer.status, answer.flag().as_deref()), (500, Some("NC")));
    assert!(String::from_utf8_lossy(&answer.body).contains("rules.quota: unknown field"));
    // Nor from elsewhere: a route of another service leads there.
    let (snapshot, session) = (world.store.snapshot(), world.session());
    let source = session.source(&snapshot).unwrap();
    let destination = session.destination(&snapshot, &source, &session.own_backend()).unwrap();
    assert!(destination.secure().unwrap().unwrap_err().contains("cannot be read"));
    assert_eq!(world.log.count(), 0);
    world.rules(vec![], TrafficPolicy::default());
    assert_eq!(world.status("/").await.0, 200);
}

#[tokio::test]
async fn the_first_route_that_matches_takes_a_request() {
    let world = World::with_server().await;
    let any =
        |name: &str, value: &str| HeaderMatch { name: name.into(), value: TextMatch::Exact(value.into()), not: false };
    world.rules(
        vec![
            on(RequestMatch { path: Some(PathMatch::Exact("/exact".into())), ..Default::default() }, "path", 201),
            on(RequestMatch { headers: vec![any("x-who", "me")], ..Default::default() }, "header", 202),
            on(RequestMatch { method: Some(TextMatch::Exact("PUT".into())), ..Default::default() }, "method", 203),
            on(
                RequestMatch {
                    query: vec![QueryMatch { name: "q".into(), value: TextMatch::Exact("1".into()) }],
                    ..Default::default()
                },
                "query",
                206,
            ),
            on(RequestMatch { authority: Some(TextMatch::Prefix("other".into())), ..Default::default() }, "host", 208),
        ],
        TrafficPolicy::default(),
    );
    let request = |method: &str, path: &str| Request::builder().method(method).uri(path).header("host", "cart");
    for (request, status) in [
        (request("GET", "/exact").body(""), 201),
        (request("GET", "/").header("x-who", "me").body(""), 202),
        (request("PUT", "/").body(""), 203),
        (request("GET", "/?q=1").body(""), 206),
        (Request::get("/").header("host", "other:81").body(""), 208),
        (request("GET", "/nothing").body(""), 404),
    ] {
        assert_eq!(world.ask(request.unwrap()).await.status, status);
    }
    assert_eq!(world.status("/nothing").await, (404, Some("NR".into())));
    assert_eq!(world.log.count(), 0, "no server was asked");
    assert_eq!(world.counts("path").answers, [0, 0, 1, 0, 0, 0]);
    assert_eq!(world.counts("").flags, BTreeMap::from([("NR", 2)]));
}

#[tokio::test]
async fn weights_and_subsets_choose_the_endpoints() {
    let world = World::with_server().await;
    world.server(|_| answer(200, "second")).await;
    let subset = |version: &str| Subset {
        labels: Labels::from([("version".to_owned(), version.to_owned())]),
        all: TrafficPolicy::default(),
        ports: BTreeMap::new(),
    };
    let backends = vec![weighted(Some("a"), 0), weighted(Some("b"), 3)];
    let mut rules = traffic(vec![route("r", Action::Forward(backends))], TrafficPolicy::default());
    rules.policies[0].value.subsets =
        [("a", "v0"), ("b", "v1"), ("empty", "v9")].map(|(n, v)| (n.into(), subset(v))).into();
    world.traffic(rules.clone());
    for _ in 0..10 {
        assert_eq!(&world.ask(get("/")).await.body[..], b"second");
    }
    for (subset, flag) in [("empty", "UH"), ("missing", "NC")] {
        rules.routes[0].value.http = vec![route("r", to(Some(subset), 1))];
        world.traffic(rules.clone());
        assert_eq!(world.status("/").await, (503, Some(flag.into())));
    }
    let invalid = Target::Invalid { status: 500, why: "no grant".into() };
    rules.routes[0].value.http =
        vec![route("r", Action::Forward(vec![WeightedBackend { weight: 1, target: invalid, headers: None }]))];
    world.traffic(rules.clone());
    assert_eq!(world.status("/").await, (500, Some("NC".into())));
    rules.routes[0].value.http = vec![route("r", Action::Forward(vec![weighted(None, 0)]))];
    world.traffic(rules);
    assert_eq!(world.status("/").await, (500, Some("NC".into())));
}

#[tokio::test]
async fn headers_paths_and_authorities_are_changed() {
    let world = World::new();
    world
        .server(|_| {
            let mut response = answer(200, "x");
            response.headers_mut().insert("server", "secret".parse().unwrap());
            response
        })
        .await;
    let mut changed = route("r", to_cart());
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    changed.headers = Some(HeaderChanges {
        request: HeaderEdit {
            remove: vec!["x-gone".into()],
            set: vec![pair("x-set", "2")],
            add: vec![pair("x-more", "b")],
        },
        response: HeaderEdit { remove: vec!["server".into()], set: vec![pair("x-by", "mesh")], add: vec![] },
    });
    changed.matches = vec![RequestMatch { path: Some(PathMatch::Elements("/old".into())), ..RequestMatch::default() }];
    changed.rewrite =
        Some(Rewrite { authority: Some("other.example".into()), path: Some(PathRewrite::Matched("/new".into())) });
    world.rules(vec![changed], TrafficPolicy::default());
    let request = Request::get("/old/x?y=1").header("host", "cart");
    let request = request.header("x-gone", "1").header("x-set", "1").header("x-more", "a").body("").unwrap();
    let answer = world.ask(request).await;
    let seen = world.log.last();
    assert_eq!(seen.uri, "/new/x?y=1");
    assert_eq!(seen.headers["host"], "other.example");
    assert!(!seen.headers.contains_key("x-gone"));
    assert_eq!(seen.headers["x-set"], "2");
    assert_eq!(seen.headers.get_all("x-more").iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((answer.header("server"), answer.header("x-by")), (None, Some("mesh".into())));
}

#[tokio::test]
async fn some_answers_are_the_agents_own() {
    let world = World::with_server().await;
    let redirect = Redirect {
        scheme: None,
        host: Some("there".into()),
        port: RedirectPort::Request,
        path: Some(PathRewrite::Full("/x".into())),
        status: 302,
    };
    world.rules(vec![route("r", Action::Redirect(redirect))], TrafficPolicy::default());
    let answer = world.ask(get("/?a=b")).await;
    assert_eq!((answer.status, answer.header("location")), (302, Some("http://there/x?a=b".into())));
    let mut shared = route("r", to_cart());
    shared.cors = Some(Cors {
        allow_origins: vec![TextMatch::Exact("https://here".into())],
        allow_methods: vec!["PUT".into()],
        ..Cors::default()
    });
    world.rules(vec![shared], TrafficPolicy::default());
    let preflight = Request::options("/").header("host", "cart").header("origin", "https://here");
    let preflight = preflight.header("access-control-request-method", "PUT").body("").unwrap();
    let answer = world.ask(preflight).await;
    assert_eq!((answer.status, world.log.count()), (200, 0));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://here".into()));
    let cross = Request::get("/").header("host", "cart").header("origin", "https://here").body("").unwrap();
    let answer = world.ask(cross).await;
    assert_eq!((answer.header("access-control-allow-origin"), world.log.count()), (Some("https://here".into()), 1));
}

#[tokio::test]
async fn faults_befall_requests() {
    let world = World::with_server().await;
    let abort = |status| Fault {
        delay: None,
        abort: Some(Abort { percent: Percent::ALL, status: Some(status), grpc_status: Some(8) }),
    };
    let mut own = route("r", to_cart());
    own.fault = Some(Fault { delay: Some(Delay { percent: Percent::ALL, fixed: Millis(60) }), abort: None });
    world.rules(vec![own.clone()], TrafficPolicy::default());
    let begun = Instant::now();
    assert_eq!(world.status("/").await, (200, None));
    assert!(begun.elapsed() >= Duration::from_millis(60));
    assert_eq!(world.counts("r").flags, BTreeMap::from([("DI", 1)]));

    let mut rules = traffic(vec![own], TrafficPolicy::default());
    rules.routes[0].value.faults =
        vec![OverlaidFault { origin: Origin::default(), matches: vec![], fault: abort(418) }];
    world.traffic(rules.clone());
    let begun = Instant::now();
    assert_eq!(world.status("/").await, (418, Some("FI".into())));
    assert!(begun.elapsed() >= Duration::from_millis(60), "both are for it");
    let grpc = Request::post("http://cart/a/b").header("content-type", "application/grpc").body("").unwrap();
    let answer = world.ask2(grpc).await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("8".into())));
    rules.routes[0].value.faults[0].fault.abort.as_mut().unwrap().percent = Percent(0);
    world.traffic(rules);
    assert_eq!(world.status("/").await, (200, None));
}
