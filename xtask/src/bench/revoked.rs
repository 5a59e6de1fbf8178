//! How long direct connections outlive a policy that denies them: from the moment in which it is written to the last of
//! them, the controller's and the agent's part included.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use mesh_tests::{Patience, eventually};
use serde_json::json;

use super::{
    figures::{Sample, Samples, Side},
    stage::{self, ECHO, MESHED, Stage},
};

pub const REVOKED: &str = "revoked";

/// Connections that are denied at once.
const HELD: usize = 200;
const FILE: &str = "revoked";

pub fn measure(stage: &Stage, samples: &mut Samples, (round, rounds): (u32, u32)) -> Result<()> {
    let side = Side::Mesh;
    let to = stage.target(side, true, ECHO).to_string();
    stage.client(side, &["each", "--to", &to], 15.0).context("before the change")?;
    let words = ["bench", "hold", "--to", &to, "--connections", &HELD.to_string()].map(str::to_owned);
    let holding = stage.cast(side).client.start("hold", &stage::app()?, &words)?;
    holding.says("holding", Patience::LONG)?;
    let written = since_1970();
    stage.world.manifests.write(FILE, &denial())?;
    let ended = eventually("all direct connections end", Patience::LONG, || {
        let log = holding.log()?;
        let ended = log.lines().filter_map(|line| line.strip_prefix("ended ")?.split_once(' '));
        let ended: Vec<u128> = ended.filter_map(|(when, _)| when.parse().ok()).collect();
        Ok((ended.len() == HELD).then_some(ended))
    });
    stage.world.manifests.remove(FILE)?;
    let mut took: Vec<u128> = ended?.iter().map(|when| when.saturating_sub(written)).collect();
    took.sort_unstable();
    // In microseconds, as all others.
    let at = |share: usize| took[(HELD * share).div_ceil(100) - 1] * 1000;
    let (p50, p99) = (at(50), at(99));
    eprintln!("bench: round {}/{rounds} {REVOKED:<15}  {} p99 {} ms", round + 1, side.name(), p99 / 1000);
    samples.add(Sample { item: REVOKED, side, round, figures: json!({ "p50": p50 as f64, "p99": p99 as f64 }) });
    let permitted = || Ok(stage.client(side, &["each", "--to", &to], 15.0).is_ok().then_some(()));
    eventually("they are permitted again", Patience::LONG.within(Duration::from_secs(20)), permitted)
}

fn denial() -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: revoked, namespace: {MESHED} }}\n\
         spec: {{ action: DENY, rules: [{{ to: [{{ operation: {{ ports: ['{ECHO}'] }} }}] }}] }}\n"
    )
}

/// Milliseconds.
fn since_1970() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis())
}
