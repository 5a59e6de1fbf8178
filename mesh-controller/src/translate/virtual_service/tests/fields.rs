//! Every field, as it is written and as it is understood.

use mesh_common::model::traffic::{
    Abort, Backend, Cors, Delay, DirectResponse, Fault as Injected, HeaderChanges, HeaderEdit, HeaderMatch, Labels,
    Millis, Mirror, PathMatch, PathRewrite, Percent, QueryMatch, Redirect, RedirectPort, Retries, RetryOn, Rewrite,
    TextMatch,
};

use super::*;
use crate::translate::hosts::service;

fn exact(text: &str) -> TextMatch {
    TextMatch::Exact(text.to_owned())
}

fn backend(name: &str) -> Backend {
    Backend { service: service(&settings(), "shop", name), port: None, subset: None }
}

#[test]
fn conditions() {
    let header = |name: &str, value, not| HeaderMatch { name: name.to_owned(), value, not };
    let none = RequestMatch::default;
    let path = |path| RequestMatch { path: Some(path), ..none() };
    for (text, expected) in [
        ("{}", none()),
        ("{name: x}", none()),
        ("{uri: {exact: /a}}", path(PathMatch::Exact("/a".into()))),
        ("{uri: {prefix: /a}}", path(PathMatch::Prefix("/a".into()))),
        ("{uri: {regex: '/a/[0-9]+'}}", path(PathMatch::Regex("/a/[0-9]+".into()))),
        (
            "{uri: {exact: /A}, ignoreUriCase: true}",
            RequestMatch { ignore_path_case: true, ..path(PathMatch::Exact("/A".into())) },
        ),
        ("{method: {exact: GET}}", RequestMatch { method: Some(exact("GET")), ..none() }),
        ("{scheme: {exact: https}}", RequestMatch { scheme: Some(exact("https")), ..none() }),
        ("{authority: {prefix: 'a.'}}", RequestMatch { authority: Some(TextMatch::Prefix("a.".into())), ..none() }),
        (
            "{headers: {X-B: {regex: 'v.*'}, x-a: {}}, withoutHeaders: {x-c: {exact: v}}}",
            RequestMatch {
                headers: vec![
                    header("x-b", TextMatch::Regex("v.*".into()), false),
                    header("x-a", TextMatch::Any, false),
                    header("x-c", exact("v"), true),
                ],
                ..none()
            },
        ),
        (
            "{queryParams: {a: {exact: '1'}, b: {}}}",
            RequestMatch {
                query: vec![
                    QueryMatch { name: "a".into(), value: exact("1") },
                    QueryMatch { name: "b".into(), value: TextMatch::Any },
                ],
                ..none()
            },
        ),
        ("{port: 8080}", RequestMatch { port: Some(8080), ..none() }),
        (
            "{sourceLabels: {app: a}, sourceNamespace: other}",
            RequestMatch {
                source_labels: Labels::from([("app".into(), "a".into())]),
                source_namespace: Some("other".into()),
                ..none()
            },
        ),
        ("{gateways: [mesh, front], port: 1}", RequestMatch { port: Some(1), ..none() }),
    ] {
        assert_eq!(matched(text), expected, "{text}");
    }
}

#[test]
fn destinations_and_weights() {
    let weights = |text: &str| {
        let Action::Forward(backends) = rule(&format!("{{route: [{text}]}}")).action else { panic!("{text}") };
        backends.into_iter().map(|backend| (backend.weight, backend.target)).collect::<Vec<_>>()
    };
    let a = |subset: Option<&str>, port| {
        Target::Backend(Backend { port, subset: subset.map(ToOwned::to_owned), ..backend("a") })
    };
    // A single one takes everything, one of several without a weight nothing.
    assert_eq!(weights("{destination: {host: a}}"), [(1, a(None, None))]);
    assert_eq!(weights("{destination: {host: a}, weight: 0}"), [(1, a(None, None))]);
    assert_eq!(
        weights("{destination: {host: a, subset: v1, port: {number: 80}}, weight: 3}, {destination: {host: a}}"),
        [(3, a(Some("v1"), Some(80))), (0, a(None, None))]
    );
    let other = weights("{destination: {host: a.other.svc.cluster.local}}");
    assert_eq!(other[0].1, Target::Backend(Backend { service: service(&settings(), "other", "a"), ..backend("") }));
    let outside = weights("{destination: {host: api.example.com}}");
    let Target::Backend(Backend { service, .. }) = &outside[0].1 else { panic!("{outside:?}") };
    assert_eq!((service.namespace.as_str(), service.hostname.as_str()), ("", "api.example.com"));
}

#[test]
fn headers_of_rules_and_of_destinations() {
    let route = rule(
        "{route: [{destination: {host: cart}, headers: {response: {remove: [Server]}}}], \
         headers: {request: {set: {Host: a.example.com, X-A: '1'}, add: {x-b: 50%%}, remove: [x-c]}}}",
    );
    let request = HeaderEdit {
        remove: vec!["x-c".into()],
        set: vec![("host".into(), "a.example.com".into()), ("x-a".into(), "1".into())],
        add: vec![("x-b".into(), "50%".into())],
    };
    assert_eq!(route.headers, Some(HeaderChanges { request, ..HeaderChanges::default() }));
    let Action::Forward(backends) = route.action else { panic!("no route") };
    let response = HeaderEdit { remove: vec!["server".into()], ..HeaderEdit::default() };
    assert_eq!(backends[0].headers, Some(HeaderChanges { response, ..HeaderChanges::default() }));
    let empty = rule(&format!("{{{TO_CART}, headers: {{request: {{}}}}}}"));
    assert_eq!(empty.headers, None);
}

#[test]
fn redirects() {
    let plain = Redirect { scheme: None, host: None, port: RedirectPort::Request, path: None, status: 301 };
    let host = || Some("a.example.com".to_owned());
    for (text, expected) in [
        ("{}", plain.clone()),
        ("{uri: /x}", Redirect { path: Some(PathRewrite::Full("/x".into())), ..plain.clone() }),
        ("{uri: '%PREFIX()%/x'}", Redirect { path: Some(PathRewrite::Matched("/x".into())), ..plain.clone() }),
        ("{redirectCode: 308}", Redirect { status: 308, ..plain.clone() }),
        ("{authority: a.example.com}", Redirect { host: host(), port: RedirectPort::Scheme, ..plain.clone() }),
        ("{authority: 'a.example.com:81'}", Redirect { host: host(), port: RedirectPort::Number(81), ..plain.clone() }),
        (
            "{authority: a.example.com, derivePort: FROM_REQUEST_PORT}",
            Redirect { host: host(), port: RedirectPort::Request, ..plain.clone() },
        ),
        (
            "{scheme: https, derivePort: FROM_PROTOCOL_DEFAULT}",
            Redirect { scheme: Some("https".into()), port: RedirectPort::Scheme, ..plain.clone() },
        ),
        ("{port: 8443}", Redirect { port: RedirectPort::Number(8443), ..plain.clone() }),
    ] {
        assert_eq!(rule(&format!("{{redirect: {text}}}")).action, Action::Redirect(expected), "{text}");
    }
}

#[test]
fn direct_responses() {
    for (text, status, body) in [
        ("{status: 503}", 503, None),
        ("{status: 200, body: {string: 'hello'}}", 200, Some("hello")),
        ("{status: 404, body: {bytes: aGVsbG8=}}", 404, Some("hello")),
    ] {
        let expected = Action::Respond(DirectResponse { status, body: body.map(ToOwned::to_owned) });
        assert_eq!(rule(&format!("{{directResponse: {text}}}")).action, expected, "{text}");
    }
}

#[test]
fn rewrites() {
    let rewrite = |text: &str| rule(&format!("{{match: [{{uri: {{prefix: /a}}}}], rewrite: {text}, {TO_CART}}}"));
    let path = |path| Some(Rewrite { authority: None, path: Some(path) });
    assert_eq!(rewrite("{uri: /b}").rewrite, path(PathRewrite::Matched("/b".into())));
    assert_eq!(
        rewrite("{authority: 'b.example.com:80'}").rewrite,
        Some(Rewrite { authority: Some("b.example.com:80".into()), path: None })
    );
    let regex = PathRewrite::Regex { pattern: "/a/(.*)".into(), with: "/b/\\1".into() };
    assert_eq!(rewrite("{uriRegexRewrite: {match: '/a/(.*)', rewrite: '/b/\\1'}}").rewrite, path(regex));
    // Where no condition is about the path, its `/` is what is rewritten, as in Istio.
    let route = rule(&format!("{{match: [{{port: 80}}], rewrite: {{uri: /v1/}}, {TO_CART}}}"));
    assert_eq!(route.matches[0].path, Some(PathMatch::Prefix("/".into())));
    let route = rule(&format!("{{rewrite: {{uri: /v1/}}, {TO_CART}}}"));
    assert_eq!(route.matches[0].path, Some(PathMatch::Prefix("/".into())));
}

#[test]
fn timeouts_and_retries() {
    let timeout = |text: &str| rule(&format!("{{timeout: {text}, {TO_CART}}}")).timeout;
    assert_eq!((timeout("1m30s"), timeout("0.5s"), timeout("0s")), (Some(Millis(90_000)), Some(Millis(500)), None));
    let retries = |text: &str| rule(&format!("{{retries: {text}, {TO_CART}}}")).retries.expect("retries");
    let usual = |attempts| Retries { attempts, ..Retries::of(RetryOn::DEFAULT.to_vec()) };
    assert_eq!(retries("{attempts: 0}"), usual(0));
    assert_eq!(retries("{attempts: 2}"), usual(2));
    let on = vec![
        RetryOn::Status(503),
        RetryOn::GatewayError,
        RetryOn::Grpc(14),
        RetryOn::ResetBeforeRequest,
        RetryOn::RefusedStream,
    ];
    let words = "'503, gateway-error,unavailable,retriable-status-codes,reset-before-request,refused-stream,503'";
    assert_eq!(
        retries(&format!(
            "{{attempts: 4, perTryTimeout: 250ms, retryOn: {words}, backoff: 1s, retryIgnorePreviousHosts: false}}"
        )),
        Retries {
            attempts: 4,
            try_timeout: Some(Millis(250)),
            backoff: Millis(1_000),
            max_backoff: Millis(10_000),
            avoid_tried: false,
            on
        }
    );
}

#[test]
fn faults() {
    let fault = |text: &str| rule(&format!("{{fault: {text}, {TO_CART}}}")).fault.expect("a fault");
    let delay = |percent| Injected { delay: Some(Delay { percent, fixed: Millis(7_000) }), abort: None };
    assert_eq!(fault("{delay: {fixedDelay: 7s, percentage: {value: 0.1}}}"), delay(Percent(1_000)));
    assert_eq!(fault("{delay: {fixedDelay: 7s, percent: 5}}"), delay(Percent(50_000)));
    assert_eq!(fault("{delay: {fixedDelay: 7s, percentage: {value: 100}, percent: 5}}"), delay(Percent::ALL));
    let abort = |status, grpc_status| Injected {
        delay: None,
        abort: Some(Abort { percent: Percent(10_000), status, grpc_status }),
    };
    assert_eq!(fault("{abort: {httpStatus: 400, percentage: {value: 1}}}"), abort(Some(400), None));
    assert_eq!(fault("{abort: {grpcStatus: UNAVAILABLE, percentage: {value: 1}}}"), abort(None, Some(14)));
}

#[test]
fn mirrors() {
    let mirrors = |text: &str| rule(&format!("{{{text}, {TO_CART}}}")).mirrors;
    let mirror = |name, percent| Mirror { backend: backend(name), percent };
    assert_eq!(mirrors("mirror: {host: a}"), [mirror("a", Percent::ALL)]);
    assert_eq!(mirrors("mirror: {host: a}, mirrorPercentage: {value: 2.5}"), [mirror("a", Percent(25_000))]);
    assert_eq!(mirrors("mirror: {host: a}, mirrorPercent: 3"), [mirror("a", Percent(30_000))]);
    assert_eq!(mirrors("mirror: {host: a}, mirror_percent: 3"), [mirror("a", Percent(30_000))]);
    assert_eq!(
        mirrors("mirrors: [{destination: {host: a}, percentage: {value: 0}}, {destination: {host: b}}]"),
        [mirror("a", Percent(0)), mirror("b", Percent::ALL)]
    );
}

#[test]
fn cross_origin_requests() {
    let cors = |text: &str| rule(&format!("{{corsPolicy: {text}, {TO_CART}}}")).cors.expect("a policy");
    let plain = || Cors { forward_unmatched_preflights: true, ..Cors::default() };
    assert_eq!(
        cors("{allowOrigins: [{exact: 'https://a'}, {regex: '.*'}, {exact: '*'}]}"),
        Cors { allow_origins: vec![exact("https://a"), TextMatch::Regex(".*".into()), TextMatch::Any], ..plain() }
    );
    assert_eq!(
        cors(
            "{allowOrigin: ['*', b], allowMethods: [GET], allowHeaders: [x-a], exposeHeaders: [x-b], \
              maxAge: 24h, allowCredentials: true, unmatchedPreflights: IGNORE}"
        ),
        Cors {
            allow_origins: vec![TextMatch::Any, exact("b")],
            allow_methods: vec!["GET".into()],
            allow_headers: vec!["x-a".into()],
            expose_headers: vec!["x-b".into()],
            max_age: Some(86_400),
            allow_credentials: Some(true),
            forward_unmatched_preflights: false,
        }
    );
}

#[test]
fn connections() {
    let (ruled, said) = translated(
        "
hosts: [cart]
tls:
- match:
  - {sniHosts: [A.example.com, '*.b.example.com'], port: 443}
  - {sniHosts: ['*'], gateways: [front]}
  - {sniHosts: ['*']}
  route: [{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 1}]
tcp:
- match: [{port: 1, destinationSubnets: [10.1.2.3/8, 10.0.0.1], sourceLabels: {app: a}, sourceNamespace: shop, gateways: [mesh]}]
  route: [{destination: {host: a, port: {number: 9}}}]
- match: [{gateways: [front]}]
  route: [{destination: {host: a}}]
- route: [{destination: {host: b}}]
",
    );
    assert_eq!(said, [] as [String; 0]);
    let routes = ruled.expect("rules").routes;
    let names: Vec<_> = routes.tls.iter().map(|route| (route.server_names.join(" "), route.matches.len())).collect();
    assert_eq!(names, [("a.example.com *.b.example.com".to_owned(), 1), ("*".to_owned(), 0)]);
    assert!(routes.tls.iter().all(|route| route.backends.len() == 2 && route.origin.field == "spec.tls[0]"));
    let fields: Vec<_> = routes.tcp.iter().map(|route| route.origin.field.as_str()).collect();
    assert_eq!(fields, ["spec.tcp[0]", "spec.tcp[2]"]);
    let matched = &routes.tcp[0].matches[0];
    assert_eq!(matched.destination_subnets, ["10.0.0.0/8", "10.0.0.1/32"].map(|net| net.parse().expect("a network")));
    assert_eq!((matched.port, matched.source_namespace.as_deref()), (Some(1), Some("shop")));
    assert_eq!(matched.source_labels.len(), 1);
    assert_eq!(routes.tcp[1].matches, []);
}

#[test]
fn whom_it_is_for() {
    let of = |fields: &str| translated(&format!("{{hosts: [cart], {fields}, http: [{{{TO_CART}}}]}}"));
    let exported = |fields: &str| of(fields).0.expect("rules").exported;
    let only = |namespaces: &[&str]| Clients::Namespaces(namespaces.iter().map(|n| (*n).to_owned()).collect());
    assert_eq!(exported("exportTo: []"), Clients::Everybody);
    assert_eq!(exported("exportTo: ['.']"), only(&["shop"]));
    assert_eq!(exported("exportTo: ['.', a]"), only(&["a", "shop"]));
    assert_eq!(exported("exportTo: [a, '*']"), Clients::Everybody);
    assert_eq!(of("gateways: [mesh]").1, [] as [String; 0]);
    let (ruled, said) = of("gateways: [front, other/front]");
    assert_eq!(ruled, None);
    assert!(said[0].starts_with("spec.gateways: does not name `mesh`"), "{said:?}");
    let (ruled, said) = of("gateways: [front, mesh]");
    assert_eq!(ruled.expect("rules").routes.http.len(), 1);
    assert!(said[0].starts_with("spec.gateways[0]: `front` is no gateway of this mesh"), "{said:?}");
    // A rule for gateways alone is none of the mesh's.
    let (ruled, said) = translated(&format!(
        "{{hosts: [cart], gateways: [mesh], http: [{{match: [{{gateways: [front]}}], {TO_CART}}}, {{name: all, {TO_CART}}}]}}"
    ));
    assert_eq!(said, [] as [String; 0]);
    let names: Vec<_> = ruled.expect("rules").routes.http.into_iter().map(|route| route.name).collect();
    assert_eq!(names, ["shop/v/all"]);
}
