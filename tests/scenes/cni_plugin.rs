//! A runtime adds, checks and deletes pods by our CNI plugin.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use mesh_tests::{A, B, Patience, Plugin, World, eventually};
use serde_json::json;

/// Both nodes with the plugin; namespace shop in the mesh, with a server on node b.
fn world(title: &str) -> Result<(World, std::sync::Arc<mesh_tests::Pod>)> {
    let mut world = World::new(title)?;
    world.install_cni()?;
    world.start()?;
    let far = world.pod("shop", "far", B)?;
    far.serve("peer", 7001)?;
    far.serve("echo", 7002)?;
    world.mesh("shop")?;
    Ok((world, far))
}

#[test]
fn a_pod_is_in_the_mesh_when_add_returns() -> Result<()> {
    let (mut world, far) = world("cni add")?;
    let plugin = world.plugin(A)?;
    let cart = world.bare_pod("shop", "cart", A)?;
    // As it goes in a cluster: the API has the pod, and its status comes long after its network.
    world.schedule(&cart)?;
    let added = plugin.call("ADD", &cart, "c1")?;
    assert!(added.succeeded, "{added:?}");
    assert_eq!(added.printed, Plugin::result(&cart), "the result is that of the plugin before");
    println!("ADD took {:?}", added.took);
    assert_eq!(world.redirected(A)?, [cart.full_name()].into());
    // What an init container says first is mutual TLS already.
    assert_eq!(cart.say(far.at(7001), "")?.seen()?.accepted.ip(), cart.ip);
    let flow = world.flow(B, "of the init container", |flow| flow.destination.pod == far.full_name())?;
    assert_eq!((flow.security.as_str(), flow.source.identity.as_str()), ("mutual_tls", cart.identity().as_str()));

    // Asked again, and asked for proof.
    let held = cart.hold(far.at(7002))?;
    for command in ["ADD", "CHECK", "ADD", "CHECK"] {
        let called = plugin.call(command, &cart, "c1")?;
        assert!(called.succeeded, "{command}: {called:?}");
    }
    assert!(held.is_open()?);

    // The kubelet writes the status: others reach it in the mesh too.
    world.write_status(&cart)?;
    world.wait_for(std::slice::from_ref(&cart), true)?;
    cart.serve("echo", 7000)?;
    assert!(far.say(cart.at(7000), "hello")?.echoed());
    assert!(held.is_open()?);

    // A sandbox that is gone already says nothing of this one; this one's end counts, whatever is told with it.
    assert!(plugin.call("DEL", &cart, "c0")?.succeeded);
    assert_eq!(world.redirected(A)?.len(), 1);
    let mut gone = plugin.configuration()?;
    gone["prevResult"] = json!(null);
    let environment = [("CNI_NETNS", ""), ("CNI_ARGS", "")];
    for _ in 0..2 {
        let del = plugin.begin_with("DEL", &cart, "c1", &gone.to_string(), &environment)?.ended()?;
        assert!(del.succeeded, "{del:?}");
        assert_eq!(world.node(A).hooked_pods()?, 0);
    }
    let check = plugin.call("CHECK", &cart, "c1")?;
    assert!(check.message().contains("does not know the pod"), "{check:?}");
    Ok(())
}

#[test]
fn an_address_of_the_api_does_not_beat_that_of_the_network() -> Result<()> {
    let (mut world, far) = world("cni addresses")?;
    let plugin = world.plugin(A)?;
    let cart = world.bare_pod("shop", "cart", A)?;
    world.schedule(&cart)?;
    assert!(plugin.call("ADD", &cart, "c1")?.succeeded);
    // Somebody wrote another one into its status.
    let file = world.manifests.folder().join("pod-shop-cart.yaml");
    world.write_status(&cart)?;
    let text = fs::read_to_string(&file)?.replace(&cart.ip.to_string(), "10.244.1.200");
    world.manifests.write("pod-shop-cart", &text)?;
    eventually("the agent knows that address", Patience::LONG, || {
        let workloads = world.ask_agent(A, &["config", "workloads"])?;
        Ok(workloads.iter().any(|workload| workload.to_string().contains("10.244.1.200")).then_some(()))
    })?;
    assert_eq!(world.redirected(A)?, [cart.full_name()].into());
    assert_eq!(cart.say(far.at(7001), "")?.seen()?.accepted.ip(), cart.ip);
    assert!(plugin.call("CHECK", &cart, "c1")?.succeeded);

    // A network that never was is refused, and nothing is redirected by it.
    let wrong = world.bare_pod("shop", "wrong", A)?;
    world.schedule(&wrong)?;
    let mut configuration = Plugin { timeout: Some(2), ..world.plugin(A)? }.configuration()?;
    configuration["prevResult"] = Plugin::result(&wrong);
    configuration["prevResult"]["ips"][0]["address"] = json!("10.244.1.201/24");
    let added = plugin.begin_with("ADD", &wrong, "c2", &configuration.to_string(), &[])?.ended()?;
    assert_eq!(added.code(), Some(11), "{added:?}");
    assert!(added.message().contains("does not hold 10.244.1.201"), "{added:?}");
    assert_eq!(world.node(A).hooked_pods()?, 1);
    Ok(())
}

#[test]
fn without_its_agent_a_node_starts_what_is_outside_the_mesh() -> Result<()> {
    let (mut world, far) = world("cni agent away")?;
    world.namespace("legacy")?;
    let plugin = Plugin { timeout: Some(2), ..world.plugin(A)? };
    let [cart, batch] = [world.bare_pod("shop", "cart", A)?, world.bare_pod("legacy", "batch", A)?];
    let dns = world.bare_pod("kube-system", "dns", A)?;
    let namespaces = plugin.configuration()?["namespaces"].as_str().context("no file of namespaces")?.to_owned();
    eventually("the agent wrote down what is in the mesh", Patience::LONG, || {
        let text = fs::read_to_string(&namespaces).unwrap_or_default();
        Ok((text.contains("legacy") && text.contains("mesh")).then_some(()))
    })?;

    world.kill_agent(A)?;
    let refused = plugin.call("ADD", &cart, "c1")?;
    assert_eq!(refused.code(), Some(11), "{refused:?}");
    assert!(refused.message().contains("cannot reach the agent"), "{refused:?}");
    assert!(refused.message().contains("namespace shop is in the mesh"), "{refused:?}");
    for (pod, container) in [(&batch, "c2"), (&dns, "c3")] {
        let added = plugin.call("ADD", pod, container)?;
        assert_eq!((added.succeeded, &added.printed), (true, &Plugin::result(pod)));
    }
    // What is deleted, is.
    assert!(plugin.call("DEL", &cart, "c1")?.succeeded);
    let mut status = plugin.configuration()?;
    let ask = |conf: &serde_json::Value| plugin.begin_with("STATUS", &cart, "", &conf.to_string(), &[])?.ended();
    assert!(ask(&status)?.succeeded, "as installed, a node without its agent still starts pods");
    status["statusWithoutAgent"] = json!(false);
    assert_eq!(ask(&status)?.code(), Some(50));

    // It is back, and the kubelet tries again. What started meanwhile joins when it shall.
    world.restart_agent(A)?;
    world.schedule(&cart)?;
    let plugin = world.plugin(A)?;
    let added = plugin.call("ADD", &cart, "c4")?;
    assert!(added.succeeded, "{added:?}");
    assert!(ask(&status)?.succeeded);
    assert_eq!(cart.say(far.at(7001), "")?.seen()?.accepted.ip(), cart.ip);
    batch.serve("echo", 7000)?;
    world.write_status(&batch)?;
    world.label_namespace("legacy", Some("mesh"))?;
    world.wait_for(&[batch], true)
}

#[test]
fn an_agent_that_rests_or_dies_lets_nobody_through() -> Result<()> {
    let (mut world, _far) = world("cni agent slow")?;
    let plugin = Plugin { timeout: Some(2), ..world.plugin(A)? };
    let cart = world.bare_pod("shop", "cart", A)?;
    // The controller does not know the pod: the agent cannot say anything.
    let added = plugin.call("ADD", &cart, "c1")?;
    assert_eq!(added.code(), Some(11), "{added:?}");
    assert!(added.message().contains("names no such pod"), "{added:?}");
    assert!(added.took < Duration::from_secs(10), "{added:?}");

    // Stopped: nobody answers.
    let agent = std::sync::Arc::clone(&world.agent(A)?.process);
    agent.hold_still(true)?;
    let (added, deleted) = (plugin.call("ADD", &cart, "c2")?, plugin.call("DEL", &cart, "c2")?);
    agent.hold_still(false)?;
    assert_eq!(added.code(), Some(11), "{added:?}");
    assert!(added.message().contains("did not answer within"), "{added:?}");
    assert!(deleted.succeeded, "{deleted:?}");

    // Killed while the plugin waits.
    let patient = world.plugin(A)?;
    let waiting = patient.begin("ADD", &cart, "c3")?;
    std::thread::sleep(Duration::from_millis(300));
    world.kill_agent(A)?;
    let added = waiting.ended()?;
    assert_eq!(added.code(), Some(11), "{added:?}");
    assert!(added.took < Duration::from_secs(10), "{added:?}");

    // The plugin killed: the kubelet deletes what it began and begins anew.
    world.restart_agent(A)?;
    let mut waiting = patient.begin("ADD", &cart, "c4")?;
    std::thread::sleep(Duration::from_millis(300));
    assert!(waiting.runs()?);
    waiting.kill()?;
    assert!(patient.call("DEL", &cart, "c4")?.succeeded);
    let waiting = patient.begin("ADD", &cart, "c5")?;
    world.schedule(&cart)?;
    let added = waiting.ended()?;
    assert!(added.succeeded, "{added:?}");
    assert_eq!(world.redirected(A)?, [cart.full_name()].into());
    Ok(())
}

#[test]
fn a_replaced_agent_answers_what_the_old_one_was_asked() -> Result<()> {
    let (mut world, far) = world("cni replaced")?;
    let plugin = world.plugin(A)?;
    let cart = world.bare_pod("shop", "cart", A)?;
    let waiting = plugin.begin("ADD", &cart, "c1")?;
    std::thread::sleep(Duration::from_millis(300));
    let old = world.replace_agent(A)?;
    world.schedule(&cart)?;
    let added = waiting.ended()?;
    assert!(added.succeeded, "{added:?}");
    assert_eq!(cart.say(far.at(7001), "")?.seen()?.accepted.ip(), cart.ip);
    // The old one took nothing away.
    old.process.terminate(Patience::LONG)?;
    assert!(plugin.program.exists() && plugin.call("CHECK", &cart, "c1")?.succeeded);
    // And the new one knows which container it is.
    assert!(plugin.call("DEL", &cart, "c0")?.succeeded);
    assert_eq!(world.redirected(A)?.len(), 1);
    assert!(plugin.call("DEL", &cart, "c1")?.succeeded);
    assert_eq!(world.node(A).hooked_pods()?, 0);
    Ok(())
}

#[test]
fn what_vanishes_is_forgotten() -> Result<()> {
    let (mut world, _far) = world("cni vanished")?;
    let plugin = world.plugin(A)?;
    let pods = ["one", "two", "three"].map(|name| world.bare_pod("shop", name, A));
    let [one, two, three] = pods;
    let (one, two, three) = (one?, two?, three?);
    for (pod, container) in [(&one, "c1"), (&two, "c2"), (&three, "c3")] {
        world.schedule(pod)?;
        assert!(plugin.call("ADD", pod, container)?.succeeded);
    }
    assert_eq!(world.node(A).hooked_pods()?, 3);
    // Its namespace is gone before DEL.
    world.vanish(&one)?;
    world.manifests.remove("pod-shop-one")?;
    let del = plugin.call("DEL", &one, "c1")?;
    assert!(del.succeeded, "{del:?}");
    assert_eq!(world.node(A).hooked_pods()?, 2);
    // Nobody says DEL.
    world.vanish(&two)?;
    world.manifests.remove("pod-shop-two")?;
    eventually("the agent forgets it by itself", Patience::LONG, || {
        Ok((world.node(A).hooked_pods()? == 1).then_some(()))
    })?;
    // The runtime says which containers there are.
    for (attachments, left) in [(json!([{ "containerID": "c3", "ifname": "eth0" }]), 1), (json!([]), 0)] {
        let mut configuration = plugin.configuration()?;
        configuration["cni.dev/valid-attachments"] = attachments;
        let gc = plugin.begin_with("GC", &three, "", &configuration.to_string(), &[])?.ended()?;
        assert!(gc.succeeded, "{gc:?}");
        assert_eq!(world.node(A).hooked_pods()?, left);
    }
    Ok(())
}

#[test]
fn nonsense_is_refused_by_name() -> Result<()> {
    let (mut world, _far) = world("cni nonsense")?;
    let plugin = world.plugin(A)?;
    let cart = world.bare_pod("shop", "cart", A)?;
    let mut good = plugin.configuration()?;
    good["prevResult"] = Plugin::result(&cart);
    let mut alone = good.clone();
    alone["prevResult"] = json!(null);
    let good = good.to_string();
    let alone = alone.to_string();
    let huge = format!("{good}{}", " ".repeat(5 << 20));
    let pipe = world.root().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)?;
    let pipe = pipe.display().to_string();
    for (input, environment, code, says) in [
        ("", ("X", ""), 6, "no JSON"),
        (&good[..40], ("X", ""), 6, "no JSON"),
        (alone.as_str(), ("X", ""), 7, "prevResult"),
        (good.as_str(), ("CNI_ARGS", "K8S_POD_NAMESPACE"), 4, "KEY=VALUE"),
        (good.as_str(), ("CNI_ARGS", ""), 4, "K8S_POD_NAMESPACE"),
        (good.as_str(), ("CNI_NETNS", "/run/netns/nm-none"), 4, "CNI_NETNS"),
        (good.as_str(), ("CNI_COMMAND", "ADDD"), 4, "CNI_COMMAND"),
        // The node's own namespace, and a file that is none.
        (good.as_str(), ("CNI_NETNS", "/proc/self/ns/net"), 11, ""),
        (good.as_str(), ("CNI_NETNS", "/dev/null"), 4, "CNI_NETNS"),
        (good.as_str(), ("CNI_NETNS", "/proc/self/ns/mnt"), 100, "network namespace"),
        // Opening it would wait for somebody who writes.
        (good.as_str(), ("CNI_NETNS", pipe.as_str()), 4, "CNI_NETNS"),
        (huge.as_str(), ("X", ""), 5, "standard input"),
    ] {
        let environment: &[_] = if environment.0 == "X" { &[] } else { &[environment] };
        let timed = Plugin { timeout: Some(1), conf_dir: plugin.conf_dir.clone(), program: plugin.program.clone() };
        let input = match input == good {
            true => {
                let mut configuration = timed.configuration()?;
                configuration["prevResult"] = Plugin::result(&cart);
                configuration.to_string()
            }
            false => input.to_owned(),
        };
        let called = timed.begin_with("ADD", &cart, "c1", &input, environment)?.ended()?;
        assert_eq!(called.code(), Some(code), "{environment:?} {input}: {called:?}");
        assert!(called.message().contains(says), "{called:?}");
    }
    let version = plugin.begin_with("VERSION", &cart, "", "{}", &[])?.ended()?;
    assert_eq!(version.printed["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    assert_eq!(world.node(A).hooked_pods()?, 0);
    Ok(())
}
