//! Debian's plugins bridge and host-local make a pod's network, and ours stands behind them, as in a node's chain.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    A, B, Pod, World, installed,
    runtime::{Runtime, Sandbox},
};
use serde_json::{Value, json};

/// Calls the first plugin of the node's configuration in the node's namespace; gives what it printed.
fn bridge(world: &World, command: &str, pod: &Pod, configuration: &Value) -> Result<Value> {
    let sandbox = Sandbox {
        id: "c1".to_owned(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        netns: pod.netns.clone(),
    };
    Runtime::new(world.node(pod.node)).run_with(command, "bridge", &configuration.to_string(), &sandbox)
}

#[test]
fn a_pod_of_a_real_chain_is_in_the_mesh() -> Result<()> {
    let mut world = World::new("cni chain")?;
    world.install_cni()?;
    let cart = world.bare_pod("shop", "cart", A)?;
    // Its link is for the plugin to make. Debian's plugins speak 1.0.
    let (ip, netns) = (installed("ip")?, cart.netns.file_name().context("a name")?.to_owned());
    let removed = Command::new(&ip).arg("-n").arg(&netns).args(["link", "del", "eth0"]).status()?;
    ensure!(removed.success(), "the link of the harness is still there");
    let range =
        json!({ "subnet": "10.244.1.0/24", "rangeStart": cart.ip, "rangeEnd": cart.ip, "gateway": "10.244.1.1" });
    let single = json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "bridge", "bridge": "br0", "x-keep": { "it": [1, "as", null] },
        "ipam": {
            "type": "host-local", "dataDir": world.root().join("ipam"), "ranges": [[range]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        },
    });
    let other = world.node(A).cni_conf_dir().join("05-bridge.conf");
    fs::write(&other, single.to_string())?;
    world.start()?;
    let far = world.pod("shop", "far", B)?;
    far.serve("peer", 7001)?;
    world.label_namespace("shop", Some("mesh"))?;
    world.wait_for(std::slice::from_ref(&far), true)?;

    let plugin = world.plugin(A)?;
    let list: Value = serde_json::from_slice(&fs::read(plugin.conf_dir.join("00-nodemesh.conflist"))?)?;
    assert_eq!((list["plugins"][0].clone(), &list["name"]), (single.clone(), &json!("pods")));
    world.schedule(&cart)?;
    let result = bridge(&world, "ADD", &cart, &single)?;
    let mut ours = plugin.configuration()?;
    ours["prevResult"] = result.clone();
    let call = |command: &str| plugin.begin_with(command, &cart, "c1", &ours.to_string(), &[])?.ended();
    let added = call("ADD")?;
    assert!(added.succeeded, "{added:?}");
    assert_eq!(added.printed, result, "what bridge said is handed on");
    println!("ADD took {:?}", added.took);
    assert_eq!(cart.say(far.at(7001), "")?.seen()?.accepted.ip(), cart.ip);
    let flow = world.flow(B, "of the pod", |flow| flow.destination.pod == far.full_name())?;
    assert_eq!((flow.security.as_str(), flow.source.identity.as_str()), ("mutual_tls", cart.identity().as_str()));
    assert!(call("CHECK")?.succeeded);

    // In the opposite order, as a runtime does.
    assert!(call("DEL")?.succeeded);
    assert_eq!(world.node(A).hooked_pods()?, 0);
    bridge(&world, "DEL", &cart, &single)?;
    assert!(call("DEL")?.succeeded, "its network is gone already");
    Ok(())
}
