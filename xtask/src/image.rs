//! `cargo xtask image`: the image of agent, controller and meshctl as an OCI archive, without a Docker daemon. Static
//! programs and a few lines of /etc, no shell, no libraries. The same programs give the same bytes.

mod oci;
mod tar;

use std::{
    env::consts::ARCH,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use mesh_install::PROGRAMS as FOLDER;
use tar::Entry;

use crate::{
    setup::{self, Ready, Scope},
    shell,
};

const PROGRAMS: &[&str] = &["mesh-agent", "mesh-controller", "meshctl"];
/// Without root the controller and meshctl run; the agent's DaemonSet says root.
const USER: &str = "65532:65532";
const ENTRYPOINT: &str = "/usr/local/bin/mesh-controller";
const FILES: &[(&str, &str)] = &[
    ("etc/group", "root:x:0:\nnonroot:x:65532:\n"),
    ("etc/nsswitch.conf", "hosts: files dns\n"),
    ("etc/passwd", "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"),
];

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The archive to write
    #[arg(long, value_name = "FILE", default_value = "target/nodemesh.tar")]
    out: PathBuf,
    /// Write the files of the image there too, as the Dockerfile takes them
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// How programs are built
    #[arg(long, default_value = "release")]
    profile: String,
    /// Take programs that are built already, statically
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// The C library that goes into the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Libc {
    Musl,
    Gnu,
}

impl Libc {
    fn target(self) -> String {
        match self {
            Self::Musl => format!("{ARCH}-unknown-linux-musl"),
            Self::Gnu => format!("{ARCH}-unknown-linux-gnu"),
        }
    }
}

pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let Arguments { out, rootfs, profile, programs } = arguments;
    let programs = match programs {
        Some(folder) => folder.clone(),
        None => build(root, profile)?,
    };
    let entries = entries(&programs)?;
    if let Some(folder) = rootfs {
        lay_out(&entries, folder)?;
    }
    let image = oci::image(&tar::archive(&entries)?, architecture()?)?;
    fs::write(out, &image.archive).with_context(|| format!("cannot write {}", out.display()))?;
    println!("image: {} ({} MB), manifest {}", out.display(), image.archive.len() >> 20, image.digest);
    Ok(())
}

/// As the image specification, and Kubernetes, name processors.
fn architecture() -> Result<&'static str> {
    match ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image for {other}"),
    }
}

/// The folder with the programs.
fn build(root: &Path, profile: &str) -> Result<PathBuf> {
    let ready = setup::run(root, Scope::Build)?;
    let libc = if has_musl(&ready, root) { Libc::Musl } else { Libc::Gnu };
    let target = libc.target();
    if libc == Libc::Gnu {
        println!(
            "image: no target {} here (or no musl-gcc): programs are linked with this machine's glibc",
            Libc::Musl.target()
        );
    }
    let home = crate::toolchain::cargo_bin().and_then(|bin| bin.parent().map(Path::to_owned)).unwrap_or_default();
    // No path of this machine goes into the programs.
    let flags = format!(
        "-C target-feature=+crt-static -C strip=debuginfo --remap-path-prefix={}=. --remap-path-prefix={}=cargo",
        root.display(),
        home.display()
    );
    let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"));
    let mut cargo = ready.cargo(root);
    cargo.env(variable, flags).args(["build", "--locked", "--profile", profile, "--target", &target]);
    shell::run(cargo.args(PROGRAMS.iter().flat_map(|name| ["-p", name])))?;
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(root.join("target").join(target).join(folder))
}

/// The cryptography is C: its compiler is needed too.
fn has_musl(ready: &Ready, root: &Path) -> bool {
    let mut rustc = ready.cargo(root);
    rustc.args([
        "rustc",
        "--quiet",
        "--print",
        "target-libdir",
        "--target",
        &Libc::Musl.target(),
        "-p",
        "mesh-install",
    ]);
    shell::find("musl-gcc").is_some()
        && shell::probe(&mut rustc).is_some_and(|folder| Path::new(folder.trim()).is_dir())
}

fn entries(programs: &Path) -> Result<Vec<Entry>> {
    let mut entries = FILES
        .iter()
        .map(|(path, text)| Entry { path: (*path).to_owned(), mode: 0o644, bytes: text.as_bytes().to_vec() })
        .collect::<Vec<_>>();
    for name in PROGRAMS {
        let path = programs.join(name);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if !is_static(&bytes)? {
            bail!("{} asks for an interpreter, and the image has none: it must be linked statically", path.display());
        }
        let path = format!("{}/{name}", FOLDER.trim_start_matches('/'));
        entries.push(Entry { path, mode: 0o755, bytes });
    }
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(entries)
}

/// Whether no header of this 64-bit ELF is PT_INTERP (elf(5)).
fn is_static(elf: &[u8]) -> Result<bool> {
    const INTERPRETER: u32 = 3;
    let number = |at: usize, length: usize| -> Result<u64> {
        let bytes = elf.get(at..at + length).context("no ELF: it is too short")?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        bail!("no 64-bit ELF of a little-endian machine");
    }
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let at = usize::try_from(table + index * size).context("no ELF: its headers lie nowhere")?;
        if number(at, 4)? == u64::from(INTERPRETER) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lay_out(entries: &[Entry], folder: &Path) -> Result<()> {
    for Entry { path, mode, bytes } in entries {
        let path = folder.join(path);
        let above = path.parent().expect("below the folder");
        let done = fs::create_dir_all(above)
            .and_then(|()| fs::write(&path, bytes))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(*mode)));
        done.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
