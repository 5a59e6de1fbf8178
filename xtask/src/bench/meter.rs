//! What the two agents have used: CPU time of their cgroups, memory of their processes. And the CPU time of pods, which
//! is the scale for both: a GB or a message costs another machine something else.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use mesh_tests::{A, B, Pod, World};

/// The agent's own group below its node's; see mesh-agent's pods/cgroup.rs.
const GROUP: &str = "nodemesh-agent";

/// Seconds of CPU, user and system, that each agent has used so far.
pub fn cpu(world: &World) -> Result<[f64; 2]> {
    let of = |node| cpu_of(&world.node(node).cgroup.join(GROUP));
    Ok([of(A)?, of(B)?])
}

/// The same of pods, together.
pub fn cpu_of_pods(pods: &[&Pod]) -> Result<f64> {
    pods.iter().map(|pod| cpu_of(&pod.cgroup)).sum()
}

fn cpu_of(cgroup: &Path) -> Result<f64> {
    let file = cgroup.join("cpu.stat");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    let micros: f64 = usage.and_then(|value| value.trim().parse().ok()).context("cpu.stat says no usage_usec")?;
    Ok(micros / 1e6)
}

/// Bytes of resident memory of each agent.
pub fn memory(world: &World) -> Result<[f64; 2]> {
    Ok([memory_of(world, A)?, memory_of(world, B)?])
}

fn memory_of(world: &World, node: mesh_tests::NodeId) -> Result<f64> {
    let file = format!("/proc/{}/status", world.agent(node)?.process.pid());
    let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let kilobytes: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .with_context(|| format!("{file} says no VmRSS"))?;
    Ok(kilobytes * 1024.0)
}
