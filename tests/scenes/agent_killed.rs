//! An agent that dies takes no secrets with it: what needs it is refused at once, and never goes in plaintext.

use anyhow::Result;
use mesh_tests::{A, B, Dialled, End, Pod, patience};

use crate::cast::Cast;

/// A refusal is an answer, not a timeout.
fn at_once(report: &Dialled) -> bool {
    report.total_ms < 1000.0 * f64::from(patience())
}

fn refused_at_once(who: &Pod, to: &Pod) -> Result<()> {
    let report = who.say(to.at(7000), "canary-while-dead")?;
    assert_eq!((report.connected, report.end), (false, End::Refused), "{} -> {}: {report:?}", who.name, to.name);
    assert!(at_once(&report), "{report:?}");
    Ok(())
}

#[test]
fn new_connections_are_refused_and_nothing_is_readable() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("agent killed")?;
    let stranger = world.pod("legacy", "stranger", B)?;
    for server in [&near, &far, &client] {
        server.serve("echo", 7000)?;
    }
    assert!(client.say(far.at(7000), "before")?.echoed());
    let held = client.hold(far.at(7000))?;

    let capture = world.capture()?;
    world.kill_agent(A)?;
    // Out of the node, within it, and into it from a client that no agent serves.
    refused_at_once(&client, &far)?;
    refused_at_once(&client, &near)?;
    refused_at_once(&stranger, &near)?;
    let host = world.node(A).host.say(near.at(7000), "canary-while-dead")?;
    assert_eq!(host.end, End::Refused, "a process of the node itself: {host:?}");
    assert!(!capture.contains(b"canary-while-dead")?);
    // A connection that the agent carried is over, and not as if it were complete.
    let ended = held.ended(mesh_tests::Patience::SHORT)?;
    assert_eq!(ended.end, End::Reset, "{ended:?}");
    // What a pod says to itself never needed the agent.
    assert!(client.say(([127, 0, 0, 1], 7000).into(), "to myself")?.echoed());
    assert!(client.say(client.at(7000), "to myself")?.echoed());

    // A new agent takes over what the old one left.
    world.start_agent(A)?;
    world.wait_for(&[client.clone(), near.clone()], true)?;
    assert!(client.say(far.at(7000), "again")?.echoed());
    assert!(client.say(near.at(7000), "again")?.echoed());
    // It finds what was refused meanwhile, whose it was and in which direction.
    for (direction, own) in [("outbound", &client), ("inbound", &near)] {
        world.flow(A, "refused while no agent ran", |flow| {
            let pod = if direction == "inbound" { &flow.destination.pod } else { &flow.source.pod };
            flow.reason == "AGENT_DOWN" && flow.direction == direction && *pod == own.full_name()
        })?;
    }
    Ok(())
}

#[test]
fn a_dead_destination_agent_refuses_too() -> Result<()> {
    let Cast { mut world, client, far, .. } = Cast::meshed("far agent killed")?;
    far.serve("echo", 7000)?;
    assert!(client.say(far.at(7000), "before")?.echoed());
    let capture = world.capture()?;
    world.kill_agent(B)?;
    let report = client.say(far.at(7000), "canary-while-dead")?;
    assert!(report.turned_away() && at_once(&report), "{report:?}");
    assert!(!capture.contains(b"canary-while-dead")?);
    Ok(())
}
