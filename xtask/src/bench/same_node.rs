//! `cargo xtask bench same-node`: two pods of one node, in the mesh and outside it, turn by turn. How near the mesh
//! comes to no mesh there, what a first connection costs, and how many connections go straight from pod to pod.

pub mod goals;

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    changes, cold,
    figures::{Sample, Samples, Side},
    items::{self, Item, Work, measured},
    revoked::{self, REVOKED},
    stage::{ECHO, Stage},
};

pub const CHANGES: &str = "changes";

const ITEMS: &[Item] = &[
    Item { name: "ping-pong", near: true, work: Work::PingPong },
    Item { name: "bulk", near: true, work: Work::Bulk { connections: 1 } },
    Item { name: "connects", near: true, work: Work::Connects { threads: 16 } },
    Item { name: "serial", near: true, work: Work::Connects { threads: 1 } },
    Item { name: "first", near: true, work: Work::First },
    Item { name: "at-once", near: true, work: Work::AtOnce { connections: 1000 } },
];
/// Every port but one: what is decided still depends on the port, and so must be decided for each.
const PERMITTED: &str = "notPorts: [\"22\"]";
/// So that the first decision is not among what is measured.
const WARM_UP: &str = "100";
const LIMIT: f64 = 30.0;

pub fn names() -> impl Iterator<Item = &'static str> {
    ITEMS.iter().map(|item| item.name).chain([REVOKED, CHANGES])
}

pub fn measure(
    policies: usize,
    samples: &mut Samples,
    rounds: u32,
    seconds: f64,
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    let stage = Stage::build(policies, Some(PERMITTED))?;
    let _servers = cold::serve(&stage, rounds)?;
    for round in 0..rounds {
        items::one_round(&stage, samples, ITEMS.iter().filter(|item| wanted(item.name)), (round, rounds), seconds)?;
        if wanted(REVOKED) {
            revoked::measure(&stage, samples, (round, rounds)).context(REVOKED)?;
        }
        if wanted(CHANGES) {
            while_pods_change(&stage, samples, (round, rounds), seconds)?;
        }
    }
    Ok(())
}

/// Connects in the mesh while pods elsewhere change: what of them still goes straight to the pod.
fn while_pods_change(stage: &Stage, samples: &mut Samples, (round, rounds): (u32, u32), seconds: f64) -> Result<()> {
    let (side, to, length) = (Side::Mesh, stage.target(Side::Mesh, true, ECHO).to_string(), seconds.to_string());
    let connects = |more: &[&str]| {
        stage.client(side, &[&["connects", "--to", &to, "--threads", "16"], more].concat(), seconds + LIMIT)
    };
    let work = || {
        connects(&["--count", WARM_UP])?;
        measured(stage, side, || connects(&["--seconds", &length]))
    };
    let (mut figures, rate) = changes::meanwhile(stage, work).context(CHANGES)?;
    figures["changes_per_second"] = json!(rate);
    let share = goals::direct(&figures).unwrap_or_default();
    eprintln!(
        "bench: round {}/{rounds} {CHANGES:<15}  {} {share:.1} % direct, {rate:.1} changes/s",
        round + 1,
        side.name()
    );
    samples.add(Sample { item: CHANGES, side, round, figures });
    Ok(())
}
