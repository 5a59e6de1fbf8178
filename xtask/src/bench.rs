//! `cargo xtask bench`: what the mesh costs. Ratios to no mesh, the two sides interleaved in one run; CPU of the agents
//! from their cgroups. Figures of a machine that others use too are noisy, so nothing here passes or fails.

mod changes;
mod cluster;
mod cold;
mod figures;
mod goals;
mod http;
mod items;
mod lasting;
mod machine;
mod meter;
mod revoked;
mod same_node;
mod stage;
mod table;
mod telemetry;

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
    /// Two pods of one node: messages, bytes, connections, first ones too, and how many go straight from pod to pod
    SameNode(Arguments),
    /// HTTP between two nodes: with rules for the service, as bytes, without a mesh, and by a pair of Envoys. What a
    /// match of a route alone costs says `cargo bench -p mesh-common --features route`
    Http(Http),
    /// The controller on a cluster of 1,000 services and 2,000 pods, and how soon agents hear of a change (MESH_KUBE)
    Cluster(Arguments),
    /// What it costs to see: HTTP by rules and connections between two nodes, by agents that tell nothing, that tell
    /// what they do by default, and that also log 1 %; and a scrape of 10,000 series
    Telemetry(Arguments),
}

#[derive(Debug, clap::Args)]
pub struct Http {
    #[command(flatten)]
    arguments: Arguments,
    /// Measure these as well, in the same rounds; one that cannot be had is left out
    #[arg(long, value_delimiter = ',')]
    against: Vec<http::Against>,
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
    /// Only these items, as in --only ping-pong,connects; any other word lists them
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
    let arguments = command.arguments();
    ensure!(shell::is_root(), "bench needs root: it makes network namespaces and loads eBPF");
    command.check()?;
    let ready = setup::run(root, command.scope())?;
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
    let outcome = command.measure(root, &mut samples);
    if mesh_tests::interrupted() {
        bail!("interrupted; everything was removed");
    }
    // What was measured before something failed is still worth reading.
    command.print(&samples);
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&json!({
            "bench": command.name(),
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "policies": arguments.policies,
            "samples": samples.all(),
        }))?;
        fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    }
    outcome
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

impl Command {
    fn arguments(&self) -> &Arguments {
        match self {
            Self::L4(arguments) | Self::SameNode(arguments) | Self::Cluster(arguments) | Self::Telemetry(arguments) => {
                arguments
            }
            Self::Http(Http { arguments, against: _ }) => arguments,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::L4(_) => "l4",
            Self::SameNode(_) => "same-node",
            Self::Http(_) => "http",
            Self::Cluster(_) => "cluster",
            Self::Telemetry(_) => "telemetry",
        }
    }

    /// Only one of them needs a program of its own.
    fn scope(&self) -> Scope {
        match self {
            Self::L4(_) => Scope::Benchmarks,
            Self::SameNode(_) | Self::Http(_) | Self::Cluster(_) | Self::Telemetry(_) => Scope::Everything,
        }
    }

    /// What the arguments ask for exists.
    fn check(&self) -> Result<()> {
        let arguments = self.arguments();
        let known: Vec<&str> = match self {
            Self::L4(_) => items::ITEMS.iter().map(|item| item.name).chain(lasting::NAMES).collect(),
            Self::SameNode(_) => same_node::names().collect(),
            Self::Http(_) => http::NAMES.to_vec(),
            Self::Cluster(_) => cluster::NAMES.to_vec(),
            Self::Telemetry(_) => telemetry::NAMES.to_vec(),
        };
        if let Some(name) = arguments.only.iter().find(|name| !known.contains(&name.as_str())) {
            bail!("--only {name}: no such item; there are {}", known.join(", "));
        }
        let most = cold::ROUNDS;
        if matches!(self, Self::SameNode(_)) && arguments.rounds > most {
            bail!("--rounds {}: {most} at most, each needs ports that nobody dialled before", arguments.rounds);
        }
        Ok(())
    }

    fn measure(&self, root: &Path, samples: &mut Samples) -> Result<()> {
        let Arguments { rounds, seconds, json: _, only, policies, programs: _ } = self.arguments();
        let wanted = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
        if let Self::Cluster(_) = self {
            return cluster::measure(samples, *seconds, wanted);
        }
        let length = http::Length { rounds: *rounds, seconds: *seconds };
        if let Self::Telemetry(_) = self {
            eprintln!("bench: two nodes, a meshed client and its server, {policies} policies");
            return telemetry::measure(samples, *policies, length, wanted);
        }
        eprintln!("bench: two nodes, a meshed and an unmeshed set of pods, {policies} policies");
        if let Self::Http(Http { arguments: _, against }) = self {
            return http::measure(root, samples, against, *policies, length, wanted);
        }
        if let Self::SameNode(_) = self {
            return same_node::measure(*policies, samples, *rounds, *seconds, wanted);
        }
        let mut stage = Stage::build(*policies, None)?;
        // Memory first: no load has been there yet.
        lasting::memory(&stage, samples, wanted)?;
        for round in 0..*rounds {
            let items = items::ITEMS.iter().filter(|item| wanted(item.name));
            items::one_round(&stage, samples, items, (round, *rounds), *seconds)?;
        }
        lasting::churn(&stage, samples, wanted)?;
        lasting::loaded(&stage, samples, wanted)?;
        lasting::joining(&mut stage, samples, wanted)
    }

    fn print(&self, samples: &Samples) {
        match self {
            Self::L4(_) => table::print(&goals::rows(samples)),
            Self::SameNode(_) => table::print(&same_node::goals::rows(samples)),
            Self::Http(_) => http::print(samples),
            Self::Cluster(_) => table::print(&cluster::rows(samples)),
            Self::Telemetry(_) => telemetry::print(samples),
        }
    }
}
