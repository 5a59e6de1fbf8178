//! Two pods of a node talk directly once it is decided that they may: as without a mesh, and recorded, denied and ended
//! as with one.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, Dialled, End, Flow, Patience, Pod, World, eventually, programs_dir};

use crate::cast::{Cast, policy};

/// All of one client's connections that the kernel sent straight to a pod.
fn direct(world: &World) -> Result<u64> {
    world.counter(A, "CONNECT_DIRECT")
}

/// Dials once, so that the agent decides and tells the kernel.
fn warm(client: &Pod, server: &Pod, port: u16) -> Result<()> {
    let report = client.say(server.at(port), "first")?;
    ensure!(report.echoed(), "{report:?}");
    Ok(())
}

#[test]
fn the_first_connection_is_decided_and_the_next_ones_are_direct() -> Result<()> {
    let Cast { mut world, client, near, .. } = Cast::meshed("direct")?;
    near.serve("echo", 7000)?;
    world.apply("allow", &policy("from-client", "near", "ALLOW", "[{ to: [{ operation: { ports: ['7000'] } }] }]"))?;
    warm(&client, &near, 7000)?;
    assert_eq!(direct(&world)?, 0);
    let reports = client.dial(near.at(7000), &["--text", "twenty bytes of text", "--count", "20"])?;
    assert!(reports.iter().all(Dialled::echoed), "{reports:?}");
    assert_eq!(direct(&world)?, 20);
    let flows = eventually("all are recorded", Patience::SHORT, || {
        let flows: Vec<Flow> = world.flows(A)?.into_iter().filter(|flow| flow.path == "direct").collect();
        Ok((flows.len() == 20).then_some(flows))
    })?;
    for (flow, report) in flows.iter().zip(&reports) {
        assert_eq!((flow.bytes_sent, flow.bytes_received), (report.sent, report.received), "{flow:?}");
        assert_eq!((flow.direction.as_str(), flow.verdict.as_str()), ("outbound", "forwarded"));
        assert_eq!((flow.policy.as_str(), flow.rule), ("shop/from-client", Some(0)));
        assert_eq!(flow.security, "kernel_attested");
        assert_eq!(flow.source.identity, client.identity());
        assert_eq!(flow.source.address, report.local.context("connected")?.to_string());
        assert_eq!(flow.destination.identity, near.identity());
    }
    // What the kernel measured comes with it, and an open one is listed.
    let record = world.ask_agent(A, &["flows"])?.into_iter().find(|flow| flow["path"] == "direct");
    assert!(record.context("it was there")?["rtt_us"].as_u64().is_some_and(|rtt| rtt > 0));
    let held = client.hold(near.at(7000))?;
    let open = || {
        let all = world.ask_agent(A, &["config", "connections"])?;
        Ok(all.into_iter().find(|one| one.to_string().contains("\"direct\"") && one["bytes_sent"].as_u64() > Some(2)))
    };
    eventually("it is listed with its bytes", Patience::SHORT, open)?;
    assert!(held.is_open()?);
    Ok(())
}

#[test]
fn what_policy_denies_is_refused_at_once_by_the_kernel() -> Result<()> {
    let Cast { mut world, client, near, .. } = Cast::meshed("denied by the kernel")?;
    near.serve("echo", 7000)?;
    world.apply("deny", &policy("nobody", "near", "DENY", "[{ to: [{ operation: { ports: ['7000'] } }] }]"))?;
    // The agent accepts and then resets; from then on it is the kernel's.
    assert!(client.say(near.at(7000), "first")?.turned_away());
    let report = client.say(near.at(7000), "second")?;
    assert_eq!((report.connected, report.end), (false, End::Refused), "{report:?}");
    assert_eq!(world.counter(A, "CONNECT_DENIED")?, 1);
    let flow = world.flow(A, "denied by the kernel", |flow| flow.path == "direct" && flow.verdict == "dropped")?;
    assert_eq!((flow.reason.as_str(), flow.policy.as_str(), flow.rule), ("POLICY_DENY", "shop/nobody", Some(0)));
    assert_eq!((flow.source.pod, flow.destination.pod), (client.full_name(), near.full_name()));
    assert_eq!(flow.destination.address, near.at(7000).to_string());
    // It is mended, and nothing has to forget anything.
    world.delete("deny")?;
    assert!(client.say(near.at(7000), "third")?.echoed());
    Ok(())
}

#[test]
fn a_change_ends_the_direct_connections_that_it_denies_and_no_other() -> Result<()> {
    const HELD: usize = 200;
    let Cast { mut world, client, near, .. } = Cast::meshed("revoked")?;
    let other = world.pod("shop", "other", A)?;
    world.wait_for(std::slice::from_ref(&other), true)?;
    let mut holding = Vec::new();
    for (server, port) in [(&near, 7000), (&near, 7070), (&other, 7000)] {
        server.serve("echo", port)?;
        warm(&client, server, port)?;
        let to = server.at(port).to_string();
        let words = ["bench", "hold", "--to", &to, "--connections", &HELD.to_string()].map(str::to_owned);
        let process =
            client.start(&format!("hold-{}-{port}", server.name), &programs_dir()?.join("mesh-test-app"), &words)?;
        process.says("holding", Patience::LONG)?;
        holding.push(process);
    }
    assert_eq!(direct(&world)?, 3 * HELD as u64);
    let rules = "[{ to: [{ operation: { ports: ['7000'] } }] }]";
    let denied = policy("deny", "near", "DENY", rules);
    // The agent's own log says when it knew; to the user it is the moment of writing.
    let written = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis();
    world.manifests.write("deny", &denied)?;
    let ends = eventually("all of them end", Patience::SHORT, || {
        let log = holding[0].log()?;
        let ends: Vec<(u128, String)> = log
            .lines()
            .filter_map(|line| line.strip_prefix("ended ")?.split_once(' '))
            .filter_map(|(when, how)| Some((when.parse().ok()?, how.to_owned())))
            .collect();
        Ok((ends.len() == HELD).then_some(ends))
    })?;
    assert!(ends.iter().all(|(_, how)| how == "ConnectionAborted"), "{ends:?}");
    let mut took: Vec<u128> = ends.iter().map(|(when, _)| when.saturating_sub(written)).collect();
    took.sort_unstable();
    println!("{HELD} connections ended {} to {} ms after the policy was written", took[0], took[HELD - 1]);
    thread::sleep(Duration::from_millis(200));
    for untouched in &holding[1..] {
        assert!(!untouched.log()?.contains("ended "), "{}", untouched.log()?);
    }
    let ended = eventually("they are recorded", Patience::SHORT, || {
        let of_policy = |flow: &Flow| flow.path == "direct" && flow.policy == "shop/deny" && flow.verdict == "dropped";
        let ended: Vec<Flow> = world.flows(A)?.into_iter().filter(of_policy).collect();
        Ok((ended.len() == HELD).then_some(ended))
    })?;
    assert!(ended.iter().all(|flow| (flow.bytes_sent, flow.bytes_received) == (1, 1)), "{:?}", ended[0]);
    Ok(())
}

#[test]
fn a_service_without_an_endpoint_fails_at_connect_and_changes_lose_nothing() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("services in the kernel")?;
    let third = world.pod("shop", "third", A)?;
    world.wait_for(std::slice::from_ref(&third), true)?;
    for server in [&near, &far, &third] {
        server.serve("echo", 7000)?;
    }
    let service = world.service("shop", "echo", 80, 7000, &[])?;
    world.settle()?;
    let report = client.say(service.addr(), "nobody")?;
    assert_eq!((report.connected, report.end), (false, End::Refused), "{report:?}");
    let flow = world.flow(A, "refused", |flow| flow.reason == "NO_HEALTHY_ENDPOINT")?;
    assert_eq!(flow.service, service.full_name());

    let all = [&*near, &*far, &*third];
    world.change_service(&service, &all, &[])?;
    world.settle()?;
    assert!(client.say(service.addr(), "somebody")?.echoed());
    let count = ["--text", "while it changes", "--count", "1500"];
    thread::scope(|scope| -> Result<()> {
        let dialling = scope.spawn(|| client.dial(service.addr(), &count));
        let mut round = 0;
        while !dialling.is_finished() {
            // One endpoint stays, another one each time.
            world.change_service(&service, &[all[round % 3], all[(round + 1) % 3]], &[])?;
            thread::sleep(Duration::from_millis(60));
            round += 1;
        }
        let reports = dialling.join().expect("it does not panic")?;
        let failed: Vec<_> = reports.iter().filter(|report| !report.echoed()).collect();
        assert!(failed.is_empty(), "{} of {} in {round} changes: {failed:?}", failed.len(), reports.len());
        assert!(round > 3, "{round}");
        Ok(())
    })?;
    assert!(direct(&world)? > 300, "{}", direct(&world)?);
    Ok(())
}

#[test]
fn tls_within_the_node_where_it_is_asked_for() -> Result<()> {
    let Cast { mut world, client, near, .. } = Cast::meshed("same-node tls")?;
    near.serve("echo", 7000)?;
    warm(&client, &near, 7000)?;
    let held = client.hold(near.at(7000))?;
    assert_eq!(direct(&world)?, 1);
    let label = |value: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels:\n    nodemesh.io/mode: mesh\n    \
             nodemesh.io/same-node: {value}\n"
        )
    };
    world.apply("namespace-shop", &label("tls"))?;
    // What went in plaintext over the pods' own links ends.
    let ended = held.ended(Patience::SHORT)?;
    assert!(ended.received > 0, "{ended:?}");
    let before = direct(&world)?;
    for _ in 0..3 {
        assert!(client.say(near.at(7000), "in TLS")?.echoed());
    }
    assert_eq!(direct(&world)?, before);
    let flow = world.flow(A, "in TLS", |flow| flow.security == "mutual_tls" && flow.direction == "inbound")?;
    assert_eq!((flow.path.as_str(), flow.source.identity), ("tunnel", client.identity()));
    world.apply("namespace-shop", &label("direct"))?;
    for _ in 0..3 {
        assert!(client.say(near.at(7000), "plainly")?.echoed());
    }
    assert!(direct(&world)? > before);
    Ok(())
}

#[test]
fn counters_equal_the_clients_own_resets_included() -> Result<()> {
    let mut world = World::new("counted")?;
    world.metrics();
    let Cast { mut world, client, near, .. } = Cast::in_world(world)?;
    world.mesh("shop")?;
    let count = mesh_tests::load_connections().to_string();
    near.serve("echo", 7000)?;
    near.serve("reset", 7001)?;
    let resets = "200";
    let mut sent = (0, 0);
    let mut made = 0;
    for (port, count) in [(7000, count.as_str()), (7001, resets), (7002, "50")] {
        let reports = client.dial(near.at(port), &["--text", "a line of text to count", "--count", count])?;
        made += reports.len() as u64;
        if port == 7000 {
            assert!(reports.iter().all(Dialled::echoed));
            sent = reports.iter().fold(sent, |(to, from), report| (to + report.sent, from + report.received));
        }
    }
    let edges = eventually("all are counted", Patience::LONG, || {
        let edges = world.ask_agent(A, &["edges"])?;
        let sum = |key: &str| -> u64 { edges.iter().filter_map(|edge| edge[key].as_u64()).sum() };
        Ok((sum("connections") == made && sum("open") == 0).then_some(edges))
    })?;
    let of = |port: u16, key: &str| -> u64 {
        let to_it = |edge: &&serde_json::Value| {
            edge["destination"]["address"].as_str().is_some_and(|at| at.ends_with(&format!(":{port}")))
        };
        edges.iter().filter(to_it).filter_map(|edge| edge[key].as_u64()).sum()
    };
    assert_eq!((of(7000, "bytes_sent"), of(7000, "bytes_received")), sent);
    assert_eq!((of(7000, "failed"), of(7000, "refused")), (0, 0));
    assert_eq!((of(7001, "connections"), of(7001, "failed")), (resets.parse()?, 0));
    let reset = |flow: &&Flow| flow.destination.address == near.at(7001).to_string() && flow.reason == "RESET";
    assert_eq!(world.flows(A)?.iter().filter(reset).count(), resets.parse::<usize>()?, "each was reset by the server");
    assert_eq!(of(7002, "failed"), 50, "nobody listens there");
    assert_eq!(world.counter(A, "CLOSED_LOST")?, 0);
    // One record tells, and both reporters count.
    for reporter in ["source", "destination"] {
        let labels = [&*format!("reporter=\"{reporter}\""), "connection_security_policy=\"kernel_attested\""];
        let counted = |what: &str| world.metrics_sum(A, &format!("istio_tcp_{what}_total{{"), &labels);
        assert_eq!((counted("connections_opened")?, counted("connections_closed")?), (made, made), "{reporter}");
        assert_eq!(counted("connections_failed")?, 50, "{reporter}");
        // The server of port 7001 reads some, and resets.
        let (to, from) = (counted("received_bytes")?, counted("sent_bytes")?);
        assert!(to >= sent.0 && from == sent.1, "{reporter}: {to} and {from} bytes, and at least {sent:?} were said");
    }
    println!("{made} connections, {} of them direct, all counted", direct(&world)?);
    drop(world);
    Ok(())
}

#[test]
fn an_identity_that_is_revoked_and_a_pod_that_leaves_lose_what_they_no_longer_may() -> Result<()> {
    let mut world = World::new("revoked identities")?;
    let leaver = world.pod("guests", "leaver", A)?;
    let Cast { mut world, client, near, .. } = Cast::in_world(world)?;
    world.mesh("shop")?;
    world.mesh("guests")?;
    let strict = world.pod("shop", "strict", A)?;
    world.wait_for(std::slice::from_ref(&strict), true)?;
    world.apply(
        "strict",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: strict, namespace: shop }\n\
         spec:\n  selector: { matchLabels: { app: strict } }\n  mtls: { mode: STRICT }\n",
    )?;
    for server in [&near, &strict] {
        server.serve("echo", 7000)?;
        warm(&client, server, 7000)?;
        warm(&leaver, server, 7000)?;
    }
    let held = [client.hold(near.at(7000))?, leaver.hold(near.at(7000))?, leaver.hold(strict.at(7000))?];
    assert_eq!(direct(&world)?, 3);
    // Out of the mesh it is a stranger: PERMISSIVE lets it be, STRICT does not.
    world.unmesh("guests")?;
    let ended = held[2].ended(Patience::SHORT)?;
    assert!(ended.received > 0, "{ended:?}");
    world.flow(A, "of the stranger", |flow| flow.path == "direct" && flow.reason == "PLAINTEXT_STRICT")?;
    assert!(held[1].is_open()? && held[0].is_open()?);
    // No verdict stands for it any more, and a change finds it all the same.
    world.apply(
        "strict-near",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: strict-near, namespace: shop }\n\
         spec:\n  selector: { matchLabels: { app: near } }\n  mtls: { mode: STRICT }\n",
    )?;
    let ended = held[1].ended(Patience::SHORT)?;
    assert!(ended.received > 0, "{ended:?}");
    assert!(held[0].is_open()?);

    world.delete("serviceaccount-shop-client")?;
    let ended = held[0].ended(Patience::SHORT)?;
    assert!(ended.received > 0, "{ended:?}");
    world.flow(A, "of the revoked", |flow| flow.path == "direct" && flow.reason == "IDENTITY_REVOKED")?;
    let report = client.say(near.at(7000), "again")?;
    assert!(report.turned_away(), "{report:?}");
    Ok(())
}
