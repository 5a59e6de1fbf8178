//! Connections that are older than their pod's enrolment go on, are listed, and under STRICT end after a grace.

use std::{sync::Arc, thread, time::Duration};

use anyhow::{Context, Result};
use mesh_tests::{A, B, Held, Patience, Pod, World, eventually};
use serde_json::Value;

use crate::cast::Cast;

const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
    metadata: { name: default, namespace: shop }\nspec: { mtls: { mode: STRICT } }\n";

/// Those that the agent of `pod` lists as older.
fn older(world: &World, pod: &Pod) -> Result<Vec<Value>> {
    let connections = world.ask_agent(pod.node, &["config", "connections"])?;
    let about = |connection: &Value| {
        let text = connection.to_string();
        text.contains("older than the pod's enrolment") && text.contains(&format!("\"{}\"", pod.name))
    };
    Ok(connections.into_iter().filter(about).collect())
}

fn message(world: &World, pod: &Pod) -> Result<String> {
    let status = world.status(pod.node)?;
    let pods = status["pods"].as_array().cloned().unwrap_or_default();
    let state = pods.into_iter().find(|state| state["pod"] == pod.name.as_str()).context("no such pod")?;
    Ok(state["message"].as_str().unwrap_or_default().to_owned())
}

/// A grace of one second, and two looks at them: what would be ended is ended by then.
const GRACE: &str = "--strict-grace=1";
const ENDED: Duration = Duration::from_secs(3);

/// A mesh that pods join while they are connected.
struct Older {
    world: World,
    client: Arc<Pod>,
    near: Arc<Pod>,
    far: Arc<Pod>,
    /// What others dialled.
    held: [Held; 3],
    /// What `near` dialled: itself, and who is no pod of the mesh.
    own: Held,
    dialled: Held,
}

impl Older {
    fn new(title: &str) -> Result<Self> {
        let mut world = World::new(title)?;
        world.agent_options.push(GRACE.to_owned());
        let Cast { mut world, client, near, far } = Cast::in_world(world)?;
        let stranger = world.pod("legacy", "stranger", B)?;
        for server in [&near, &far, &stranger] {
            server.serve("echo", 7000)?;
        }
        let held = [client.hold(near.at(7000))?, client.hold(far.at(7000))?, stranger.hold(near.at(7000))?];
        let own = near.hold(near.at(7000))?;
        let dialled = near.hold(stranger.at(7000))?;
        world.mesh("shop")?;
        for (pod, count) in [(&near, 3), (&client, 2), (&far, 1)] {
            eventually(format_args!("{count} of {} are listed", pod.name), Patience::LONG, || {
                let told = message(&world, pod)? == format!("{count} of its connections are older than its enrolment");
                Ok((told && older(&world, pod)?.len() >= count).then_some(()))
            })?;
        }
        Ok(Self { world, client, near, far, held, own, dialled })
    }
}

#[test]
fn they_are_listed_and_go_on_over_agents() -> Result<()> {
    let Older { mut world, near, held, own, dialled, .. } = Older::new("older")?;
    // PERMISSIVE takes them. An agent that takes over or comes back knows them still.
    thread::sleep(ENDED);
    let old = world.replace_agent(A)?;
    old.process.terminate(Patience::LONG)?;
    world.kill_agent(A)?;
    world.restart_agent(A)?;
    eventually("they are listed again", Patience::LONG, || {
        Ok((message(&world, &near)?.starts_with("3 of its connections")).then_some(()))
    })?;
    for held in held.iter().chain([&own, &dialled]) {
        assert!(held.is_open()?);
    }
    Ok(())
}

#[test]
fn they_end_under_strict() -> Result<()> {
    let Older { mut world, client, near, far, held, own, dialled } = Older::new("older and strict")?;
    world.apply("strict", STRICT)?;
    for held in held {
        held.ended(Patience::LONG)?;
    }
    for (node, server) in [(A, &near), (B, &far)] {
        let flow = world.flow(node, "of an older connection", |flow| {
            flow.reason == "PLAINTEXT_STRICT" && flow.destination.pod == server.full_name()
        })?;
        assert_eq!((flow.direction.as_str(), flow.source.identity.as_str()), ("inbound", ""), "{flow:?}");
    }
    // Itself, and what it dialled: none of the business of its own STRICT.
    thread::sleep(ENDED);
    assert!(own.is_open()? && dialled.is_open()?);
    assert!(client.say(near.at(7000), "again")?.echoed() && client.say(far.at(7000), "again")?.echoed());
    Ok(())
}

#[test]
fn what_the_agent_carries_is_never_taken_for_older() -> Result<()> {
    let mut world = World::new("older and carried")?;
    world.agent_options.push(GRACE.to_owned());
    let Cast { mut world, client, near, far } = Cast::in_world(world)?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
    }
    world.apply("strict", STRICT)?;
    world.mesh("shop")?;
    let carried = [client.hold(far.at(7000))?, far.hold(near.at(7000))?];
    // It leaves and comes back while they go on.
    world.label_pod(&near, Some("none"))?;
    world.wait_for(std::slice::from_ref(&near), false)?;
    // To the end: what comes back before was never out.
    eventually("its hooks are gone", Patience::LONG, || Ok((world.node(A).hooked_pods()? == 1).then_some(())))?;
    thread::sleep(Duration::from_secs(1));
    world.label_pod(&near, None)?;
    world.wait_for(std::slice::from_ref(&near), true)?;
    thread::sleep(ENDED);
    for carried in &carried {
        assert!(carried.is_open()?);
    }
    for pod in [&client, &near, &far] {
        assert_eq!(older(&world, pod)?, [] as [Value; 0], "{}", pod.name);
    }
    Ok(())
}
