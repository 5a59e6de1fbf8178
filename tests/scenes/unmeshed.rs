//! Meshed pods and the rest of the world reach each other, in plaintext and counted as such.

use anyhow::Result;
use mesh_tests::{A, B};

use crate::cast::Cast;

#[test]
fn a_meshed_pod_reaches_what_is_outside() -> Result<()> {
    let Cast { mut world, client, .. } = Cast::meshed("passthrough")?;
    let (outside, address) = world.outside(7001)?;
    outside.serve("peer", 7001)?;
    let legacy = world.pod("legacy", "server", B)?;
    legacy.serve("peer", 7001)?;
    let service = world.service("legacy", "server", 80, 7001, &[&legacy])?;
    world.settle()?;

    for to in [address, legacy.at(7001), service.addr()] {
        let report = client.say(to, "")?;
        assert_eq!(report.peer, Some(to), "{report:?}");
        assert_eq!(report.seen()?.accepted.ip(), client.ip, "from the pod's own address");
        let dialled = if to == service.addr() { legacy.at(7001) } else { to };
        let flow = world.flow(A, &format!("to {dialled}"), |flow| {
            flow.destination.address == dialled.to_string() && flow.service.is_empty() == (to != service.addr())
        })?;
        assert_eq!((flow.path.as_str(), flow.security.as_str()), ("passthrough", "none"), "{flow:?}");
        assert_eq!(flow.source.identity, client.identity());
        assert_eq!(flow.destination.identity, "", "{flow:?}");
    }
    Ok(())
}

#[test]
fn a_refusal_from_outside_is_a_refusal() -> Result<()> {
    let Cast { world, client, near, far } = Cast::meshed("nobody listens")?;
    let (_, address) = world.outside(7999)?;
    for to in [address, near.at(7999), far.at(7999)] {
        let report = client.say(to, "anybody?")?;
        assert!(report.turned_away(), "{to}: {report:?}");
    }
    Ok(())
}

#[test]
fn an_unmeshed_pod_reaches_a_meshed_one() -> Result<()> {
    let Cast { mut world, near, far, .. } = Cast::meshed("from outside")?;
    let stranger = world.pod("legacy", "stranger", B)?;
    let (outside, _) = world.outside(0)?;
    for server in [&near, &far] {
        server.serve("peer", 7001)?;
        let from_pod = stranger.say(server.at(7001), "")?;
        assert_eq!(from_pod.seen()?.accepted.ip(), stranger.ip, "{from_pod:?}");
        let from_afar = outside.say(server.at(7001), "")?;
        assert_eq!(Some(from_afar.seen()?.accepted.ip()), from_afar.local.map(|local| local.ip()));
        let flow = world.flow(server.node, "from outside", |flow| flow.direction == "inbound")?;
        assert_eq!((flow.security.as_str(), flow.source.identity.as_str()), ("none", ""), "{flow:?}");
    }
    // A process of the node is one of them.
    assert!(world.node(A).host.say(near.at(7001), "")?.connected);
    Ok(())
}

/// What the agent accepts for a server has the server's own port.
#[test]
fn a_server_starts_again_while_its_clients_are_there() -> Result<()> {
    let Cast { mut world, near, .. } = Cast::meshed("a server again")?;
    let stranger = world.pod("legacy", "stranger", B)?;
    let server = near.serve("echo", 7000)?;
    let held = stranger.hold(near.at(7000))?;
    server.kill()?;
    near.serve("echo", 7000)?;
    assert!(stranger.say(near.at(7000), "again")?.echoed());
    drop(held);
    Ok(())
}
