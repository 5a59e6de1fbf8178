//! Requests to a pod are counted by the agent of its node: over all clients, connections and nodes, and by identity.

use std::sync::Arc;

use anyhow::{Result, ensure};
use mesh_tests::{A, Patience, Pod, World, eventually};

use crate::cast::Cast;

/// A RateLimitPolicy of namespace shop for the pods labelled `app: <app>`.
fn limit(app: &str, spec: &str) -> String {
    format!(
        "apiVersion: nodemesh.io/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{ name: {app}, namespace: shop }}\n\
         spec:\n  selector: {{ matchLabels: {{ app: {app} }} }}\n  {spec}\n"
    )
}

/// How many of so many requests were answered 200, and how many 429.
fn asked(client: &Pod, server: &Pod, times: usize) -> Result<(usize, usize)> {
    let statuses = client.statuses(&format!("http://{}/?[1-{times}]", server.ip))?;
    let of = |status: u16| statuses.iter().filter(|found| **found == status).count();
    ensure!(of(200) + of(429) == times, "{statuses:?}");
    Ok((of(200), of(429)))
}

/// A limit is told after everything else that is written with it. `other` spends its own share.
fn told(other: &Pod, server: &Pod) -> Result<()> {
    eventually("the limit holds", Patience::LONG, || Ok((asked(other, server, 1)?.1 == 1).then_some(())))
}

fn cast(title: &str) -> Result<(Cast, Arc<Pod>)> {
    let mut world = World::new(title)?;
    world.metrics();
    let vip = world.pod_as("shop", "vip", "vip", A)?;
    let mut cast = Cast::in_world(world)?;
    cast.world.mesh("shop")?;
    Ok((cast, vip))
}

#[test]
fn requests_are_counted_by_identity_on_the_same_node_and_across_nodes() -> Result<()> {
    let (Cast { mut world, client, near, far }, vip) = cast("rate limit by identity")?;
    for (server, other) in [(&near, &far), (&far, &near)] {
        let nginx = server.nginx(80, "hello\n")?;
        assert_eq!(asked(&client, server, 10)?, (10, 0), "nobody limits it");
        let name = vip.identity();
        let name = name.trim_start_matches("spiffe://");
        let spec = format!(
            "local: {{ identity: {{ requests: 3, interval: 600s }}, \
             overrides: [{{ requests: 6, interval: 600s, identities: [{name}] }}] }}"
        );
        world.apply("limit", &limit(&server.name, &spec))?;
        told(other, server)?;
        let before = nginx.access_log(10)?.len();
        assert_eq!(asked(&client, server, 10)?, (3, 7), "{}", server.name);
        assert_eq!(asked(&vip, server, 10)?, (6, 4), "an override, {}", server.name);
        let log = nginx.access_log(before + 9)?;
        assert_eq!(log.len(), before + 9, "the application saw what was not refused: {log:?}");
        let of = |pod: &Pod| log[before..].iter().filter(|line| line.starts_with(&format!("{} ", pod.ip))).count();
        assert_eq!((of(&client), of(&vip)), (3, 6), "{log:?}");
        let answer = client.curl_with(&["--include"], &format!("http://{}/", server.ip))?;
        let answer = answer.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 429") && answer.contains("nodemesh-flag: rl"), "{answer}");
        let wait = answer.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap_or_default();
        assert!((100..=200).contains(&wait.trim().parse::<u32>()?), "{answer}");
        let metric = format!("mesh_ratelimited_total{{policy=\"RateLimitPolicy shop/{}\"}}", server.name);
        assert!(world.metric(server.node, &metric)? >= 12);
        world.flow(server.node, "of the requests", |flow| {
            flow.destination.pod == server.full_name()
                && flow.source.pod == "shop/client"
                && flow.security == "mutual_tls"
                && flow.bytes_sent > 0
                && flow.bytes_received > 0
        })?;

        world.delete("limit")?;
        eventually("nobody limits it any more", Patience::LONG, || {
            Ok((asked(&client, server, 5)? == (5, 0)).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn what_is_not_refused_passes_whole() -> Result<()> {
    let (Cast { mut world, client, near, far }, _) = cast("rate limit of large answers")?;
    let text = "0123456789abcdef".repeat(200);
    for server in [&near, &far] {
        server.nginx(80, &text)?;
        world.apply("limit", &limit(&server.name, "local: { total: { requests: 6, interval: 600s } }"))?;
        let url = format!("http://{}/", server.ip);
        eventually("the limit holds", Patience::LONG, || {
            let open =
                client.curl_with(&["--include", "--output", "/dev/null", "--write-out", "%{http_code}"], &url)?;
            Ok((open == "429").then_some(()))
        })?;
        // Other limits: full buckets, and for connections that are open too.
        world.apply("limit", &limit(&server.name, "local: { total: { requests: 600, interval: 600s } }"))?;
        eventually("there is room again", Patience::LONG, || Ok((asked(&client, server, 1)?.0 == 1).then_some(())))?;
        for options in [&[][..], &["--http1.0"], &["--header", "Connection: close"], &["--limit-rate", "4M"]] {
            assert!(client.curl_with(options, &url)? == text, "{options:?}");
        }
        let twice = client.curl_with(&[], &format!("http://{}/?[1-2]", server.ip))?;
        assert!(twice == text.repeat(2), "two on one connection");
        world.delete("limit")?;
    }
    Ok(())
}

#[test]
fn what_is_no_http_counts_by_connections() -> Result<()> {
    let (Cast { mut world, client, near, far }, vip) = cast("rate limit of bytes")?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
        server.serve("greet", 7002)?;
        server.serve("echo", 7070)?;
        let (held, untouched) = (client.hold(server.at(7000))?, client.hold(server.at(7070))?);
        let spec = "ports: [7000, 7002]\n  local: { identity: { requests: 3, interval: 600s } }";
        world.apply("limit", &limit(&server.name, spec))?;
        // Nobody could count what it carries.
        let ended = held.ended(Patience::LONG)?;
        assert!(ended.received > 0, "it had worked before: {ended:?}");
        assert!(untouched.is_open()?, "nothing limits this port");

        let greeted = client.dial_once(server.at(7002), &["--listen-first", "--text", "bye"])?;
        assert!(
            greeted.text.starts_with("hello ") && greeted.text.ends_with("bye"),
            "the server speaks first: {greeted:?}"
        );
        for _ in 0..2 {
            assert!(client.say(server.at(7000), "hello")?.echoed());
        }
        let refused = client.say(server.at(7000), "hello")?;
        assert!(!refused.echoed(), "{refused:?}");
        let flow = world.flow(server.node, "that is refused", |flow| flow.reason == "RATE_LIMITED")?;
        assert_eq!((flow.verdict.as_str(), flow.destination.pod.as_str()), ("dropped", server.full_name().as_str()));
        assert!(vip.say(server.at(7000), "hello")?.echoed(), "another identity");
        assert!(client.say(server.at(7070), "hello")?.echoed(), "another port");
        world.delete("limit")?;
    }
    Ok(())
}
