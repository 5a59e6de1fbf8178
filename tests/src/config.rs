//! Where the programs are. The only file of the harness that asks the environment.

use std::{
    env,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result, ensure};

/// The packages whose programs a world runs; `cargo build` with them before.
pub const BUILT: [&str; 4] = ["mesh-agent", "mesh-controller", "meshctl", "mesh-tests"];

/// The folder with the built programs: that of the running program, or the one above it for a test.
pub fn programs_dir() -> Result<PathBuf> {
    let own = env::current_exe().context("the running program has no path")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .find(|dir| dir.join("mesh-test-app").exists())
        .map(Path::to_owned)
        .with_context(|| format!("no mesh-test-app beside {}: cargo build -p mesh-tests", own.display()))
}

/// One built program.
pub(crate) fn built(name: &str) -> Result<PathBuf> {
    let path = programs_dir()?.join(name);
    ensure!(path.exists(), "{} is missing: cargo build -p {}", path.display(), BUILT.join(" -p "));
    Ok(path)
}

/// An installed program, as the shell would find it; also in the folders of the administrator's programs.
pub fn installed(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is not installed: cargo xtask setup"))
}

/// The process that owns the worlds made here.
pub(crate) fn own_pid() -> u32 {
    process::id()
}
