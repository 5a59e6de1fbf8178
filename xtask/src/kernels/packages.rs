//! Kernels and busybox from Debian's packages: fetched with apt from the sources that this machine has, unpacked below
//! target/kernels and never installed. The emulator alone is installed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::{packages, shell};

const QEMU: &str = "qemu-system-x86_64";
const QEMU_PACKAGE: &str = "qemu-system-x86";
/// The emulation of 7.2, bookworm's own, makes guests panic at random.
const OLDEST_QEMU: u32 = 8;
/// Small kernels for virtual machines.
const FLAVOUR: &str = "-cloud-amd64";

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    pub image: PathBuf,
    /// `lib/modules/<release>`
    pub modules: PathBuf,
}

/// The newest kernel of a line, as 6.1, or the one of this release; fetched if it is not below `folder` yet.
///
/// # Errors
/// No configured source has it, or it cannot be fetched.
pub fn kernel(folder: &Path, version: &str) -> Result<Kernel> {
    let known = output("apt-cache", &["pkgnames", "linux-image-"])?;
    let Some(release) = newest(known.lines(), version) else {
        bail!(
            "no configured source has a package linux-image-{version}*{FLAVOUR}: add Debian's sources that have it \
             (6.1 is in bookworm, 6.12 in bookworm-backports and trixie), then as root: apt-get update"
        );
    };
    let unpacked = packages::unpack(folder, &format!("linux-image-{release}"))?;
    let modules = ["lib/modules", "usr/lib/modules"].map(|place| unpacked.join(place).join(&release));
    let modules = modules.into_iter().find(|place| place.is_dir()).context("the kernel's package has no modules")?;
    let image = unpacked.join("boot").join(format!("vmlinuz-{release}"));
    ensure!(image.is_file(), "the kernel's package has no {}", image.display());
    Ok(Kernel { release, image, modules })
}

/// The program busybox, which needs no library.
pub fn busybox(folder: &Path) -> Result<PathBuf> {
    let unpacked = packages::unpack(folder, "busybox-static")?;
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| unpacked.join(place));
    places.into_iter().find(|place| place.is_file()).context("the package busybox-static has no busybox")
}

/// The emulator; installed if it is missing and this is root.
///
/// # Errors
/// It is missing, or too old: names the command that installs it.
pub fn qemu() -> Result<PathBuf> {
    if shell::find(QEMU).is_none() {
        let offers = output("apt-cache", &["madison", QEMU_PACKAGE])?;
        let Some(suite) = suite(&offers) else {
            bail!(
                "{QEMU} is missing, and no configured source has qemu {OLDEST_QEMU} or newer: add bookworm-backports, \
                 then as root: apt-get update && apt-get install -t bookworm-backports {QEMU_PACKAGE}"
            );
        };
        let install = ["install", "-q", "-y", "--no-install-recommends", "-t", &suite, QEMU_PACKAGE];
        if !shell::is_root() {
            bail!("{QEMU} is missing; as root: apt-get {}", install.join(" "));
        }
        println!("kernels: installing {QEMU}, which emulates the machine that other kernels run on");
        shell::run(shell::program("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(install))?;
    }
    let program = shell::find(QEMU).with_context(|| format!("{QEMU_PACKAGE} is installed and there is no {QEMU}"))?;
    let version = shell::output(shell::program(&program).arg("--version"))?;
    let number = version.split_whitespace().find_map(|word| word.split_once('.')?.0.parse::<u32>().ok());
    ensure!(
        number.is_some_and(|number| number >= OLDEST_QEMU),
        "{QEMU} is older than {OLDEST_QEMU}, and its emulation makes guests panic at random; as root: apt-get install \
         -t bookworm-backports {QEMU_PACKAGE}"
    );
    Ok(program)
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    if shell::find(program).is_none() {
        bail!("there is no {program}: other kernels come from Debian's packages, and this is no Debian");
    }
    shell::output(shell::program(program).args(arguments))
}

/// The release of the newest package of this version; `6.1` is not `6.12`.
fn newest<'a>(packages: impl Iterator<Item = &'a str>, version: &str) -> Option<String> {
    let releases = packages.filter_map(|package| package.strip_prefix("linux-image-"));
    let of_it = |release: &&str| {
        let rest = release.strip_prefix(version);
        release.ends_with(FLAVOUR) && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    releases.filter(of_it).max_by_key(|release| numbers(release)).map(str::to_owned)
}

/// The numbers in a version, to compare by.
fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// The suite with the newest emulator among the lines of `apt-cache madison`, if that is new enough.
fn suite(offers: &str) -> Option<String> {
    let offers = offers.lines().filter_map(|line| {
        let mut fields = line.split('|').map(str::trim).skip(1);
        let (version, source) = (fields.next()?, fields.next()?);
        let version = version.split_once(':').map_or(version, |(_epoch, version)| version);
        let suite = source.split_whitespace().nth(1)?.split('/').next()?;
        Some((numbers(version), suite.to_owned()))
    });
    let (version, suite) = offers.max()?;
    version.first().is_some_and(|number| *number >= OLDEST_QEMU).then_some(suite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_line_is_taken_and_of_no_other_line() {
        let packages = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-57-amd64",
            "linux-image-6.1.0-58-cloud-amd64-unsigned",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12-cloud-amd64",
        ];
        let newest = |version| newest(packages.into_iter(), version);
        assert_eq!(newest("6.1").as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(newest("6.12").as_deref(), Some("6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest("6.1.0-9-cloud-amd64").as_deref(), Some("6.1.0-9-cloud-amd64"));
        assert_eq!(newest("6.9"), None);
    }

    #[test]
    fn an_emulator_that_is_too_old_is_not_offered() {
        let old = "qemu-system-x86 | 1:7.2+dfsg-7 | http://deb.debian.org/debian bookworm/main amd64 Packages\n";
        let new = "qemu-system-x86 | 1:10.0.2+ds-2~bpo12+1 | http://x/debian bookworm-backports/main amd64 Packages\n";
        assert_eq!(suite(old), None);
        assert_eq!(suite(&format!("{old}{new}")).as_deref(), Some("bookworm-backports"));
        assert_eq!(suite(""), None);
    }
}
