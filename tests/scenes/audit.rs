//! Somebody takes the hooks away behind the agent's back: it finds out, says so, and puts them back.

use std::fs;

use anyhow::{Context, Result};
use mesh_tests::{A, B, Families, Patience, Pod, World, eventually};
use serde_json::Value;

/// On the node's own loopback device.
const METRICS: &str = "127.0.0.1:15020";

fn state(world: &World, pod: &Pod) -> Result<Value> {
    let status = world.status(A)?;
    let pods = status["pods"].as_array().context("no pods")?;
    pods.iter().find(|state| state["pod"] == pod.name.as_str()).cloned().context("the pod is not listed")
}

fn faults(world: &World, check: &str) -> Result<u64> {
    let text = world.node(A).host.curl(&format!("http://{METRICS}/metrics"))?;
    let prefix = format!("mesh_audit_faults_total{{check=\"{check}\"}} ");
    Ok(text.lines().find_map(|line| line.strip_prefix(&prefix)).map_or(Ok(0), str::parse)?)
}

#[test]
fn what_is_torn_out_is_found_told_and_mended() -> Result<()> {
    let mut world = World::new("audit")?;
    world.agent_options.extend(["--audit-interval=1".to_owned(), format!("--metrics={METRICS}")]);
    let client = world.pod("shop", "client", A)?;
    let near = world.pod("shop", "near", A)?;
    let far = world.pod("shop", "far", B)?;
    world.start()?;
    world.mesh("shop")?;
    for server in [&near, &far] {
        server.serve("peer", 7001)?;
    }
    eventually("both pods are proven", Patience::LONG, || {
        let proven = |pod| Ok::<_, anyhow::Error>(state(&world, pod)?["proven"].is_string());
        Ok((proven(&client)? && proven(&near)?).then_some(()))
    })?;
    assert_eq!(state(&world, &near)?["fault"], "");

    // The pod's own link: what was pinned goes, and with it the program.
    for link in world.node(A).links("ingress-")? {
        fs::remove_file(link)?;
    }
    let told = eventually("the fault is told", Patience::SHORT, || {
        let state = state(&world, &near)?;
        Ok(state["fault"].as_str().filter(|fault| fault.contains("sk_lookup")).map(str::to_owned))
    })?;
    assert!(told.contains("its sk_lookup link is not pinned") && told.contains("does not reach the agent"), "{told}");
    eventually("it is mended", Patience::SHORT, || {
        Ok((state(&world, &near)?["fault"] == "" && world.redirected(A)?.len() == 2).then_some(()))
    })?;
    assert!(faults(&world, "link")? >= 2 && faults(&world, "listener")? >= 2);
    let report = client.say(near.at(7001), "")?;
    assert_eq!(report.seen()?.accepted.ip(), client.ip);
    world.flow(A, "through the mended hooks", |flow| flow.security == "kernel_attested")?;

    // A hook that all pods share.
    for link in world.node(A).links("connect4")? {
        fs::remove_file(link)?;
    }
    eventually("the fault of the shared hook is counted", Patience::SHORT, || {
        Ok((faults(&world, "hooks")? >= 1).then_some(()))
    })?;
    eventually("it is pinned again", Patience::SHORT, || {
        Ok((world.node(A).links("connect4")?.len() == 1).then_some(()))
    })?;
    eventually("the node is ready", Patience::SHORT, || Ok((world.status(A)?["not_ready"] == "").then_some(())))?;
    let report = client.say(far.at(7001), "")?;
    assert_eq!(report.seen()?.accepted.ip(), client.ip);
    world.flow(A, "by the mended hook", |flow| flow.path == "tunnel" && flow.security == "mutual_tls")?;

    // The audit's own connections are nobody's flows.
    let flows = world.flows(A)?;
    assert!(!flows.iter().any(|flow| flow.source.address.starts_with("127.")), "{flows:?}");
    assert!(!flows.iter().any(|flow| flow.reason == "ORIGINAL_DESTINATION_UNKNOWN"), "{flows:?}");
    Ok(())
}

#[test]
fn the_kubelets_hooks_are_found_and_mended_too() -> Result<()> {
    let mut world = World::new("audit of probes")?;
    world.agent_options.extend(["--audit-interval=1".to_owned(), format!("--metrics={METRICS}")]);
    let server = world.pod("shop", "server", A)?;
    let kubelet = world.node(A).kubelet()?;
    world.probe(&server, 7001)?;
    server.serve("peer", 7001)?;
    world.start()?;
    world.apply(
        "strict",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: { name: default, namespace: shop }\nspec: { mtls: { mode: STRICT } }\n",
    )?;
    world.mesh("shop")?;
    let passes = || {
        eventually("a probe passes", Patience::LONG, || {
            Ok(kubelet.say(server.at(7001), "")?.seen().is_ok().then_some(()))
        })
    };
    passes()?;
    assert_eq!(faults(&world, "kubelet")?, 0, "that it comes is no fault");
    for link in world.node(A).links("probe_connect4")? {
        fs::remove_file(link)?;
    }
    eventually("the fault is counted", Patience::LONG, || Ok((faults(&world, "kubelet")? >= 1).then_some(())))?;
    passes()?;
    assert_eq!(world.node(A).links("probe_")?.len(), 3);
    eventually("the node is ready", Patience::SHORT, || Ok((world.status(A)?["not_ready"] == "").then_some(())))
}

#[test]
fn a_namespace_that_lets_neighbours_in_is_found() -> Result<()> {
    let mut world = World::new("audit of namespaces")?;
    world.agent_options.extend(["--audit-interval=1".to_owned(), format!("--metrics={METRICS}")]);
    let pod = world.pod_with("shop", "pod", "pod", A, Families::Dual)?;
    world.start()?;
    world.mesh("shop")?;
    let fault_is = |what: &str, fits: &dyn Fn(&str) -> bool| {
        eventually(what, Patience::LONG, || Ok(state(&world, &pod)?["fault"].as_str().is_some_and(fits).then_some(())))
    };
    fault_is("nothing is wrong", &|fault| fault.is_empty())?;
    pod.set("net/ipv4/conf/eth0/route_localnet", "1")?;
    fault_is("the sysctl is told", &|fault| fault.contains("net.ipv4.conf.eth0.route_localnet is set"))?;
    pod.set("net/ipv4/conf/eth0/route_localnet", "0")?;
    fault_is("nothing is wrong again", &|fault| fault.is_empty())?;

    // Redirection over IPv6 is proven on its own.
    pod.nft(
        "add table ip6 broken; add chain ip6 broken in { type filter hook input priority 0; }; \
         add rule ip6 broken in iifname lo tcp dport 16384-65535 reject with tcp reset",
    )?;
    fault_is("IPv6 is told", &|fault| fault.contains("its redirect address [::1]:") && !fault.contains("127.64"))?;
    pod.nft("delete table ip6 broken")?;
    fault_is("nothing is wrong at last", &|fault| fault.is_empty())?;
    assert!(faults(&world, "namespace")? >= 1 && faults(&world, "listener")? >= 1);
    Ok(())
}
