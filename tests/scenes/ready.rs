//! The health endpoint says what is missing, through the whole life of an agent.

use std::time::Duration;

use anyhow::Result;
use mesh_tests::{A, Patience, World, eventually};

/// On each node's own loopback device.
const HEALTH: &str = "127.0.0.1:15021";

/// Status and text.
fn ready(world: &World) -> Result<(String, String)> {
    let (curl, url) = ("/usr/bin/curl", format!("http://{HEALTH}/healthz/ready"));
    let options = ["--silent", "--max-time", "2", "--write-out", "%{http_code}", &url].map(str::to_owned);
    let output = world.node(A).host.output(curl.as_ref(), &options, Duration::from_secs(5))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (text, code) = text.split_at(text.len().saturating_sub(3));
    Ok((code.to_owned(), text.to_owned()))
}

fn until_ready(world: &World) -> Result<()> {
    eventually("it is ready", Patience::LONG, || Ok((ready(world)?.0 == "200").then_some(())))
}

fn until_not(world: &World, why: &str) -> Result<()> {
    eventually(format_args!("it is not ready: {why}"), Patience::LONG, || {
        let (code, text) = ready(world)?;
        Ok((code == "503" && text.contains(why)).then_some(()))
    })
}

#[test]
fn ready_means_configuration_hooks_and_every_pod() -> Result<()> {
    let mut world = World::new("ready")?;
    world.agent_options.extend([
        format!("--health={HEALTH}"),
        "--drain-deadline=3".to_owned(),
        "--verdict-lease=1".to_owned(),
    ]);
    let client = world.pod("shop", "client", A)?;
    let near = world.pod("shop", "near", A)?;
    near.serve("echo", 7000)?;
    world.start_controller()?;
    let token = world.root().join("token-a");
    world.controller()?.join_token(A, &token)?;
    world.kill_controller()?;
    world.start_agent_with(A, token)?;
    until_not(&world, "no configuration yet")?;
    let live = world.node(A).host.curl(&format!("http://{HEALTH}/healthz/live"))?;
    assert_eq!(live, "alive\n");
    assert!(world.node(A).host.curl(&format!("http://{HEALTH}/elsewhere")).is_err());

    world.start_controller()?;
    until_ready(&world)?;
    world.label_namespace("shop", Some("mesh"))?;
    eventually("both are redirected", Patience::LONG, || Ok((world.redirected(A)?.len() == 2).then_some(())))?;
    until_ready(&world)?;

    // Told to end, with a connection that lives: not ready any more, and it says so.
    let held = client.hold(near.at(7000))?;
    let agent = world.tell_agent_to_end(A)?;
    until_not(&world, "it ends")?;
    assert_eq!(world.status(A)?["draining"], true);
    assert!(held.is_open()?);
    assert!(client.say(near.at(7000), "still served")?.echoed());
    let status = eventually("it ends", Patience::SHORT, || agent.ended())?;
    assert!(status.success(), "{status}");
    assert!(held.ended(Patience::SHORT)?.received > 0);
    eventually("what was decided is over with its lease", Patience::SHORT, || {
        Ok(client.say(near.at(7000), "closed")?.turned_away().then_some(()))
    })?;

    // Back, without its controller: the rules are on the disk, the keys are not.
    world.kill_controller()?;
    world.restart_agent(A)?;
    until_not(&world, "no certificate for")?;
    world.start_controller()?;
    until_ready(&world)
}

#[test]
fn a_second_signal_ends_at_once() -> Result<()> {
    let mut world = World::new("second signal")?;
    let client = world.pod("shop", "client", A)?;
    let near = world.pod("shop", "near", A)?;
    near.serve("echo", 7000)?;
    world.start()?;
    world.mesh("shop")?;
    let held = client.hold(near.at(7000))?;
    let agent = world.tell_agent_to_end(A)?;
    agent.says("told to end", Patience::SHORT)?;
    assert!(held.is_open()? && agent.ended()?.is_none());
    let status = agent.terminate(Patience::SHORT)?;
    assert!(status.success(), "{status}");
    assert!(agent.log()?.contains("told to hurry"));
    Ok(())
}
