//! IPv6 as a first language: pods with both families and with IPv6 alone are redirected, attested, tunnelled and judged
//! as over IPv4.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use mesh_tests::{A, B, Families, Patience, Pod, World, eventually};

use crate::cast::policy;

/// In namespace shop a client and a server on node a, a server on node b, all with both families.
struct Dual {
    world: World,
    client: Arc<Pod>,
    near: Arc<Pod>,
    far: Arc<Pod>,
}

impl Dual {
    fn meshed(title: &str, families: Families) -> Result<Self> {
        let mut world = World::new(title)?;
        let mut pod = |name, node| world.pod_with("shop", name, name, node, families);
        let (client, near, far) = (pod("client", A)?, pod("near", A)?, pod("far", B)?);
        world.start()?;
        world.mesh("shop")?;
        Ok(Self { world, client, near, far })
    }
}

const ANY: std::net::IpAddr = std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);

/// Both ends see true addresses, dialled at `to`.
fn sees_true_addresses(client: &Pod, server: &Pod, to: SocketAddr, options: &[&str]) -> Result<()> {
    let report = client.dial_once(to, options)?;
    assert!(report.connected, "{to} {options:?}: {report:?}");
    assert_eq!(report.peer, Some(to), "{options:?}: {report:?}");
    assert_eq!(report.local.map(|local| local.ip()), Some(client.ip6.into()), "{options:?}: {report:?}");
    let seen = report.seen()?;
    assert_eq!(seen.accepted.ip(), client.ip6, "{to} {options:?}: {seen:?}");
    assert_eq!((seen.getpeername, seen.getsockname), (seen.accepted, server.at6(7001)), "{to} {options:?}");
    Ok(())
}

#[test]
fn both_sides_see_true_addresses_over_every_kind_of_socket() -> Result<()> {
    let Dual { mut world, client, near, far } = Dual::meshed("ipv6 addresses", Families::Dual)?;
    let own = client.ip6.to_string();
    for server in [&near, &far] {
        server.serve_at("peer", ANY, 7001)?;
        let name = format!("{}-service", server.name);
        let service = world.service_with("shop", &name, (80, 7001), &[server], Families::Dual)?;
        world.settle()?;
        for to in [server.at6(7001), service.addr6()] {
            sees_true_addresses(&client, server, to, &[])?;
            sees_true_addresses(&client, server, to, &["--v6only"])?;
            sees_true_addresses(&client, server, to, &["--from", &own])?;
            sees_true_addresses(&client, server, to, &["--v6only", "--from", &own])?;
        }
        // IPv4 beside it, plainly and through an IPv6 socket.
        for to in [server.at(7001), SocketAddr::from((server.ip.to_ipv6_mapped(), 7001))] {
            let seen = client.say(to, "")?.seen()?;
            assert_eq!(seen.accepted.ip().to_canonical(), client.ip, "{to}: {seen:?}");
        }
        let flow = world.flow(A, "over IPv6", |flow| {
            flow.destination.address == server.at6(7001).to_string() && flow.service == service.full_name()
        })?;
        assert_eq!(flow.path, if server.node == A { "direct" } else { "tunnel" }, "{flow:?}");
        assert_eq!(flow.source.identity, client.identity());
    }
    Ok(())
}

#[test]
fn ipv6_alone_is_enough_and_nothing_is_readable_between_the_nodes() -> Result<()> {
    let Dual { mut world, client, near, far } = Dual::meshed("ipv6 only", Families::V6)?;
    let capture = world.capture()?;
    for server in [&near, &far] {
        server.serve_at("echo", ANY, 7000)?;
        let all = client.dial(server.at6(7000), &["--text", "canary-over-ipv6", "--count", "50"])?;
        assert!(all.iter().all(mesh_tests::Dialled::echoed), "{:?}", all.iter().find(|r| !r.echoed()));
        assert!(client.push(server.at6(7000), 4 << 20)?.echoed());
    }
    assert!(!capture.contains(b"canary-over-ipv6")?);
    // A service with an IPv4 cluster IP, too, from a pod that has both; the endpoint has IPv6 alone.
    let both = world.pod_with("shop", "both", "both", A, Families::Dual)?;
    world.wait_for(std::slice::from_ref(&both), true)?;
    let service = world.service_with("shop", "far", (80, 7000), &[&far], Families::Dual)?;
    world.settle()?;
    assert!(both.say(service.addr(), "from the other family")?.echoed());
    // A family that the pod has not fails at once, so that its clients try the other one.
    let report = client.say(far.at(7000), "")?;
    assert!(report.error.as_deref().is_some_and(|e| e.contains("unreachable")), "{report:?}");
    world.flow(A, "over IPv4", |flow| flow.reason == "CONNECT_IPV4")?;
    Ok(())
}

#[test]
fn a_pod_reaches_itself_and_its_loopback_ports_are_its_own() -> Result<()> {
    let Dual { mut world, client, far, .. } = Dual::meshed("ipv6 own pod", Families::Dual)?;
    world.apply("nobody", &policy("nobody", "client", "ALLOW", "[]"))?;
    far.serve_at("echo", ANY, 7000)?;
    // Among the ports that redirected connections use.
    client.serve_at("peer", ANY, 20_000)?;
    let own = client.ip6.to_string();
    let loopback = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 20_000));
    for (to, options) in [
        (loopback, &[][..]),
        (loopback, &["--from", &own]),
        (client.at6(20_000), &[]),
        (client.at6(20_000), &["--from", "::1"]),
        (client.at6(20_000), &["--from", &own]),
    ] {
        let report = client.dial_once(to, options)?;
        let seen = report.seen().with_context(|| format!("{to} {options:?}"))?;
        assert_eq!((report.peer, Some(seen.accepted)), (Some(to), report.local), "{to} {options:?}: {report:?}");
        assert_eq!(seen.getsockname, to);
    }
    // Every destination port is hashed elsewhere; one or the other of them meets the port that is taken.
    assert!(client.dial(far.at6(7000), &["--text", "x", "--count", "20"])?.iter().all(mesh_tests::Dialled::echoed));
    Ok(())
}

#[test]
fn strict_and_ip_blocks_hold_over_ipv6_too() -> Result<()> {
    let Dual { mut world, client, near, far } = Dual::meshed("ipv6 policy", Families::Dual)?;
    let stranger = world.pod_with("legacy", "stranger", "stranger", A, Families::Dual)?;
    for server in [&near, &far] {
        server.serve_at("peer", ANY, 7001)?;
        let seen = stranger.say(server.at6(7001), "")?.seen()?;
        assert_eq!(seen.accepted.ip(), stranger.ip6, "PERMISSIVE: {seen:?}");
    }
    let (link_local, scoped) = link_local(&stranger, &near)?;
    let report = stranger.say(scoped, "")?;
    assert_eq!(report.seen()?.accepted.ip(), link_local, "PERMISSIVE, by the link-local address: {report:?}");

    let not_from =
        |ip| policy("blocks", "near", "DENY", &format!("[{{ from: [{{ source: {{ ipBlocks: ['{ip}'] }} }}] }}]"));
    world.apply("blocks", &not_from(client.ip6))?;
    assert!(client.say(near.at6(7001), "")?.turned_away());
    assert!(client.say(near.at(7001), "")?.connected, "another address");
    world.flow(A, "denied by its address", |flow| flow.reason == "POLICY_DENY")?;
    world.delete("blocks")?;

    world.apply(
        "strict",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: { name: default, namespace: shop }\nspec: { mtls: { mode: STRICT } }\n",
    )?;
    for to in [near.at6(7001), far.at6(7001), scoped] {
        let report = stranger.say(to, "")?;
        assert!(report.turned_away(), "{to}: {report:?}");
    }
    let of_it = |flow: &mesh_tests::Flow| {
        flow.reason == "PLAINTEXT_STRICT" && flow.source.address.contains(&link_local.to_string())
    };
    world.flow(A, "by the link-local address", of_it)?;
    for server in [&near, &far] {
        assert_eq!(client.say(server.at6(7001), "")?.seen()?.accepted.ip(), client.ip6);
    }
    // A meshed client has no way round by such an address.
    let (_, scoped) = self::link_local(&client, &near)?;
    let report = client.say(scoped, "")?;
    assert!(!report.connected, "{report:?}");
    world.flow(A, "to a link-local address", |flow| flow.reason == "CONNECT_LINK_LOCAL")?;
    Ok(())
}

/// The link-local addresses of both on their node's bridge: the client's, and the server's as the client dials it.
fn link_local(client: &Pod, server: &Pod) -> Result<(std::net::Ipv6Addr, SocketAddr)> {
    let of = |pod: &Pod| -> Result<(u32, std::net::Ipv6Addr)> {
        let table = pod.read("/proc/net/if_inet6")?;
        let line = table.lines().find(|line| line.starts_with("fe80")).context("no link-local address")?;
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next().unwrap_or_default(), 16)?;
        Ok((u32::from_str_radix(fields.next().unwrap_or_default(), 16)?, address.into()))
    };
    let ((device, own), (_, theirs)) = (of(client)?, of(server)?);
    Ok((own, std::net::SocketAddrV6::new(theirs, 7001, 0, device).into()))
}

#[test]
fn a_neighbour_that_forges_the_pods_own_address_meets_the_agent() -> Result<()> {
    let Dual { mut world, client, near, .. } = Dual::meshed("ipv6 forged", Families::Dual)?;
    let stranger = world.pod_with("legacy", "stranger", "stranger", A, Families::Dual)?;
    near.serve_at("peer", ANY, 7001)?;
    let counters = |world: &World| -> Result<[u64; 3]> {
        Ok([
            world.counter(A, "STEERED_AGENT")?,
            world.counter(A, "STEERED_OWN_POD")?,
            world.counter(A, "STEERED_ATTESTED")?,
        ])
    };
    let before = counters(&world)?;
    stranger.forge(near.at6(40_000), near.at6(7001))?;
    eventually("the SYN has arrived", Patience::SHORT, || {
        Ok((world.counter(A, "STEERED_AGENT")? > before[0]).then_some(()))
    })?;
    // Nor in the name of a pod whose connections the kernel attests.
    stranger.forge(client.at6(40_001), near.at6(7001))?;
    eventually("the other SYN has arrived", Patience::SHORT, || {
        Ok((world.counter(A, "STEERED_AGENT")? > before[0] + 1).then_some(()))
    })?;
    assert_eq!(counters(&world)?[1..], before[1..]);
    assert!(near.say(near.at6(7001), "")?.seen().is_ok(), "what the pod really dials");
    assert_eq!(counters(&world)?[1], before[1] + 1);
    Ok(())
}

#[test]
fn without_ipv6_in_the_namespace_all_is_as_before() -> Result<()> {
    let mut world = World::new("ipv6 disabled")?;
    let (client, near) = (world.pod("shop", "client", A)?, world.pod("shop", "near", A)?);
    let far = world.pod("shop", "far", B)?;
    for pod in [&client, &near, &far] {
        pod.set("net/ipv6/conf/all/disable_ipv6", "1")?;
    }
    world.start()?;
    world.mesh("shop")?;
    for server in [&near, &far] {
        server.serve("peer", 7001)?;
        let seen = client.say(server.at(7001), "")?.seen()?;
        assert_eq!((seen.accepted.ip(), seen.getsockname), (client.ip.into(), server.at(7001)));
    }
    let report = client.say(far.at6(7001), "")?;
    assert!(report.error.as_deref().is_some_and(|e| e.contains("unreachable")), "{report:?}");
    world.flow(A, "over IPv6", |flow| flow.reason == "CONNECT_IPV6")?;
    Ok(())
}
