//! A pod that begins or ends to be observed, with connections open and others dialled all the time; and agents that
//! come and go meanwhile.

use anyhow::Result;
use mesh_tests::{A, B, Patience, World, eventually};

use crate::{
    cast::Cast,
    load::Load,
    observe::{state, wait_until_observed},
};

#[test]
fn modes_change_and_no_connection_notices() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("observe: changes")?;
    for server in [&client, &near, &far] {
        server.serve("echo", 7000)?;
    }
    let load = Load::start(&[
        ("to another node", &client, far.at(7000)),
        ("from another node", &far, client.at(7000)),
        ("from the same node", &near, client.at(7000)),
    ]);
    let mut held = vec![client.hold(far.at(7000))?, near.hold(client.at(7000))?];
    for mode in ["observe", "none", "observe", "mesh"] {
        world.label_pod(&client, Some(mode))?;
        match mode {
            "mesh" => world.wait_for(std::slice::from_ref(&client), true)?,
            "observe" => drop(wait_until_observed(&world, &client)?),
            _ => eventually("it is left alone", Patience::LONG, || {
                let state = state(&world, &client)?;
                Ok((state["mode"] == mode && state["redirection"] == "disabled" && state["message"] == "")
                    .then_some(()))
            })?,
        }
        load.until(load.done() + 60)?;
        held.push(client.hold(far.at(7000))?);
        held.push(far.hold(client.at(7000))?);
    }
    assert_eq!(world.redirected(A)?, [client.full_name(), near.full_name()].into());
    println!("{} connections: none refused", load.finish()?);
    for held in &held {
        assert!(held.is_open()?);
    }
    let flows = world.flows(A)?;
    let paths = |direction: &str, ends: &dyn Fn(&mesh_tests::Flow) -> bool| {
        let those = flows.iter().filter(|flow| flow.direction == direction && ends(flow));
        those.map(|flow| (flow.path.clone(), flow.rtt_us.is_some())).collect::<std::collections::BTreeSet<_>>()
    };
    // By its agent in the mesh, by the kernel while it was observed.
    let both = [("passthrough".to_owned(), true), ("tunnel".to_owned(), false)];
    let dialled = paths("outbound", &|flow| flow.source.pod == client.full_name());
    assert!(both.iter().all(|path| dialled.contains(path)), "{dialled:?}");
    Ok(())
}

#[test]
fn agents_come_and_go_and_no_record_is_lost() -> Result<()> {
    let mut world = World::new("observe: agents")?;
    let pod = world.pod("shop", "watched", A)?;
    let peer = world.pod("legacy", "peer", B)?;
    pod.serve("echo", 7000)?;
    world.start()?;
    world.label_pod(&pod, Some("observe"))?;
    wait_until_observed(&world, &pod)?;
    let ports = [7001, 7002, 7003];
    let servers = ports.map(|port| peer.serve("echo", port)).into_iter().collect::<Result<Vec<_>>>()?;
    let held = ports.map(|port| pod.hold(peer.at(port))).into_iter().collect::<Result<Vec<_>>>()?;
    // The client says a byte now and then; the server may have been killed before it answered the last ones.
    let record = |world: &World, port| {
        let flow =
            world.flow(A, "of a held connection", |flow| flow.destination.address == peer.at(port).to_string())?;
        assert!(flow.bytes_received > 0 && flow.bytes_sent >= flow.bytes_received, "{flow:?}");
        assert_eq!((flow.source.pod, flow.path.as_str()), (pod.full_name(), "passthrough"));
        Ok::<_, anyhow::Error>(())
    };
    let load = Load::start(&[("dialled", &peer, pod.at(7000))]);

    // Another agent takes over; the pod's life goes on.
    let old = world.replace_agent(A)?;
    wait_until_observed(&world, &pod)?;
    servers[0].kill()?;
    record(&world, ports[0])?;
    old.process.terminate(Patience::LONG)?;

    // While no agent runs the pod is as free as without a mesh.
    world.kill_agent(A)?;
    load.until(load.done() + 40)?;
    servers[1].kill()?;
    world.restart_agent(A)?;
    wait_until_observed(&world, &pod)?;
    record(&world, ports[1])?;
    servers[2].kill()?;
    record(&world, ports[2])?;
    println!("{} connections: none refused", load.finish()?);
    drop(held);

    // It goes while no agent looks, and its entry goes too.
    world.kill_agent(A)?;
    world.delete_pod(&pod)?;
    world.restart_agent(A)?;
    eventually("nothing is left of it", Patience::LONG, || {
        Ok((world.agent(A)?.process.log()?.contains("its entries are removed")).then_some(()))
    })?;
    Ok(())
}
