//! `cargo xtask test`: builds once, then runs the tiers. What a tier leaves on the machine is a failure too.

mod refused;
mod runner;

use std::{path::Path, time::Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{
    leftovers,
    setup::{self, Ready, Scope},
    shell,
    steps::{Outcome, Steps},
};
use runner::Runner;
pub use runner::test_programs;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only this tier
    #[arg(long, value_enum)]
    tier: Option<Tier>,
    /// Scenes under load at full length, not at that of every day: a gigabyte, 10,000 connections, 10,000 streams
    #[arg(long)]
    long: bool,
    /// Only tests whose names contain this
    filter: Option<String>,
}

/// What a test needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tier {
    /// mesh-common and mesh-install: pure functions
    Pure,
    /// The crates by themselves: files, sockets on loopback
    #[value(name = "inprocess")]
    InProcess,
    /// mesh-tests: real eBPF, namespaces and cgroups; needs root
    System,
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::InProcess => "inprocess",
            Self::System => "system",
        }
    }

    pub fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Pure => &["mesh-common", "mesh-install"],
            Self::InProcess => &["mesh-agent", "mesh-controller", "meshctl", "xtask"],
            Self::System => &["mesh-tests"],
        }
    }

    /// Why this machine cannot run it.
    fn obstacle(self) -> Option<&'static str> {
        if self != Self::System {
            None
        } else if !cfg!(target_os = "linux") {
            Some("needs Linux")
        } else if !shell::is_root() {
            Some("needs root: namespaces, cgroups and eBPF")
        } else if leftovers::mount_of("cgroup2").is_none() {
            Some("needs cgroup v2: mount -t cgroup2 cgroup2 /sys/fs/cgroup")
        } else if !std::fs::read_to_string("/proc/filesystems").is_ok_and(|kinds| kinds.contains("\tbpf\n")) {
            Some("needs a kernel with eBPF")
        } else {
            None
        }
    }
}

pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let tiers: Vec<Tier> = match arguments.tier {
        Some(tier) => vec![tier],
        None => Tier::value_variants().to_vec(),
    };
    let system = tiers.iter().any(|tier| *tier == Tier::System && tier.obstacle().is_none());
    let start = Instant::now();
    let ready = setup::run(root, if system { Scope::Everything } else { Scope::Build })?;
    let runner = Runner::choose(&ready, root, arguments.long);
    let mut steps = Steps::new("test");
    refused::forget()?;
    let mut built = false;
    steps.run("build", || {
        build(&ready, &runner, root)?;
        built = true;
        Ok(().into())
    });
    if built {
        for tier in tiers {
            steps.run(tier.name(), || in_tier(tier, &runner, arguments.filter.as_deref()));
        }
        // Parts of the tests see parts of the attacks.
        let whole = arguments.tier.is_none() && arguments.filter.is_none() && system;
        steps.run("refused inputs", || refused::told(whole).map(Into::into));
    }
    let done = steps.finish();
    println!("  total {:.1} s", start.elapsed().as_secs_f64());
    done
}

fn build(ready: &Ready, runner: &Runner<'_>, root: &Path) -> Result<()> {
    // Scenes run the programs, which building the tests alone would not bring up to date.
    shell::run(ready.cargo(root).args(["build", "--locked"]))?;
    runner.build()
}

fn in_tier(tier: Tier, runner: &Runner<'_>, filter: Option<&str>) -> Result<Outcome> {
    if let Some(obstacle) = tier.obstacle() {
        if shell::is_ci() {
            bail!("{obstacle}; with CI set no tier is skipped");
        }
        return Ok(Outcome::Skipped(obstacle.into()));
    }
    let before = leftovers::found();
    let result = runner.run(tier, filter);
    let left = leftovers::beyond(&before);
    match (result, left.is_empty()) {
        (Ok(()), true) => Ok(remark(tier).into()),
        (Ok(()), false) => bail!("tests passed but left behind:\n  {}", left.join("\n  ")),
        (Err(error), true) => Err(error),
        (Err(error), false) => Err(error.context(format!("and tests left behind:\n  {}", left.join("\n  ")))),
    }
}

/// What the tier could not show on this machine; with CI set its tests fail instead.
fn remark(tier: Tier) -> String {
    match tier {
        Tier::System if std::env::var_os("MESH_KUBE").is_none() => {
            "without Kubernetes: MESH_KUBE names no folder with up.sh, see CONTRIBUTING.md".into()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_package_is_in_one_tier() {
        let manifest = fs::read_to_string(crate::root().join("Cargo.toml")).unwrap();
        let members = manifest.lines().find_map(|line| line.strip_prefix("default-members = ")).unwrap();
        let members = members.split('"').skip(1).step_by(2).map(|dir| if dir == "tests" { "mesh-tests" } else { dir });
        let mut members = members.collect::<Vec<_>>();
        let mut tiers = Tier::value_variants().iter().flat_map(|tier| tier.packages()).copied().collect::<Vec<_>>();
        members.sort_unstable();
        tiers.sort_unstable();
        assert_eq!(tiers, members);
    }
}
