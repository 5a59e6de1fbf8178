//! An agent that cannot prove which node it is gets nothing: no configuration, no certificate, and it says why.

use std::fs;

use anyhow::Result;
use mesh_tests::{A, B, Patience, World, eventually};

#[test]
fn a_wrong_token_gets_nothing() -> Result<()> {
    let mut world = World::new("wrong token")?;
    let client = world.pod("shop", "client", A)?;
    let server = world.pod("shop", "server", B)?;
    server.serve("echo", 7000)?;
    world.start_controller()?;
    world.start_agent(B)?;

    let token = world.root().join("token-a");
    world.controller()?.join_token(A, &token)?;
    let real = fs::read_to_string(&token)?;
    // As long as a real one, and for the right node.
    let real = real.trim();
    let forged = world.root().join("token-forged");
    fs::write(&forged, format!("{}AAAAAAAA", &real[..real.len() - 8]))?;
    fs::set_permissions(&forged, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    world.start_agent_with(A, forged)?;
    world.label_namespace("shop", Some("mesh"))?;
    eventually("the other node goes on", Patience::LONG, || {
        Ok(world.redirected(B)?.contains("shop/server").then_some(()))
    })?;

    // The agent says why, to its log and to whom asks.
    let said = eventually("the agent says why", Patience::LONG, || {
        let log = world.agent(A)?.process.log()?.to_lowercase();
        Ok(log.contains("token").then_some(log))
    })?;
    assert!(said.contains("the join token is not valid"), "{said}");
    let status = world.status(A)?;
    assert_eq!(status["controller_connected"], false, "{status}");
    assert_eq!(status["workloads"].as_u64().unwrap_or_default(), 0, "{status}");
    let certificates = world.ask_agent(A, &["config", "certs"])?;
    assert!(!certificates.iter().any(|certificate| certificate["state"] == "valid"), "{certificates:?}");
    // Nothing of the node was redirected, and its pod is no peer for others.
    assert!(world.redirected(A)?.is_empty());
    let peers = world.ask_agent(B, &["config", "workloads", "-n", "shop"])?;
    let of_client = peers.iter().find(|peer| peer["pod"] == "client").expect("it is a workload");
    assert_ne!(of_client["protocol"].as_str().unwrap_or_default().to_lowercase(), "hbone", "{of_client}");
    assert!(client.say(server.at(7000), "plain as before")?.echoed());
    Ok(())
}
