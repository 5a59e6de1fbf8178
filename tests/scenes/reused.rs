//! Addresses, ports and slots are used again: a new pod inherits nothing of what the kernel knew of the old one.

use std::{slice::from_ref, thread, time::Duration};

use anyhow::{Result, ensure};
use mesh_tests::{A, Patience, Pod, eventually, installed};

use crate::{
    cast::policy,
    held_syn::{Stage, accepted, becomes_direct, hold_syns, nothing_is_left, release},
};

/// Its neighbour's address is another device's now.
pub fn forget_neighbours(pod: &Pod) -> Result<()> {
    let words = ["neigh", "flush", "all"].map(str::to_owned);
    let output = pod.output(&installed("ip")?, &words, Duration::from_secs(5))?;
    ensure!(output.status.success(), "ip neigh: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[test]
fn an_heir_of_the_source_has_its_own_identity() -> Result<()> {
    let Stage { mut world, client, second, near } = Stage::new("heir of the source", &[])?;
    let server = near.serve("peer", 7001)?;
    let rules = "[{ from: [{ source: { serviceAccounts: [shop/client] } }] }]";
    world.apply("only-client", &policy("only-client", "near", "ALLOW", rules))?;
    let (from, to) = (client.ip.to_string(), near.at(7001));
    let options = ["--from", &from, "--from-port", "41000", "--timeout", "4"];
    becomes_direct(&world, &client, to)?;

    // It goes while its SYN is on its way, and with it all that vouched for it.
    hold_syns(&world, &client, 7001)?;
    thread::scope(|scope| -> Result<()> {
        let dialled = scope.spawn(|| client.dial_once(to, &options));
        eventually("it is attested", Patience::SHORT, || Ok((world.entries(A, "ATTESTED")? == 1).then_some(())))?;
        world.delete_pod(&client)?;
        // It was killed.
        let _ = dialled.join().expect("the thread does not panic");
        Ok(())
    })?;
    release(&world)?;
    nothing_is_left(&world)?;
    let taken = accepted(&server)?;

    let heir = world.pod("shop", "heir", A)?;
    assert_eq!(heir.ip, client.ip);
    world.wait_for(from_ref(&heir), true)?;
    for pod in [&near, &second] {
        forget_neighbours(pod)?;
    }
    // The same addresses and ports, by its own socket and by a neighbour's raw one.
    let opened = world.counter(A, "DIRECT_OPENED")?;
    for _ in 0..2 {
        let report = heir.dial_once(to, &options)?;
        assert!(report.turned_away(), "{report:?}");
    }
    let flow = world.flow(A, "of the heir", |flow| flow.verdict == "dropped" && flow.source.pod == heir.full_name())?;
    assert_eq!(flow.source.identity, heir.identity());
    let steered = world.counter(A, "STEERED_AGENT")?;
    second.forge(heir.at(41_000), to)?;
    eventually("the SYN has arrived", Patience::SHORT, || {
        Ok((world.counter(A, "STEERED_AGENT")? > steered).then_some(()))
    })?;
    assert_eq!((world.counter(A, "DIRECT_OPENED")?, accepted(&server)?), (opened, taken));
    nothing_is_left(&world)
}

#[test]
fn an_heir_of_the_target_has_its_own_policies() -> Result<()> {
    let Stage { mut world, client, near, .. } = Stage::new("heir of the target", &[])?;
    near.serve("peer", 7001)?;
    let rules = "[{ from: [{ source: { serviceAccounts: [shop/client] } }] }]";
    world.apply("not-client", &policy("not-client", "heir", "DENY", rules))?;
    becomes_direct(&world, &client, near.at(7001))?;

    world.delete_pod(&near)?;
    let heir = world.pod("shop", "heir", A)?;
    assert_eq!(heir.ip, near.ip);
    let server = heir.serve("peer", 7001)?;
    world.wait_for(from_ref(&heir), true)?;
    forget_neighbours(&client)?;
    let opened = world.counter(A, "DIRECT_OPENED")?;
    for _ in 0..2 {
        let report = client.say(heir.at(7001), "")?;
        assert!(report.turned_away(), "{report:?}");
    }
    world.flow(A, "to the heir", |flow| {
        flow.reason == "POLICY_DENY"
            && flow.destination.pod == heir.full_name()
            && flow.source.pod == client.full_name()
    })?;
    assert_eq!((world.counter(A, "DIRECT_OPENED")?, accepted(&server)?), (opened, 0));
    nothing_is_left(&world)
}
