//! Pods of which no plugin told: the agent finds them when they shall be in the mesh.

use std::fs;

use anyhow::Result;
use mesh_tests::{A, B, Patience, World, eventually};

#[test]
fn a_pod_that_ran_before_joins_without_a_restart() -> Result<()> {
    let mut world = World::new("unannounced")?;
    let [cart, web] = [world.bare_pod("shop", "cart", A)?, world.bare_pod("shop", "web", B)?];
    web.serve("peer", 7001)?;
    web.serve("echo", 7002)?;
    // A process of its own leads to its namespace.
    cart.serve("echo", 7000)?;
    world.start_controller()?;
    for node in [A, B] {
        let token = world.root().join(format!("token-{}", node.name()));
        world.controller()?.join_token(node, &token)?;
        world.restart_agent(node)?;
    }
    for pod in [&cart, &web] {
        world.write_status(pod)?;
    }
    // It stays out as long as it shall.
    let held = cart.hold(web.at(7002))?;
    world.mesh("shop")?;
    assert_eq!(cart.say(web.at(7001), "")?.seen()?.accepted.ip(), cart.ip);
    let flow = world.flow(B, "in the mesh", |flow| flow.destination.pod == web.full_name())?;
    assert_eq!((flow.security.as_str(), flow.source.identity.as_str()), ("mutual_tls", cart.identity().as_str()));
    assert!(held.is_open()?, "what it had goes on");

    world.label_namespace("shop", None)?;
    world.wait_for(&[cart.clone(), web.clone()], false)?;
    world.mesh("shop")?;
    assert!(held.is_open()?);

    // It ends, and nobody says so.
    world.vanish(&cart)?;
    world.manifests.remove("pod-shop-cart")?;
    eventually("it is forgotten", Patience::LONG, || Ok((world.node(A).hooked_pods()? == 0).then_some(())))
}

#[test]
fn a_pod_is_only_what_its_addresses_prove() -> Result<()> {
    let mut world = World::new("unannounced others")?;
    let cart = world.bare_pod("shop", "cart", A)?;
    let thief = world.bare_pod("shop", "thief", A)?;
    world.start()?;
    cart.serve("echo", 7000)?;
    world.write_status(&cart)?;
    // Another pod with the address of the first, and then one in the node's own namespace.
    world.write_status(&thief)?;
    thief.serve("echo", 7000)?;
    let text = fs::read_to_string(world.manifests.folder().join("pod-shop-thief.yaml"))?;
    world.manifests.write("pod-shop-thief", &text.replace(&thief.ip.to_string(), "10.244.1.201"))?;
    world.label_namespace("shop", Some("mesh"))?;
    let says = |name: &str, why: &str| {
        eventually(format_args!("{name}: {why}"), Patience::LONG, || {
            let status = world.status(A)?;
            let pods = status["pods"].as_array().cloned().unwrap_or_default();
            let state = pods.into_iter().find(|pod| pod["pod"] == name).unwrap_or_default();
            Ok(state["message"].as_str().is_some_and(|message| message.contains(why)).then_some(()))
        })
    };
    says("thief", "does not hold 10.244.1.201")?;
    eventually("the other one is in the mesh", Patience::LONG, || {
        Ok((world.redirected(A)? == [cart.full_name()].into()).then_some(()))
    })?;
    assert_eq!(world.node(A).hooked_pods()?, 1);
    // The truth is found, without anybody's help.
    world.write_status(&thief)?;
    world.wait_for(&[thief], true)
}

#[test]
fn a_pod_in_its_nodes_network_is_said_to_be_outside() -> Result<()> {
    let mut world = World::new("host network")?;
    world.start()?;
    world.namespace("shop")?;
    let pod = |name: &str, node: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: shop, uid: u-{name} }}\n\
             spec: {{ nodeName: {node}, hostNetwork: true, containers: [] }}\n\
             status: {{ phase: Running, podIP: 172.18.0.1, podIPs: [{{ ip: 172.18.0.1 }}] }}\n"
        )
    };
    world.manifests.write("pod-here", &pod("here", "a"))?;
    world.manifests.write("pod-there", &pod("there", "b"))?;
    // Agents know namespaces by their accounts, and a folder has them by this.
    world
        .manifests
        .write("account", "apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: default, namespace: shop }\n")?;
    world.label_namespace("shop", Some("mesh"))?;
    let told = || -> Result<Vec<(String, String)>> {
        let status = world.status(A)?;
        let pods = status["pods"].as_array().cloned().unwrap_or_default();
        let word = |pod: &serde_json::Value, field: &str| pod[field].as_str().unwrap_or_default().to_owned();
        Ok(pods.iter().map(|pod| (word(pod, "pod"), word(pod, "message"))).collect())
    };
    let told = eventually("it is told", Patience::LONG, || Ok(Some(told()?).filter(|told| !told.is_empty())))?;
    assert!(matches!(told.as_slice(), [(name, why)] if name == "here" && why.contains("hostNetwork")), "{told:?}");
    assert_eq!(world.node(A).hooked_pods()?, 0);
    Ok(())
}
