//! A full table of the kernel refuses, and never lets a connection go another way.

use anyhow::Result;
use mesh_tests::{A, B, Patience, World, eventually, programs_dir};

#[test]
fn a_full_table_refuses_and_counts() -> Result<()> {
    let mut world = World::new("full table")?;
    world.agent_options.push("--max-pending=1".to_owned());
    let stuck = world.pod("shop", "stuck", A)?;
    let client = world.pod("shop", "client", A)?;
    let near = world.pod("shop", "near", A)?;
    let far = world.pod("shop", "far", B)?;
    let stranger = world.pod("legacy", "stranger", B)?;
    world.start()?;
    world.mesh("shop")?;
    for server in [&near, &far] {
        server.serve("peer", 7001)?;
        // One after the other there is room, also for both halves of a connection.
        assert_eq!(client.say(server.at(7001), "")?.seen()?.accepted.ip(), client.ip);
    }

    // A connect whose SYN gets nowhere holds the only place.
    stuck.block(15001, "drop")?;
    let send = ["send", "--to", &far.at(7001).to_string(), "--timeout", "4"].map(str::to_owned);
    let holder = stuck.start("stuck", &programs_dir()?.join("mesh-test-app"), &send)?;
    let capture = world.capture()?;
    eventually("the table is full", Patience::SHORT, || {
        let report = client.say(near.at(7001), "canary-beyond-the-table")?;
        Ok(report.turned_away().then_some(()))
    })?;
    for server in [&near, &far] {
        let report = client.say(server.at(7001), "canary-beyond-the-table")?;
        assert!(report.turned_away(), "{}: {report:?}", server.name);
    }
    // One that arrives: the application must not see it come from its own loopback address instead.
    let report = stranger.say(near.at(7001), "")?;
    assert!(report.turned_away(), "{report:?}");
    let of_stranger = |flow: &mesh_tests::Flow| flow.source.pod == stranger.full_name() && flow.reason == "CONNECT";
    world.flow(A, "of the stranger", of_stranger)?;
    assert!(!capture.contains(b"canary-beyond-the-table")?);
    world.flow(A, "that found no place", |flow| flow.reason == "PENDING_FULL")?;
    world.flow(A, "that the agent refused", |flow| flow.reason == "ORIGINAL_DESTINATION_UNKNOWN")?;

    // Its end gives the place back.
    holder.kill()?;
    let again = || Ok(client.say(far.at(7001), "")?.seen().ok().map(|seen| seen.accepted.ip()));
    assert_eq!(eventually("there is room again", Patience::LONG, again)?, client.ip);
    Ok(())
}
