//! The tables of direct connections are small and full: the agent carries what finds no room, or it is refused, and
//! nothing goes past both.

use std::{net::IpAddr, thread, time::Duration};

use anyhow::Result;
use mesh_tests::{A, Dialled, End, Patience, eventually};

use crate::held_syn::{Stage, accepted, becomes_direct, dial_across, nothing_is_left};

/// Nothing left the client: its connect failed.
fn found_no_room(report: &Dialled) -> bool {
    !report.connected && report.error.as_deref().is_some_and(|error| error.contains("No route to host"))
}

#[test]
fn without_room_for_a_decision_the_agent_carries() -> Result<()> {
    let Stage { world, client, near, .. } = Stage::new("decisions full", &["--max-verdicts=1"])?;
    for port in [7001, 7002] {
        near.serve_at("peer", "::".parse()?, port)?;
    }
    becomes_direct(&world, &client, near.at(7001))?;
    let opened = world.counter(A, "DIRECT_OPENED")?;
    let (own4, own6) = (IpAddr::from(client.ip), IpAddr::from(client.ip6));
    for (to, own) in [(near.at(7002), own4), (near.at6(7001), own6), (near.at6(7002), own6)] {
        for _ in 0..2 {
            let report = client.say(to, "")?;
            assert_eq!(report.seen()?.accepted.ip().to_canonical(), own, "{to}: {report:?}");
        }
        world.flow(A, "by the agent", |flow| flow.path == "local" && flow.destination.address == to.to_string())?;
    }
    assert_eq!((world.counter(A, "DIRECT_OPENED")?, world.entries(A, "VERDICTS")?), (opened, 1));
    // What has its place keeps it.
    client.say(near.at(7001), "")?.seen()?;
    assert_eq!(world.counter(A, "DIRECT_OPENED")?, opened + 1);
    nothing_is_left(&world)
}

#[test]
fn without_room_for_a_connection_one_fails_and_the_agent_carries_the_next() -> Result<()> {
    let Stage { world, client, near, .. } = Stage::new("connections full", &["--max-direct=1"])?;
    near.serve_at("echo", "::".parse()?, 7000)?;
    let server = near.serve_at("peer", "::".parse()?, 7001)?;
    assert!(client.say(near.at(7000), "by the agent")?.echoed());
    becomes_direct(&world, &client, near.at(7001))?;
    let held = client.hold(near.at(7000))?;
    let (opened, taken) = (world.counter(A, "DIRECT_OPENED")?, accepted(&server)?);
    let report = client.say(near.at(7001), "canary")?;
    assert!(found_no_room(&report), "{report:?}");
    assert_eq!((world.counter(A, "DIRECT_FULL")?, accepted(&server)?), (1, taken));
    world
        .flow(A, "that found no room", |flow| flow.reason == "DIRECT_FULL" && flow.source.pod == client.full_name())?;
    // From now on the agent carries, also when it has looked whether there is room.
    for _ in 0..3 {
        let report = client.say(near.at(7001), "")?;
        assert_eq!(report.seen()?.accepted.ip().to_canonical(), client.ip, "{report:?}");
        thread::sleep(Duration::from_millis(500));
    }
    let counts = (world.counter(A, "DIRECT_OPENED")?, world.counter(A, "DIRECT_FULL")?, accepted(&server)?);
    assert_eq!(counts, (opened, 1, taken + 3));
    assert!(held.is_open()?);
    held.finish()?;
    eventually("there is room again", Patience::SHORT, || {
        client.say(near.at(7001), "")?.seen()?;
        Ok((world.counter(A, "DIRECT_OPENED")? > opened).then_some(()))
    })?;
    nothing_is_left(&world)
}

#[test]
fn without_room_for_an_attestation_nothing_leaves() -> Result<()> {
    let Stage { mut world, client, second, near } = Stage::new("attestations full", &["--max-pending=1"])?;
    let server = near.serve_at("peer", "::".parse()?, 7001)?;
    let both = [near.at(7001), near.at6(7001)];
    for pod in [&client, &second] {
        for to in both {
            becomes_direct(&world, pod, to)?;
        }
    }
    let taken = accepted(&server)?;
    // The SYN of one gets nowhere.
    let report = dial_across(&mut world, &second, near.at(7001), |world| {
        for (count, to) in (1..).zip(both) {
            let report = client.say(to, "canary")?;
            assert!(found_no_room(&report), "{to}: {report:?}");
            assert_eq!(world.counter(A, "ATTEST_FULL")?, count, "{to}");
            world.flow(A, "that found no room", |flow| {
                flow.reason == "ATTEST_FULL"
                    && flow.source.pod == client.full_name()
                    && flow.destination.address == to.to_string()
            })?;
        }
        assert_eq!((accepted(&server)?, world.entries(A, "DIRECT")?), (taken, 1));
        Ok(())
    })?;
    // It was another's.
    assert_eq!((report.seen()?.accepted.ip().to_canonical(), report.end), (second.ip.into(), End::Eof));
    for to in both {
        client.say(to, "")?.seen()?;
    }
    assert_eq!(accepted(&server)?, taken + 3);
    nothing_is_left(&world)
}
