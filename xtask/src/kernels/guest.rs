//! What a guest is made of: busybox, the mesh's programs and tests as they were built here with the libraries that they
//! need, the kernel's modules, and the first process. All of it is one archive that the kernel unpacks into memory.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufWriter, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Build, cpio, modules, packages::Kernel};
use crate::shell;

const INIT: &str = include_str!("init.sh");

/// Programs of this machine that scenes run; busybox has the others.
const PROGRAMS: &[&str] = &["ip", "ss", "nft", "tcpdump", "curl"];
/// Parts of the kernel that scenes need, if they are not built in.
const MODULES: &[&str] = &[
    "veth",
    "bridge",
    "ipv6",
    "af_packet",
    "inet_diag",
    "tcp_diag",
    "nf_tables",
    "nft_reject_inet",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_ct",
    "nft_meta_bridge",
];
/// Folders that the first process mounts something at, or that programs expect.
const FOLDERS: &[&str] = &["bin", "dev", "etc", "modules", "proc", "root", "run", "sys", "tmp", "usr/bin"];

/// Limits that the first process works with, in seconds but for the factor.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many times longer the harness waits.
    pub patience: u32,
    pub scene: u32,
}

/// Writes the archive for `kernel` to the file `to`.
///
/// # Errors
/// A program is missing or needs a library that is; something cannot be read or written.
pub fn write(kernel: &Kernel, busybox: &Path, build: &Build, limits: Limits, to: &Path) -> Result<()> {
    let folder = to.parent().context("the archive's file has no folder")?;
    let root = tempfile::Builder::new().prefix(".guest-").tempdir_in(folder)?;
    let at = |path: &str| root.path().join(path);
    for folder in FOLDERS {
        fs::create_dir_all(at(folder)).with_context(|| format!("cannot make the guest's {folder}"))?;
    }
    copy(busybox, &at("bin/busybox"))?;
    let init = INIT.replace("@PATIENCE@", &limits.patience.to_string());
    fs::write(at("init"), init.replace("@SCENE_LIMIT@", &limits.scene.to_string()))?;
    fs::set_permissions(at("init"), fs::Permissions::from_mode(0o755))?;
    // Capturing programs look root up by name.
    fs::write(at("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(at("etc/group"), "root:x:0:\n")?;
    fs::write(at("scenes"), build.scenes.iter().map(|scene| format!("{scene}\n")).collect::<String>())?;

    let mut programs = Vec::new();
    for name in PROGRAMS {
        let program = shell::find(name).with_context(|| format!("{name} is not installed: cargo xtask setup"))?;
        programs.push((program, at("usr/bin").join(name)));
    }
    // The tests look for the programs one folder above their own.
    let own = mesh_tests::BUILT.iter().map(|package| if *package == "mesh-tests" { "mesh-test-app" } else { package });
    programs.extend(own.map(|name| (build.programs.join(name), at("mesh").join(name))));
    programs.push((build.tests.clone(), at("mesh/deps/scenes")));
    let mut needed = BTreeSet::new();
    for (program, to) in &programs {
        needed.extend(libraries(program)?);
        copy(program, to)?;
    }
    for library in needed {
        copy(&library, &root.path().join(library.strip_prefix("/").unwrap_or(&library)))?;
    }
    modules::collect(&kernel.modules, MODULES, &at("modules"))?;

    let file = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    let mut file = BufWriter::new(file);
    cpio::write(root.path(), &mut file)?;
    file.flush().with_context(|| format!("cannot write {}", to.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// The libraries that a program is linked with, and what loads them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let told = shell::output(shell::program("ldd").arg(program))?;
    paths(&told).with_context(|| format!("{} needs a library that is not there:\n{told}", program.display()))
}

/// Reads what ldd says; `None`: something is not found.
fn paths(told: &str) -> Option<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in told.lines().map(str::trim) {
        // The kernel's own.
        if line.starts_with("linux-vdso") {
            continue;
        }
        let place = line.split_once(" => ").map_or(line, |(_, place)| place);
        let path = place.split_whitespace().next()?;
        if path.starts_with('/') {
            paths.push(path.into());
        } else if place.starts_with("not found") {
            return None;
        }
    }
    Some(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_their_loader_are_taken_and_none_may_be_missing() {
        let told = "\tlinux-vdso.so.1 (0x00007f452968d000)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f4528a1e000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f452968f000)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(paths(told).unwrap(), expected);
        assert_eq!(paths("\tstatically linked\n").unwrap(), Vec::<PathBuf>::new());
        assert_eq!(paths(&format!("{told}\tlibx.so.1 => not found\n")), None);
    }
}
