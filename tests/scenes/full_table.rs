//! A full table of the kernel refuses, and never lets a connection go another way.

use std::net::SocketAddr;

use anyhow::Result;
use mesh_tests::{A, B, Dialled, End, Families, Patience, World, eventually, programs_dir};

/// Nothing left the client: its connect failed.
fn refused(report: &Dialled) -> bool {
    !report.connected && report.error.as_deref().is_some_and(|error| error.contains("No route to host"))
}

#[test]
fn a_full_table_refuses_and_counts() -> Result<()> {
    let mut world = World::new("full table")?;
    world.agent_options.push("--max-pending=1".to_owned());
    let stuck = world.pod("shop", "stuck", A)?;
    let client = world.pod_with("shop", "client", "client", A, Families::Dual)?;
    let near = world.pod_with("shop", "near", "near", A, Families::Dual)?;
    let far = world.pod_with("shop", "far", "far", B, Families::Dual)?;
    let stranger = world.pod("legacy", "stranger", B)?;
    world.start()?;
    world.mesh("shop")?;
    for server in [&near, &far] {
        server.serve_at("peer", "::".parse()?, 7001)?;
        server.serve_at("peer", "::".parse()?, 7002)?;
        // One after the other there is room, also for both halves of a connection.
        assert_eq!(client.say(server.at(7001), "")?.seen()?.accepted.ip().to_canonical(), client.ip);
        assert_eq!(client.say(server.at6(7001), "")?.seen()?.accepted.ip(), client.ip6);
    }

    // Below the ports that IPv6 is spread over, one of which is to be served: no client's socket may have it.
    client.set("net/ipv4/ip_local_port_range", "10000 16000")?;
    // A connect whose SYN gets nowhere holds the only place.
    stuck.block(15001, "drop")?;
    let send = ["send", "--to", &far.at(7001).to_string(), "--timeout", "4"].map(str::to_owned);
    let holder = stuck.start("stuck", &programs_dir()?.join("mesh-test-app"), &send)?;
    let capture = world.capture()?;
    // A port that was not dialled yet: what the kernel knows of the other one needs no place.
    eventually("the table is full", Patience::SHORT, || {
        let report = client.say(near.at(7002), "canary-beyond-the-table")?;
        Ok((!report.connected).then_some(()))
    })?;
    let mut hashed_ports = Vec::new();
    for server in [&near, &far] {
        let report = client.say(server.at(7002), "canary-beyond-the-table")?;
        assert!(refused(&report), "{}: {report:?}", server.name);
        // Over IPv6 it is sent to a port that somebody in the client's own pod may have.
        let report = client.say(server.at6(7002), "canary-beyond-the-table")?;
        assert!(!report.connected, "{}: {report:?}", server.name);
        let flow = world.flow(A, "over IPv6 that found no place", |flow| {
            let to = &flow.destination.address;
            flow.reason == "PENDING_FULL" && to.starts_with("[::1]") && !hashed_ports.contains(to)
        })?;
        assert_eq!(flow.source.pod, client.full_name());
        let hashed: SocketAddr = flow.destination.address.parse()?;
        client.serve_at("echo", "::".parse()?, hashed.port())?;
        let report = client.say(server.at6(7002), "canary-beyond-the-table")?;
        assert!(refused(&report), "{}, and {hashed} is served: {report:?}", server.name);
        hashed_ports.push(flow.destination.address);
    }
    // One that arrives: the application must not see it come from its own loopback address instead.
    let report = stranger.say(near.at(7001), "")?;
    assert!(report.turned_away(), "{report:?}");
    let of_stranger = |flow: &mesh_tests::Flow| flow.source.pod == stranger.full_name() && flow.reason == "CONNECT";
    world.flow(A, "of the stranger", of_stranger)?;
    assert!(!capture.contains(b"canary-beyond-the-table")?);

    // Its end gives the place back.
    holder.kill()?;
    let again = || Ok(client.say(far.at(7001), "")?.seen().ok().map(|seen| seen.accepted.ip().to_canonical()));
    assert_eq!(eventually("there is room again", Patience::LONG, again)?, client.ip);
    Ok(())
}

#[test]
fn an_application_never_talks_to_its_agent_instead_of_its_client() -> Result<()> {
    let mut world = World::new("no storage")?;
    let near = world.pod("shop", "near", A)?;
    // In the slot before it
    let stranger = world.pod("legacy", "stranger", B)?;
    world.start()?;
    world.mesh("shop")?;
    near.serve("peer", 7001)?;
    assert_eq!(stranger.say(near.at(7001), "")?.seen()?.accepted.ip(), stranger.ip);
    // The agent dials the application and gets nowhere yet.
    near.nft(
        "add table inet held; add chain inet held in { type filter hook input priority 0; }; \
         add rule inet held in iifname lo tcp dport 7001 drop",
    )?;
    let published = world.counter(A, "PENDING_PUBLISHED")?;
    let report = std::thread::scope(|scope| {
        let said = scope.spawn(|| stranger.say(near.at(7001), "what is said to the application"));
        eventually("the agent dials", Patience::SHORT, || {
            Ok((world.counter(A, "PENDING_PUBLISHED")? > published).then_some(()))
        })?;
        // No socket of the pod gets storage from now on, and the SYN comes again.
        near.set("net/core/optmem_max", "64")?;
        near.nft("delete table inet held")?;
        said.join().expect("the thread does not panic")
    })?;
    assert_eq!((report.end, report.received), (End::Reset, 0), "{report:?}");
    assert_eq!(world.counter(A, "TAKEN_STORAGE_FULL")?, 1);
    let flow = world.flow(A, "of it", |flow| flow.reason == "TAKEN_STORAGE_FULL")?;
    assert_eq!((flow.direction.as_str(), flow.destination.pod), ("inbound", near.full_name()));
    assert_eq!(flow.destination.address, near.at(7001).to_string());
    Ok(())
}
