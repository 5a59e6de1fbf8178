//! The programs that tests and demo run as pods and nodes, from Debian's packages. No service of theirs is started.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
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

const PROGRAMS: &[Program] = &[
    Program { binary: "ip", package: "iproute2", why: "makes nodes and pods" },
    Program { binary: "nginx", package: "nginx-light", why: "a pod" },
    Program { binary: "curl", package: "curl", why: "a pod" },
    Program { binary: "redis-server", package: "redis-server", why: "a pod" },
    Program { binary: "redis-cli", package: "redis-tools", why: "a pod" },
    Program { binary: "tcpdump", package: "tcpdump", why: "shows what is on the wire" },
    Program { binary: "nft", package: "nftables", why: "closes ports to break connections on purpose" },
    XZ,
];

/// Refuses every start of a service while this process lives; the file goes with the guard, and would do nothing
/// should it stay.
#[derive(Debug)]
struct NoServices {
    written: bool,
}

/// Programs of tests and demo that this machine lacks.
pub fn missing() -> Vec<Program> {
    PROGRAMS.iter().copied().filter(|program| shell::find(program.binary).is_none()).collect()
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

impl NoServices {
    fn new(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(path);
        let mut file = match file {
            // Somebody has decided already.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(Self { written: false }),
            other => other.with_context(|| format!("cannot write {}", path.display()))?,
        };
        let guard = Self { written: true };
        writeln!(file, "#!/bin/sh\n[ -d /proc/{} ] && exit 101\nexit 0", process::id())?;
        Ok(guard)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.written
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("setup: cannot remove {POLICY}: {error}");
        }
    }
}
