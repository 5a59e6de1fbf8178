//! `cargo xtask bench telemetry`: what it costs to see. The same two nodes and the same load, by turns with agents that
//! tell nothing, that tell what they tell by default, and that also log one in a hundred. Both agents are started anew
//! for every measurement: no side has the older processes, nor always the luckier ones.

mod goals;
mod stage;

use anyhow::{Context, Result, ensure};

use super::{
    figures::{Sample, Samples, Side},
    http::Length,
};
pub use goals::print;
use stage::SeenStage;

/// Requests by rules, on many connections at once.
pub const REQUESTS: &str = "requests";
/// Short connections, a record each.
pub const CONNECTIONS: &str = "connections";
/// Reading metrics of ten thousand series.
pub const SCRAPE: &str = "scrape";
pub const NAMES: [&str; 3] = [REQUESTS, CONNECTIONS, SCRAPE];

const SIDES: [Side; 3] = [Side::Unseen, Side::Mesh, Side::Logged];

pub fn measure(samples: &mut Samples, policies: usize, length: Length, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let Length { rounds, seconds } = length;
    let mut stage = SeenStage::build(policies)?;
    let mut sides = SIDES;
    for round in 0..rounds {
        let loads: Vec<_> = [REQUESTS, CONNECTIONS].into_iter().filter(|item| wanted(item)).collect();
        let mut told = vec![String::new(); loads.len()];
        for side in sides.iter().filter(|_| !loads.is_empty()) {
            stage.begin(*side).with_context(|| format!("agents anew, {}", side.name()))?;
            for (item, told) in loads.iter().zip(&mut told) {
                let figures = stage.load(item, seconds).with_context(|| format!("{item}, {}", side.name()))?;
                let cpu = goals::cpu(&figures).context("no requests or connections")?;
                *told += &format!("  {} {:.0}/s {cpu:.1} us CPU", side.name(), figures["rate"].as_f64().unwrap_or(0.0));
                samples.add(Sample { item, side: *side, round, figures });
            }
        }
        for (item, told) in loads.iter().zip(told) {
            eprintln!("bench: round {}/{rounds} {item:<11}{told}", round + 1);
        }
        // None is always the one that comes after the same other.
        sides.rotate_left(1);
        if round % 3 == 2 {
            sides.reverse();
        }
    }
    if wanted(SCRAPE) {
        stage.begin(Side::Mesh)?;
        stage.many_series()?;
        for round in 0..rounds {
            let figures = stage.scrape()?;
            ensure!(figures["series"].as_u64() >= Some(stage::SERIES), "too few series: {figures}");
            eprintln!("bench: round {}/{rounds} {SCRAPE:<11}  {figures}", round + 1);
            samples.add(Sample { item: SCRAPE, side: Side::Mesh, round, figures });
        }
    }
    Ok(())
}
