//! `cargo xtask setup`: installs what is missing, and says what and why. One line when nothing is.

use std::{env, ffi::OsString, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{grpc, packages, shell, toolchain, tools};

/// How much is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// To compile and lint
    Build,
    /// To run system tests and demo as well
    Everything,
    /// And to measure
    Benchmarks,
}

/// A machine that can build the mesh.
#[derive(Debug)]
pub struct Ready {
    /// Name of the toolchain that builds mesh-ebpf.
    pub nightly: String,
    path: OsString,
}

/// Installs what `scope` needs.
pub fn run(root: &Path, scope: Scope) -> Result<Ready> {
    let pin = toolchain::Pin::read(root)?;
    let missing = match scope {
        Scope::Build => Vec::new(),
        Scope::Everything => packages::missing(),
        Scope::Benchmarks => [packages::missing(), packages::missing_for_benchmarks()].concat(),
    };
    packages::install(&missing)?;
    let (nightly, installed) = toolchain::nightly(&pin)?;
    let sources = toolchain::rust_src(&nightly)?;
    let linker = toolchain::bpf_linker(&pin)?;
    let grpc = scope != Scope::Build && grpc::install(root)?;
    let tools = scope != Scope::Build && tools::install(root)?;
    if missing.is_empty() && !grpc && !tools && !installed && !sources && !linker {
        println!("setup: nothing is missing (nightly of {}, rust-src, bpf-linker {})", pin.date, pin.bpf_linker);
    }
    let ready = Ready { nightly, path: search_path()? };
    Ok(ready)
}

impl Ready {
    /// `cargo` for the stable crates; mesh-agent's build script learns which nightly to take for mesh-ebpf.
    pub fn cargo(&self, root: &Path) -> Command {
        let mut command = shell::program("cargo");
        command.current_dir(root).env("MESH_NIGHTLY", &self.nightly).env("PATH", &self.path);
        command
    }

    /// `cargo` of the nightly.
    pub fn nightly_cargo(&self, root: &Path) -> Command {
        let mut command = shell::of_toolchain(&self.nightly, "cargo");
        command.current_dir(root).env("PATH", &self.path);
        command
    }
}

/// PATH with the folder first where `cargo install` puts programs: there lies the right bpf-linker.
fn search_path() -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = toolchain::cargo_bin().into_iter().chain(env::split_paths(&path));
    env::join_paths(folders).context("a folder of PATH has a colon in its name")
}
