//! What is measured once: memory, a long row of connections, joining.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, B, Patience, Pod};
use serde_json::{Value, json};

use super::{
    figures::{Sample, Samples, Side},
    items::measured,
    meter,
    stage::{self, ECHO, Stage},
};

pub const NAMES: [&str; 6] = ["idle", "held", "closed", "churn", "near-churn", "join"];

/// Connections that are held at once, and closed in a row.
const HELD: usize = 1000;
const CLOSED: usize = 20_000;
const ROW: usize = 100_000;
/// Pods that join at once, on one node.
const CROWD: usize = 110;
/// What is freed is freed soon; allocators return it a little later.
const REST: Duration = Duration::from_secs(3);
const LIMIT: f64 = 300.0;

/// Of agents that have seen no load yet, then with connections held, then after many that were closed.
pub fn memory(stage: &Stage, samples: &mut Samples, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let mut add = |item, figures: Value| {
        eprintln!("bench: {item:<27}{figures}");
        samples.add(Sample { item, side: Side::Mesh, round: 0, figures });
    };
    let fresh = meter::memory(&stage.world)?;
    if wanted("idle") {
        add("idle", json!({ "fresh": fresh }));
    }
    if wanted("held") {
        let client = &stage.cast(Side::Mesh).client;
        let to = stage.target(Side::Mesh, false, ECHO).to_string();
        let words = ["bench", "hold", "--to", &to, "--connections", &HELD.to_string()].map(str::to_owned);
        let holding = client.start("hold", &stage::app()?, &words)?;
        holding.says("holding", Patience::LONG.within(Duration::from_secs(60)))?;
        thread::sleep(REST);
        let with = meter::memory(&stage.world)?;
        holding.kill()?;
        thread::sleep(REST);
        let each = [0, 1].map(|agent| (with[agent] - fresh[agent]) / HELD as f64);
        add("held", json!({ "before": fresh, "with": with, "each": each }));
    }
    if wanted("closed") {
        let before = meter::memory(&stage.world)?;
        let to = stage.target(Side::Mesh, false, ECHO).to_string();
        let words = ["connects", "--to", &to, "--threads", "16", "--count", &CLOSED.to_string()];
        let done = stage.client(Side::Mesh, &words, LIMIT)?;
        thread::sleep(REST);
        let after = meter::memory(&stage.world)?;
        add("closed", json!({ "before": before, "after": after, "errors": done["errors"] }));
    }
    Ok(())
}

/// At the end of everything else.
pub fn loaded(stage: &Stage, samples: &mut Samples, wanted: impl Fn(&str) -> bool) -> Result<()> {
    if wanted("idle") {
        thread::sleep(REST);
        let figures = json!({ "loaded": meter::memory(&stage.world)? });
        samples.add(Sample { item: "idle", side: Side::Mesh, round: 1, figures });
    }
    Ok(())
}

/// A row of connections, and whether the last are as fast as the first.
pub fn churn(stage: &Stage, samples: &mut Samples, wanted: impl Fn(&str) -> bool) -> Result<()> {
    for (item, near) in [("churn", false), ("near-churn", true)] {
        if !wanted(item) {
            continue;
        }
        for side in [Side::Plain, Side::Mesh] {
            let to = stage.target(side, near, ECHO).to_string();
            let words = ["connects", "--to", &to, "--threads", "16", "--count", &ROW.to_string()];
            let figures = measured(stage, side, || stage.client(side, &words, LIMIT))
                .with_context(|| format!("{item}, {}", side.name()))?;
            eprintln!("bench: {item:<27}{} rates {}, errors {}", side.name(), figures["rates"], figures["errors"]);
            samples.add(Sample { item, side, round: 0, figures });
        }
    }
    Ok(())
}

/// From the label to the first answer through mutual TLS: of one pod, and of the last of many. Namespaces and programs
/// are there before the clock starts.
pub fn joining(stage: &mut Stage, samples: &mut Samples, wanted: impl Fn(&str) -> bool) -> Result<()> {
    if !wanted("join") {
        return Ok(());
    }
    eprintln!("bench: making {CROWD} pods");
    let (mut crowd, mut servers) = (Vec::new(), Vec::new());
    for number in 0..CROWD {
        let pod = stage.world.pod("crowd", &format!("crowd-{number}"), B)?;
        servers.push(stage::serve(&pod)?);
        crowd.push(pod);
    }
    stage.world.settle()?;
    stage.world.label_pod(&crowd[0], Some("mesh"))?;
    let one = joined(stage, &crowd[..1])?;
    stage.world.label_namespace("crowd", Some("mesh"))?;
    let all = joined(stage, &crowd)?;
    let figures = json!({ "one": one, "all": all, "pods": CROWD, "hook_ms": hook_ms(stage)? });
    eprintln!("bench: {:<27}one {one:.3} s, all {CROWD} {all:.3} s", "join");
    samples.add(Sample { item: "join", side: Side::Mesh, round: 0, figures });
    // While the world still stands: killing them is no error of the mesh.
    drop(servers);
    Ok(())
}

/// Seconds from now until each of them has answered the meshed client, whose agent knows it as a peer by then.
fn joined(stage: &Stage, pods: &[Arc<Pod>]) -> Result<f64> {
    let start = Instant::now();
    stage.world.wait_for(pods, true)?;
    let to = pods.iter().map(|pod| pod.at(ECHO).to_string()).collect::<Vec<_>>().join(",");
    stage.client(Side::Mesh, &["each", "--to", &to], 60.0)?;
    let elapsed = start.elapsed().as_secs_f64();
    let flows = stage.world.flows(A)?;
    let tunnelled = |pod: &Arc<Pod>| {
        let full_name = pod.full_name();
        flows.iter().any(|flow| flow.destination.pod == full_name && flow.security == "mutual_tls")
    };
    let missing = pods.iter().filter(|pod| !tunnelled(pod)).count();
    ensure!(missing == 0, "{missing} of {} pods answered, but not through mutual TLS", pods.len());
    Ok(elapsed)
}

/// Milliseconds that hooks, listener and link of each pod took, as the agents log them.
fn hook_ms(stage: &Stage) -> Result<Vec<f64>> {
    let mut found = Vec::new();
    for node in [A, B] {
        let log = stage.world.agent(node)?.process.log()?;
        let values =
            log.split("hook_ms=").skip(1).filter_map(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        found.extend(values);
    }
    Ok(found)
}
