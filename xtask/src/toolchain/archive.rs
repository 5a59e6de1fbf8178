//! The Rust source from an archive, for machines that cannot reach rustup's server.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::shell;

/// Unpacks the `library/` folder of a .tar.xz into `sources`, which appears there whole or not at all.
///
/// # Errors
/// The archive is not there, is damaged, or holds no `library/core/src/lib.rs`; another `library/` stands there.
pub fn unpack(archive: &Path, sources: &Path) -> Result<()> {
    if !archive.is_file() {
        bail!("MESH_RUST_SRC: there is no file {}", archive.display());
    }
    fs::create_dir_all(sources).with_context(|| format!("cannot make {}", sources.display()))?;
    let fresh = tempfile::Builder::new().prefix(".unpacking-").tempdir_in(sources)?;
    let mut tar = shell::program("tar");
    tar.arg("-xJf").arg(archive).arg("--no-same-owner").arg("-C").arg(fresh.path());
    shell::run(&mut tar).with_context(|| format!("MESH_RUST_SRC: cannot unpack {}", archive.display()))?;
    if !fresh.path().join("library/core/src/lib.rs").is_file() {
        bail!("MESH_RUST_SRC: {} holds no library/core/src/lib.rs", archive.display());
    }
    fs::rename(fresh.path().join("library"), sources.join("library"))
        .with_context(|| format!("cannot put library/ into {}", sources.display()))
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use super::*;
    use crate::toolchain::{Pin, nightly};

    /// The archive keeps machines without rustup's server going, so that it must not rot: `core` is really built from
    /// it for the eBPF target.
    #[test]
    fn core_is_built_from_the_archive() {
        let Some(archive) = env::var_os("MESH_RUST_SRC").filter(|path| !path.is_empty()) else {
            assert!(!shell::is_ci(), "MESH_RUST_SRC must name the archive when CI is set");
            eprintln!("skipped: MESH_RUST_SRC is not set");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let sources = dir.path().join("sysroot/lib/rustlib/src/rust");
        unpack(Path::new(&archive), &sources).unwrap();
        assert!(sources.join("library/core/src/lib.rs").is_file());
        let left = fs::read_dir(&sources).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(left, ["library"]);

        let package = dir.path().join("package");
        fs::create_dir_all(package.join("src")).unwrap();
        let manifest = "[package]\nname = \"bare\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n";
        fs::write(package.join("Cargo.toml"), manifest).unwrap();
        let text = "#![no_std]\npub fn it(n: core::num::NonZeroU32) -> u32 { n.get() }\n";
        fs::write(package.join("src/lib.rs"), text).unwrap();
        let (nightly, _) = nightly(&Pin::read(&crate::root()).unwrap()).unwrap();
        let mut cargo = shell::of_toolchain(&nightly, "cargo");
        cargo.args(["build", "--target", "bpfel-unknown-none", "-Z", "build-std=core"]).current_dir(&package);
        cargo.env("CARGO_TARGET_DIR", dir.path().join("target"));
        cargo.env("RUSTFLAGS", "--cfg=bpf_target_arch=\"x86_64\"");
        // Cargo's own tests name the library's source so; rustup's copy stays out of it.
        cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", sources.join("library"));
        shell::run(&mut cargo).unwrap();
    }

    #[test]
    fn what_is_no_source_archive_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let sources = dir.path().join("sources");
        let said = |archive: &Path| format!("{:#}", unpack(archive, &sources).unwrap_err());
        assert!(said(&dir.path().join("absent")).contains("there is no file"));

        let damaged = dir.path().join("damaged.tar.xz");
        fs::write(&damaged, "no archive").unwrap();
        assert!(said(&damaged).contains("cannot unpack"));

        let other = dir.path().join("other.tar.xz");
        fs::write(dir.path().join("file"), "").unwrap();
        let made = Command::new("tar").arg("-cJf").arg(&other).arg("-C").arg(dir.path()).arg("file").status();
        assert!(made.unwrap().success());
        assert!(said(&other).contains("holds no library/core/src/lib.rs"));
        assert_eq!(fs::read_dir(&sources).unwrap().count(), 0);
    }
}
