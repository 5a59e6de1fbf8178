//! A port on which nobody listens is refused at connect, as without a mesh, and never accepted first by the agent.

use anyhow::Result;
use mesh_tests::{A, B, Dialled, End, Families, Patience, Pod, World, eventually};

fn closed(report: &Dialled) -> bool {
    (report.connected, report.end) == (false, End::Refused)
}

#[test]
fn a_closed_port_is_refused_until_it_opens_and_after_it_closed() -> Result<()> {
    let mut world = World::new("closed ports")?;
    let server = world.pod_with("shop", "server", "server", A, Families::Dual)?;
    let stranger = world.pod_with("legacy", "stranger", "stranger", B, Families::Dual)?;
    let host = world.node(A).host.clone();
    // Older than the agent and than the pod's place in the mesh.
    let old = server.serve_at("echo", "::".parse()?, 7000)?;
    server.serve_at("echo", "::1".parse()?, 7005)?;
    server.serve_at("echo", "127.0.0.1".parse()?, 7005)?;
    world.start()?;
    // The agent is there, the pod is not in the mesh yet.
    let between = server.serve("echo", 7001)?;
    world.mesh("shop")?;

    for dialler in [&*stranger, &host] {
        for to in [server.at(7000), server.at6(7000), server.at(7001)] {
            assert!(dialler.say(to, "open")?.echoed(), "{to}");
        }
        // The others reach no listener of the loopback addresses.
        for to in [server.at(7999), server.at6(7999), server.at(7005), server.at6(7005)] {
            let report = dialler.say(to, "closed")?;
            assert!(closed(&report), "{to}: {report:?}");
        }
    }
    for (port, process) in [(7000, old), (7001, between)] {
        process.kill()?;
        // The agent looks when it hears of it.
        refused_soon(&stranger, &server, port)?;
    }
    // A second one on the same port keeps it open when the first closes.
    for round in 0..3 {
        let opened = server.serve("echo", 7002)?;
        assert!(stranger.say(server.at(7002), "just opened")?.echoed(), "round {round}");
        let other = server.serve_at("echo", server.ip6.into(), 7002)?;
        opened.kill()?;
        eventually("the first one is gone", Patience::SHORT, || {
            Ok(stranger.say(server.at(7002), "")?.turned_away().then_some(()))
        })?;
        assert!(stranger.say(server.at6(7002), "still open")?.echoed(), "round {round}");
        other.kill()?;
        refused_soon(&stranger, &server, 7002)?;
    }

    // Nobody asks the agent, so it need not be there.
    world.kill_agent(A)?;
    let report = stranger.say(server.at(7999), "closed")?;
    assert!(closed(&report), "{report:?}");
    Ok(())
}

#[test]
fn a_full_table_closes_nobodys_ports() -> Result<()> {
    let mut world = World::new("too many listeners")?;
    world.agent_options.extend(["--max-listening=1".to_owned(), "--audit-interval=1".to_owned()]);
    let (greedy, other) = (world.pod("shop", "greedy", A)?, world.pod("shop", "other", A)?);
    let stranger = world.pod("legacy", "stranger", B)?;
    world.start()?;
    world.mesh("shop")?;
    let first = greedy.serve("echo", 7000)?;
    // There is room for one.
    assert!(closed(&stranger.say(other.at(7999), "")?));
    let second = greedy.serve("echo", 7001)?;
    other.serve("echo", 7000)?;
    for to in [greedy.at(7000), greedy.at(7001), other.at(7000)] {
        assert!(stranger.say(to, "open")?.echoed(), "{to}");
    }
    let report = stranger.say(other.at(7999), "closed")?;
    assert!(report.end == End::Reset && report.turned_away(), "the agent finds out: {report:?}");
    assert!(world.counter(A, "LISTENING_FULL")? > 0);
    world.agent(A)?.process.says("closed ports of pods look open", Patience::SHORT)?;

    // Not for ever: with room for every port again closed ones are refused, and open ones are not.
    first.kill()?;
    second.kill()?;
    refused_soon(&stranger, &other, 7999)?;
    assert!(stranger.say(other.at(7000), "still open")?.echoed());
    Ok(())
}

#[test]
fn an_open_port_that_the_hooks_did_not_see_is_found() -> Result<()> {
    let mut world = World::new("unseen listener")?;
    world.agent_options.push("--audit-interval=1".to_owned());
    let server = world.pod("shop", "server", A)?;
    let stranger = world.pod("legacy", "stranger", B)?;
    world.start()?;
    world.mesh("shop")?;
    assert!(closed(&stranger.say(server.at(7000), "")?));
    // Of a process outside the cgroup in which hooks see sockets listen.
    let mut outside = world.node(A).kubelet()?;
    outside.netns = Some(server.netns.clone());
    outside.serve("echo", 7000)?;
    eventually("the open port is found", Patience::LONG, || {
        Ok(stranger.say(server.at(7000), "open")?.echoed().then_some(()))
    })?;
    world
        .agent(A)?
        .process
        .says("ports [7000] are open and its entries in LISTENING are not there", Patience::SHORT)?;
    Ok(())
}

#[test]
fn a_port_that_opens_while_its_pod_leaves_is_open() -> Result<()> {
    let mut world = World::new("opens while leaving")?;
    let server = world.pod("shop", "server", A)?;
    let stranger = world.pod("legacy", "stranger", B)?;
    world.start()?;
    world.mesh("shop")?;
    world.label_namespace("shop", None)?;
    eventually("the pod begins to leave", Patience::LONG, || {
        Ok(world.status(A)?.to_string().contains("it leaves the mesh").then_some(()))
    })?;
    server.serve("echo", 7000)?;
    assert!(stranger.say(server.at(7000), "just opened")?.echoed());
    assert_eq!(world.node(A).hooked_pods()?, 1, "it was too late to tell anything");
    Ok(())
}

fn refused_soon(stranger: &Pod, server: &Pod, port: u16) -> Result<()> {
    eventually(format_args!("port {port} is refused"), Patience::SHORT, || {
        let report = stranger.say(server.at(port), "closed again")?;
        assert!(report.turned_away(), "{report:?}");
        Ok(closed(&report).then_some(()))
    })
}
