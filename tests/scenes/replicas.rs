//! Two controllers, and the one that leads dies: its agent goes to the other one, which does all of its work, and no
//! connection of a running load is lost.

use anyhow::{Context, Result};
use mesh_tests::{A, B, End, Patience, World, eventually, kube_folder};
use serde_json::Value;

use crate::{cast::policy, load::Load};

const PORT: u16 = 7000;
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/nodemesh-system/leases/mesh-controller";
const POLICY: &str = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/no-late";

fn object(world: &World, path: &str) -> Result<Value> {
    world.api()?.get(path)?.with_context(|| format!("the API has no {path}"))
}

/// Which replica leads.
fn leader(world: &World) -> Result<String> {
    Ok(object(world, LEASE)?["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

/// What the policy's status says, as "Programmed: True on 2 of 2 nodes".
fn said(world: &World) -> Result<Vec<String>> {
    let policy = object(world, POLICY)?;
    let conditions = policy["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let word = |condition: &Value, key: &str| condition[key].as_str().unwrap_or_default().to_owned();
    let said = |c: &Value| format!("{}: {} {}", word(c, "type"), word(c, "status"), word(c, "message"));
    Ok(conditions.iter().map(said).collect())
}

#[test]
fn when_the_leading_controller_dies_the_other_one_does_its_work() -> Result<()> {
    if kube_folder()?.is_none() {
        return Ok(());
    }
    let mut world = World::on_kubernetes("replicas")?;
    world.controller_options.push("--leader-term=3s".to_owned());
    let (cart, cache, web) =
        (world.pod("shop", "cart", A)?, world.pod("shop", "cache", A)?, world.pod("shop", "web", B)?);
    for server in [&cache, &web] {
        server.serve("echo", PORT)?;
    }
    world.start_controller()?;
    let second = world.second_controller()?;
    world.lead_to_second(B)?;
    world.start_agent(A)?;
    world.start_agent(B)?;
    // Each replica speaks to one of the agents, and both know of both.
    world.mesh("shop")?;
    assert_eq!((world.controller()?.linked()?, second.linked()?), (vec!["a".to_owned()], vec!["b".to_owned()]));
    let first = leader(&world)?;
    let load = Load::start(&[
        ("same node", &cart, cache.at(PORT)),
        ("to another node", &cart, web.at(PORT)),
        ("from another node", &web, cache.at(PORT)),
    ]);
    let held = cart.hold(web.at(PORT))?;
    load.until(100)?;

    world.kill_controller()?;
    world.lead_to_second(A)?;
    eventually("the agent of the dead one is linked to the other one", Patience::LONG, || {
        Ok((second.linked()? == ["a", "b"]).then_some(()))
    })?;
    // A new pod is in the mesh, and others know.
    let late = world.pod("shop", "late", A)?;
    assert!(world.redirected(A)?.contains(&late.full_name()), "ADD returned before the pod was enrolled");
    assert!(late.say(web.at(PORT), "hello")?.echoed());
    let flow = world.flow(B, "of the new pod", |flow| flow.source.identity == late.identity())?;
    assert_eq!((flow.security.as_str(), flow.verdict.as_str()), ("mutual_tls", "forwarded"), "{flow:?}");
    world.wait_for(std::slice::from_ref(&late), true)?;
    // A policy holds.
    let from = format!("[{{ from: [{{ source: {{ principals: ['{}'] }} }}] }}]", &late.identity()["spiffe://".len()..]);
    world.apply("no-late", &policy("no-late", "web", "DENY", &from))?;
    let denied = late.say(web.at(PORT), "hello")?;
    assert!(denied.turned_away(), "{denied:?}");
    assert!(cart.say(web.at(PORT), "hello")?.echoed());

    // And what the leader alone does.
    eventually("another one leads", Patience::LONG, || Ok((leader(&world)? != first).then_some(())))?;
    let mut last = Vec::new();
    let programmed = eventually("the policy's status says where it is in force", Patience::LONG, || {
        last = said(&world)?;
        Ok(last.iter().any(|said| said.starts_with("Programmed: True on 2 of 2 nodes")).then_some(()))
    });
    programmed.with_context(|| format!("it says {last:?}"))?;

    load.until(load.done() + 100)?;
    println!("{} connections over a controller's death: none failed", load.finish()?);
    assert!(held.is_open()?, "a connection ended with the controller");
    let held = held.finish()?;
    assert!(held.end == End::Eof && held.received == held.sent, "{held:?}");
    Ok(())
}
