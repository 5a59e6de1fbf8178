//! Who reaches a pod of the mesh, from where, and as whom: one table of origins under PERMISSIVE, under STRICT and
//! without an agent.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result};
use mesh_tests::{A, B, End, Families, Patience, Place, Pod, World, eventually, installed};

const PROBED: u16 = 7001;
const OTHER: u16 = 7002;
const NODE_PORT: u16 = 30_080;
const HOST_PORT: u16 = 30_081;
const HBONE: u16 = 15_008;
const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                      metadata: { name: default, namespace: shop }\nspec: { mtls: { mode: STRICT } }\n";

struct Origin {
    name: &'static str,
    place: Place,
    to: SocketAddr,
    /// The address that the application sees.
    seen: IpAddr,
    /// Under PERMISSIVE, under STRICT, without the agent.
    passes: [bool; 3],
}

/// All that can reach `server` on node a.
fn origins(world: &mut World, server: &Arc<Pod>) -> Result<Vec<Origin>> {
    let near = world.pod_with("shop", "near", "near", A, Families::Dual)?;
    let far = world.pod_with("shop", "far", "far", B, Families::Dual)?;
    let unmeshed = world.pod_with("legacy", "unmeshed", "unmeshed", A, Families::Dual)?;
    let unmeshed_far = world.pod_with("legacy", "unmeshed-far", "unmeshed-far", B, Families::Dual)?;
    let host = world.node(A).host.clone();
    let kubelet = world.node(A).kubelet()?;
    let mut host_network = host.clone();
    host_network.cgroup = world.node(A).cgroup.join("pods/host-network");
    fs::create_dir_all(&host_network.cgroup)?;
    host.nft(&format!(
        "add table ip nodeport; add chain ip nodeport in {{ type nat hook prerouting priority -100; }}; \
         add rule ip nodeport in tcp dport {NODE_PORT} ct mark set 1 dnat to {to}; \
         add rule ip nodeport in tcp dport {HOST_PORT} dnat to {to}; \
         add chain ip nodeport out {{ type nat hook postrouting priority 100; }}; \
         add rule ip nodeport out ct mark 1 masquerade",
        to = server.at(PROBED)
    ))?;
    let of_host: (IpAddr, IpAddr) = ([10, 244, 1, 1].into(), [0xfd00, 0x10, 0x244, 1, 0, 0, 0, 1].into());
    let mut all = Vec::new();
    let mut origin = |name, place: &Place, to, seen, passes| {
        all.push(Origin { name, place: place.clone(), to, seen, passes });
    };
    for (name, pod, passes) in [
        ("the pod itself", server, [true, true, true]),
        ("a pod of the same node, through the agent", &near, [true, true, false]),
        ("a pod of another node, by HBONE", &far, [true, true, false]),
        ("an unmeshed pod of the same node", &unmeshed, [true, false, false]),
        ("an unmeshed pod of another node", &unmeshed_far, [true, false, false]),
    ] {
        origin(name, pod, server.at(PROBED), pod.ip.into(), passes);
        origin(name, pod, server.at6(PROBED), pod.ip6.into(), passes);
    }
    for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        origin("the pod itself, by loopback", server, SocketAddr::new(loopback, PROBED), loopback, [true; 3]);
    }
    for (name, place, port, passes) in [
        ("the kubelet on a declared port", &kubelet, PROBED, [true, true, true]),
        ("the kubelet on another port", &kubelet, OTHER, [true, false, false]),
        ("another process of the node", &host, PROBED, [true, false, false]),
        ("a pod in the node's network", &host_network, PROBED, [true, false, false]),
    ] {
        origin(name, place, server.at(port), of_host.0, passes);
        origin(name, place, server.at6(port), of_host.1, passes);
    }
    let node_port = SocketAddr::from((A.address(), NODE_PORT));
    origin("a client of the node's port", &unmeshed_far, node_port, of_host.0, [true, false, false]);
    // Whatever the CNI left: here the client's own address.
    let host_port = SocketAddr::from((A.address(), HOST_PORT));
    origin("a client of the pod's host port", &unmeshed_far, host_port, unmeshed_far.ip.into(), [true, false, false]);
    Ok(all)
}

#[test]
fn every_origin_is_what_it_is() -> Result<()> {
    let mut world = World::new("origins")?;
    world.agent_options.push("--verdict-lease=1".to_owned());
    let server = world.pod_with("shop", "server", "server", A, Families::Dual)?;
    world.probe(&server, PROBED)?;
    for port in [PROBED, OTHER] {
        server.serve_at("peer", "::".parse()?, port)?;
    }
    let origins = origins(&mut world, &server)?;
    world.start()?;
    world.mesh("shop")?;
    judge(&origins, 0)?;
    // Policies judge what has no identity, the kubelet on a declared port excepted.
    world.apply("strict", STRICT)?;
    probes_pass(&world, &server)?;
    judge(&origins, 1)?;
    for origin in origins.iter().filter(|origin| !origin.passes[1]) {
        let seen = format!("{}:", SocketAddr::new(origin.seen, 0).to_string().trim_end_matches(":0"));
        world
            .flow(A, origin.name, |flow| flow.reason == "PLAINTEXT_STRICT" && flow.source.address.starts_with(&seen))?;
    }
    world.kill_agent(A)?;
    // What was decided about pods of the node holds until its lease is over.
    std::thread::sleep(std::time::Duration::from_secs(1));
    judge(&origins, 2)
}

/// What can be seen from outside in column `column` of the table.
fn judge(origins: &[Origin], column: usize) -> Result<()> {
    let stage = ["PERMISSIVE", "STRICT", "without the agent"][column];
    for Origin { name, place, to, seen, passes } in origins {
        let report = place.say(*to, "")?;
        if !passes[column] {
            assert!(report.turned_away(), "{stage}: {name}, to {to}: {report:?}");
            continue;
        }
        let who = report.seen().with_context(|| format!("{stage}: {name}, to {to}"))?;
        assert_eq!(who.accepted.ip().to_canonical(), *seen, "{stage}: {name}, to {to}");
        assert_eq!(who.getpeername, who.accepted, "{stage}: {name}, to {to}");
    }
    Ok(())
}

/// The agent looks for the kubelet's cgroup every two seconds.
fn probes_pass(world: &World, server: &Pod) -> Result<()> {
    let kubelet = world.node(A).kubelet()?;
    eventually("the kubelet's cgroup is found", Patience::LONG, || {
        let passes = |to| -> Result<bool> { Ok(kubelet.say(to, "")?.seen().is_ok()) };
        Ok((passes(server.at(PROBED))? && passes(server.at6(PROBED))?).then_some(()))
    })
}

#[test]
fn a_kubelet_that_comes_late_or_again_is_found_and_its_ports_change() -> Result<()> {
    let mut world = World::new("kubelet")?;
    let server = world.pod("shop", "server", A)?;
    for port in [PROBED, OTHER] {
        server.serve("peer", port)?;
    }
    world.start()?;
    world.mesh("shop")?;
    world.apply("strict", STRICT)?;
    let probe =
        |world: &World, port| -> Result<bool> { Ok(world.node(A).kubelet()?.say(server.at(port), "")?.seen().is_ok()) };
    // Its cgroup comes with the first look, the declaration later.
    assert!(!probe(&world, PROBED)?);
    for port in [PROBED, OTHER] {
        world.probe(&server, port)?;
        eventually(format_args!("a probe of port {port} passes"), Patience::LONG, || {
            Ok(probe(&world, port)?.then_some(()))
        })?;
    }
    assert!(!probe(&world, PROBED)?, "it is declared no more");

    fs::remove_dir(world.node(A).kubelet()?.cgroup)?;
    assert!(!probe(&world, OTHER)?, "a new cgroup of the same name is another one");
    eventually("the new cgroup is found", Patience::LONG, || Ok(probe(&world, OTHER)?.then_some(())))?;
    // Others at the same address and port gain nothing.
    assert!(world.node(A).host.say(server.at(OTHER), "")?.turned_away());
    Ok(())
}

#[test]
fn a_kubelet_among_the_pods_or_above_them_is_refused() -> Result<()> {
    let mut world = World::new("kubelet among the pods")?;
    let inside = world.node(A).host.cgroup.display().to_string();
    let above = world.node(B).cgroup.parent().context("a cgroup in a world")?.display().to_string();
    world.start_controller()?;
    for (node, folder, side) in [(A, inside, "below"), (B, above, "above")] {
        world.agent_options = vec![format!("--kubelet-cgroup={folder}")];
        world.start_agent(node)?;
        let says = format!("--kubelet-cgroup must not lie {side} --cgroup");
        world.agent(node)?.process.says(&says, Patience::LONG)?;
        assert!(world.node(node).links("probe_")?.is_empty());
        // Whoever asks whether the node is ready hears of it.
        eventually("it is told", Patience::LONG, || {
            Ok(world.status(node)?["not_ready"].to_string().contains(&says).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn a_network_policy_of_the_cni_judges_the_original_port() -> Result<()> {
    let mut world = World::new("network policy")?;
    let mut pod = |name, node| world.pod_with("shop", name, name, node, Families::Dual);
    let (client, server, far) = (pod("client", A)?, pod("server", A)?, pod("far", B)?);
    server.serve_at("peer", "::".parse()?, PROBED)?;
    world.probe(&server, PROBED)?;
    world.start()?;
    world.mesh("shop")?;
    let kubelet = world.node(A).kubelet()?;
    probes_pass(&world, &server)?;
    let both = [server.at(PROBED), server.at6(PROBED)];
    let judged = |port, passes: &[&Place], refused: &[&Place]| -> Result<()> {
        server.nft(&format!(
            "add table inet np; add chain inet np in {{ type filter hook input priority 0; }}; \
             add rule inet np in iifname eth0 tcp dport {port} reject with tcp reset"
        ))?;
        for to in both {
            for place in passes {
                assert!(place.say(to, "")?.seen().is_ok(), "{to}: port {port} is blocked");
            }
            for place in refused {
                let report = place.say(to, "")?;
                assert!(report.turned_away(), "{to}: port {port} is blocked: {report:?}");
            }
        }
        server.nft("delete table inet np")
    };
    for to in both {
        assert!(client.say(to, "")?.seen().is_ok() && far.say(to, "")?.seen().is_ok());
    }
    // From another node it comes by HBONE, which is all that the CNI sees of it; of the pod itself it sees nothing.
    judged(PROBED, &[&far, &server], &[&client, &kubelet])?;
    // A tunnel that is there already would go on.
    world.kill_agent(B)?;
    world.restart_agent(B)?;
    world.wait_for(std::slice::from_ref(&far), true)?;
    judged(HBONE, &[&client, &server, &kubelet], &[&far])
}

#[test]
fn what_a_network_policy_drops_between_two_pods_of_a_node_stays_dropped() -> Result<()> {
    let mut world = World::new("network policy drops")?;
    let mut pod = |name| world.pod_with("shop", name, name, A, Families::Dual);
    let (client, server) = (pod("client")?, pod("server")?);
    for port in [PROBED, OTHER] {
        server.serve_at("echo", "::".parse()?, port)?;
    }
    world.start()?;
    world.mesh("shop")?;
    let both = [server.at(PROBED), server.at6(PROBED)];
    for to in both {
        assert!(client.say(to, "before")?.echoed(), "{to}");
    }
    // On the node, between the pods' links, as a CNI plugin does.
    world.node(A).host.nft(&format!(
        "add table bridge np; add chain bridge np forward {{ type filter hook forward priority 0; }}; \
         add rule bridge np forward tcp dport {PROBED} drop"
    ))?;
    // Nobody stands between them any more: the client waits for the pod itself.
    std::thread::scope(|scope| -> Result<()> {
        let client = &*client;
        let dialled = both.map(|to| scope.spawn(move || (to, client_says(client, to))));
        for thread in dialled {
            let (to, report) = thread.join().expect("the thread does not panic");
            let report = report?;
            assert_eq!((report.connected, report.received, report.end), (false, 0, End::Timeout), "{to}: {report:?}");
        }
        Ok(())
    })?;
    for to in both {
        let of_it = |flow: &mesh_tests::Flow| flow.reason == "CONNECT" && flow.destination.address == to.to_string();
        let flow = world.flow(A, "of what was dropped", of_it)?;
        assert_eq!((flow.path.as_str(), flow.bytes_received), ("direct", 0), "{flow:?}");
    }
    for to in [server.at(OTHER), server.at6(OTHER)] {
        assert!(client.say(to, "another port")?.echoed(), "{to}");
    }
    Ok(())
}

fn client_says(client: &Pod, to: SocketAddr) -> Result<mesh_tests::Dialled> {
    client.dial_once(to, &["--text", "canary-that-is-dropped", "--timeout", "3"])
}

#[test]
fn a_socket_bound_to_an_address_gains_no_other_name() -> Result<()> {
    let mut world = World::new("bound sockets")?;
    let mut pod = |name, node| world.pod_with("shop", name, name, node, Families::Dual);
    let (client, near, far) = (pod("client", A)?, pod("near", A)?, pod("far", B)?);
    for server in [&near, &far] {
        server.serve_at("peer", "::".parse()?, PROBED)?;
    }
    world.start()?;
    world.mesh("shop")?;
    let from_to = |from: IpAddr, to: SocketAddr| -> Result<()> {
        let report = client.dial_once(to, &["--from", &from.to_string()])?;
        let own: IpAddr = if to.is_ipv4() { client.ip.into() } else { client.ip6.into() };
        assert_eq!(report.seen()?.accepted.ip().to_canonical(), own, "from {from} to {to}: {report:?}");
        let of_it = |flow: &mesh_tests::Flow| {
            flow.direction == "outbound"
                && flow.destination.address == to.to_string()
                && flow.source.address == SocketAddr::new(own, report.local.map_or(0, |at| at.port())).to_string()
        };
        let flow = world.flow(A, "of the bound socket", of_it)?;
        assert_eq!((flow.source.pod, flow.source.identity), (client.full_name(), client.identity()));
        Ok(())
    };
    for server in [&near, &far] {
        from_to(client.ip.into(), server.at(PROBED))?;
    }
    // Its neighbour's, which no network delivers to it.
    for address in [format!("{}/32", near.ip), format!("{}/128", near.ip6)] {
        let options = ["addr", "add", &address, "dev", "lo"].map(str::to_owned);
        let output = client.output(&installed("ip")?, &options, std::time::Duration::from_secs(5))?;
        assert!(output.status.success(), "{address}");
    }
    from_to(near.ip.into(), far.at(PROBED))?;
    from_to(near.ip6.into(), far.at6(PROBED))
}
