//! What was closed stays closed: nothing that goes missing, and no other way round, opens a pod.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use anyhow::{Context, Result};
use mesh_tests::{A, B, End, Patience, eventually};

use crate::cast::Cast;

#[test]
fn a_pod_that_the_configuration_forgets_stays_redirected() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("forgotten")?;
    let stranger = world.pod("legacy", "stranger", B)?;
    near.serve("echo", 7000)?;
    far.serve("echo", 7000)?;
    assert!(stranger.say(near.at(7000), "permissive")?.echoed());

    // Its manifest vanishes, and nobody told the agent that the pod is gone.
    world.manifests.remove(&format!("pod-{}-{}", near.namespace, near.name))?;
    world.settle()?;
    let report = stranger.say(near.at(7000), "canary-unasked")?;
    assert!(report.turned_away(), "{report:?}");
    world.flow(A, "to the forgotten pod", |flow| flow.reason == "WORKLOAD_UNKNOWN")?;
    let status = world.status(A)?.to_string();
    assert!(status.contains("the configuration does not name it any more"), "{status}");
    // Others feel nothing.
    assert!(client.say(far.at(7000), "as before")?.echoed());
    Ok(())
}

#[test]
fn a_label_that_the_disk_has_not_heard_of_holds() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::waiting("label after the disk")?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
    }
    world.settle()?;
    let (file, marker) = (world.node(A).state_dir().join("configuration"), world.marker());
    let unmeshed = eventually("the configuration is on the disk", Patience::SHORT, || {
        let bytes = fs::read(&file).context("no configuration yet")?;
        Ok(bytes.windows(marker.len()).any(|part| part == marker.as_bytes()).then_some(bytes))
    })?;
    world.mesh("shop")?;
    world.kill_controller()?;
    world.kill_agent(A)?;
    // As if it had died before it wrote.
    fs::write(&file, unmeshed)?;
    let capture = world.capture()?;
    world.restart_agent(A)?;
    world.agent(A)?.process.says("pods of an earlier agent", Patience::SHORT)?;
    for to in [far.at(7000), near.at(7000)] {
        assert_eq!(client.say(to, "canary-unconfirmed")?.end, End::Refused, "{to}");
    }
    assert_eq!(world.node(A).host.say(near.at(7000), "in plaintext")?.end, End::Refused);
    assert!(!capture.contains(b"canary-unconfirmed")?);
    let status = world.status(A)?.to_string();
    assert!(status.contains("the controller has not confirmed yet that it is not in the mesh"), "{status}");
    world.start_controller()?;
    eventually("it is served as the controller says", Patience::LONG, || {
        Ok(client.say(far.at(7000), "canary-unconfirmed")?.echoed().then_some(()))
    })?;
    assert!(!capture.contains(b"canary-unconfirmed")?);
    Ok(())
}

#[test]
fn ipv6_of_a_pod_without_it_is_refused_and_mapped_addresses_are_ipv4() -> Result<()> {
    let Cast { world, client, far, .. } = Cast::meshed("ipv6")?;
    far.serve("peer", 7001)?;
    let native = client.say(SocketAddr::new(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]), 7001), "")?;
    assert_eq!((native.connected, native.end), (false, End::Failed), "{native:?}");
    // As on a host without IPv6, so that a client tries its other address at once.
    assert!(native.error.as_deref().is_some_and(|e| e.contains("unreachable")), "{native:?}");
    world.flow(A, "over IPv6", |flow| flow.reason == "CONNECT_IPV6")?;

    // A socket of IPv6 that dials an IPv4 address, as Java does.
    let mapped = SocketAddr::new(far.ip.to_ipv6_mapped().into(), 7001);
    let report = client.say(mapped, "")?;
    assert_eq!(report.seen()?.accepted.ip(), IpAddr::from(client.ip), "{report:?}");
    assert_eq!(report.peer, Some(mapped));
    assert_eq!(report.local.map(|local| local.ip().to_canonical()), Some(client.ip.into()));
    let flow = world.flow(A, "from the IPv6 socket", |flow| flow.destination.pod == far.full_name())?;
    assert_eq!((flow.path.as_str(), flow.security.as_str()), ("tunnel", "mutual_tls"), "{flow:?}");
    Ok(())
}

#[test]
fn multipath_tcp_is_no_way_round() -> Result<()> {
    let Cast { world, client, near, far } = Cast::meshed("mptcp")?;
    let capture = world.capture()?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
        let report = client.dial_once(server.at(7000), &["--mptcp", "--text", "canary-on-many-paths"])?;
        assert!(report.echoed(), "{}: {report:?}", server.name);
        world.flow(A, "over MPTCP", |flow| {
            flow.destination.pod == server.full_name() && flow.source.identity == client.identity()
        })?;
        // Once more, to the near one without the agent.
        let report = client.dial_once(server.at(7000), &["--mptcp", "--text", "canary-on-many-paths"])?;
        assert!(report.echoed(), "{}: {report:?}", server.name);
    }
    assert!(!capture.contains(b"canary-on-many-paths")?);
    assert_eq!(world.counter(A, "CONNECT_DIRECT")?, 1);
    let flow = world.flow(A, "over MPTCP, directly", |flow| flow.path == "direct")?;
    assert_eq!((flow.bytes_sent, flow.verdict.as_str()), (20, "forwarded"), "{flow:?}");
    Ok(())
}

#[test]
fn the_agents_own_ports_are_not_for_applications() -> Result<()> {
    let Cast { world, client, near, far } = Cast::meshed("own ports")?;
    for server in [&near, &far] {
        let report = client.say(server.at(15008), "PRI * HTTP/2.0")?;
        assert!(report.turned_away(), "{}: {report:?}", server.name);
        world.flow(A, "to the tunnel's port", |flow| {
            flow.reason == "HBONE_PORT" && flow.destination.pod == server.full_name()
        })?;
    }
    // The redirect address, dialled by the application itself: nobody asked the kernel for it.
    let report = client.say((Ipv4Addr::new(127, 64, 1, 2), 15001).into(), "hello")?;
    assert!(report.turned_away(), "{report:?}");
    world.flow(A, "past the kernel", |flow| flow.reason == "ORIGINAL_DESTINATION_UNKNOWN")?;
    Ok(())
}

#[test]
fn uninstall_waits_for_the_agent_to_end() -> Result<()> {
    let Cast { world, client, far, .. } = Cast::meshed("uninstall too early")?;
    far.serve("echo", 7000)?;
    let refused = world.uninstall_under_way(A).expect_err("the agent runs");
    assert!(format!("{refused:#}").contains("stop it first"), "{refused:#}");
    let capture = world.capture()?;
    assert!(client.say(far.at(7000), "canary-still-closed")?.echoed());
    assert!(!capture.contains(b"canary-still-closed")?);
    Ok(())
}
