//! A program that runs: what it says, whether it lives, its end.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Patience, eventually};

/// The programs of a world that run until it ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crew(Arc<Mutex<Vec<Arc<Process>>>>);

/// A running program. Its output goes to a file. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Crew {
    pub fn join(&self, process: &Arc<Process>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(process));
    }

    /// Takes all of them, in the order in which they came.
    pub fn take(&self) -> Vec<Arc<Process>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Process {
    pub(crate) fn new(name: &str, child: Child, log: PathBuf) -> Self {
        Self { name: name.to_owned(), pid: child.id(), child: Mutex::new(child), log }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it printed so far, both streams.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The exit status, if it has ended.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        self.child().try_wait().with_context(|| format!("wait for {}", self.name))
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&self) -> Result<()> {
        let mut child = self.child();
        child.kill().with_context(|| format!("kill {}", self.name))?;
        child.wait().map(drop).with_context(|| format!("wait for {}", self.name))
    }

    /// Stops it in its tracks (SIGSTOP), or lets it go on.
    pub fn hold_still(&self, still: bool) -> Result<()> {
        signal(self.pid, if still { Signal::STOP } else { Signal::CONT })
    }

    /// SIGTERM, without waiting.
    pub fn ask_to_end(&self) -> Result<()> {
        signal(self.pid, Signal::TERM)
    }

    /// Asks it to end (SIGTERM) and waits.
    pub fn terminate(&self, patience: Patience) -> Result<ExitStatus> {
        if self.ended()?.is_none() {
            signal(self.pid, Signal::TERM)?;
        }
        eventually(format_args!("{} ends after SIGTERM", self.name), patience, || self.ended())
    }

    /// Waits until a line of its output contains `text`, and gives that line.
    pub fn says(&self, text: &str, patience: Patience) -> Result<String> {
        self.alive_until(format_args!("{} says {text:?}", self.name), patience, || {
            let log = File::open(&self.log).with_context(|| format!("open {}", self.log.display()))?;
            Ok(BufReader::new(log).lines().map_while(Result::ok).find(|line| line.contains(text)))
        })
    }

    /// Waits until a socket in its network namespace listens on `port`.
    pub fn listens(&self, port: u16) -> Result<()> {
        let suffix = format!(":{port:04X}");
        self.alive_until(format_args!("{} listens on port {port}", self.name), Patience::SHORT, || {
            Ok(["tcp", "tcp6"]
                .iter()
                .filter_map(|table| fs::read_to_string(format!("/proc/{}/net/{table}", self.pid)).ok())
                .any(|table| table.lines().any(|line| is_listening(line, &suffix)))
                .then_some(()))
        })
    }

    /// Waits until a unix socket in its network namespace listens at `path`. Asked of the kernel: neither a file that
    /// an earlier process left nor a connection of our own says it as well.
    pub fn listens_at(&self, path: &Path) -> Result<()> {
        let (table, path) = (format!("/proc/{}/net/unix", self.pid), path.display().to_string());
        self.alive_until(format_args!("{} listens at {path}", self.name), Patience::LONG, || {
            let table = fs::read_to_string(&table).with_context(|| format!("read {table}"))?;
            // Slot, references, protocol, flags (00010000 is a listener), type, state, inode, path.
            let listening = |line: &str| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                fields.get(3) == Some(&"00010000") && fields.last() == Some(&path.as_str())
            };
            Ok(table.lines().any(listening).then_some(()))
        })
    }

    /// Waits for `look`; that the process ended meanwhile is an error with the end of its log.
    pub(crate) fn alive_until<T>(
        &self,
        what: std::fmt::Arguments<'_>,
        patience: Patience,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let mut gone = None;
        let found = eventually(what, patience, || {
            // Whether it lives is asked before looking: what it said last still counts.
            gone = self.ended()?;
            match (look(), gone) {
                (Ok(None), Some(_)) => Ok(Some(None)),
                (found, _) => found.map(|found| found.map(Some)),
            }
        });
        match found {
            Ok(Some(found)) => Ok(found),
            Ok(None) => {
                let status = gone.map_or_else(String::new, |status| status.to_string());
                bail!("{what}: it ended before ({status}):\n{}", tail(&self.log()?, 20))
            }
            Err(error) => Err(error.context(format!("{} said:\n{}", self.name, tail(&self.log()?, 20)))),
        }
    }

    /// The name and the last lines, for somebody who asks why a scene failed; `None`: it said nothing.
    pub(crate) fn last_words(&self) -> Option<String> {
        let log = self.log().unwrap_or_else(|error| format!("{error:#}"));
        (!log.is_empty()).then(|| format!("---- {} (pid {}) ----\n{}", self.name, self.pid, tail(&log, 40)))
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = self.kill();
    }
}

/// A line of /proc/net/tcp: slot, local address, remote address, state (0A is LISTEN), …
fn is_listening(line: &str, suffix: &str) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let (local, _, state) = (fields.next(), fields.next(), fields.next());
    local.is_some_and(|local| local.ends_with(suffix)) && state == Some("0A")
}

pub(crate) fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process id")?;
    kill_process(pid, signal).with_context(|| format!("signal process {}", pid.as_raw_nonzero()))
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
