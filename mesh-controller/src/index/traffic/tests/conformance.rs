//! The cases of `tests/gamma`, played by what agents are told: YAML is translated and merged, and what agents compile
//! of it takes the requests of the table.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh_common::{
    model::{
        ServiceName,
        traffic::{Action, Backend, HttpRoute, Routes, Target, Traffic, WeightedBackend},
    },
    route::{Changes, Effort, Found, Redirecting, Request, Rewriting, Router},
};
use serde::Deserialize;

use super::super::{
    Policies, Services, assemble,
    gateway::{Gathered, Known, gather},
};
use crate::{
    index::tests::{objects, settings},
    source::{CustomKind, Kind},
    translate::{
        grpc_route::grpc_route, hosts, http_route::http_route, reference_grant::reference_grant, service::service,
        tcp_route::tcp_route, tls_route::tls_route,
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    case: String,
    apply: Vec<String>,
    requests: Vec<Sent>,
    #[serde(default)]
    status: BTreeMap<String, Vec<Vec<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sent {
    from: String,
    to: String,
    port: u16,
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    status: u16,
    backend: Option<String>,
    shares: BTreeMap<String, u32>,
    request: BTreeMap<String, String>,
    no_request: Vec<String>,
    response: BTreeMap<String, String>,
    no_response: Vec<String>,
    path_seen: Option<String>,
    host_seen: Option<String>,
    location: Option<String>,
    mirrors: Vec<String>,
    rule: Option<String>,
    unrouted: bool,
}

impl Default for Sent {
    fn default() -> Self {
        Self {
            from: "gamma".into(),
            to: "echo".into(),
            port: 80,
            method: "GET".into(),
            path: "/".into(),
            headers: BTreeMap::new(),
            status: 200,
            backend: None,
            shares: BTreeMap::new(),
            request: BTreeMap::new(),
            no_request: Vec::new(),
            response: BTreeMap::new(),
            no_response: Vec::new(),
            path_seen: None,
            host_seen: None,
            location: None,
            mirrors: Vec::new(),
            rule: None,
            unrouted: false,
        }
    }
}

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/gamma").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What routes make of all services, and what is known of these.
pub fn gathered(text: &str) -> Gathered {
    told(text).0
}

/// The same, and what agents are told of it.
fn told(text: &str) -> (Gathered, BTreeMap<ServiceName, Arc<Traffic>>) {
    let update = objects(text);
    assert!(update.problems.is_empty(), "{:?}", update.problems);
    let (mut services, mut routes, mut grants) = (Vec::new(), Vec::new(), Vec::new());
    let mut faults = Vec::new();
    for object in update.objects.iter() {
        match &object.kind {
            Kind::Service(v1) => services.extend(service(&settings(), v1, &mut faults).expect("a service")),
            Kind::Custom(CustomKind::HttpRoute, custom) => routes.push(http_route(custom, &mut faults)),
            Kind::Custom(CustomKind::GrpcRoute, custom) => routes.push(grpc_route(custom, &mut faults)),
            Kind::Custom(CustomKind::TlsRoute, custom) => routes.push(tls_route(custom, &mut faults)),
            Kind::Custom(CustomKind::TcpRoute, custom) => routes.push(tcp_route(custom, &mut faults)),
            Kind::Custom(CustomKind::ReferenceGrant, custom) => grants.push(reference_grant(custom, &mut faults)),
            other => panic!("{other:?}"),
        }
    }
    let gathered = gather(&Known::new(&services, &grants), &routes.iter().collect::<Vec<_>>());
    let facts = services.iter().map(|service| (service.service.service_name(), service.facts())).collect();
    let settings = settings();
    let assembled = assemble(&settings, &Services::new(&settings, facts), &gathered.routes, &[], Policies::new());
    assert_eq!(assembled.faults, []);
    (gathered, assembled.traffic)
}

fn named(text: &str) -> ServiceName {
    let (name, namespace) = text.split_once('.').unwrap_or((text, "gamma"));
    hosts::service(&settings(), namespace, name)
}

/// What a route does to one request.
struct Played<'a> {
    route: &'a HttpRoute,
    found: Found,
    sent: &'a Sent,
    headers: HeaderMap,
}

impl Played<'_> {
    fn request(&self) -> (&str, Option<&str>) {
        self.sent.path.split_once('?').map_or((self.sent.path.as_str(), None), |(path, query)| (path, Some(query)))
    }

    /// Of a hundred requests, by backend.
    fn shares(&self, list: &[WeightedBackend]) -> BTreeMap<String, u32> {
        let all: u32 = list.iter().map(|backend| backend.weight).sum();
        let mut shares = BTreeMap::new();
        for WeightedBackend { weight, target, .. } in list.iter().filter(|backend| backend.weight > 0) {
            let name = match target {
                Target::Backend(Backend { service, .. }) => service.to_string(),
                Target::Invalid { .. } => "error".to_owned(),
            };
            *shares.entry(name).or_default() += weight * 100 / all;
        }
        shares
    }

    fn check(&self) {
        let Self { route, found, sent, headers } = self;
        let (path, query) = self.request();
        if let Some(rule) = &sent.rule {
            assert_eq!(route.name, *rule);
        }
        let list = match &route.action {
            Action::Redirect(redirect) => {
                let redirect = Redirecting::new(redirect).expect("a redirect");
                let labels = BTreeMap::new();
                let method = Method::GET;
                let request = asked(sent, &method, headers, &labels);
                let answer = redirect.answer(&request, found.matched).expect("a location");
                let location = answer.headers().get("location").map(|value| value.to_str().expect("text").to_owned());
                assert_eq!((answer.status().as_u16(), &location), (sent.status, &sent.location));
                return;
            }
            Action::Forward(list) => list,
            Action::Respond(other) => panic!("{other:?}"),
        };
        assert_eq!(sent.location, None, "it is sent elsewhere");
        let shares = self.shares(list);
        if !sent.shares.is_empty() {
            let expected: BTreeMap<_, _> = sent.shares.iter().map(|(name, share)| (full(name), *share)).collect();
            assert_eq!(shares, expected);
            return;
        }
        let weighs = list.iter().find(|backend| backend.weight > 0);
        let Some(WeightedBackend { target: Target::Backend(_), headers: own, .. }) = weighs else {
            let status = match weighs.map(|backend| &backend.target) {
                Some(Target::Invalid { status, .. }) => *status,
                _ => 500,
            };
            assert_eq!((status, &sent.backend), (sent.status, &None));
            return;
        };
        assert_eq!(sent.status, 200, "it goes to {shares:?}");
        if let Some(backend) = &sent.backend {
            assert_eq!(shares, BTreeMap::from([(full(backend), 100)]));
        }
        let mirrors: Vec<_> = route.mirrors.iter().map(|mirror| mirror.backend.service.clone()).collect();
        assert_eq!(mirrors, sent.mirrors.iter().map(|name| named(name)).collect::<Vec<_>>());
        let (mut seen, mut answer) = (headers.clone(), HeaderMap::new());
        for changes in [&route.headers, own].into_iter().flatten() {
            let changes = Changes::new(changes).expect("headers");
            changes.request.apply(&mut seen);
            changes.response.apply(&mut answer);
        }
        has(&seen, &sent.request, &sent.no_request);
        has(&answer, &sent.response, &sent.no_response);
        let rewriting = Rewriting::new(&route.rewrite.clone().unwrap_or_default()).expect("a rewrite");
        if let Some(expected) = &sent.path_seen {
            let new = rewriting.path.as_ref().expect("another path");
            let new = new.path_and_query(path, query, found.matched).expect("a path");
            assert_eq!(new.to_string(), *expected);
        }
        assert_eq!(rewriting.authority.map(|authority| authority.to_string()), sent.host_seen);
    }
}

fn full(name: &str) -> String {
    if name == "error" { name.to_owned() } else { named(name).to_string() }
}

fn has(headers: &HeaderMap, wanted: &BTreeMap<String, String>, unwanted: &[String]) {
    for (name, value) in wanted {
        let values = headers.get_all(name).into_iter().map(|value| value.to_str().expect("text"));
        assert_eq!(values.collect::<Vec<_>>().join(","), *value, "{name}");
    }
    for name in unwanted {
        assert!(!headers.contains_key(name), "{name}");
    }
}

fn asked<'a>(
    sent: &'a Sent,
    method: &'a Method,
    headers: &'a HeaderMap,
    source_labels: &'a BTreeMap<String, String>,
) -> Request<'a> {
    let (path, query) =
        sent.path.split_once('?').map_or((sent.path.as_str(), None), |(path, query)| (path, Some(query)));
    let (port, source_namespace) = (sent.port, sent.from.as_str());
    Request { method, path, query, scheme: "http", authority: &sent.to, headers, port, source_labels, source_namespace }
}

fn play(traffic: &BTreeMap<ServiceName, Arc<Traffic>>, sent: &Sent) {
    let told = traffic.get(&named(&sent.to)).and_then(|traffic| traffic.routes_for(&sent.from));
    let none = Routes::default();
    let routes = &told.unwrap_or(&none).http;
    let router = Router::new(routes).expect("routes that compile");
    let header = |(name, value): (&String, &String)| {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header");
        (name, HeaderValue::from_str(value).expect("a value"))
    };
    let headers: HeaderMap = sent.headers.iter().map(header).collect();
    assert_eq!(router.concerns(sent.port), !sent.unrouted, "whether there are routes");
    let method = Method::from_bytes(sent.method.as_bytes()).expect("a method");
    let labels = BTreeMap::new();
    match router.find(&asked(sent, &method, &headers, &labels), &Effort::default()).expect("a short request") {
        None if sent.unrouted => {}
        None => assert_eq!((sent.status, &sent.backend), (404, &None), "no route takes it"),
        Some(found) => Played { route: &routes[found.route], found, sent, headers }.check(),
    }
}

#[test]
fn the_cases_of_the_gateway_api() {
    let cases: Vec<Case> = serde_yaml_ng::from_str(&file("table.yaml")).expect("a table");
    assert!(cases.len() > 15);
    for Case { case, apply, requests, status } in cases {
        let texts = ["services.yaml"].into_iter().chain(apply.iter().map(String::as_str)).map(file);
        let (gathered, traffic) = told(&texts.collect::<Vec<_>>().join("\n---\n"));
        for sent in &requests {
            eprintln!("{case}: {sent:?}");
            play(&traffic, sent);
        }
        for (route, expected) in status {
            let entry = gathered.parents.iter().find(|(key, _)| key.to_string() == route);
            let (_, parents) = entry.unwrap_or_else(|| panic!("{case}: nothing is said of {route}"));
            let said = |parent: &crate::status::parents::ParentStatus| -> Vec<String> {
                let status = |status| if status { "True" } else { "False" };
                parent.conditions.iter().map(|c| format!("{}={} {}", c.type_, status(c.status), c.reason)).collect()
            };
            assert_eq!(parents.iter().map(said).collect::<Vec<_>>(), expected, "{case}: {route}");
        }
    }
}
