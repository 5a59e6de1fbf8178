//! Certificates that live ten seconds: renewed at half of that, and nobody notices.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use mesh_tests::{A, B, End, World, asked};

use crate::cast::Cast;

/// Renewals that are waited for, about five seconds each; MESH_TEST_RENEWALS for more.
const RENEWALS: u64 = 1;

#[test]
fn a_certificate_of_ten_seconds_is_renewed_without_an_error() -> Result<()> {
    let mut world = World::new("short lived")?;
    world.agent_options.push("--certificate-ttl=10".to_owned());
    let Cast { mut world, client, far, .. } = Cast::in_world(world)?;
    far.serve("echo", 7000)?;
    world.mesh("shop")?;

    let held = client.hold(far.at(7000))?;
    let mut serials = BTreeSet::new();
    let (begin, mut talked) = (Instant::now(), 0);
    while serials.len() as u64 <= asked("MESH_TEST_RENEWALS").unwrap_or(RENEWALS) {
        ensure!(begin.elapsed() < Duration::from_secs(120), "{} certificates in two minutes", serials.len());
        let answer = client.push(far.at(7000), 10_000)?;
        ensure!(answer.echoed(), "after {talked}: {answer:?}");
        talked += 1;
        for line in world.ask_agent(B, &["config", "certs"])? {
            let is_far = line["identity"].as_str().is_some_and(|identity| identity.ends_with("/sa/far"));
            if is_far && let Some(serial) = line["serial"].as_str() {
                ensure!(line["state"] == "valid", "{line}");
                serials.insert(serial.to_owned());
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(talked > 10, "{talked}");
    // With enough renewals older than every certificate that it began with.
    ensure!(held.is_open()?);
    let held = held.finish()?;
    ensure!(held.end == End::Eof && held.received == held.sent, "{held:?}");
    for node in [A, B] {
        let failed: Vec<_> = world.flows(node)?.into_iter().filter(|flow| flow.verdict != "forwarded").collect();
        ensure!(failed.is_empty(), "{failed:?}");
        let log = world.agent(node)?.process.log()?;
        ensure!(!log.contains("renew: no certificate"), "{log}");
    }
    Ok(())
}
