//! Rules of a service that end requests, and endpoints that do.

use anyhow::Result;
use mesh_tests::{Ask, Patience, Service, eventually};

use super::{Cause, object};
use crate::http_cast::{HTTP, HttpCast, PORT};

const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: web, namespace: shop }
spec:
  hosts: [web]
  http:
  - match: [{ uri: { prefix: /slow } }]
    timeout: 0.3s
    route: [{ destination: { host: web } }]
  - match: [{ uri: { prefix: /again } }]
    retries: { attempts: 2, retryOn: 5xx }
    route: [{ destination: { host: web } }]
  - match: [{ uri: { prefix: /broken } }]
    fault: { abort: { percentage: { value: 100 }, httpStatus: 418 } }
    route: [{ destination: { host: web } }]
  - match: [{ uri: { prefix: /subset } }]
    route: [{ destination: { host: web, subset: gone } }]
  - match: [{ uri: { prefix: /well } }]
    route: [{ destination: { host: web } }]
---
";

/// A DestinationRule of a service.
fn policy(service: &str, policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: {service}, namespace: shop }}\n\
         spec: {{ host: {service}, trafficPolicy: {policy} }}\n---\n"
    )
}

#[test]
fn what_rules_and_endpoints_do_to_requests() -> Result<()> {
    let mut cast = HttpCast::meshed("explain traffic", "web", "shop")?;
    let (v1, v2) = (cast.v1.clone(), cast.v2.clone());
    // It says back what it is asked.
    v2.serve("echo", 7000)?;
    let mut service = |name: &str, target: u16, pods: &[&mesh_tests::Pod], ports: &str| -> Result<Service> {
        let service = cast.world.service("shop", name, 80, target, pods)?;
        cast.world.change_service(&service, pods, &[("ports", ports)])?;
        Ok(service)
    };
    let empty = service("empty", PORT, &[], HTTP)?;
    let closed = service("closed", 7999, &[&v2], &HTTP.replace("8080", "7999"))?;
    let narrow = service("narrow", PORT, &[&v2], HTTP)?;
    let ejected = service("ejected", PORT, &[&v1], HTTP)?;
    let mail = service("mail", 7000, &[&v2], &HTTP.replace("8080", "7000"))?;
    let limit = object(
        "nodemesh.io/v1alpha1",
        "RateLimitPolicy",
        "few",
        &v2,
        "  local: { total: { requests: 1, interval: 600s } }\n",
    );
    let all = [
        ROUTES,
        &policy("empty", "{ loadBalancer: { simple: ROUND_ROBIN } }"),
        &policy("closed", "{ loadBalancer: { simple: ROUND_ROBIN } }"),
        &policy("mail", "{ loadBalancer: { simple: ROUND_ROBIN } }"),
        &policy("narrow", "{ connectionPool: { tcp: { maxConnections: 1 }, http: { http1MaxPendingRequests: 1 } } }"),
        &policy(
            "ejected",
            "{ outlierDetection: { consecutive5xxErrors: 2, baseEjectionTime: 60s, maxEjectionPercent: 100 } }",
        ),
    ];
    cast.rules("rules", &all.concat())?;

    let client = cast.client.clone();
    let named = |to: &Service, path: &str, status: u16, code: &str, said: &str| -> Result<()> {
        let cause = Cause { between: ("shop/client", &format!("shop/{}", to.name)), code, said, path };
        let told = cause.is_named(&cast.world)?;
        assert_eq!(told["flow"]["http"]["status"], status, "{told}");
        assert_eq!(told["flow"]["direction"], "outbound", "{told}");
        Ok(())
    };
    let web = cast.service.clone();
    let asked = |to: &Service, path: &str| Ask::service(to).path(path);
    for (ask, to, path, status, code, said) in [
        (asked(&web, "/slow").header("x-delay", "3000"), &web, "/slow", 504, "TIMEOUT", "shop/web/0"),
        (asked(&web, "/again").header("x-status", "503"), &web, "/again", 503, "RETRIES_EXHAUSTED", "tried 3 times"),
        (asked(&web, "/broken"), &web, "/broken", 418, "FAULT_INJECTED", "shop/web/2"),
        (asked(&web, "/subset"), &web, "/subset", 503, "NO_BACKEND", "defines subset gone"),
        (asked(&web, "/other"), &web, "/other", 404, "NO_ROUTE", "no route matches"),
        (asked(&empty, "/e"), &empty, "/e", 503, "NO_HEALTHY_ENDPOINT", "has no endpoint"),
        (asked(&closed, "/c"), &closed, "/c", 503, "CONNECT", &v2.at(7999).to_string()),
        (asked(&mail, "/m"), &mail, "/m", 503, "UPSTREAM_PROTOCOL", "does not answer in the HTTP"),
    ] {
        let answers = client.ask_http(&ask)?;
        assert_eq!(answers.status(status), 1, "{code}: {answers:?}");
        named(to, path, status, code, said)?;
    }
    // An endpoint that failed twice is left alone, and there is no other.
    let failing = client.ask_http(&asked(&ejected, "/j").header("x-status", "500").many(3, 1))?;
    assert_eq!((failing.status(500), failing.status(503)), (2, 1), "{failing:?}");
    named(&ejected, "/j", 503, "NO_HEALTHY_ENDPOINT", "1 ejected after failures (outlierDetection)")?;
    // One has a connection, one waits, and the others are too many.
    let many = client.ask_http(&Ask { ramp_ms: 200, ..asked(&narrow, "/n").header("x-delay", "700") }.many(6, 6))?;
    assert!(many.flag("UO") >= 3, "{many:?}");
    named(&narrow, "/n", 503, "OVERFLOW", "too many requests wait for a connection")?;
    // A bound of the destination's own, which its agent keeps.
    cast.world.apply("limit", &limit)?;
    eventually("the limit holds", Patience::LONG, || {
        let answers = client.ask_http(&Ask::at(v2.at(PORT), "web").path("/limited"))?;
        Ok((answers.status(429) == 1).then_some(()))
    })?;
    let cause = Cause {
        between: ("shop/client", "shop/v2"),
        code: "RATE_LIMITED",
        said: "RateLimitPolicy shop/few permits no more",
        path: "/limited",
    };
    let told = cause.is_named(&cast.world)?;
    assert_eq!((&told["node"], &told["flow"]["http"]["status"]), (&"b".into(), &429.into()), "{told}");
    Ok(())
}
