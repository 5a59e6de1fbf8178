//! `cargo xtask check`: what can be said about the repository without running its tests. The quick steps come first.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{
    dashboard, dependencies, generate, programs,
    setup::{self, Ready, Scope},
    shell,
    steps::{Outcome, Steps},
    tidy, toolchain,
};

/// What the kernel runs; aya-ebpf wants to know for which processor's registers.
const BPF_TARGET: &str = "bpfel-unknown-none";
const BPF_ARCH: &str = "--cfg=bpf_target_arch=\"x86_64\"";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Format the code and write the generated code anew, before checking
    #[arg(long)]
    fix: bool,
}

pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let ready = setup::run(root, Scope::Build)?;
    toolchain::component("fmt", "rustfmt")?;
    toolchain::component("clippy", "clippy")?;
    if arguments.fix {
        generate::write(root)?;
        shell::run(ready.cargo(root).args(["fmt", "--all"]))?;
    }
    let mut steps = Steps::new("check");
    steps.run("fmt", || {
        shell::run(ready.cargo(root).args(["fmt", "--all", "--", "--check", "-l"]))
            .context("`cargo xtask check --fix`")?;
        Ok(().into())
    });
    steps.run("tidy", || tidy::check(root).map(Into::into));
    steps.run("generated", || generate::check(root).map(Into::into));
    steps.run("dashboard", || dashboard::current(root).map(Into::into));
    steps.run("dependencies", || dependencies::check(&ready, root).map(Into::into));
    steps.run("clippy", || {
        let mut cargo = ready.cargo(root);
        shell::run(cargo.args(["clippy", "--locked", "--all-targets", "--", "-D", "warnings"])).map(Into::into)
    });
    steps.run("clippy mesh-ebpf", || ebpf(&ready, root));
    steps.run("doc", || {
        let mut cargo = ready.cargo(root);
        cargo.env("RUSTDOCFLAGS", "-D warnings");
        shell::run(cargo.args(["doc", "--locked", "--no-deps"])).map(Into::into)
    });
    steps.run("programs", || programs::check(&ready, root));
    steps.finish()
}

/// mesh-ebpf has no host target: it is linted for the kernel's, with the compiler that builds it.
fn ebpf(ready: &Ready, root: &Path) -> Result<Outcome> {
    let mut cargo = ready.nightly_cargo(root);
    let common = ["--locked", "--package", "mesh-ebpf", "--target", BPF_TARGET, "-Z", "build-std=core"];
    if toolchain::nightly_clippy(&ready.nightly) {
        cargo.env("RUSTFLAGS", BPF_ARCH);
        shell::run(cargo.arg("clippy").args(common).args(["--", "-D", "warnings"])).map(Into::into)
    } else {
        cargo.env("RUSTFLAGS", format!("{BPF_ARCH} -D warnings"));
        shell::run(cargo.arg("check").args(common))?;
        Ok(Outcome::Passed("this nightly has no clippy: only the compiler's own warnings were looked at".into()))
    }
}
