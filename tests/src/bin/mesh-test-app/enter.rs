//! Getting a program into a pod, and cleaning up after a test process that died.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Moves this process and becomes `command`; returns only on failure.
pub fn become_command(netns: Option<&Path>, cgroup: &Path, command: &[String]) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("enter cgroup {}", cgroup.display()))?;
    if let Some(netns) = netns {
        let file = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("enter {}", netns.display()))?;
    }
    let [program, arguments @ ..] = command else { bail!("no command") };
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("run {program}"))
}

/// A world that is left to the janitor.
pub fn make_world() -> Result<()> {
    let mut world = mesh_tests::World::new("to be killed")?;
    world.pod("shop", "pod", mesh_tests::A)?.serve("echo", 7000)?;
    println!("world {}", world.id());
    thread::sleep(Duration::from_secs(60));
    Ok(())
}

/// An API that is left to the janitor.
pub fn start_kube_api() -> Result<()> {
    let api = mesh_tests::HostApi::start()?.context("there is none on this machine")?;
    println!("world {} {}", api.id(), api.pid()?);
    thread::sleep(Duration::from_secs(60));
    Ok(())
}

/// Sleeps until the process at the other end of standard input is done, however it ended, and removes what it left.
pub fn janitor(pid: u32) -> Result<()> {
    // A session of its own: a Ctrl-C in the terminal is not for the janitor.
    rustix::process::setsid().context("setsid")?;
    io::stdin().read_to_end(&mut Vec::new()).context("wait for the end of standard input")?;
    mesh_tests::sweep(|world| world.pid == pid)
}
