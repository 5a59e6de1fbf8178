//! Where programs run: a namespace and a cgroup of the world. Starting them, and running them to their end.

use std::{
    ffi::OsString,
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::{
    Process, config, interrupted,
    process::{Crew, signal},
};

static LOGS: AtomicU32 = AtomicU32::new(0);

/// Where a program runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// The namespace's file below /run/netns; `None`: the one of this process.
    pub netns: Option<PathBuf>,
    /// A cgroup v2 folder of the world: what enters it dies with the world.
    pub cgroup: PathBuf,
    /// For the logs of what is started here.
    pub logs: PathBuf,
    pub(crate) crew: Crew,
}

impl Place {
    fn command(&self, program: &Path, arguments: &[String]) -> Result<Command> {
        let mut words = self.prefix()?.into_iter();
        let mut command = Command::new(words.next().context("no program")?);
        command.args(words).arg(program).args(arguments).stdin(Stdio::null());
        Ok(command)
    }

    /// What is to stand before a program's name, so that it runs here.
    pub(crate) fn prefix(&self) -> Result<Vec<OsString>> {
        let mut words: Vec<OsString> = vec![config::built("mesh-test-app")?.into(), "exec".into()];
        words.extend(["--cgroup".into(), self.cgroup.clone().into()]);
        if let Some(netns) = &self.netns {
            words.extend(["--netns".into(), netns.into()]);
        }
        words.push("--".into());
        Ok(words)
    }

    /// A number that no other log or folder of this process has.
    pub(crate) fn next_number(&self) -> u32 {
        LOGS.fetch_add(1, Ordering::Relaxed)
    }

    /// Starts a program that stays.
    pub fn start(&self, name: &str, program: &Path, arguments: &[String]) -> Result<Process> {
        let log = self.logs.join(format!("{name}.{}.log", self.next_number()));
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = self.command(program, arguments)?;
        // A group of its own: a Ctrl-C in the terminal is for the owner of the world, who ends the rest in order.
        command.process_group(0).stdout(file.try_clone().context("share the log file")?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Process::new(name, child, log))
    }

    /// A file as it is in its network namespace, as in `/proc/net/if_inet6`.
    pub fn read(&self, path: &str) -> Result<String> {
        let output = self.output(&config::installed("cat")?, &[path.to_owned()], Duration::from_secs(5))?;
        ensure!(output.status.success(), "cat {path}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Sets a sysctl of its network namespace, as in `net/ipv4/ip_forward`.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        let options = ["-qw".to_owned(), format!("{}={value}", key.replace('/', "."))];
        let output = self.output(&config::installed("sysctl")?, &options, Duration::from_secs(5))?;
        ensure!(output.status.success(), "sysctl {key}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// Runs a program to its end; it is killed, and that is an error, if it takes longer than `limit`.
    pub fn output(&self, program: &Path, arguments: &[String], limit: Duration) -> Result<Output> {
        finish(self.command(program, arguments)?, limit)
    }
}

/// Runs `command` to its end and gives its output, whatever its exit code.
pub(crate) fn finish(mut command: Command, limit: Duration) -> Result<Output> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.with_context(|| format!("start {command:?}"))?;
    let pid = child.id();
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || done.send(child.wait_with_output()));
    let (start, limit) = (Instant::now(), limit * config::patience());
    loop {
        match outcome.recv_timeout(Duration::from_millis(50)) {
            Ok(output) => return output.with_context(|| format!("wait for {command:?}")),
            Err(_) if interrupted() || start.elapsed() > limit => {
                signal(pid, Signal::KILL)?;
                bail!("{command:?} did not end within {:.1} s", start.elapsed().as_secs_f64());
            }
            Err(_) => {}
        }
    }
}

/// Runs `command`, which must succeed, and gives what it printed.
pub(crate) fn succeed(command: Command, limit: Duration) -> Result<String> {
    let shown = format!("{command:?}");
    let output = finish(command, limit)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown}: {}: {}", output.status, errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
