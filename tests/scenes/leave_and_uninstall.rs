//! Leaving is as easy as joining, and an uninstalled agent leaves nothing in the kernel.

use std::{fs, path::Path};

use anyhow::Result;
use mesh_tests::{A, B, Node, Patience, eventually};

use crate::{cast::Cast, load::Load};

#[test]
fn without_the_label_traffic_is_plaintext_again() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("leave")?;
    for server in [&near, &far] {
        server.serve("peer", 7001)?;
        server.serve("echo", 7000)?;
    }
    assert!(client.say(far.at(7000), "in the mesh")?.echoed());
    world.unmesh("shop")?;

    let capture = world.capture()?;
    assert!(client.say(far.at(7000), "canary-after-leaving")?.echoed());
    assert!(capture.contains(b"canary-after-leaving")?);
    for server in [&near, &far] {
        let report = client.say(server.at(7001), "")?;
        // Now the very connection arrives, port and all.
        assert_eq!(Some(report.seen()?.accepted), report.local, "{}", server.name);
    }

    // And back.
    world.mesh("shop")?;
    assert!(client.say(far.at(7000), "canary-in-again")?.echoed());
    assert!(!capture.contains(b"canary-in-again")?);
    Ok(())
}

#[test]
fn traffic_goes_on_while_a_namespace_leaves_and_joins() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("leave under load")?;
    let stranger = world.pod("legacy", "stranger", B)?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
    }
    let load = Load::start(&[
        ("same node", &client, near.at(7000)),
        ("to another node", &client, far.at(7000)),
        ("from another node", &far, near.at(7000)),
        ("plaintext", &stranger, near.at(7000)),
    ]);
    for round in 1..=2 {
        load.until(round * 300)?;
        world.unmesh("shop")?;
        load.until(round * 300 + 100)?;
        // The last step of leaving is past: no listener is left.
        eventually("nothing is hooked", Patience::LONG, || Ok((world.node(A).hooked_pods()? == 0).then_some(())))?;
        world.mesh("shop")?;
    }
    println!("{} connections: none refused", load.finish()?);
    Ok(())
}

#[test]
fn one_pod_leaves_by_its_own_label() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("one leaves")?;
    for server in [&near, &far] {
        server.serve("peer", 7001)?;
    }
    world.label_pod(&near, Some("none"))?;
    world.wait_for(std::slice::from_ref(&near), false)?;
    assert_eq!(world.redirected(A)?, [client.full_name()].into());
    let report = client.say(near.at(7001), "")?;
    assert_eq!(report.seen()?.accepted.ip(), client.ip);
    let flow = world.flow(A, "to a pod that left", |flow| flow.destination.pod == near.full_name())?;
    assert_eq!((flow.path.as_str(), flow.security.as_str()), ("passthrough", "none"), "{flow:?}");
    assert_eq!(client.say(far.at(7001), "")?.seen()?.accepted.ip(), client.ip);
    Ok(())
}

#[test]
fn uninstall_leaves_nothing() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("uninstall")?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
    }
    assert!(client.say(far.at(7000), "in the mesh")?.echoed());
    for node in [A, B] {
        assert!(!traces(world.node(node)).is_empty(), "this looks for the right things");
        world.uninstall(node)?;
        assert_eq!(traces(world.node(node)), Vec::<String>::new());
    }
    let capture = world.capture()?;
    assert!(client.say(near.at(7000), "alone")?.echoed());
    assert!(client.say(far.at(7000), "canary-after-uninstall")?.echoed());
    assert!(capture.contains(b"canary-after-uninstall")?);

    // A killed agent's leavings go the same way; twice does no harm.
    world.start_agent(A)?;
    world.kill_agent(A)?;
    world.uninstall(A)?;
    world.uninstall(A)?;
    assert_eq!(traces(world.node(A)), Vec::<String>::new());
    assert!(client.say(near.at(7000), "alone again")?.echoed());
    Ok(())
}

/// What an agent makes outside itself: pins (programs, links and maps live by them alone), its cgroup, its sockets.
fn traces(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    list(&node.bpffs, &mut found);
    for path in [node.cgroup.join("nodemesh-agent"), node.agent_socket(), node.cni_socket(), node.state_dir()] {
        if path.exists() {
            found.push(path.display().to_string());
        }
    }
    found
}

fn list(folder: &Path, found: &mut Vec<String>) {
    if !folder.exists() {
        return;
    }
    found.push(folder.display().to_string());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { list(&path, found) } else { found.push(path.display().to_string()) }
    }
}
