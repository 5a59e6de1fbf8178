//! The CNI plugin, and how it comes to a node. Chained behind the plugin that makes a pod's network, it tells the agent
//! of the pod and waits until the pod is what it shall be (CNI 0.3.1 to 1.1, containernetworking/cni SPEC.md). It makes
//! no network, and hands on what the others made as it is.
//!
//! A runtime calls it for every pod: it starts no runtime and touches no eBPF.

mod call;
mod install;
mod list;
mod namespaces;
mod problem;
mod result;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    process::ExitCode,
    time::Duration,
};

use call::{Call, Command, LONGEST, NAME, VERSIONS};
use mesh_common::model::Mode;
use problem::Problem;
use rustix::fs::{OFlags, fstatfs};
use serde_json::{Value, json};

pub use install::{Installer, namespaces_file, remove};
pub use namespaces::keep;

use crate::{
    config::{self, CniEnvironment},
    pods::{self, Answer, JoinError, Operation, Request},
};

/// The kernel's file system of namespaces (NSFS_MAGIC in include/uapi/linux/magic.h).
const NAMESPACES: i64 = 0x6e73_6673;
/// A pod that goes does not wait long for an agent: what is left of it the agent finds out by itself.
const FOR_A_GOING_POD: Duration = Duration::from_secs(5);

/// This process was called as a plugin, by its name.
pub fn is_called() -> bool {
    config::called(NAME)
}

/// Answers the runtime: a result on standard output, or an error there and exit code 1.
pub fn run() -> ExitCode {
    let mut text = Vec::new();
    // A byte more than may be: what is too long is refused as that.
    let answered = match io::stdin().take(LONGEST as u64 + 1).read_to_end(&mut text) {
        Ok(_) => answer(&CniEnvironment::read(), &text),
        Err(e) => Err(Problem::input(format!("standard input: {e}"))),
    };
    let (output, code) = told(answered, &text);
    // Without anybody who reads there is nobody to tell.
    let written = io::stdout().write_all(output.as_bytes()).and_then(|()| io::stdout().flush());
    if written.is_ok() { code } else { ExitCode::FAILURE }
}

/// What is printed, and the exit code.
fn told(answered: Result<Option<Value>, Problem>, text: &[u8]) -> (String, ExitCode) {
    match answered {
        Ok(Some(result)) => (result.to_string(), ExitCode::SUCCESS),
        Ok(None) => (String::new(), ExitCode::SUCCESS),
        Err(problem) => (problem.json(text).to_string(), ExitCode::FAILURE),
    }
}

fn answer(environment: &CniEnvironment, text: &[u8]) -> Result<Option<Value>, Problem> {
    let call = Call::read(environment, text)?;
    match call.command {
        Command::Version => Ok(Some(json!({ "cniVersion": call.version, "supportedVersions": VERSIONS }))),
        Command::Add => add(&call).map(Some),
        Command::Del => del(&call).map(|()| None),
        Command::Check => check(&call).map(|()| None),
        Command::Status => status(&call).map(|()| None),
        Command::Gc => gc(&call).map(|()| None),
    }
}

fn add(call: &Call) -> Result<Value, Problem> {
    let result = call.previous()?;
    let addresses = result::addresses(&result)?;
    let pod = call.pod()?;
    if call.conf.exclude.contains(&pod.namespace) {
        return Ok(result);
    }
    let netns = namespace(&call.netns)
        .map_err(|e| Problem::environment(format!("CNI_NETNS: {} is no network namespace: {e}", call.netns)))?;
    let request = Request {
        operation: Operation::Add,
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        container: call.container.clone(),
        addresses,
        wait_ms: milliseconds(call.conf.patience()),
        ..Request::default()
    };
    match pods::request(&call.conf.socket, &request, Some(netns.as_fd()), call.conf.limit()) {
        Ok(Answer::Enrolled | Answer::Observed | Answer::Unmeshed | Answer::Done) => Ok(result),
        Err(error @ (JoinError::Refused(_) | JoinError::Later(_))) => Err(Problem::of(error)),
        // Nobody answers: pods outside the mesh start all the same, and if one of them is to be in it after all, the
        // agent finds it once it is back.
        Err(error) => match namespaces::mode(&call.conf.namespaces, &pod.namespace) {
            Ok(Some(Mode::None | Mode::Observe)) => Ok(result),
            Ok(Some(Mode::Mesh)) => {
                let why = format!("namespace {} is in the mesh", pod.namespace);
                Err(Problem::of(error).because(&why))
            }
            Ok(None) => {
                let why = format!("it is not known whether namespace {} is in the mesh", pod.namespace);
                Err(Problem::of(error).because(&why))
            }
            Err(e) => Err(Problem::of(error).because(&format!("which namespaces are in the mesh cannot be read: {e}"))),
        },
    }
}

/// Succeeds whatever is there no more: the runtime would ask again for ever.
fn del(call: &Call) -> Result<(), Problem> {
    let pod = call.pod().unwrap_or_default();
    if call.conf.exclude.contains(&pod.namespace) {
        return Ok(());
    }
    let netns = namespace(&call.netns).ok();
    let request = Request {
        operation: Operation::Remove,
        namespace: pod.namespace,
        name: pod.name,
        pod_uid: pod.uid,
        container: call.container.clone(),
        ..Request::default()
    };
    let limit = call.conf.limit().min(FOR_A_GOING_POD);
    if let Err(error) = pods::request(&call.conf.socket, &request, netns.as_ref().map(File::as_fd), limit) {
        eprintln!("{NAME}: {}; the agent forgets the pod by itself", Problem::of(error));
    }
    Ok(())
}

fn check(call: &Call) -> Result<(), Problem> {
    let addresses = result::addresses(&call.previous()?)?;
    let pod = call.pod()?;
    if call.conf.exclude.contains(&pod.namespace) {
        return Ok(());
    }
    let request = Request {
        operation: Operation::Check,
        namespace: pod.namespace,
        name: pod.name,
        pod_uid: pod.uid,
        container: call.container.clone(),
        addresses,
        wait_ms: milliseconds(call.conf.patience()),
        ..Request::default()
    };
    pods::request(&call.conf.socket, &request, None, call.conf.limit()).map(drop).map_err(Problem::of)
}

fn status(call: &Call) -> Result<(), Problem> {
    let request = Request { operation: Operation::Status, ..Request::default() };
    match pods::request(&call.conf.socket, &request, None, call.conf.limit()) {
        Ok(_) => Ok(()),
        // A node without a network starts nothing, pods outside the mesh and the mesh's controller least of all.
        Err(_) if call.conf.status_without_agent => Ok(()),
        Err(error) => Err(Problem::unavailable(Problem::of(error).to_string())),
    }
}

fn gc(call: &Call) -> Result<(), Problem> {
    let request = Request { operation: Operation::Gc, attachments: call.attachments()?, ..Request::default() };
    pods::request(&call.conf.socket, &request, None, call.conf.limit()).map(drop).map_err(Problem::of)
}

/// Which kind of namespace it is the agent finds out.
fn namespace(path: &str) -> io::Result<File> {
    // Opening a pipe would wait for somebody who writes.
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    if fstatfs(&file)?.f_type != NAMESPACES {
        return Err(io::Error::other("it is another kind of file"));
    }
    Ok(file)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
