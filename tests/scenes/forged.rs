//! Raw packets in the name of a pod that may dial directly: the kernel vouches for connections of its own sockets only.

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use anyhow::Result;
use mesh_tests::{A, Families, Patience, Pod, World, eventually};

use crate::{
    cast::policy,
    held_syn::{Stage, hold_syns, nothing_is_left, release},
};

/// What a segment needs to cross a bridge, many times over.
const CROSSED: Duration = Duration::from_millis(200);
const FROM: u16 = 41_000;

/// A SYN in the name of `from`, until the counter has moved: it has arrived and this became of it.
fn forged(world: &World, by: &Pod, from: SocketAddr, to: SocketAddr, counter: &str) -> Result<()> {
    let attested = world.counter(A, "STEERED_ATTESTED")?;
    let before = world.counter(A, counter)?;
    by.forge(from, to)?;
    eventually(format_args!("{counter} of {from} to {to}"), Patience::SHORT, || {
        Ok((world.counter(A, counter)? > before).then_some(()))
    })?;
    thread::sleep(CROSSED);
    if counter != "STEERED_ATTESTED" {
        assert_eq!(world.counter(A, "STEERED_ATTESTED")?, attested, "{from} to {to}");
    }
    Ok(())
}

#[test]
fn a_source_forged_in_the_mesh_reaches_no_application() -> Result<()> {
    let stage = Stage::new("forged source", &[])?;
    let (by, from, to) = (Arc::clone(&stage.second), stage.client.at(FROM), stage.near.at(7000));
    reaches_no_application(stage, &by, from, to)
}

#[test]
fn a_source_forged_outside_of_it_reaches_no_application() -> Result<()> {
    let mut stage = Stage::new("forged source of ipv6", &[])?;
    let by = stage.world.pod_with("legacy", "stranger", "stranger", A, Families::Dual)?;
    let (from, to) = (stage.client.at6(FROM), stage.near.at6(7000));
    reaches_no_application(stage, &by, from, to)
}

fn reaches_no_application(stage: Stage, by: &Pod, from: SocketAddr, to: SocketAddr) -> Result<()> {
    let Stage { mut world, client, near, .. } = stage;
    near.serve_at("echo", "::".parse()?, 7000)?;
    let rules = "[{ from: [{ source: { serviceAccounts: [shop/client] } }] }]";
    world.apply("only-client", &policy("only-client", "near", "ALLOW", rules))?;
    let nobody_talks = || -> Result<()> {
        let talking = near.clients_of(7000)?;
        assert!(talking.is_empty(), "{}: {talking:?}", by.name);
        Ok(())
    };
    // Before: not even once the kernel knows that the pod may.
    forged(&world, by, from, to, "STEERED_AGENT")?;
    assert!(client.say(to, "by the agent")?.echoed());
    forged(&world, by, from, to, "STEERED_AGENT")?;
    nobody_talks()?;

    // While the pod's own SYN is on its way: the answer goes to the pod, which did not send that.
    hold_syns(&world, &client, 7000)?;
    let opened = world.counter(A, "DIRECT_OPENED")?;
    let (own, port) = (from.ip().to_string(), FROM.to_string());
    let options = ["--from", &own, "--from-port", &port, "--text", "by the pod", "--timeout", "8"];
    let report = thread::scope(|scope| {
        let dialled = scope.spawn(|| client.dial_once(to, &options));
        let done = eventually("it is dialled", Patience::SHORT, || {
            Ok((world.counter(A, "DIRECT_OPENED")? > opened).then_some(()))
        })
        .and_then(|()| forged(&world, by, from, to, "STEERED_ATTESTED"))
        .and_then(|()| nobody_talks());
        release(&world)?;
        let report = dialled.join().expect("the thread does not panic");
        done.and(report)
    })?;
    assert!(report.echoed(), "{report:?}");

    // While it talks
    let held = client.hold(to)?;
    let talking = near.clients_of(7000)?;
    assert_eq!(talking.len(), 1, "{talking:?}");
    by.forge(talking[0], to)?;
    thread::sleep(CROSSED);
    assert!(held.is_open()?);
    assert_eq!(near.clients_of(7000)?, talking);
    let ended = held.finish()?;
    assert_eq!(ended.sent, ended.received, "{ended:?}");

    // Afterwards, of both of its connections
    for from in [from, talking[0]] {
        forged(&world, by, from, to, "STEERED_AGENT")?;
    }
    nobody_talks()?;
    nothing_is_left(&world)
}
