//! The programs that tests and demo run as pods and nodes, from Debian's packages. No service of theirs is started.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result, bail};

use crate::shell;

/// What Debian asks before it starts a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// A program and the package that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    binary: &'static str,
    package: &'static str,
    why: &'static str,
}

pub const XZ: Program = Program { binary: "xz", package: "xz-utils", why: "unpacks the Rust source archive" };

/// It brings modules and no program.
pub const VENV: Program = Program { binary: "python3", package: "python3-venv", why: "holds Python packages of tests" };

const PROGRAMS: &[Program] = &[
    Program { binary: "ip", package: "iproute2", why: "makes nodes and pods" },
    Program { binary: "nginx", package: "nginx-light", why: "a pod" },
    Program { binary: "curl", package: "curl", why: "a pod" },
    Program { binary: "python3", package: "python3", why: "a pod" },
    Program { binary: "redis-server", package: "redis-server", why: "a pod" },
    Program { binary: "redis-cli", package: "redis-tools", why: "a pod" },
    Program { binary: "tcpdump", package: "tcpdump", why: "shows what is on the wire" },
    Program { binary: "openssl", package: "openssl", why: "signs certificates as nobody should" },
    Program { binary: "nft", package: "nftables", why: "closes ports to break connections on purpose" },
    Program { binary: "kubectl", package: "kubernetes-client", why: "builds the Kustomize base" },
    // Not where the shell looks: another program bears the name of one of them.
    Program {
        binary: "/usr/lib/cni/host-local",
        package: "containernetworking-plugins",
        why: "makes pods' networks as a container runtime does, with the plugin bridge beside it",
    },
    Program { binary: "chromium", package: "chromium", why: "opens the dashboard" },
    XZ,
];

const FOR_BENCHMARKS: &[Program] = &[Program { binary: "wrk", package: "wrk", why: "loads nginx in benchmarks" }];

/// Refuses every start of a service while this process lives; the file goes with the guard, and would do nothing
/// should it stay.
#[derive(Debug)]
struct NoServices {
    /// Nothing if somebody has decided already.
    written: Option<PathBuf>,
}

/// Programs of tests and demo that this machine lacks.
pub fn missing() -> Vec<Program> {
    lacking(PROGRAMS)
}

/// The same, of benchmarks alone.
pub fn missing_for_benchmarks() -> Vec<Program> {
    lacking(FOR_BENCHMARKS)
}

fn lacking(programs: &[Program]) -> Vec<Program> {
    programs.iter().copied().filter(|program| shell::find(program.binary).is_none()).collect()
}

/// Installs the packages of `programs`.
///
/// # Errors
/// This is not root, or not a Debian: names the programs and how to get them.
pub fn install(programs: &[Program]) -> Result<()> {
    if programs.is_empty() {
        return Ok(());
    }
    let named = |part: fn(&Program) -> &'static str| programs.iter().map(part).collect::<Vec<_>>();
    let packages = named(|program| program.package);
    let wanted = programs.iter().map(|program| format!("{} ({})", program.binary, program.why));
    let wanted = wanted.collect::<Vec<_>>().join(", ");
    if shell::find("apt-get").is_none() {
        bail!("missing programs: {wanted}; this is no Debian: install them with your system's packages");
    }
    if !shell::is_root() {
        bail!("missing programs: {wanted}; as root: apt-get install --no-install-recommends {}", packages.join(" "));
    }
    println!("setup: installing Debian packages for {wanted}; none of their services will be started");
    let _guard = NoServices::new(Path::new(POLICY))?;
    let apt = || {
        let mut command = shell::program("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    if let Err(error) = shell::run(apt().args(["-q", "update"])) {
        println!("setup: {error}; trying with the package lists that are there");
    }
    shell::run(apt().args(["-q", "-y", "--no-install-recommends", "install"]).args(&packages))?;
    let services = ["nginx", "redis-server"].into_iter().filter(|service| named(|p| p.binary).contains(service));
    let services = services.collect::<Vec<_>>();
    if !services.is_empty() && shell::find("systemctl").is_some() {
        // They were not wanted as services; on a machine without systemd there is nothing to disable.
        if let Err(error) = shell::run(shell::program("systemctl").args(["-q", "disable"]).args(&services)) {
            println!("setup: {error}");
        }
    }
    let still = programs.iter().filter(|program| shell::find(program.binary).is_none());
    match still.map(|program| program.binary).collect::<Vec<_>>().as_slice() {
        [] => Ok(()),
        still => bail!("the packages are installed and still there is no {}", still.join(", ")),
    }
}

/// The folder into which the newest `package` was unpacked, now or before. It is fetched with apt from the sources that
/// this machine has, and not installed: no service starts, and no user is made.
pub fn unpack(folder: &Path, package: &str) -> Result<PathBuf> {
    let unpacked = folder.join(package);
    if unpacked.is_dir() {
        return Ok(unpacked);
    }
    if shell::find("apt-get").is_none() {
        bail!("there is no apt-get to fetch the package {package}: this is no Debian");
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // It appears whole or not at all.
    let fresh = tempfile::Builder::new().prefix(".unpacking-").tempdir_in(folder)?;
    println!("setup: fetching {package} into {}", folder.display());
    let fetch = || {
        let mut apt = shell::program("apt-get");
        // The user _apt may not write here.
        apt.current_dir(fresh.path()).args(["-q", "-o", "APT::Sandbox::User=root", "download", package]);
        shell::run(&mut apt)
    };
    if let Err(error) = fetch() {
        if !shell::is_root() {
            return Err(error.context("is there a network, and are the lists fresh (as root: apt-get update)?"));
        }
        shell::run(shell::program("apt-get").args(["-q", "update"]))?;
        fetch()?;
    }
    let archive = fs::read_dir(fresh.path())?.next().context("apt-get fetched nothing")??.path();
    let content = fresh.path().join("content");
    shell::run(shell::program("dpkg-deb").arg("-x").arg(&archive).arg(&content))?;
    fs::rename(&content, &unpacked).with_context(|| format!("cannot make {}", unpacked.display()))?;
    Ok(unpacked)
}

impl NoServices {
    fn new(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(path);
        let mut file = match file {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(Self { written: None }),
            other => other.with_context(|| format!("cannot write {}", path.display()))?,
        };
        let guard = Self { written: Some(path.to_owned()) };
        writeln!(file, "#!/bin/sh\n[ -d /proc/{} ] && exit 101\nexit 0", process::id())?;
        Ok(guard)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.written
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!("setup: cannot remove {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_refused_while_packages_are_installed() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy-rc.d");
        let guard = NoServices::new(&policy).unwrap();
        let asked = || process::Command::new("sh").arg(&policy).status().unwrap().code();
        assert_eq!(asked(), Some(101));
        let text = fs::read_to_string(&policy).unwrap();
        fs::write(&policy, text.replace(&format!("/proc/{} ", process::id()), "/proc/none ")).unwrap();
        assert_eq!(asked(), Some(0), "left behind, it refuses nothing");
        drop(guard);
        assert!(!policy.exists());
    }

    #[test]
    fn what_somebody_decided_stays() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy-rc.d");
        fs::write(&policy, "exit 0").unwrap();
        drop(NoServices::new(&policy).unwrap());
        assert_eq!(fs::read_to_string(&policy).unwrap(), "exit 0");
    }
}
