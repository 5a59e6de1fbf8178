//! `cargo xtask kernels`: whether the programs load and redirection works on other kernels than this machine's. Those
//! are Debian's, booted in emulation, which is slow: behaviour is asserted there, never speed. No part of CI.

mod cpio;
mod guest;
mod machine;
mod modules;
mod packages;
mod report;
mod transcript;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    programs,
    setup::{self, Ready, Scope},
    shell, test,
};
use guest::Limits;
use report::{Report, Row};
use transcript::PROGRAMS;

/// The files of scenes that run on every kernel: all that the data path does, and little of what only the agents do.
const SCENES: &[&str] = &[
    "redirect_and_addresses",
    "own_pod",
    "strict_and_permissive",
    "closed_ports",
    "half_close_reset_slow",
    "agent_killed",
    "direct",
    "affinity",
];

/// This machine's own kernel, without emulation.
const RUNNING: &str = "running";
const VERSIONS: &[&str] = &[RUNNING, "6.1", "6.12"];

/// Emulation is about 12 times slower than the processor that it runs on.
const GUEST: Limits = Limits { patience: 12, scene: 300 };
/// Seconds for one scene on the running kernel.
const SCENE_LIMIT: &str = "60";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Lines of Debian's cloud kernels, as 6.1, or whole releases, as 6.1.0-56-cloud-amd64; `running` is this machine's
    #[arg(default_values = VERSIONS)]
    versions: Vec<String>,
}

/// What was built, and what of it is to run.
#[derive(Debug)]
pub struct Build {
    /// The folder with the mesh's programs.
    pub programs: PathBuf,
    /// The scenes' program.
    pub tests: PathBuf,
    /// Names of the tests.
    pub scenes: Vec<String>,
}

/// # Errors
/// A scene fails on one kernel, a kernel does not take the programs or does not boot, or something is missing to try.
pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    let running = arguments.versions.iter().any(|version| version == RUNNING);
    ensure!(!running || shell::is_root(), "needs root for the running kernel; name only others, as in 6.1 6.12");
    let ready = setup::run(root, Scope::Everything)?;
    let build = Build::new(&ready, root)?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("listen for signals")?;
    // A machine is ended then, and a scene of the running kernel comes to its end.
    thread::spawn(move || signals.forever().for_each(|_| mesh_tests::interrupt()));
    let mut reports = Vec::new();
    for version in &arguments.versions {
        println!("kernels: {version}");
        let report = match version.as_str() {
            RUNNING => on_this(&build),
            other => in_guest(&root.join("target/kernels"), &build, other),
        };
        reports.push(report.unwrap_or_else(|error| {
            println!("kernels: {version}: {error:#}");
            Report { kernel: version.clone(), rows: Vec::new() }
        }));
        if mesh_tests::interrupted() {
            break;
        }
    }
    let names: Vec<String> = [PROGRAMS.to_owned()].into_iter().chain(build.scenes).collect();
    tell(&names, &reports);
    println!("  total {:.0} s", start.elapsed().as_secs_f64());
    ensure!(!mesh_tests::interrupted(), "kernels: interrupted");
    let failures = report::failures(&names, &reports);
    if let Some(first) = failures.first() {
        let all = names.len() * reports.len();
        bail!("kernels: {} of {all} failed or were not run, the first {first}", failures.len());
    }
    Ok(())
}

fn tell(names: &[String], reports: &[Report]) {
    for report in reports {
        for row in &report.rows {
            if row.name == PROGRAMS {
                println!("\n{}", programs::told(&row.output).unwrap_or_else(|_| row.output.clone()));
            } else if !row.passed {
                println!("\n{} on {}:\n{}", row.name, report.kernel, row.output);
            }
        }
    }
    println!("\n{}", report::table(names, reports));
}

impl Build {
    fn new(ready: &Ready, root: &Path) -> Result<Self> {
        // Scenes run the programs, which building the tests alone would not bring up to date.
        shell::run(ready.cargo(root).args(["build", "--locked"]))?;
        let tests = test::test_programs(ready, root, "mesh-tests")?;
        let tests = tests
            .into_iter()
            .find(|program| program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("scenes-")));
        let tests = tests.context("mesh-tests has no test program named scenes")?;
        let listed = shell::output(shell::program(&tests).args(["--list", "--format", "terse"]))?;
        Ok(Self { programs: mesh_tests::programs_dir()?, tests, scenes: chosen(&listed, SCENES)? })
    }
}

/// The tests of these files among all that a test program lists.
fn chosen(listed: &str, files: &[&str]) -> Result<Vec<String>> {
    let all: Vec<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let mut chosen = Vec::new();
    for file in files {
        let before = chosen.len();
        chosen.extend(all.iter().filter(|name| name.split("::").next() == Some(file)).map(|name| (*name).to_owned()));
        ensure!(chosen.len() > before, "no scene is in tests/scenes/{file}.rs: correct SCENES in xtask/src/kernels.rs");
    }
    Ok(chosen)
}

fn on_this(build: &Build) -> Result<Report> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
    let mut report = Report { kernel: kernel.trim().to_owned(), rows: Vec::new() };
    let mut add = |name: &str, command: &mut Command| -> Result<bool> {
        let start = Instant::now();
        let Output { status, stdout, stderr } = command.output().with_context(|| format!("cannot start {name}"))?;
        let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        let seconds = start.elapsed().as_secs_f64();
        let row = Row { name: name.to_owned(), passed: status.success(), seconds, output: said };
        println!("kernels: {RUNNING}: {}", row.told());
        report.rows.push(row);
        Ok(status.success())
    };
    let taken = add(PROGRAMS, shell::program(build.programs.join("mesh-agent")).args(["programs", "--json"]))?;
    // No scene can pass without the programs.
    for scene in build.scenes.iter().filter(|_| taken) {
        if mesh_tests::interrupted() {
            break;
        }
        let mut timeout = shell::program("timeout");
        add(scene, timeout.args(["-s", "KILL", SCENE_LIMIT]).arg(&build.tests).args(["--exact", scene]))?;
    }
    Ok(report)
}

fn in_guest(folder: &Path, build: &Build, version: &str) -> Result<Report> {
    let qemu = packages::qemu()?;
    let kernel = packages::kernel(folder, version)?;
    let busybox = packages::busybox(folder)?;
    let initrd = folder.join(format!("guest-{}.cpio", kernel.release));
    guest::write(&kernel, &busybox, build, GUEST, &initrd)?;
    machine::run(&qemu, &kernel, &initrd, &folder.join(format!("guest-{}.log", kernel.release)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenes_of_a_file_are_found_and_a_file_without_any_is_an_error() {
        let listed = "own_pod::a: test\nown_pod_else::b: test\nbytes::c: test\nown_pod::d: test\n";
        assert_eq!(chosen(listed, &["own_pod"]).unwrap(), ["own_pod::a", "own_pod::d"]);
        assert!(chosen(listed, &["own_pod", "gone"]).unwrap_err().to_string().contains("tests/scenes/gone.rs"));
    }
}
