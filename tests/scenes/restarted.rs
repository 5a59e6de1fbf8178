//! An agent that comes back finds its pods and its rules by itself: nobody tells it who joined, and its controller may
//! be away.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mesh_tests::{A, B, End, Patience, World, eventually};

use crate::{
    cast::{Cast, policy},
    load::Load,
};

/// From the start of the program to pods that are served; asked for 0.5 s, with room for a machine that is busy.
const SERVING_MS: u128 = 3000;

#[test]
fn a_killed_agent_serves_its_pods_again_without_being_told() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("restarted")?;
    for server in [&near, &far, &client] {
        server.serve("echo", 7000)?;
    }
    assert!(client.say(far.at(7000), "before")?.echoed());
    world.kill_agent(A)?;
    assert_eq!(client.say(near.at(7000), "nobody")?.end, End::Refused);

    let start = Instant::now();
    world.restart_agent(A)?;
    eventually("the node's pods are served", Patience::SHORT, || {
        Ok(world.node(A).host.say(near.at(7000), "in plaintext")?.echoed().then_some(()))
    })?;
    let served = start.elapsed().as_millis();
    println!("served again after {served} ms, with the time that this test's programs take");
    assert!(served < SERVING_MS, "{served} ms");
    eventually("they have their keys", Patience::LONG, || Ok((world.redirected(A)?.len() == 2).then_some(())))?;
    assert!(client.say(far.at(7000), "again")?.echoed());
    assert!(client.say(near.at(7000), "again")?.echoed());
    let other = world.node(B).host.say(near.at(7000), "in plaintext")?;
    assert!(other.echoed(), "{other:?}");

    // What CNI says once more changes nothing: connections live on.
    let held = client.hold(far.at(7000))?;
    world.join_again(A)?;
    assert!(held.is_open()?);
    assert!(client.say(near.at(7000), "joined twice")?.echoed());
    Ok(())
}

#[test]
fn a_pod_that_joins_once_more_is_never_open() -> Result<()> {
    let Cast { world, client, near, far } = Cast::meshed("joins once more")?;
    for server in [&near, &far, &client] {
        server.serve("echo", 7000)?;
    }
    let held = [client.hold(far.at(7000))?, far.hold(client.at(7000))?];
    let load = Load::start(&[("to another node", &client, far.at(7000)), ("from another node", &far, client.at(7000))]);
    // A plugin that could not ask who the pod is at first, and one that forgot it.
    for (joins, uid) in (1..).zip(["", &client.uid, "", &client.uid]) {
        world.join_as(&client, uid)?;
        load.until(joins * 50)?;
    }
    println!("{} connections while it joined: none refused", load.finish()?);
    for held in &held {
        assert!(held.is_open()?);
    }

    // Another pod of its name, in its namespace, that the configuration does not name.
    let capture = world.capture()?;
    world.join_as(&client, "another")?;
    for held in held {
        held.ended(Patience::SHORT)?;
    }
    assert_eq!(client.say(far.at(7000), "canary-of-an-heir")?.end, End::Refused);
    assert!(far.say(client.at(7000), "canary-for-an-heir")?.turned_away());
    assert_eq!(world.node(B).host.say(client.at(7000), "in plaintext")?.end, End::Refused);
    assert_eq!(world.redirected(A)?, [near.full_name()].into());

    // The one that it names.
    world.join_as(&client, &client.uid)?;
    eventually("it is served", Patience::SHORT, || Ok((world.redirected(A)?.len() == 2).then_some(())))?;
    assert!(client.say(far.at(7000), "canary-again")?.echoed());
    assert!(far.say(client.at(7000), "canary-again")?.echoed());
    assert!(!capture.contains(b"canary")?);
    Ok(())
}

#[test]
fn without_the_controller_the_last_rules_hold() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::waiting("rules from the disk")?;
    let outsider = world.pod("other", "outsider", A)?;
    world.mesh("shop")?;
    for server in [&near, &far, &outsider] {
        server.serve("echo", 7000)?;
        server.serve("peer", 7001)?;
    }
    let rules =
        "[{ from: [{ source: { serviceAccounts: [shop/client] } }], to: [{ operation: { ports: [\"7001\"] } }] }]";
    world.apply("no-7001", &policy("no-7001", "near", "DENY", rules))?;
    world.settle()?;
    let file = world.node(A).state_dir().join("configuration");
    eventually("the rule is on the disk", Patience::SHORT, || {
        let bytes = fs::read(&file).context("no configuration yet")?;
        let marker = world.marker();
        Ok(bytes.windows(marker.len()).any(|part| part == marker.as_bytes()).then_some(()))
    })?;

    world.kill_controller()?;
    world.kill_agent(A)?;
    world.restart_agent(A)?;
    eventually("the pods answer", Patience::LONG, || {
        Ok(client.say(near.at(7000), "by the old rules")?.echoed().then_some(()))
    })?;
    let status = world.status(A)?;
    assert_eq!(status["configuration_from_disk"], true, "{status}");
    assert!(client.say(near.at(7001), "denied as before")?.turned_away());
    world.flow(A, "denied from the disk", |flow| flow.reason == "POLICY_DENY")?;
    // Keys are never on the disk.
    assert!(client.say(far.at(7000), "no key")?.turned_away());
    world.flow(A, "without a key", |flow| flow.reason == "NO_CERTIFICATE")?;
    assert!(outsider.say(outsider.at(7000), "as ever")?.echoed());

    // It is back, with another configuration.
    world.manifests.remove("no-7001")?;
    world.start_controller()?;
    eventually("tunnels work again", Patience::LONG, || {
        Ok(client.say(far.at(7000), "with a key")?.echoed().then_some(()))
    })?;
    eventually("the rule is gone", Patience::LONG, || {
        Ok((client.say(near.at(7001), "permitted")?.received > 0).then_some(()))
    })?;
    eventually("the controller confirmed it", Patience::SHORT, || {
        Ok((world.status(A)?["configuration_from_disk"] == false).then_some(()))
    })?;
    Ok(())
}

#[test]
fn a_damaged_configuration_opens_nothing() -> Result<()> {
    let mut world = World::new("damaged configuration")?;
    world.agent_options.push("--verdict-lease=1".to_owned());
    let Cast { mut world, client, near, .. } = Cast::in_world(world)?;
    world.mesh("shop")?;
    near.serve("echo", 7000)?;
    assert!(client.say(near.at(7000), "before")?.echoed());
    let file = world.node(A).state_dir().join("configuration");
    eventually("there is something on the disk", Patience::SHORT, || Ok(file.exists().then_some(())))?;
    world.kill_controller()?;
    world.kill_agent(A)?;
    let mut bytes = fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes)?;

    world.restart_agent(A)?;
    // Until then the kernel acts on what was decided by rules.
    thread::sleep(Duration::from_secs(1));
    assert_eq!(client.say(near.at(7000), "by no rules")?.end, End::Refused);
    assert_eq!(fs::read(file.with_extension("unreadable"))?, bytes, "kept for somebody to look at");
    let log = world.agent(A)?.process.log()?;
    assert!(log.contains("its content is not what its digest says"), "{log}");
    world.start_controller()?;
    eventually("with the controller it works", Patience::LONG, || {
        Ok(client.say(near.at(7000), "after")?.echoed().then_some(()))
    })
}

#[test]
fn a_pod_that_went_meanwhile_leaves_nothing() -> Result<()> {
    let mut world = World::new("went meanwhile")?;
    world.metrics();
    let client = world.pod("shop", "client", A)?;
    let near = world.pod("shop", "near", A)?;
    let far = world.pod("shop", "far", B)?;
    world.start()?;
    world.mesh("shop")?;
    far.serve("echo", 7000)?;
    world.kill_agent(A)?;
    assert_eq!(world.node(A).hooked_pods()?, 2);
    // Nobody is there to be told.
    world.delete_pod(&near)?;
    world.restart_agent(A)?;
    eventually("one pod's link is left", Patience::LONG, || Ok((world.node(A).hooked_pods()? == 1).then_some(())))?;
    eventually("client is served", Patience::LONG, || Ok((world.redirected(A)?.len() == 1).then_some(())))?;
    eventually("one entry of each sort is left", Patience::LONG, || {
        Ok((world.entries(A, "PODS")? == 1 && world.entries(A, "CGROUPS")? == 1).then_some(()))
    })?;
    let status = world.status(A)?.to_string();
    assert!(!status.contains("\"near\""), "{status}");
    assert!(client.say(far.at(7000), "hello")?.echoed());
    Ok(())
}

#[test]
fn an_agent_that_dies_between_two_steps_leaves_nothing_half_done() -> Result<()> {
    let mut world = World::new("half done")?;
    world.metrics();
    let client = world.pod("shop", "client", A)?;
    let near = world.pod("shop", "near", A)?;
    world.pod("shop", "third", A)?;
    near.serve("echo", 7000)?;
    world.start()?;
    // Hooking a pod takes some of these, signing its certificate some others.
    for milliseconds in [70, 110] {
        world.label_namespace("shop", Some("mesh"))?;
        thread::sleep(Duration::from_millis(milliseconds));
        world.kill_agent(A)?;
        println!("killed after {milliseconds} ms with {} links", world.node(A).hooked_pods()?);
        world.restart_agent(A)?;
        eventually("all are redirected", Patience::LONG, || Ok((world.redirected(A)?.len() == 3).then_some(())))?;
        assert!(client.say(near.at(7000), "joined")?.echoed());

        world.label_namespace("shop", None)?;
        thread::sleep(Duration::from_millis(milliseconds));
        world.kill_agent(A)?;
        world.restart_agent(A)?;
        eventually("all have left", Patience::LONG, || {
            let left = world.entries(A, "PODS")? == 0 && world.entries(A, "CGROUPS")? == 0;
            Ok((left && world.node(A).hooked_pods()? == 0).then_some(()))
        })?;
        assert!(client.say(near.at(7000), "plain")?.echoed());
    }
    Ok(())
}
