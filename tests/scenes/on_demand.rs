//! A mesh that is larger than what its agents are told of by themselves: whoever dials is told whom.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use mesh_tests::{A, B, Patience, World, eventually};
use serde_json::Value;

const PORT: u16 = 7000;
const PEER: u16 = 7001;

/// The pods that node a's agent knows.
fn known(world: &World) -> Result<BTreeSet<String>> {
    let all = world.ask_agent(A, &["config", "workloads"])?;
    Ok(all.iter().map(|workload| workload["pod"].as_str().unwrap_or_default().to_owned()).collect())
}

fn asked(world: &World) -> Result<Value> {
    Ok(world.status(A)?["addresses_asked"].clone())
}

#[test]
fn who_dials_is_told_whom_and_nothing_leaves_before() -> Result<()> {
    let mut world = World::new("on demand")?;
    world.controller_options = vec!["--on-demand-above=3".to_owned()];
    world.agent_options = vec!["--ask-timeout=1".to_owned()];
    let client = world.pod("shop", "client", A)?;
    let near = world.pod("shop", "near", A)?;
    let far = world.pod("shop", "far", B)?;
    let unasked = world.pod("shop", "unasked", B)?;
    let plain = world.pod("legacy", "plain", B)?;
    for server in [&near, &far, &unasked, &plain] {
        server.serve("echo", PORT)?;
        server.serve("peer", PEER)?;
    }
    world.start()?;
    world.mesh("shop")?;
    assert_eq!((asked(&world)?, known(&world)?), (0.into(), ["client", "near"].map(str::to_owned).into()));

    let capture = world.capture()?;
    assert!(client.say(far.at(PORT), "canary-of-the-first")?.echoed());
    assert!(!capture.contains(b"canary-of-the-first")?, "the first connection left before it was known to whom");
    let flow = world.flow(A, "to far", |flow| flow.destination.pod == far.full_name())?;
    assert_eq!(flow.security, "mutual_tls", "{flow:?}");
    assert!(client.say(plain.at(PORT), "canary-to-a-stranger")?.echoed());
    assert!(capture.contains(b"canary-to-a-stranger")?, "who is outside the mesh hears no TLS");
    assert_eq!((asked(&world)?, known(&world)?.contains("unasked")), (2.into(), false));

    // A service comes with all of its workloads, those of other nodes too.
    let service = world.service("shop", "both", 80, PEER, &[&near, &far])?;
    eventually("both serve", Patience::LONG, || {
        let reports = client.dial(service.addr(), &["--text", "who?", "--count", "20"])?;
        let served: BTreeSet<_> = reports.iter().filter_map(|report| Some(report.seen().ok()?.getsockname)).collect();
        Ok((served.len() == 2).then_some(()))
    })?;

    // Without a controller what is known stays; for what is not nobody vouches.
    world.kill_controller()?;
    assert!(client.say(far.at(PORT), "canary-without-a-controller")?.echoed());
    assert!(client.say(plain.at(PORT), "nobody's still")?.echoed());
    let report = client.dial_once(unasked.at(PORT), &["--text", "canary-to-the-unknown", "--timeout", "8"])?;
    ensure!(!report.echoed(), "{report:?}");
    world.flow(A, "that is refused", |flow| flow.reason == "DESTINATION_UNKNOWN")?;
    for canary in [&b"canary-without-a-controller"[..], b"canary-to-the-unknown"] {
        assert!(!capture.contains(canary)?, "plaintext");
    }
    Ok(())
}
