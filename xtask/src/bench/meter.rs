//! What the two agents have used: CPU time of their cgroups, memory of their processes.

use std::fs;

use anyhow::{Context, Result};
use mesh_tests::{A, B, NodeId, World};

/// The agent's own group below its node's; see mesh-agent's pods/cgroup.rs.
const GROUP: &str = "nodemesh-agent";

/// Seconds of CPU, user and system, that each agent has used so far.
pub fn cpu(world: &World) -> Result<[f64; 2]> {
    Ok([cpu_of(world, A)?, cpu_of(world, B)?])
}

fn cpu_of(world: &World, node: NodeId) -> Result<f64> {
    let file = world.node(node).cgroup.join(GROUP).join("cpu.stat");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    let micros: f64 = usage.and_then(|value| value.trim().parse().ok()).context("cpu.stat says no usage_usec")?;
    Ok(micros / 1e6)
}

/// Bytes of resident memory of each agent.
pub fn memory(world: &World) -> Result<[f64; 2]> {
    Ok([memory_of(world, A)?, memory_of(world, B)?])
}

fn memory_of(world: &World, node: NodeId) -> Result<f64> {
    let file = format!("/proc/{}/status", world.agent(node)?.process.pid());
    let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let kilobytes: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .with_context(|| format!("{file} says no VmRSS"))?;
    Ok(kilobytes * 1024.0)
}
