//! The full story with a real Kubernetes API: pods that a runtime and its CNI plugins make, a namespace that is
//! labelled and unlabelled, a load that runs all the while.

use anyhow::{Context, Result};
use mesh_tests::{A, B, Dialled, Patience, World, eventually, kube_folder};
use serde_json::Value;

use crate::load::Load;

const PORT: u16 = 7000;

#[test]
fn label_a_namespace_and_its_running_pods_speak_mtls() -> Result<()> {
    if kube_folder()?.is_none() {
        return Ok(());
    }
    let mut world = World::on_kubernetes("on kubernetes")?;
    // Before there is a mesh.
    let cart = world.pod("shop", "cart", A)?;
    let cache = world.pod("shop", "cache", A)?;
    let web = world.pod("shop", "web", B)?;
    let plain = world.pod("legacy", "plain", B)?;
    for server in [&cache, &web, &plain] {
        server.serve("echo", PORT)?;
    }
    let held = web.serve("peer", 7001)?;
    world.start()?;

    let load = Load::start(&[
        ("same node", &cart, cache.at(PORT)),
        ("to another node", &cart, web.at(PORT)),
        ("from another node", &web, cache.at(PORT)),
        ("from outside the mesh", &plain, web.at(PORT)),
        ("out of the mesh", &cart, plain.at(PORT)),
    ]);
    load.until(100)?;
    world.mesh("shop")?;
    load.until(load.done() + 200)?;

    let capture = world.capture()?;
    echoed(&cart.say(web.at(PORT), "canary-in-the-mesh")?);
    assert!(!capture.contains(b"canary-in-the-mesh")?, "plaintext between nodes");
    let flow = world.flow(B, "to web by mTLS", |flow| {
        flow.destination.pod == web.full_name() && flow.source.identity == cart.identity()
    })?;
    assert_eq!(flow.security, "mutual_tls", "{flow:?}");
    // What the kernel says is written on the pod.
    let mut said = Vec::new();
    let all_enabled = eventually("the annotations say what is", Patience::LONG, || {
        let all = [&cart, &cache, &web].into_iter().map(|pod| annotation(&world, &pod.namespace, &pod.name));
        said = all.collect::<Result<Vec<_>>>()?;
        Ok(said.iter().all(|said| said == "enabled").then_some(()))
    });
    all_enabled.with_context(|| format!("they say {said:?}"))?;
    assert_eq!(annotation(&world, "legacy", "plain")?, "");

    // A pod that starts now is in the mesh before anything of it runs.
    let late = world.pod("shop", "late", A)?;
    let redirected = world.redirected(A)?;
    assert!(redirected.contains(&late.full_name()), "ADD returned before the pod was enrolled: {redirected:?}");
    world.runtime(A).check(world.sandbox(&late)?)?;
    echoed(&late.say(web.at(PORT), "canary-of-a-new-pod")?);
    assert!(!capture.contains(b"canary-of-a-new-pod")?, "plaintext of a new pod between nodes");
    world.delete_pod(&late)?;

    world.unmesh("shop")?;
    load.until(load.done() + 200)?;
    echoed(&cart.say(web.at(PORT), "canary-after-leaving")?);
    assert!(
        capture.contains(b"canary-after-leaving")?,
        "not seen between the nodes: {} bytes captured",
        capture.size()?
    );
    println!("{} connections over joining and leaving: none failed", load.finish()?);
    assert_eq!(held.ended()?, None, "a pod was restarted");
    Ok(())
}

fn echoed(dialled: &Dialled) {
    assert!(dialled.echoed(), "{dialled:?}");
}

/// What is said of a pod's redirection; empty: nothing.
fn annotation(world: &World, namespace: &str, name: &str) -> Result<String> {
    let pod = world.api()?.get(&format!("/api/v1/namespaces/{namespace}/pods/{name}"))?.unwrap_or(Value::Null);
    Ok(pod["metadata"]["annotations"]["nodemesh.io/redirection"].as_str().unwrap_or_default().to_owned())
}
