//! A pod that is observed: its connections are recorded as the kernel saw them, and nothing else of it is different
//! from a pod outside the mesh.

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result};
use mesh_tests::{A, B, End, Families, Flow, Patience, Pod, World, eventually};
use serde_json::Value;

const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                      metadata: { name: default, namespace: shop }\nspec: { mtls: { mode: STRICT } }\n";
/// On the node's own loopback device.
const METRICS: &str = "127.0.0.1:15020";
/// More than a window, so that the kernel has something to measure.
const BYTES: u64 = 300_000;

/// What the node's agent says of the pod.
pub fn state(world: &World, pod: &Pod) -> Result<Value> {
    let status = world.status(pod.node)?;
    let pods = status["pods"].as_array().context("no pods")?;
    pods.iter().find(|state| state["pod"] == pod.name.as_str()).cloned().context("the pod is not listed")
}

/// Waits until its connections are recorded.
pub fn wait_until_observed(world: &World, pod: &Pod) -> Result<Value> {
    eventually(format_args!("{} is observed", pod.name), Patience::LONG, || {
        let state = state(world, pod)?;
        let observed = state["mode"] == "observe" && state["message"] == "its connections are recorded";
        Ok((observed && state["proven"].is_string()).then_some(state))
    })
}

/// The record that the kernel made of a connection of the observed pod.
fn recorded(world: &World, pod: &Pod, direction: &str, local: SocketAddr, remote: SocketAddr) -> Result<Flow> {
    let (source, destination) = if direction == "outbound" { (local, remote) } else { (remote, local) };
    world.flow(pod.node, "that the kernel recorded", |flow| {
        flow.direction == direction
            && flow.source.address == source.to_string()
            && flow.destination.address == destination.to_string()
    })
}

struct Stage {
    world: World,
    /// On node a, observed.
    pod: Arc<Pod>,
    /// Meshed, on node a and on node b, and a pod of another node that is not.
    peers: [Arc<Pod>; 3],
}

fn stage(title: &str) -> Result<Stage> {
    let mut world = World::new(title)?;
    world.agent_options.extend(["--audit-interval=1".to_owned(), format!("--metrics={METRICS}")]);
    let pod = world.pod("shop", "watched", A)?;
    let peers = [world.pod("shop", "near", A)?, world.pod("shop", "far", B)?, world.pod("legacy", "stranger", B)?];
    for pod in peers.iter().chain([&pod]) {
        pod.serve("echo", 7000)?;
        pod.serve("peer", 7001)?;
    }
    world.start()?;
    for meshed in &peers[..2] {
        world.label_pod(meshed, Some("mesh"))?;
    }
    world.label_pod(&pod, Some("observe"))?;
    world.wait_for(&peers[..2], true)?;
    wait_until_observed(&world, &pod)?;
    Ok(Stage { world, pod, peers })
}

#[test]
fn what_an_observed_pod_dials_and_accepts_is_recorded_and_nothing_else_is_different() -> Result<()> {
    let Stage { world, pod, peers } = stage("observe: records")?;
    let capture = world.capture()?;
    for peer in &peers {
        let meshed = peer.namespace == "shop";
        let report = pod.push(peer.at(7000), BYTES)?;
        assert!(report.echoed(), "{report:?}");
        let local = report.local.context("connected")?;
        assert_eq!((local.ip(), report.peer), (pod.ip.into(), Some(peer.at(7000))), "{report:?}");
        let flow = recorded(&world, &pod, "outbound", local, peer.at(7000))?;
        assert_eq!((&*flow.verdict, &*flow.path, &*flow.security), ("forwarded", "passthrough", "none"), "{flow:?}");
        assert_eq!((flow.bytes_sent, flow.bytes_received), (BYTES, BYTES), "{flow:?}");
        assert_eq!((&flow.source.pod, &flow.destination.pod), (&pod.full_name(), &peer.full_name()), "{flow:?}");
        assert_eq!((&*flow.source.identity, &*flow.destination.identity), ("", ""), "{flow:?}");
        assert!(flow.rtt_us.is_some_and(|rtt| (1..1_000_000).contains(&rtt)) && flow.retransmits.is_some(), "{flow:?}");

        // As the server sees it.
        let report = pod.say(peer.at(7001), "")?;
        let seen = report.seen()?;
        assert_eq!((seen.accepted.ip(), seen.getsockname), (pod.ip.into(), peer.at(7001)), "{report:?}");
        if !meshed {
            assert_eq!(Some(seen.getpeername), report.local, "{report:?}");
        }

        // And the other way. A meshed client dials by its agent, from a port of its own.
        let report = peer.push(pod.at(7000), BYTES)?;
        assert!(report.echoed(), "{report:?}");
        let report = peer.say(pod.at(7001), "")?;
        let seen = report.seen()?;
        let (client, server) = (seen.accepted, seen.getsockname);
        assert_eq!((client.ip(), seen.getpeername, server), (peer.ip.into(), client, pod.at(7001)), "{report:?}");
        let flow = recorded(&world, &pod, "inbound", server, client)?;
        assert_eq!((&*flow.path, &*flow.security, &*flow.source.identity), ("passthrough", "none", ""), "{flow:?}");
        assert_eq!((flow.bytes_sent, flow.bytes_received), (0, report.received), "{flow:?}");
        let flow = world.flow(A, "in, with all bytes", |flow| {
            flow.direction == "inbound" && flow.source.pod == peer.full_name() && flow.bytes_sent == BYTES
        })?;
        assert_eq!((flow.bytes_received, &flow.destination.pod), (BYTES, &pod.full_name()), "{flow:?}");
        assert!(flow.rtt_us.is_some_and(|rtt| rtt > 0), "{flow:?}");
    }
    // In plaintext, as without a mesh.
    assert!(pod.say(peers[2].at(7000), "canary-observed")?.echoed() && capture.contains(b"canary-observed")?);

    // Nothing of the mesh is there for it.
    assert_eq!(world.node(A).hooked_pods()?, 1, "near alone has a program");
    assert_eq!(state(&world, &pod)?["redirection"], "disabled");
    assert!(!world.controller()?.process.log()?.contains(&pod.identity()), "a certificate was asked for");
    let identities = world.ask_agent(A, &["identity", &pod.full_name()])?;
    assert_eq!(identities[0]["state"], "none: the pod is not in the mesh", "{identities:?}");
    assert_eq!(state(&world, &pod)?["fault"], "");
    Ok(())
}

#[test]
fn an_observed_pod_is_a_stranger_to_a_strict_one_and_its_failures_are_recorded() -> Result<()> {
    let Stage { mut world, pod, peers: [near, far, stranger] } = stage("observe: refusals")?;
    world.apply("strict", STRICT)?;
    for peer in [&near, &far] {
        assert!(pod.say(peer.at(7000), "hello")?.turned_away());
        let flow = world.flow(peer.node, "refused by the peer", |flow| {
            flow.direction == "inbound" && flow.destination.pod == peer.full_name() && flow.verdict == "dropped"
        })?;
        assert_eq!((&*flow.reason, &*flow.source.identity), ("PLAINTEXT_STRICT", ""), "{flow:?}");
        let flow = world.flow(A, "of the refused client", |flow| {
            flow.direction == "outbound" && flow.destination.pod == peer.full_name()
        })?;
        assert_eq!(flow.source.pod, pod.full_name(), "{flow:?}");
    }
    // A closed port: nobody took the connection.
    assert_eq!(pod.say(stranger.at(9), "hello")?.end, End::Refused);
    let flow = world.flow(A, "that failed", |flow| flow.destination.address == stranger.at(9).to_string())?;
    assert_eq!((&*flow.verdict, &*flow.reason, &*flow.path), ("error", "CONNECT", "passthrough"), "{flow:?}");
    assert_eq!((flow.bytes_sent, flow.bytes_received, flow.rtt_us), (0, 0, Some(0)), "{flow:?}");
    // What never leaves the pod is nobody's flow.
    assert!(pod.say(SocketAddr::from(([127, 0, 0, 1], 7000)), "hello")?.echoed());

    // One that is open shows its bytes.
    let held = pod.hold(stranger.at(7000))?;
    let of_it = |connection: &Value| connection["destination"]["address"] == stranger.at(7000).to_string();
    eventually("it is listed with its bytes", Patience::SHORT, || {
        let open = world.ask_agent(A, &["config", "connections"])?;
        Ok(open.iter().any(|one| of_it(one) && one["bytes_sent"].as_u64() > Some(0)).then_some(()))
    })?;
    assert!(held.is_open()?);
    assert!(stranger.say(pod.at(7000), "hello")?.echoed());
    world.flow(A, "from the stranger", |flow| flow.source.pod == stranger.full_name())?;
    assert!(!world.flows(A)?.iter().any(|flow| flow.destination.address.starts_with("127.")));

    // Whatever ended was opened before; the held one is open.
    for (reporter, open) in [("source", 1), ("destination", 0)] {
        eventually("both counts agree", Patience::SHORT, || {
            let (opened, closed) = (count(&world, "opened", reporter)?, count(&world, "closed", reporter)?);
            Ok((closed > 0 && opened == closed + open).then_some(()))
        })?;
    }
    let text = world.node(A).host.curl(&format!("http://{METRICS}/metrics"))?;
    assert!(
        text.lines().any(|line| line.starts_with("mesh_tcp_rtt_seconds_count{") && line.contains("watched")),
        "{text}"
    );
    assert!(
        text.lines().any(|line| line.starts_with("mesh_tcp_retransmits_total{") && line.contains("watched")),
        "{text}"
    );
    Ok(())
}

#[test]
fn connections_over_ipv6_are_recorded_too() -> Result<()> {
    let mut world = World::new("observe: IPv6")?;
    let pod = world.pod_with("shop", "watched", "watched", A, Families::V6)?;
    let peer = world.pod_with("legacy", "stranger", "stranger", B, Families::Dual)?;
    for pod in [&pod, &peer] {
        pod.serve_at("peer", Ipv6Addr::UNSPECIFIED.into(), 7001)?;
    }
    world.start()?;
    world.label_pod(&pod, Some("observe"))?;
    wait_until_observed(&world, &pod)?;
    for (client, server, direction) in [(&pod, &peer, "outbound"), (&peer, &pod, "inbound")] {
        let report = client.say(server.at6(7001), "hello")?;
        let seen = report.seen()?;
        assert_eq!((Some(seen.accepted), seen.getsockname), (report.local, server.at6(7001)), "{report:?}");
        let (here, there) =
            if direction == "outbound" { (seen.accepted, seen.getsockname) } else { (seen.getsockname, seen.accepted) };
        let flow = recorded(&world, &pod, direction, here, there)?;
        assert_eq!((flow.bytes_sent, flow.bytes_received), (5, report.received), "{flow:?}");
    }
    Ok(())
}

/// Connections of all labels that the agent of node a counted as opened or closed.
fn count(world: &World, what: &str, reporter: &str) -> Result<u64> {
    let text = world.node(A).host.curl(&format!("http://{METRICS}/metrics"))?;
    let (name, label) = (format!("istio_tcp_connections_{what}_total{{"), format!("reporter=\"{reporter}\""));
    let of_it = text.lines().filter(|line| line.starts_with(&name) && line.contains(&label));
    of_it.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<u64>()?)).sum()
}
