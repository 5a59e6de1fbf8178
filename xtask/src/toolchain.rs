//! What builds mesh-ebpf: the pinned nightly, the source of `core`, and bpf-linker.

mod archive;

use std::{collections::BTreeMap, env, fs, path::Path, path::PathBuf};

use anyhow::{Context, Result, bail};

use crate::{packages, shell};

/// What xtask/nightly.toml says.
#[derive(Debug, PartialEq, Eq)]
pub struct Pin {
    commit: String,
    pub date: String,
    toolchain: String,
    llvm: String,
    pub bpf_linker: String,
}

impl Pin {
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join("xtask/nightly.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Lines of `key = "value"`, and comments.
    fn parse(text: &str) -> Result<Self> {
        let mut values = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.split_once('=').with_context(|| format!("`{line}` is not key = \"value\""))?;
            let value = value.trim().strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            values.insert(key.trim(), value.with_context(|| format!("{}: not a string in quotes", key.trim()))?);
        }
        let mut take = |key| values.remove(key).map(str::to_string).with_context(|| format!("{key}: missing"));
        let pin = Self {
            commit: take("commit")?,
            date: take("date")?,
            toolchain: take("toolchain")?,
            llvm: take("llvm")?,
            bpf_linker: take("bpf-linker")?,
        };
        match values.keys().next() {
            None => Ok(pin),
            Some(key) => bail!("{key}: not a known key"),
        }
    }

    /// Whether `rustc -vV` speaks of the pinned compiler.
    fn is(&self, version: &str) -> bool {
        version.lines().any(|line| line.strip_prefix("commit-hash: ") == Some(&self.commit))
    }
}

/// The name of an installed nightly of the pinned commit, and whether it had to be installed.
pub fn nightly(pin: &Pin) -> Result<(String, bool)> {
    if shell::find("rustup").is_none() {
        bail!("rustup is missing; it brings the nightly compiler that builds the eBPF programs: https://rustup.rs");
    }
    let is_it = |name: &str| {
        shell::probe(shell::of_toolchain(name, "rustc").arg("-vV")).is_some_and(|version| pin.is(&version))
    };
    let names = env::var("MESH_NIGHTLY").into_iter().chain(["nightly".to_string(), pin.toolchain.clone()]);
    for name in names {
        if is_it(&name) {
            return Ok((name, false));
        }
    }
    println!(
        "setup: installing the nightly compiler of {} (LLVM {}), which builds the eBPF programs",
        pin.date, pin.llvm
    );
    shell::run(shell::program("rustup").args(["toolchain", "install", &pin.toolchain, "--profile", "minimal"]))?;
    if is_it(&pin.toolchain) {
        Ok((pin.toolchain.clone(), true))
    } else {
        bail!("{} is not the compiler of commit {}: correct xtask/nightly.toml", pin.toolchain, pin.commit)
    }
}

/// The source of `core` for the nightly; whether it had to be installed.
pub fn rust_src(nightly: &str) -> Result<bool> {
    let sysroot = shell::output(shell::of_toolchain(nightly, "rustc").args(["--print", "sysroot"]))?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    if sources.join("library/core/src/lib.rs").exists() {
        return Ok(false);
    }
    println!("setup: the source of `core` is missing; it is compiled for the eBPF target");
    let archive = env::var_os("MESH_RUST_SRC").filter(|path| !path.is_empty()).map(PathBuf::from);
    let asked = if env::var("MESH_RUST_SRC_FORCE").is_ok_and(|force| force == "1") {
        Err(anyhow::anyhow!("MESH_RUST_SRC_FORCE=1: rustup was not asked"))
    } else {
        shell::run(shell::program("rustup").args(["component", "add", "rust-src", "--toolchain", nightly]))
    };
    let Err(error) = asked else { return Ok(true) };
    let Some(archive) = archive else {
        bail!(
            "{error:#}; to do without rustup's server, set MESH_RUST_SRC to a .tar.xz that holds the library/ folder \
             of this compiler's source"
        );
    };
    println!("setup: {error:#}; taking {} instead", archive.display());
    if shell::find("xz").is_none() {
        packages::install(&[packages::XZ])?;
    }
    archive::unpack(&archive, &sources)?;
    Ok(true)
}

/// The linker of eBPF objects; whether it had to be installed.
pub fn bpf_linker(pin: &Pin) -> Result<bool> {
    let right = format!("bpf-linker {}", pin.bpf_linker);
    let is_right = |program: PathBuf| {
        shell::probe(shell::program(program).arg("--version")).is_some_and(|version| version.trim() == right)
    };
    // The folder of `cargo install` comes first: `Ready::cargo` searches it first as well.
    let installed = cargo_bin().map(|bin| bin.join("bpf-linker")).filter(|program| program.exists());
    if installed.or_else(|| shell::find("bpf-linker")).is_some_and(is_right) {
        return Ok(false);
    }
    println!("setup: installing {right}, which links the eBPF programs (about a minute)");
    shell::run(shell::program("cargo").args(["install", "bpf-linker", "--version", &pin.bpf_linker, "--locked"]))?;
    Ok(true)
}

/// A component of the stable toolchain for `cargo <subcommand>`.
pub fn component(subcommand: &str, component: &str) -> Result<()> {
    if shell::probe(shell::program("cargo").args([subcommand, "--version"])).is_some() {
        return Ok(());
    }
    println!("setup: `cargo {subcommand}` is missing");
    shell::run(shell::program("rustup").args(["component", "add", component]))
}

/// Whether the nightly can lint; rustup is asked once for what is missing.
pub fn nightly_clippy(nightly: &str) -> bool {
    let there = || shell::probe(shell::of_toolchain(nightly, "cargo").args(["clippy", "--version"])).is_some();
    if there() {
        return true;
    }
    let add = shell::run(shell::program("rustup").args(["component", "add", "clippy", "--toolchain", nightly]));
    add.is_ok() && there()
}

/// Where `cargo install` puts programs.
pub fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"))).map(|home| home.join("bin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_is_whole() {
        let pin = Pin::read(&crate::root()).unwrap();
        assert_eq!(pin.commit.len(), 40);
        assert!(pin.is(&format!("rustc 1.97.0-nightly\ncommit-hash: {}\nhost: x", pin.commit)));
        assert!(!pin.is("commit-hash: e50aa6f"));
    }

    #[test]
    fn a_broken_pin_names_the_key() {
        let said = |text| format!("{:#}", Pin::parse(text).unwrap_err());
        assert_eq!(said("commit = 5"), "commit: not a string in quotes");
        assert_eq!(said("commit = \"5\""), "date: missing");
        assert_eq!(said("commit"), "`commit` is not key = \"value\"");
    }
}
