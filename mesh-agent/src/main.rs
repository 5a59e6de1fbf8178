//! The agent of one node.

mod admin;
mod app;
#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "the HTTP engine's"))]
mod balance;
mod bpf;
mod capture;
mod cni;
mod config;
mod control;
mod direct;
mod durable;
mod handover;
mod health;
mod http;
mod identity;
mod pods;
mod private_socket;
mod proxy;
#[cfg(test)]
#[path = "../../tests/src/refused.rs"]
mod refused;
#[cfg(test)]
#[path = "../../tests/src/rogue.rs"]
mod rogue;
mod sock_diag;
mod sockopt;
mod state;
mod telemetry;
mod tunnel;
mod udp;

use std::{fs, os::fd::AsFd as _, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use config::{Arguments, CniPlaces, Command, Name, Places, Pod};

/// How long a word about a pod may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if cni::is_called() {
        return cni::run();
    }
    let done = match Arguments::parse().command {
        Command::Run(run) => app::run(*run),
        Command::Pod(pod) => tell(&pod),
        Command::Uninstall { places, cni } => take_away(&places, &cni),
        Command::Cni => return cni::run(),
        Command::Ready { health } => health::ready(health),
        Command::Programs { json } => app::programs(json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mesh-agent: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn tell(pod: &Pod) -> Result<()> {
    let request = |operation, name: &Name, pod_uid: &str| pods::Request {
        operation,
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        pod_uid: pod_uid.to_owned(),
        ..pods::Request::default()
    };
    match pod {
        Pod::Add { pod, pod_uid, netns, cgroup } => {
            let netns = fs::File::open(netns).with_context(|| format!("--netns {}", netns.display()))?;
            let request = pods::Request { cgroup: cgroup.clone(), ..request(pods::Operation::Add, pod, pod_uid) };
            pods::request(&pod.socket, &request, Some(netns.as_fd()), PATIENCE)?;
        }
        Pod::Remove { pod } => {
            pods::request(&pod.socket, &request(pods::Operation::Remove, pod, ""), None, PATIENCE)?;
        }
    }
    Ok(())
}

fn take_away(Places { cgroup, bpffs, run_dir, state_dir }: &Places, cni: &CniPlaces) -> Result<()> {
    // The hooks of a running agent would go before it does, and its pods' traffic be plaintext at once.
    let running = pods::agents_in(cgroup).with_context(|| format!("cannot look below {}", cgroup.display()))?;
    if let Some(pid) = running.first() {
        bail!("the agent still runs (pid {pid}); stop it first");
    }
    let CniPlaces { cni_conf_dir, cni_bin_dir } = cni;
    cni::remove(cni_conf_dir.as_deref(), cni_bin_dir.as_deref()).context("cannot remove the CNI plugin")?;
    let removed = bpf::uninstall(bpffs).with_context(|| format!("cannot remove {}", bpffs.display()))?;
    let sockets = ["agent.sock", "cni.sock", "handover.sock"].map(|name| run_dir.join(name));
    let files = ["configuration", "pods.json", "namespaces.json"].map(|name| state_dir.join(name));
    for path in sockets.into_iter().chain(files) {
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    // Empty, or somebody else's.
    let _ = fs::remove_dir(run_dir);
    let _ = fs::remove_dir(state_dir);
    pods::remove_agent_cgroup(cgroup)
        .with_context(|| format!("cannot remove the agent's cgroup below {}", cgroup.display()))?;
    println!("mesh-agent: {removed} links and maps removed");
    Ok(())
}
