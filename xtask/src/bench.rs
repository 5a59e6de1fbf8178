//! `cargo xtask bench`: what the mesh costs. Ratios to no mesh, the two sides interleaved in one run; CPU of the agents
//! from their cgroups. Figures of a machine that others use too are noisy, so nothing here passes or fails.

mod figures;
mod goals;
mod items;
mod lasting;
mod machine;
mod meter;
mod stage;

use std::{fs, path::Path, path::PathBuf, thread};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    setup::{self, Ready, Scope},
    shell,
};
use figures::Samples;
use stage::Stage;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// TCP: bytes, messages, connections, memory, joining
    L4(Arguments),
}

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Rounds of the items that are repeated
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Write every raw figure to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only these items, as in --only bulk-1,ping-pong; any other word lists them
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// AuthorizationPolicies that are there while it measures
    #[arg(long, default_value_t = 1000)]
    policies: usize,
    /// Build nothing and take the programs of this folder: to compare two builds by turns
    #[arg(long)]
    programs: Option<PathBuf>,
}

/// # Errors
/// It could not measure: not root, a build that fails, an item that does not exist, a load that ended with an error.
pub fn run(root: &Path, command: &Command) -> Result<()> {
    let Command::L4(arguments) = command;
    ensure!(shell::is_root(), "bench needs root: it makes network namespaces and loads eBPF");
    check_names(&arguments.only)?;
    let ready = setup::run(root, Scope::Benchmarks)?;
    mesh_tests::take_programs_from(match &arguments.programs {
        Some(folder) => folder.clone(),
        None => {
            build(&ready, root)?;
            root.join("target/release")
        }
    });

    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("listen for signals")?;
    // Every wait of the harness ends with an error then, and the world is dropped in order.
    thread::spawn(move || signals.forever().for_each(|_| mesh_tests::interrupt()));
    let mut samples = Samples::default();
    let outcome = measure(arguments, &mut samples);
    if mesh_tests::interrupted() {
        bail!("interrupted; everything was removed");
    }
    // What was measured before something failed is still worth reading.
    goals::print(&samples);
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&json!({
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "policies": arguments.policies,
            "samples": samples.all(),
        }))?;
        fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    }
    outcome
}

fn check_names(only: &[String]) -> Result<()> {
    let known: Vec<&str> = items::names().chain(lasting::NAMES).collect();
    match only.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => bail!("--only {name}: no such item; there are {}", known.join(", ")),
        None => Ok(()),
    }
}

fn build(ready: &Ready, root: &Path) -> Result<()> {
    let mut cargo = ready.cargo(root);
    cargo.args(["build", "--release", "--locked"]);
    for package in mesh_tests::BUILT {
        cargo.args(["-p", package]);
    }
    let status = cargo.status().context("run cargo build")?;
    ensure!(status.success(), "cargo build --release: {status}");
    Ok(())
}

fn measure(arguments: &Arguments, samples: &mut Samples) -> Result<()> {
    let Arguments { rounds, seconds, json: _, only, policies, programs: _ } = arguments;
    let wanted = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    eprintln!("bench: two nodes, a meshed and an unmeshed set of pods, {policies} policies");
    let mut stage = Stage::build(*policies)?;
    // Memory first: no load has been there yet.
    lasting::memory(&stage, samples, wanted)?;
    items::rounds(&stage, samples, *rounds, *seconds, wanted)?;
    lasting::churn(&stage, samples, wanted)?;
    lasting::loaded(&stage, samples, wanted)?;
    lasting::joining(&mut stage, samples, wanted)
}
