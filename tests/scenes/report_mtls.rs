//! `meshctl report mtls`: what it says of STRICT before is what STRICT does after.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, B, Patience, World, eventually, programs_dir};
use serde_json::Value;

use crate::cast::Cast;

const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                      metadata: { name: default, namespace: shop }\nspec: { mtls: { mode: STRICT } }\n";

/// Runs `meshctl <whom> <socket> <arguments> -o json`: the exit code and what it printed.
pub fn meshctl(whom: &str, socket: &Path, arguments: &[&str]) -> Result<(i32, Vec<Value>)> {
    let mut command = Command::new(programs_dir()?.join("meshctl"));
    command.arg(whom).arg(socket).args(arguments).args(["-o", "json"]);
    let output = command.output().context("run meshctl")?;
    let values = serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<Vec<Value>, _>>();
    let code = output.status.code().context("meshctl was killed")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(code != 2, "meshctl {arguments:?}: {errors}");
    Ok((code, values.with_context(|| format!("meshctl {arguments:?}: {errors}"))?))
}

fn report(world: &World) -> Result<(i32, Vec<Value>)> {
    meshctl("--controller", &world.controller()?.admin_socket(), &["report", "mtls", "-n", "shop"])
}

fn of<'a>(records: &'a [Value], kind: &str, name: &str, value: &str) -> Result<&'a Value> {
    let found = records.iter().find(|record| record["kind"] == kind && record[name] == value);
    found.with_context(|| format!("no {kind} with {name} {value} in {records:?}"))
}

#[test]
fn the_report_names_whom_strict_refuses() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("report mtls")?;
    let stranger = world.pod("legacy", "stranger", A)?;
    let (code, records) = report(&world)?;
    assert_eq!((code, &of(&records, "namespace", "namespace", "shop")?["verdict"]), (3, &"unknown".into()));
    for node in [A, B] {
        let since = &of(&records, "window", "node", node.name())?["since"];
        assert_eq!(*since, world.status(node)?["started"], "{records:?}");
    }

    for server in [&near, &far] {
        server.serve("echo", 7000)?;
        assert!(client.say(server.at(7000), "with an identity")?.echoed());
    }
    assert!(stranger.say(far.at(7000), "without")?.echoed());
    let host = world.node(A).host.clone();
    assert!(host.say(near.at(7000), "from the node")?.echoed());
    let records = eventually("all of it is seen", Patience::LONG, || {
        let (code, records) = report(&world)?;
        let count = |workload: &str, name: &str| -> Result<u64> {
            Ok(of(&records, "workload", "workload", workload)?[name].as_u64().unwrap_or_default())
        };
        let seen = count("near", "kernel_attested")? == 1
            && count("near", "plaintext")? == 1
            && count("far", "mutual_tls")? == 1
            && count("far", "plaintext")? == 1;
        Ok((code == 1 && seen).then_some(records))
    })?;
    let refused =
        |workload: &str| Ok::<_, anyhow::Error>(&of(&records, "workload", "workload", workload)?["would_be_refused"]);
    assert_eq!(*refused("far")?, serde_json::json!(["legacy/stranger"]));
    assert_eq!(refused("near")?.as_array().map(Vec::len), Some(1), "{records:?}");
    let of_host = of(&records, "plaintext", "origin", "node")?;
    assert_eq!((&of_host["destination"]["workload"], &of_host["port"]), (&"near".into(), &7000.into()));
    let of_stranger = of(&records, "plaintext", "origin", "unmeshed_pod")?;
    assert_eq!((&of_stranger["served"], &of_stranger["under_strict"]), (&1.into(), &"refused".into()));
    assert!(of_stranger["last"].is_string() && of_stranger["bytes_sent"] == "without".len(), "{of_stranger}");
    let namespace = of(&records, "namespace", "namespace", "shop")?;
    assert_eq!((&namespace["verdict"], &namespace["clients_refused"]), (&"not_ready".into(), &2.into()));

    // It comes as it was said.
    world.apply("strict", STRICT)?;
    assert!(stranger.say(far.at(7000), "without")?.turned_away());
    assert!(host.say(near.at(7000), "from the node")?.turned_away());
    for server in [&near, &far] {
        assert!(client.say(server.at(7000), "with an identity")?.echoed());
    }
    let (code, records) = report(&world)?;
    assert_eq!((code, &of(&records, "namespace", "namespace", "shop")?["verdict"]), (0, &"already_strict".into()));
    assert_eq!(of(&records, "plaintext", "origin", "unmeshed_pod")?["under_strict"], "refused_already");
    assert_eq!(of(&records, "workload", "workload", "far")?["strict_by"], serde_json::json!(["shop/default"]));

    // Who is not asked may have seen something.
    world.kill_agent(B)?;
    let records = eventually("node b is missed", Patience::LONG, || {
        let (code, records) = report(&world)?;
        Ok((code == 3).then_some(records))
    })?;
    of(&records, "missing", "node", "b")?;
    Ok(())
}

#[test]
fn a_probe_of_a_declared_port_makes_nobody_unready() -> Result<()> {
    let Cast { mut world, client, near, far: _ } = Cast::waiting("report probes")?;
    let kubelet = world.node(A).kubelet()?;
    for port in [7000, 7001] {
        near.serve("echo", port)?;
    }
    world.probe(&near, 7000)?;
    world.mesh("shop")?;
    // The agent looks for the kubelet's cgroup every two seconds, and says nothing of it.
    let known = || -> Result<bool> {
        let before = world.flows(A)?.len();
        assert!(kubelet.say(near.at(7000), "are you ready?")?.echoed());
        std::thread::sleep(Duration::from_millis(300));
        Ok(world.flows(A)?.len() == before)
    };
    eventually("probes pass the agent by", Patience::LONG, || Ok(known()?.then_some(())))?;
    let plaintext = || -> Result<u64> {
        let (_, records) = report(&world)?;
        Ok(of(&records, "workload", "workload", "near")?["plaintext"].as_u64().unwrap_or_default())
    };
    let before = plaintext()?;
    assert!(kubelet.say(near.at(7000), "are you ready?")?.echoed());
    assert!(client.say(near.at(7000), "hello")?.echoed());
    world.flow(A, "of the client", |flow| flow.source.pod == client.full_name())?;
    assert_eq!(plaintext()?, before, "neither the probe nor the client is plaintext");
    // At any other port the kubelet is a client without identity, as STRICT will say.
    assert!(kubelet.say(near.at(7001), "are you ready?")?.echoed());
    eventually("it is seen", Patience::LONG, || Ok((plaintext()? == before + 1).then_some(())))?;
    let (code, records) = report(&world)?;
    let at = |port: u16| records.iter().find(|record| record["kind"] == "plaintext" && record["port"] == port);
    let pair = at(7001).with_context(|| format!("no pair in {records:?}"))?;
    assert_eq!((code, &pair["origin"], &pair["under_strict"]), (1, &"node".into(), &"refused".into()));
    Ok(())
}
