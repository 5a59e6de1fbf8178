//! What is no HTTP on services with rules, and what ceases to be: connections by weight and by server name, servers
//! that speak first, upgrades.

use anyhow::Result;
use mesh_tests::Ask;

use crate::http_cast::{HttpCast, PORT, subsets};

const UPGRADED: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: web, namespace: default }
spec: { hosts: [web], http: [{ route: [{ destination: { host: web, subset: v2 } }] }] }
";

#[test]
fn an_upgraded_connection_is_bytes() -> Result<()> {
    let mut cast = HttpCast::meshed("http upgrade", "web", "default")?;
    cast.rules("subsets", &subsets("web", [("v1", "v1"), ("v2", "v2")]))?;
    cast.rules("routes", UPGRADED)?;
    let ask = Ask::service(&cast.service).header("connection", "upgrade").header("upgrade", "echo");
    let answers = cast.client.ask_http(&Ask { upgraded: Some("what an upgrade is for".to_owned()), ..ask })?;
    assert!(answers.echoed && answers.of("v2") == 1, "{answers:?}");
    Ok(())
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once() -> Result<()> {
    let mut cast = HttpCast::meshed("http greet", "web", "default")?;
    cast.rules("subsets", &subsets("web", [("v1", "v1"), ("v2", "v2")]))?;
    cast.rules("routes", UPGRADED)?;
    for pod in [&cast.v1, &cast.v2] {
        pod.serve("greet", 7002)?;
    }
    // Nobody says what it speaks.
    let pods = [&*cast.v1, &*cast.v2];
    cast.world.change_service(&cast.service, &pods, &[("ports", "[{ name: web, port: 80, targetPort: 7002 }]")])?;
    cast.slices_name("web", 7002)?;
    cast.world.settle()?;
    for _ in 0..5 {
        let greeted = cast.client.dial_once(cast.service.addr(), &["--listen-first", "--text", "bye"])?;
        assert!(greeted.text.starts_with("hello ") && greeted.text.ends_with("bye"), "{greeted:?}");
        assert!(greeted.total_ms < 500.0, "{greeted:?}");
    }
    // The same port, and a client that speaks first; nor is it HTTP.
    let said = cast.client.say(cast.service.addr(), "ping")?;
    assert!(said.text.ends_with("ping"), "{said:?}");
    Ok(())
}

/// A server of HTTP/2 sends its settings when it likes.
#[test]
fn settings_are_not_taken_for_a_server_that_speaks_first() -> Result<()> {
    let mut cast = HttpCast::meshed("http settings", "web", "default")?;
    cast.rules("subsets", &subsets("web", [("v1", "v1"), ("v2", "v2")]))?;
    cast.rules("routes", UPGRADED)?;
    for pod in [&cast.v1, &cast.v2] {
        pod.only_http2(7003)?;
    }
    let pods = [&*cast.v1, &*cast.v2];
    // Nobody says what it speaks.
    cast.world.change_service(&cast.service, &pods, &[("ports", "[{ name: web, port: 80, targetPort: 7003 }]")])?;
    cast.slices_name("web", 7003)?;
    cast.world.settle()?;
    for silent_ms in [0, 100] {
        let ask = Ask { http2: true, silent_ms, fresh: true, ..Ask::service(&cast.service).many(8, 1) };
        let answers = cast.client.ask_http(&ask)?;
        assert_eq!(answers.of("v2"), 8, "silent for {silent_ms} ms: {answers:?}");
    }
    Ok(())
}

const WEIGHED: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: web, namespace: default }
spec:
  hosts: [web]
  tcp:
  - route:
    - { destination: { host: web, subset: v1 }, weight: 75 }
    - { destination: { host: web, subset: v2 }, weight: 25 }
";

#[test]
fn connections_are_shared_by_weight() -> Result<()> {
    let mut cast = HttpCast::meshed("tcp weights", "web", "default")?;
    let pods = [&*cast.v1, &*cast.v2];
    cast.world.change_service(&cast.service, &pods, &[("ports", "[{ name: tcp, port: 80, targetPort: 8080 }]")])?;
    cast.rules("subsets", &subsets("web", [("v1", "v1"), ("v2", "v2")]))?;
    cast.rules("routes", WEIGHED)?;
    let ask = Ask { fresh: true, ..Ask::service(&cast.service).many(400, 4) };
    let answers = cast.client.ask_http(&ask)?;
    assert_eq!((answers.status(200), answers.lost()), (400, 0), "{answers:?}");
    // Five standard deviations: sqrt(400 * 0.75 * 0.25) is 8.7.
    assert!((57..=143).contains(&answers.of("v2")), "{:?}", answers.by_backend);
    let flow = cast.world.flow(cast.client.node, "to v2", |flow| flow.destination.pod == cast.v2.full_name())?;
    assert_eq!((flow.path.as_str(), flow.security.as_str()), ("tunnel", "mutual_tls"), "{flow:?}");
    assert_eq!(flow.service, cast.service.full_name());
    Ok(())
}

const NAMED: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: web, namespace: default }
spec:
  hosts: [web]
  tls:
  - match: [{ port: 80, sniHosts: [one.example.com] }]
    route: [{ destination: { host: web, subset: v1 } }]
  - match: [{ port: 80, sniHosts: ['*.two.example.com'] }]
    route: [{ destination: { host: web, subset: v2 } }]
";

#[test]
fn connections_of_tls_are_told_apart_by_the_server_name() -> Result<()> {
    let mut cast = HttpCast::meshed("tls names", "web", "default")?;
    for pod in [&cast.v1, &cast.v2] {
        pod.https(PORT + 1)?;
    }
    let pods = [&*cast.v1, &*cast.v2];
    cast.world.change_service(
        &cast.service,
        &pods,
        &[("ports", "[{ name: tls, appProtocol: tls, port: 80, targetPort: 8081 }]")],
    )?;
    cast.slices_name("tls", PORT + 1)?;
    cast.rules("subsets", &subsets("web", [("v1", "v1"), ("v2", "v2")]))?;
    cast.rules("routes", NAMED)?;
    for (name, backend) in [("one.example.com", "v1"), ("A.TWO.example.com", "v2"), ("a.b.two.example.com", "v2")] {
        for _ in 0..4 {
            let seen = cast.client.curl_tls(name, cast.service.addr())?;
            assert!(seen.contains(&format!("\"name\":\"{backend}\"")), "{name}: {seen}");
        }
    }
    for name in ["two.example.com", "one.example.com.evil.example", "three.example.com"] {
        assert!(cast.client.curl_tls(name, cast.service.addr()).is_err(), "{name} has no route");
    }
    let flow = cast.world.flow(cast.client.node, "without a route", |flow| flow.reason == "NO_ROUTE")?;
    assert_eq!((flow.verdict.as_str(), flow.service), ("dropped", cast.service.full_name()));
    // No hello at all.
    assert!(cast.client.say(cast.service.addr(), "GET / HTTP/1.1\\r\\n\\r\\n")?.turned_away());
    Ok(())
}

/// As `spec.trafficPolicy` of the service.
fn policy(tls: &str, pool: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: web, namespace: default }}\n\
         spec:\n  host: web\n  trafficPolicy: {{ {tls} connectionPool: {{ tcp: {{ {pool} }} }} }}\n"
    )
}

#[test]
fn bytes_go_in_tls_where_a_rule_asks_for_it() -> Result<()> {
    let mut cast = HttpCast::meshed("tls of bytes", "web", "default")?;
    for pod in [&cast.v1, &cast.v2] {
        pod.https(PORT + 1)?;
    }
    let pods = [&*cast.v1, &*cast.v2];
    cast.world.change_service(&cast.service, &pods, &[("ports", "[{ name: tcp, port: 80, targetPort: 8081 }]")])?;
    cast.slices_name("tcp", PORT + 1)?;
    cast.rules("policy", &policy("tls: { mode: SIMPLE, insecureSkipVerify: true },", "maxConnections: 100"))?;
    let answers = cast.client.ask_http(&Ask { fresh: true, ..Ask::service(&cast.service).many(8, 2) })?;
    assert_eq!((answers.status(200), answers.lost()), (8, 0), "{answers:?}");

    // What nobody has cannot be shown, and nothing goes out without it.
    cast.rules("policy", &policy("tls: { mode: MUTUAL },", "maxConnections: 100"))?;
    assert!(cast.client.say(cast.service.addr(), "secret")?.turned_away());
    let flow = cast.world.flow(cast.client.node, "without TLS", |flow| flow.reason == "UPSTREAM_TLS")?;
    assert_eq!((flow.verdict.as_str(), flow.service), ("dropped", cast.service.full_name()));
    Ok(())
}

#[test]
fn a_connection_of_bytes_ends_when_it_is_idle() -> Result<()> {
    let mut cast = HttpCast::meshed("idle bytes", "web", "default")?;
    let pods = [&*cast.v1, &*cast.v2];
    cast.world.change_service(&cast.service, &pods, &[("ports", "[{ name: tcp, port: 80, targetPort: 8080 }]")])?;
    cast.rules("policy", &policy("", "idleTimeout: 1s"))?;
    let ask = Ask { silent_ms: 3000, fresh: true, ..Ask::service(&cast.service) };
    assert_eq!(cast.client.ask_http(&ask)?.status(200), 0, "it was silent for too long");
    cast.world.flow(cast.client.node, "that was idle", |flow| flow.reason == "IDLE_TIMEOUT")?;
    assert_eq!(cast.client.ask_http(&Ask { silent_ms: 0, ..ask })?.status(200), 1);
    Ok(())
}

const REDIRECTED: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: web, namespace: default }
spec:
  hosts: [web]
  http:
  - match: [{ uri: { prefix: /old } }]
    redirect: { uri: /new }
  - route: [{ destination: { host: web } }]
";

/// Its routes answer though nobody serves it, and its only connection is not taken by who has not said yet what it is.
#[test]
fn a_silent_client_needs_no_endpoint_that_its_routes_do_not_ask() -> Result<()> {
    let mut cast = HttpCast::meshed("silent", "web", "default")?;
    let pods = [&*cast.v1, &*cast.v2];
    // Nobody says what it speaks.
    cast.world.change_service(&cast.service, &pods, &[("ports", "[{ name: web, port: 80, targetPort: 8080 }]")])?;
    cast.slices_name("web", PORT)?;
    cast.rules("policy", &policy("", "maxConnections: 1"))?;
    cast.rules("routes", REDIRECTED)?;
    let ask = Ask { silent_ms: 100, fresh: true, ..Ask::service(&cast.service) };
    assert_eq!(cast.client.ask_http(&ask.clone().many(4, 1))?.status(200), 4);
    // Where nobody listens.
    cast.slices_name("web", 9)?;
    cast.world.settle()?;
    let answers = cast.client.ask_http(&ask.path("/old"))?;
    assert_eq!(answers.status(301), 1, "{answers:?}");
    Ok(())
}
