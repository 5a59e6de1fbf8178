//! What the two agents have used: CPU time of their cgroups, memory of their processes. And the CPU time of pods, which
//! is the scale for both: a GB or a message costs another machine something else.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use mesh_tests::{A, B, Pod, World};

use super::stage::METRICS;

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

/// Of everything in a cgroup.
pub fn cpu_of(cgroup: &Path) -> Result<f64> {
    let file = cgroup.join("cpu.stat");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    let micros: f64 = usage.and_then(|value| value.trim().parse().ok()).context("cpu.stat says no usage_usec")?;
    Ok(micros / 1e6)
}

/// Connects of the pods of node a, as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connects {
    /// Sent straight to the pod that was dialled.
    pub direct: u64,
    /// Sent to the agent.
    pub redirected: u64,
}

/// Those so far.
pub fn connects(world: &World) -> Result<Connects> {
    counted(&world.node(A).host.curl(&format!("http://{METRICS}/metrics"))?)
}

/// From the text of the agent's metrics; a counter that is not there has counted nothing.
fn counted(text: &str) -> Result<Connects> {
    let of = |verdict: &str| {
        let prefix = format!("mesh_bpf_verdicts_total{{verdict=\"{verdict}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or("0");
        value.parse().with_context(|| format!("the agent's metrics count {verdict} as {value}"))
    };
    Ok(Connects { direct: of("CONNECT_DIRECT")?, redirected: of("CONNECT_REDIRECTED")? })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_is_not_there_is_zero() {
        let text = "# TYPE mesh_bpf_verdicts_total counter\n\
                    mesh_bpf_verdicts_total{verdict=\"CONNECT_REDIRECTED\"} 12\n\
                    mesh_bpf_verdicts_total{verdict=\"STEERED_DIRECT\"} 7\n";
        assert_eq!(counted(text).unwrap(), Connects { direct: 0, redirected: 12 });
        assert!(counted(&text.replace("12", "many")).is_err());
    }
}
