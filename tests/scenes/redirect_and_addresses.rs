//! Redirected connections keep their addresses: both sides see whom they talk to, never the agent.

use anyhow::Result;
use mesh_tests::{Pod, World};

use crate::cast::Cast;

#[test]
fn both_sides_see_true_addresses() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("true addresses")?;
    for server in [&near, &far] {
        server.serve("peer", 7001)?;
        sees_true_addresses(&mut world, &client, server)?;
    }
    Ok(())
}

fn sees_true_addresses(world: &mut World, client: &Pod, server: &Pod) -> Result<()> {
    let service = world.service("shop", &format!("{}-service", server.name), 80, 7001, &[server])?;
    world.settle()?;
    for dialled in [server.at(7001), service.addr()] {
        let report = client.say(dialled, "")?;
        assert!(report.connected, "{dialled}: {report:?}");
        // The client asked for this address, pod or service, and is told nothing else.
        assert_eq!(report.peer, Some(dialled), "{report:?}");
        assert_eq!(report.local.map(|local| local.ip()), Some(client.ip.into()), "{report:?}");
        // The server is dialled by the client pod, at its own address and the port behind the service.
        let seen = report.seen()?;
        assert_eq!(seen.accepted.ip(), client.ip, "{dialled}: {seen:?}");
        assert_eq!(seen.getpeername, seen.accepted, "{dialled}");
        assert_eq!(seen.getsockname, server.at(7001), "{dialled}");
    }
    // To the near pod the first one went through the agent, which told the kernel what it decided.
    let to_it = |flow: &mesh_tests::Flow| flow.destination.pod == server.full_name();
    let via_service =
        world.flow(client.node, "to the service", |flow| to_it(flow) && flow.service == service.full_name())?;
    assert_eq!(via_service.direction, "outbound");
    assert_eq!(via_service.path, if server.node == client.node { "direct" } else { "tunnel" });
    world.flow(client.node, "to the pod's address", |flow| to_it(flow) && flow.service.is_empty())?;
    Ok(())
}

#[test]
fn many_connections_in_a_row_all_arrive_where_they_were_sent() -> Result<()> {
    let Cast { world, client, near, far } = Cast::meshed("many in a row")?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
        let reports = client.dial(server.at(7000), &["--text", "once more", "--count", "300"])?;
        assert_eq!(reports.len(), 300);
        assert!(reports.iter().all(mesh_tests::Dialled::echoed), "{:?}", reports.iter().find(|r| !r.echoed()));
    }
    drop(world);
    Ok(())
}

#[test]
fn a_service_spreads_over_its_pods() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("round robin")?;
    near.serve("peer", 7001)?;
    far.serve("peer", 7001)?;
    let service = world.service("shop", "both", 80, 7001, &[&near, &far])?;
    world.settle()?;
    let mut answers = [0, 0];
    for report in client.dial(service.addr(), &["--count", "200"])? {
        let seen = report.seen()?;
        answers[usize::from(seen.getsockname == far.at(7001))] += 1;
    }
    // By chance, which is further off once in ten million times.
    assert!(answers.iter().all(|count| *count > 62), "{answers:?}");
    Ok(())
}
