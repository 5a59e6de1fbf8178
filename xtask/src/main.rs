//! The project's own commands: `cargo xtask <command>`.

mod generate;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the wire types anew from mesh-common/proto
    Generate,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Generate => generate::write(&root()),
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}
