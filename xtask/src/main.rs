//! The project's own commands: `cargo xtask <command>`.

mod bench;
mod check;
mod dashboard;
mod demo;
mod dependencies;
mod generate;
mod grpc;
mod image;
mod kernels;
mod leftovers;
mod packages;
mod programs;
mod setup;
mod shell;
mod steps;
mod test;
mod tidy;
mod toolchain;
mod tools;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::setup::Scope;

/// The project's own commands
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what is missing to build the mesh and to run its tests and demo
    Setup,
    /// Formatting, lints, docs, licences, import rules, generated code, and what the kernel's verifier says (root)
    Check(check::Arguments),
    /// Build everything and run the tests: pure, in-process, and real eBPF with namespaces and cgroups (root)
    Test(test::Arguments),
    /// The mesh on this machine in one screen: nodes, pods, real traffic, policies (root)
    Demo {
        /// Leave it running until Ctrl-C, and print what to try
        #[arg(long)]
        keep: bool,
    },
    /// Build the dashboard's page with npm, for whoever changed mesh-controller/dashboard
    Dashboard(dashboard::Arguments),
    /// Make docs/dashboard.png: the dashboard of the demo's mesh in a browser (root)
    Picture,
    /// What the mesh costs, measured against no mesh in the same run (root)
    #[command(subcommand)]
    Bench(bench::Command),
    /// The programs and the scenes of redirection on other kernels, in emulation (root for the running one); not in CI
    Kernels(kernels::Arguments),
    /// Write the wire types anew from mesh-common/proto, and the manifests from mesh-install
    Generate,
    /// The image of agent, controller and meshctl as an OCI archive; no Docker needed
    Image(image::Arguments),
    /// Fail if tests or demo left a namespace, link, cgroup, pin or process on this machine
    Leftovers,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command, &root()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, root: &Path) -> Result<()> {
    match command {
        Command::Setup => setup::run(root, Scope::Everything).map(drop),
        Command::Check(arguments) => check::run(root, &arguments),
        Command::Test(arguments) => test::run(root, &arguments),
        Command::Demo { keep } => {
            let ready = setup::run(root, Scope::Everything)?;
            demo::run(&ready, root, keep)
        }
        Command::Dashboard(arguments) => dashboard::run(root, &arguments),
        Command::Picture => {
            let ready = setup::run(root, Scope::Everything)?;
            demo::picture(&ready, root)
        }
        Command::Bench(command) => bench::run(root, &command),
        Command::Kernels(arguments) => kernels::run(root, &arguments),
        Command::Generate => generate::write(root),
        Command::Image(arguments) => image::run(root, &arguments),
        Command::Leftovers => leftovers::none(),
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}
