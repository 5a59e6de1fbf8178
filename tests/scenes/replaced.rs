//! An agent is replaced while its pods work: no new connection is refused, and live ones end by themselves.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, B, End, Patience, eventually, load_connections};

use crate::{
    cast::{Cast, policy},
    load::Load,
};

const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
    metadata: { name: default, namespace: shop }\nspec: { mtls: { mode: STRICT } }\n";

#[test]
fn no_new_connection_is_refused_over_five_replacements() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("replaced")?;
    let stranger = world.pod("legacy", "stranger", B)?;
    let back = world.pod("shop", "back", B)?;
    world.wait_for(std::slice::from_ref(&back), true)?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
    }
    assert!(back.say(near.at(7000), "hello")?.echoed());

    let load = Load::start(&[
        ("same node", &client, near.at(7000)),
        ("to another node", &client, far.at(7000)),
        ("to another node, the other way", &near, far.at(7000)),
        ("from another node", &back, near.at(7000)),
        ("plaintext", &stranger, near.at(7000)),
        ("the node itself", &world.node(A).host, near.at(7000)),
    ]);
    let count = load_connections();
    let mut old = Vec::new();
    for replacement in 1..=5 {
        load.until(count * replacement / 6)?;
        let start = Instant::now();
        old.push(world.replace_agent(A)?);
        println!("replacement {replacement} after {} connections took {:?}", load.done(), start.elapsed());
    }
    load.until(count)?;
    let done = load.finish()?;
    println!("{done} connections across 5 replacements: none refused");
    assert!(done >= count);
    // Each of the old ones had nothing left to do.
    for agent in old {
        let status = eventually("a replaced agent ends", Patience::LONG, || agent.process.ended())?;
        assert!(status.success(), "{status}");
    }
    assert_eq!(world.redirected(A)?.len(), 2);
    Ok(())
}

#[test]
fn live_connections_outlive_the_agent_until_the_deadline() -> Result<()> {
    let mut world = mesh_tests::World::new("drained")?;
    world.agent_options.push("--drain-deadline=3".to_owned());
    let client = world.pod("shop", "client", A)?;
    let near = world.pod("shop", "near", A)?;
    let far = world.pod("shop", "far", B)?;
    world.start()?;
    world.mesh("shop")?;
    near.serve("echo", 7000)?;
    far.serve("echo", 7000)?;
    let held = [client.hold(far.at(7000))?, client.hold(near.at(7000))?, far.hold(near.at(7000))?];
    let old = world.replace_agent(A)?;
    let start = Instant::now();
    // The old agent carries what is live, the new one what is new.
    while start.elapsed() < Duration::from_secs(2) {
        assert!(client.say(far.at(7000), "new")?.echoed());
        for held in &held {
            assert!(held.is_open()?);
        }
    }
    assert!(old.process.ended()?.is_none(), "it drains");
    let refused = world.uninstall_under_way(A).expect_err("agents run");
    assert!(format!("{refused:#}").contains("stop it first"), "{refused:#}");
    for held in held {
        let end = held.ended(Patience::SHORT)?;
        assert_eq!(end.end, End::Reset, "{end:?}");
    }
    let status = eventually("the old agent ends", Patience::SHORT, || old.process.ended())?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[test]
fn a_policy_reaches_what_a_replaced_agent_carries() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("policy while it drains")?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
    }
    world.apply("strict", STRICT)?;
    let held = [far.hold(near.at(7000))?, client.hold(near.at(7000))?];
    let untouched = client.hold(far.at(7000))?;
    let old = world.replace_agent(A)?;
    assert!(world.node(B).host.say(near.at(7000), "in plaintext")?.turned_away());
    for held in &held {
        assert!(held.is_open()?);
    }
    let rules = "[{ to: [{ operation: { ports: ['7000'] } }] }]";
    world.manifests.write("deny", &policy("deny", "near", "DENY", rules))?;
    world.within_a_second("new connections are refused and live ones ended", || {
        let ended = held.iter().map(|held| Ok(!held.is_open()?)).collect::<Result<Vec<_>>>()?;
        Ok(ended == [true, true] && client.say(near.at(7000), "still there?")?.turned_away())
    })?;
    assert!(untouched.is_open()? && old.process.ended()?.is_none(), "it drains");
    Ok(())
}

#[test]
fn a_successor_that_dies_changes_nothing() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("successor dies")?;
    near.serve("echo", 7000)?;
    far.serve("echo", 7000)?;
    let held = client.hold(far.at(7000))?;
    let load = Load::start(&[("same node", &client, near.at(7000)), ("to another node", &client, far.at(7000))]);
    let mut died = 0;
    // At any moment of its start.
    for milliseconds in [5, 20, 40, 60, 80, 100, 130, 170] {
        let successor = world.successor(A)?;
        thread::sleep(Duration::from_millis(milliseconds));
        // Held still: what it accepts once it serves would end with it.
        successor.process.hold_still(true)?;
        if successor.process.log()?.contains("serving beside the old agent") {
            successor.process.hold_still(false)?;
            break;
        }
        successor.process.kill()?;
        died += 1;
        ensure!(world.agent(A)?.process.ended()?.is_none(), "the old one goes on after {milliseconds} ms");
    }
    load.finish().context("while successors died")?;
    assert!(died > 1, "none was killed in time");
    assert!(held.is_open()?);
    let old = world.replace_agent(A)?;
    assert!(held.is_open()?);
    assert!(client.say(far.at(7000), "after all")?.echoed());
    drop(old);
    Ok(())
}
