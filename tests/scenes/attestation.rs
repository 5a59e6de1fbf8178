//! The attestation of a direct connection: it holds however the handshake goes, and only for the pod's own addresses.

use std::{net::IpAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, Patience, Pod, eventually, installed};

use crate::{
    cast::policy,
    held_syn::{Stage, accepted, becomes_direct, nothing_is_left},
};

/// A counter of the namespace's TCP, as in `SyncookiesRecv` of `/proc/net/netstat`.
fn tcp_counter(pod: &Pod, name: &str) -> Result<u64> {
    let text = pod.read("/proc/net/netstat")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(at, _)| *at == name).with_context(|| format!("no counter {name}"))?;
    Ok(value.parse()?)
}

#[test]
fn syn_cookies_do_not_make_strangers() -> Result<()> {
    let Stage { world, client, near, .. } = Stage::new("syn cookies", &[])?;
    near.serve_at("peer", "::".parse()?, 7001)?;
    // Each handshake, whatever the load: it is only at the last ACK that there is a socket.
    near.set("net/ipv4/tcp_syncookies", "2")?;
    for (to, own) in [(near.at(7001), IpAddr::from(client.ip)), (near.at6(7001), client.ip6.into())] {
        becomes_direct(&world, &client, to)?;
        let counters = || -> Result<[u64; 3]> {
            let count = |name| world.counter(A, name);
            Ok([count("DIRECT_OPENED")?, count("STEERED_LATE")?, tcp_counter(&near, "SyncookiesRecv")?])
        };
        let before = counters()?;
        for report in client.dial(to, &["--count", "20"])? {
            let seen = report.seen()?;
            assert_eq!(seen.accepted.ip().to_canonical(), own, "{to}: {seen:?}");
        }
        let after = counters()?;
        assert_eq!([after[0], after[1]], [before[0] + 20, before[1]], "{to}");
        assert!(after[2] >= before[2] + 20, "{to}: no cookies: {before:?}, {after:?}");
    }
    assert!(world.flows(A)?.iter().all(|flow| flow.reason.is_empty()), "{:?}", world.flows(A)?);
    nothing_is_left(&world)
}

#[test]
fn a_full_accept_queue_does_not_make_strangers() -> Result<()> {
    const AT_ONCE: u64 = 20;
    let Stage { world, client, near, .. } = Stage::new("full accept queue", &[])?;
    near.serve("late", 7001)?;
    client.say(near.at(7001), "")?.seen()?;
    // Nobody accepts from now on, for 1.2 seconds.
    let opened = world.counter(A, "DIRECT_OPENED")?;
    let reports = thread::scope(|scope| -> Result<Vec<_>> {
        let dial = || client.dial_once(near.at(7001), &["--timeout", "8"]);
        let dialled: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(dial)).collect();
        dialled.into_iter().map(|thread| thread.join().expect("the thread does not panic")).collect()
    })?;
    for report in reports {
        assert_eq!(report.seen()?.accepted.ip(), client.ip, "{report:?}");
    }
    assert_eq!(world.counter(A, "DIRECT_OPENED")?, opened + AT_ONCE);
    assert_eq!(world.counter(A, "STEERED_LATE")?, 0);
    let overflows = tcp_counter(&near, "ListenOverflows")?;
    assert!(overflows > 0, "the queue was never full");
    eventually("each is recorded as direct", Patience::SHORT, || {
        let direct = world.flows(A)?.iter().filter(|flow| flow.path == "direct" && flow.reason.is_empty()).count();
        ensure!(direct as u64 == AT_ONCE, "{direct} flows");
        Ok(Some(()))
    })?;
    assert!(world.flows(A)?.iter().all(|flow| flow.reason.is_empty()), "{:?}", world.flows(A)?);
    nothing_is_left(&world)
}

#[test]
fn a_neighbours_address_is_worth_nothing() -> Result<()> {
    let Stage { mut world, client, second, near } = Stage::new("neighbour's address", &[])?;
    let servers = [near.serve_at("peer", "::".parse()?, 7001)?, near.serve_at("peer", "::".parse()?, 7002)?];
    // Port 7001 for both, 7002 for the neighbour alone.
    let rules = "[{ from: [{ source: { serviceAccounts: [shop/second] } }] }, \
                 { from: [{ source: { serviceAccounts: [shop/client] } }], to: [{ operation: { ports: ['7001'] } }] }]";
    world.apply("some", &policy("some", "near", "ALLOW", rules))?;
    let ip = |line: &str| -> Result<()> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let output = client.output(&installed("ip")?, &words, Duration::from_secs(5))?;
        ensure!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    };
    let families: [(IpAddr, IpAddr, IpAddr, u8); 2] = [
        (client.ip.into(), second.ip.into(), near.ip.into(), 32),
        (client.ip6.into(), second.ip6.into(), near.ip6.into(), 128),
    ];
    for (own, neighbour, server, bits) in families {
        let (both, one) = ((server, 7001).into(), (server, 7002).into());
        becomes_direct(&world, &client, both)?;
        becomes_direct(&world, &second, one)?;
        assert!(client.say(one, "")?.turned_away(), "{one}");
        let taken: usize = servers.iter().map(|server| accepted(server)).sum::<Result<_>>()?;
        let opened = world.counter(A, "DIRECT_OPENED")?;

        // Without waiting whether somebody else has it, which IPv6 would do.
        let at_once = if neighbour.is_ipv6() { " nodad" } else { "" };
        ip(&format!("addr add {neighbour}/{bits} dev lo{at_once}"))?;
        // Bound to it: by the agent, which dials as who it is.
        let report = client.dial_once(both, &["--from", &neighbour.to_string()])?;
        assert_eq!(report.seen()?.accepted.ip().to_canonical(), own, "{report:?}");
        assert!(client.dial_once(one, &["--from", &neighbour.to_string()])?.turned_away(), "{one}");

        // Chosen by the route, after the decision.
        let foreign = world.counter(A, "ATTEST_FOREIGN_ADDRESS")?;
        ip(&format!("route add {server}/{bits} dev eth0 src {neighbour}"))?;
        let report = client.say(both, "canary")?;
        let error = report.error.clone().unwrap_or_default();
        assert!(!report.connected && error.contains("No route to host"), "{report:?}");
        assert_eq!(world.counter(A, "ATTEST_FOREIGN_ADDRESS")?, foreign + 1);
        world.flow(A, "from the neighbour's address", |flow| {
            flow.reason == "ATTEST_FOREIGN_ADDRESS"
                && flow.source.pod == client.full_name()
                && flow.destination.address == both.to_string()
        })?;
        assert!(client.say(one, "canary")?.turned_away(), "{one}");

        ip(&format!("route del {server}/{bits} dev eth0 src {neighbour}"))?;
        ip(&format!("addr del {neighbour}/{bits} dev lo"))?;
        assert_eq!(world.counter(A, "DIRECT_OPENED")?, opened, "never directly");
        let now: usize = servers.iter().map(|server| accepted(server)).sum::<Result<_>>()?;
        assert_eq!(now, taken + 1, "only what the agent dialled");
    }
    nothing_is_left(&world)
}

#[test]
fn a_neighbour_that_takes_a_servers_address_gets_no_connection_of_it() -> Result<()> {
    let Stage { mut world, client, second, near } = Stage::new("impostor", &[])?;
    // It would take plaintext.
    world.delete("strict")?;
    let to = near.at(7001);
    near.serve("peer", 7001)?;
    becomes_direct(&world, &client, to)?;
    let impostor = second.serve("peer", 7001)?;
    let ip = |pod: &Pod, line: &str| -> Result<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let output = pod.output(&installed("ip")?, &words, Duration::from_secs(5))?;
        ensure!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    ip(&second, &format!("addr add {}/32 dev lo", near.ip))?;
    // What the client learns from a neighbour that answers faster.
    let link = ip(&second, "-o link show dev eth0")?;
    let mac = link.split(' ').skip_while(|word| *word != "link/ether").nth(1).context("no link address")?;
    ip(&client, &format!("neigh replace {} lladdr {mac} dev eth0", near.ip))?;
    // Directly, and on a port that the agent dials first.
    second.serve("peer", 7002)?;
    for to in [to, near.at(7002)] {
        let elsewhere = world.counter(A, "STEERED_ELSEWHERE")?;
        let report = client.say(to, "canary")?;
        assert!(report.turned_away(), "{to}: {report:?}");
        assert!(world.counter(A, "STEERED_ELSEWHERE")? > elsewhere, "{to}");
    }
    assert_eq!(accepted(&impostor)?, 0);
    nothing_is_left(&world)
}
