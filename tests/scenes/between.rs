//! What changes between a decision of the kernel and the arrival of the connection that it was about.

use std::{fs, net::SocketAddr, slice::from_ref, thread, time::Duration};

use anyhow::{Context, Result};
use mesh_tests::{A, End, Patience, eventually};

use crate::{
    cast::policy,
    held_syn::{Stage, accepted, becomes_direct, dial_across, nothing_is_left},
    reused::forget_neighbours,
};

const ONLY_CLIENTS: &str = "[{ from: [{ source: { serviceAccounts: [shop/client, shop/second] } }] }]";

fn only(account: &str) -> String {
    format!("[{{ from: [{{ source: {{ serviceAccounts: [shop/{account}] }} }}] }}]")
}

#[test]
fn a_denial_comes_before_the_connection() -> Result<()> {
    let Stage { mut world, client, near, .. } = Stage::new("denied on the way", &[])?;
    let server = near.serve_at("peer", "::".parse()?, 7001)?;
    for (name, to) in [("deny-4", near.at(7001)), ("deny-6", near.at6(7001))] {
        becomes_direct(&world, &client, to)?;
        let taken = accepted(&server)?;
        let report = dial_across(&mut world, &client, to, |world| {
            world.apply(name, &policy(name, "near", "DENY", &only("client")))
        })?;
        assert!(!report.connected && report.received == 0, "{report:?}");
        let flow = world.flow(A, "of what was denied on its way", |flow| {
            flow.reason == "POLICY_DENY" && flow.path == "direct" && flow.destination.address == to.to_string()
        })?;
        assert_eq!((flow.policy, flow.source.identity), (format!("shop/{name}"), client.identity()));
        assert!(client.say(to, "")?.turned_away(), "{to}");
        assert_eq!(accepted(&server)?, taken, "{to}");
        world.delete(name)?;
    }
    nothing_is_left(&world)
}

#[test]
fn what_is_decided_anew_arrives_through_the_agent() -> Result<()> {
    let Stage { mut world, client, second, near } = Stage::new("decided anew", &[])?;
    near.serve_at("peer", "::".parse()?, 7001)?;
    world.apply("clients", &policy("clients", "near", "ALLOW", ONLY_CLIENTS))?;
    for (name, to) in [("not-4", near.at(7001)), ("not-6", near.at6(7001))] {
        for pod in [&client, &second] {
            becomes_direct(&world, pod, to)?;
        }
        let late = world.counter(A, "STEERED_LATE")?;
        // It is about somebody else: all decisions about the server are taken anew.
        let report = dial_across(&mut world, &client, to, |world| {
            world.apply(name, &policy(name, "near", "DENY", &only("second")))
        })?;
        let seen = report.seen()?;
        // An application that listens on IPv6 sees an IPv4 address mapped.
        let client_at = SocketAddr::new(seen.accepted.ip().to_canonical(), seen.accepted.port());
        assert_eq!(Some(client_at), report.local, "{seen:?}");
        assert!(world.counter(A, "STEERED_LATE")? > late);
        let flow = world.flow(A, "of what came late", |flow| {
            flow.direction == "inbound" && flow.source.address == client_at.to_string()
        })?;
        let is = (flow.path.as_str(), flow.security.as_str(), flow.policy.as_str(), flow.source.identity.as_str());
        assert_eq!(is, ("local", "kernel_attested", "shop/clients", client.identity().as_str()), "{flow:?}");
        world.delete(name)?;
    }
    nothing_is_left(&world)
}

#[test]
fn another_policy_that_permits_it_changes_nothing() -> Result<()> {
    let Stage { mut world, client, near, .. } = Stage::new("permitted by another", &[])?;
    near.serve("peer", 7001)?;
    world.apply("one", &policy("one", "near", "ALLOW", &only("client")))?;
    becomes_direct(&world, &client, near.at(7001))?;
    let report = dial_across(&mut world, &client, near.at(7001), |world| {
        world.apply("two", &policy("two", "near", "ALLOW", ONLY_CLIENTS))?;
        world.delete("one")
    })?;
    assert_eq!(report.seen()?.accepted.ip(), client.ip, "{report:?}");
    // The next one names it.
    let report = client.say(near.at(7001), "")?;
    let local = report.local.map(|local| local.to_string()).unwrap_or_default();
    let flow = world.flow(A, "of the next", |flow| flow.source.address == local)?;
    assert_eq!((flow.path.as_str(), flow.policy.as_str()), ("direct", "shop/two"), "{flow:?}");
    nothing_is_left(&world)
}

#[test]
fn it_does_not_arrive_at_the_next_pod_of_that_address() -> Result<()> {
    let Stage { mut world, client, near, .. } = Stage::new("recreated on the way", &[])?;
    world.delete("strict")?;
    near.serve("peer", 7001)?;
    becomes_direct(&world, &client, near.at(7001))?;
    let mut server = None;
    let report = dial_across(&mut world, &client, near.at(7001), |world| {
        world.delete_pod(&near)?;
        let heir = world.pod("shop", "heir", A)?;
        assert_eq!(heir.ip, near.ip);
        server = Some(heir.serve("peer", 7001)?);
        world.wait_for(from_ref(&heir), true)?;
        forget_neighbours(&client)
    })?;
    // What was decided about the pod that is gone is not for its heir, not even as plaintext.
    assert!(report.received == 0 && report.end != End::Eof, "{report:?}");
    let server = server.expect("it is served");
    assert_eq!(accepted(&server)?, 0);
    assert!(world.counter(A, "STEERED_ELSEWHERE")? > 0);
    let own = |flow: &mesh_tests::Flow| flow.path == "direct" && flow.reason == "CONNECT";
    let flow = world.flow(A, "of what arrived nowhere", own)?;
    assert_eq!((flow.destination.pod, flow.source.identity), (near.full_name(), client.identity()));
    // A new one is about the new pod.
    client.say(near.at(7001), "")?.seen()?;
    nothing_is_left(&world)
}

#[test]
fn a_lease_is_asked_when_it_is_dialled() -> Result<()> {
    let Stage { mut world, client, near, .. } = Stage::new("lease over", &["--verdict-lease=1"])?;
    near.serve("peer", 7001)?;
    becomes_direct(&world, &client, near.at(7001))?;
    let report = dial_across(&mut world, &client, near.at(7001), |world| {
        world.kill_agent(A)?;
        thread::sleep(Duration::from_millis(1100));
        Ok(())
    })?;
    // It was dialled under the lease.
    assert_eq!(report.seen()?.accepted.ip(), client.ip, "{report:?}");
    let next = client.say(near.at(7001), "canary")?;
    assert_eq!((next.connected, next.end), (false, End::Refused), "{next:?}");
    Ok(())
}

#[test]
fn without_an_agent_decisions_hold_until_their_lease_is_over() -> Result<()> {
    let Stage { mut world, client, near, .. } = Stage::new("no agent", &["--verdict-lease=2"])?;
    near.serve_at("echo", "::".parse()?, 7000)?;
    world.settle()?;
    let (file, marker) = (world.node(A).state_dir().join("configuration"), world.marker());
    eventually("the configuration is on the disk", Patience::SHORT, || {
        let bytes = fs::read(&file).context("no configuration yet")?;
        Ok(bytes.windows(marker.len()).any(|part| part == marker.as_bytes()).then_some(()))
    })?;
    let (to, to6) = (near.at(7000), near.at6(7000));
    for at in [to, to6] {
        assert!(client.say(at, "by the agent")?.echoed());
    }
    let held = [client.hold(to)?, client.hold(to6)?];
    world.kill_agent(A)?;
    let report = client.say(to, "while no agent runs")?;
    assert!(report.echoed(), "{report:?}");
    assert!(client.say(to6, "while no agent runs")?.echoed());
    for at in [to, to6] {
        eventually("the lease is over", Patience::SHORT, || {
            let report = client.say(at, "canary")?;
            Ok((report.end == End::Refused).then_some(()))
        })?;
    }

    world.restart_agent(A)?;
    eventually("the pods are served", Patience::LONG, || Ok((world.redirected(A)?.len() == 3).then_some(())))?;
    world.flow(A, "refused while no agent ran", |flow| {
        flow.reason == "AGENT_DOWN" && flow.source.pod == client.full_name()
    })?;
    let own = report.local.map(|local| local.to_string()).unwrap_or_default();
    let flow = world.flow(A, "that ended while no agent ran", |flow| flow.source.address == own)?;
    let bytes = (flow.bytes_sent, flow.bytes_received);
    assert_eq!((flow.path.as_str(), flow.reason.as_str(), bytes), ("direct", "", (report.sent, report.received)));
    let who = (flow.source.pod, flow.source.identity, flow.destination.pod);
    assert_eq!(who, (client.full_name(), client.identity(), near.full_name()));
    // Decisions that it found are renewed, and acted on at once.
    let opened = world.counter(A, "DIRECT_OPENED")?;
    eventually("it is direct again", Patience::SHORT, || {
        assert!(client.say(to, "again")?.echoed());
        Ok((world.counter(A, "DIRECT_OPENED")? > opened).then_some(()))
    })?;
    for held in held {
        assert!(held.is_open()?);
        let ended = held.finish()?;
        assert!(ended.sent > 10 && ended.end == End::Eof, "{ended:?}");
        let own = ended.local.map(|local| local.to_string()).unwrap_or_default();
        let flow = world.flow(A, "that was open over the restart", |flow| flow.source.address == own)?;
        let bytes = (flow.bytes_sent, flow.bytes_received);
        assert_eq!((flow.path.as_str(), flow.reason.as_str(), bytes), ("direct", "", (ended.sent, ended.received)));
        let who = (flow.source.pod, flow.source.identity, flow.destination.pod);
        assert_eq!(who, (client.full_name(), client.identity(), near.full_name()));
    }
    Ok(())
}
