//! Both agents count what clients count, request by request: whole ones and refused ones, over HTTP/1.1 and HTTP/2,
//! within a node and across, those whose server resets them, those whose client does not wait, gRPC and WebSocket.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use mesh_tests::{A, Ask, B, NodeId, Patience, World, eventually, requests};

use crate::http_cast::{HttpCast, PORT};

/// Where each agent serves its metrics.
const METRICS: &str = "127.0.0.1:15020";
/// Nothing is tried again, so that each request is asked for once.
const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: web, namespace: default }
spec: { hosts: [web], http: [{ route: [{ destination: { host: web } }], retries: { attempts: 0 } }] }
";
/// So that the destinations' agents read requests too.
const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: methods, namespace: default }
spec: { action: DENY, rules: [{ to: [{ operation: { methods: [DELETE] } }] }] }
";

/// By the answer's status; 0: there was none.
type ByStatus = BTreeMap<u16, u64>;

/// What these agents count together.
fn counted(world: &World, nodes: &[NodeId], reporter: &str) -> Result<ByStatus> {
    let mut all = ByStatus::new();
    for node in nodes {
        let text = world.node(*node).host.curl(&format!("http://{METRICS}/metrics"))?;
        for line in text.lines().filter(|line| line.starts_with("istio_requests_total{")) {
            let label = |name: &str| line.split(&format!("{name}=\"")).nth(1)?.split('"').next();
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
            if label("reporter") == Some(reporter)
                && let (Some(status), Some(count)) = (label("response_code").and_then(|code| code.parse().ok()), count)
            {
                *all.entry(status).or_default() += count;
            }
        }
    }
    Ok(all)
}

#[test]
fn agents_count_what_clients_count() -> Result<()> {
    let mut world = World::new("requests are counted")?;
    world.agent_options = ["--metrics", METRICS].map(str::to_owned).to_vec();
    let mut cast = HttpCast::in_world(world, "web", "default")?;
    cast.rules("routes", ROUTES)?;
    cast.rules("methods", POLICY)?;
    let (all, ask) = (requests(), || Ask::service(&cast.service));
    let switches = ask().header("connection", "upgrade").header("upgrade", "echo");
    let asks = [
        ("HTTP/1.1", ask().many(all * 4 / 10, 8)),
        ("HTTP/2", ask().http2().many(all * 2 / 10, 4)),
        ("a connection each", Ask { fresh: true, ..ask() }.many(all / 20, 4)),
        ("bodies", Ask { body: 3000, ..ask().method("POST") }.many(all / 20, 4)),
        ("not found", ask().header("x-status", "404").many(all / 20, 4)),
        ("server errors", ask().http2().header("x-status", "500").many(all / 20, 4)),
        ("refused", ask().method("DELETE").many(all / 20, 4)),
        ("gRPC", ask().http2().method("POST").header("content-type", "application/grpc").many(all / 20, 4)),
        ("resets", ask().header("x-reset", "1").many(all / 100, 4)),
        ("no patience", Ask { timeout_ms: 100, ..ask().http2().header("x-delay", "2000").many(20, 4) }),
        // Who closes an HTTP/1.1 connection may still read, for all that anybody knows: it is answered.
        ("no patience, 200", Ask { timeout_ms: 100, ..ask().header("x-delay", "500").many(20, 4) }),
        ("WebSocket", Ask { upgraded: Some("hello".to_owned()), ..switches.many(5, 1) }),
        ("not by the service", Ask::at(cast.v2.at(PORT), "web").many(all / 20, 4)),
    ];
    // Whoever dials a pod itself is read by that pod's agent alone.
    let (mut by_source, mut by_destination) = (ByStatus::new(), ByStatus::new());
    for (what, ask) in asks {
        let answers = cast.client.ask_http(&ask)?;
        let told = answers.by_status.values().sum::<u32>() + answers.lost();
        ensure!(told == ask.count, "{what}: {answers:?}");
        let expected = if what.starts_with("no patience") { ask.count } else { 0 };
        ensure!(answers.lost() == expected, "{what}: {answers:?}");
        // The endpoints speak HTTP/1.1: whoever closes there may still read, and the destination's agent has their
        // answer.
        let [at_source, at_destination] = [if what.ends_with("200") { 200 } else { 0 }, 200];
        let lost = |status| (answers.lost() > 0).then_some((status, answers.lost()));
        let heard = || answers.by_status.iter().map(|(status, count)| (*status, *count));
        for (status, count) in heard().chain(lost(at_destination)) {
            *by_destination.entry(status).or_default() += u64::from(count);
        }
        for (status, count) in heard().chain(lost(at_source)).filter(|_| what != "not by the service") {
            *by_source.entry(status).or_default() += u64::from(count);
        }
    }
    for (reporter, nodes, expected) in [("source", &[A, B][..], by_source), ("destination", &[A, B], by_destination)] {
        let mut last = ByStatus::new();
        let counts = eventually(format_args!("agents count as {reporter} what clients do"), Patience::SHORT, || {
            last = counted(&cast.world, nodes, reporter)?;
            Ok((last == expected).then_some(()))
        });
        ensure!(counts.is_ok(), "{reporter}: the clients counted {expected:?}, and the agents {last:?}");
    }
    Ok(())
}
