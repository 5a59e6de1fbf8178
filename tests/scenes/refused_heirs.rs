//! What is gone is gone: a pod's address, port and name give its heir nothing, and a pod that the configuration no longer
//! names can neither open nor keep a connection.

use std::{
    fs,
    net::SocketAddr,
    slice::from_ref,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, B, Dialled, Flow, Patience, Pod, World, inside, refused};

use crate::cast::{Cast, policy};

/// A change of the configuration reaches everybody within this.
const BOUND: Duration = Duration::from_secs(2);

/// From now on everything in the pod's namespace gets one of these source ports.
fn few_ports(pod: &Pod) -> Result<()> {
    let name = pod.netns.file_name().and_then(|name| name.to_str()).context("a namespace has a name")?;
    inside(name, || fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40009"))?.context("set the ports")
}

fn port(report: &Dialled) -> u16 {
    report.local.map(|local| local.port()).unwrap_or_default()
}

fn refused(world: &World, what: &str, heir: &Pod, to: &Pod, code: &str) -> Result<Flow> {
    let report = heir.say(to.at(7000), "hello")?;
    ensure!(report.turned_away(), "{what}: {report:?}");
    let node = if heir.namespace == "shop" { A } else { to.node };
    let flow = world.flow(node, what, |flow| {
        flow.reason == code && flow.destination.pod == to.full_name() && flow.source.pod == heir.full_name()
    })?;
    refused::row(
        "X9",
        what,
        &format!("{:?} from port {}", report.end, port(&report)),
        code,
        &format!("flow of node {}", node.name()),
    );
    Ok(flow)
}

#[test]
fn an_heir_of_address_and_port_inherits_nothing() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("heirs")?;
    let rule = "[{ from: [{ source: { serviceAccounts: [shop/client] } }] }]";
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
        world.apply(&server.name, &policy(&server.name, &server.name, "ALLOW", rule))?;
    }
    few_ports(&client)?;
    let (to_far, to_near) = (client.hold(far.at(7000))?, client.hold(near.at(7000))?);
    let said = client.say(near.at(7000), "hello")?;
    assert!(said.echoed() && (40000..40010).contains(&port(&said)), "{said:?}");

    let gone = Instant::now();
    world.delete_pod(&client)?;
    let heir = world.pod("shop", "heir", A)?;
    assert_eq!(heir.ip, client.ip);
    few_ports(&heir)?;
    // At once, while the kernel and both agents may still remember.
    let early = heir.say(far.at(7000), "hello")?;
    ensure!(!early.echoed() || early.text != "hello", "before it is in the mesh: {early:?}");
    world.wait_for(from_ref(&heir), true)?;
    let flow =
        refused(&world, "the same IP and ports at once, through the old tunnel", &heir, &far, "POLICY_NO_ALLOW")?;
    assert_eq!(flow.source.identity, heir.identity(), "{flow:?}");
    let flow =
        refused(&world, "the same IP and ports at once, attested on the same node", &heir, &near, "POLICY_NO_ALLOW")?;
    assert_eq!(flow.source.identity, heir.identity(), "{flow:?}");
    for (held, what) in [(to_far, "a tunnel"), (to_near, "an attested connection")] {
        let ended = held.ended(Patience::SHORT);
        // Its process died with the pod; then the other end is what counts.
        ensure!(ended.is_ok() || gone.elapsed() < BOUND * 10, "{what}: {ended:?}");
    }
    for server in [&near, &far] {
        let left = server.clients_of(7000)?;
        ensure!(left.is_empty(), "connections of the old pod at {}: {left:?}", server.name);
        let what = format!("a live connection of a deleted pod to {}", server.name);
        refused::row("X9", &what, "ended with the pod", "-", "no socket is left at the server");
    }
    let of_client = |flow: &&Flow| flow.source.identity == client.identity() && flow.verdict == "forwarded";
    let count = world.flows(B)?.iter().filter(of_client).count();
    assert_eq!(heir.say(far.at(7000), "again")?.received, 0);
    assert_eq!(world.flows(B)?.iter().filter(of_client).count(), count, "nobody is client any more");

    // The next one is not even in the mesh.
    world.delete_pod(&heir)?;
    let stranger = world.pod("legacy", "stranger", A)?;
    assert_eq!(stranger.ip, client.ip);
    few_ports(&stranger)?;
    world.settle()?;
    for server in [&near, &far] {
        let what = format!(
            "the same IP in an unmeshed pod, to a pod of {}",
            if server.node == A { "its node" } else { "another node" }
        );
        let flow = refused(&world, &what, &stranger, server, "POLICY_NO_ALLOW")?;
        assert_eq!(flow.source.identity, "", "{flow:?}");
    }
    Ok(())
}

#[test]
fn an_identity_that_is_deleted_is_over() -> Result<()> {
    let Cast { world, client, near, far } = Cast::meshed("deleted identity")?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
    }
    let (outside, address) = world.outside(7000)?;
    outside.serve("echo", 7000)?;
    let ways: [(&str, SocketAddr); 3] =
        [("through a tunnel", far.at(7000)), ("on the same node", near.at(7000)), ("out of the cluster", address)];
    let held = ways.iter().map(|(_, to)| client.hold(*to)).collect::<Result<Vec<_>>>()?;
    let bystander = near.hold(far.at(7000))?;

    // The pod is deleted in the configuration; its processes and its namespace still live.
    let start = Instant::now();
    world.manifests.remove(&format!("pod-{}-{}", client.namespace, client.name))?;
    for ((what, _), held) in ways.iter().zip(&held) {
        let ended = held.ended(Patience::SHORT.within(BOUND))?;
        let took = start.elapsed().as_millis();
        let evidence = format!("flow of node a, {took} ms after the change");
        let what = format!("a live connection of a deleted pod, {what}");
        refused::row("X14", &what, &format!("{:?}", ended.end), "POLICY_UNKNOWN", &evidence);
    }
    world.flow(A, "that ended", |flow| flow.reason == "POLICY_UNKNOWN" && flow.source.pod == client.full_name())?;
    for (what, to) in ways {
        let report = client.say(to, "hello")?;
        ensure!(report.turned_away(), "{what}: {report:?}");
        let address = to.to_string();
        let of_it = |flow: &Flow| flow.reason == "WORKLOAD_UNKNOWN" && flow.destination.address == address;
        world.flow(A, what, of_it)?;
        let what = format!("a new connection of a deleted pod, {what}");
        refused::row("X14", &what, &format!("{:?}", report.end), "WORKLOAD_UNKNOWN", "flow of node a");
    }
    let report = near.say(client.at(7000), "hello")?;
    ensure!(report.turned_away(), "{report:?}");
    ensure!(bystander.is_open()?, "a connection of others ended");
    Ok(())
}
