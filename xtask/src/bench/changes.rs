//! A cluster that does not rest: pods of other namespaces, of both nodes, appear, become ready and go, thirty times a
//! second, while something is measured. They are manifests only: nothing runs in them, and nobody dials them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_tests::{A, B, Manifests, Patience, eventually};

use super::stage::Stage;

/// Changes a second.
pub const RATE: u32 = 30;
/// What of that must be reached, or it was no measurement.
const REACHED: f64 = 0.9;
/// Pods that are there at any time; half of them are ready. One lives for two seconds.
const THERE: usize = 20;
const READY: usize = THERE / 2;
/// Two namespaces: outside the mesh, and in it.
const NAMESPACES: [(&str, &str); 2] = [("changing", "none"), ("changing-meshed", "mesh")];
const ACCOUNT: &str = "changing";
/// The addresses that they take, on each node; beyond those of pods that run.
const ADDRESSES: usize = 30;
const FIRST_ADDRESS: usize = 215;

/// Gives what `work` gives, and the changes a second that were made meanwhile.
///
/// # Errors
/// Those of `work`; the changes could not be made as fast, or do not arrive at the agent.
pub fn meanwhile<T>(stage: &Stage, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let manifests = &stage.world.manifests;
    for (namespace, mode) in NAMESPACES {
        manifests.write(&format!("namespace-{namespace}"), &namespace_yaml(namespace, mode))?;
    }
    (0..THERE).try_for_each(|number| manifests.write(&name(number), &pod_yaml(number, number < READY)))?;
    let over = AtomicBool::new(false);
    let (outcome, made) = thread::scope(|scope| {
        let making = scope.spawn(|| make(manifests, &over));
        let outcome = arrived(stage).and_then(|()| work());
        over.store(true, Ordering::Relaxed);
        (outcome, making.join().unwrap_or_else(|_| Err(anyhow!("the thread of the changes panicked"))))
    });
    let (made, rate) = made?;
    // Those that are there by now: one is removed with every third change.
    (made.div_ceil(3)..).take(THERE + 1).try_for_each(|number| remove(manifests, number))?;
    let outcome = outcome?;
    ensure!(rate >= f64::from(RATE) * REACHED, "{rate:.1} changes a second instead of {RATE}: the machine is too slow");
    Ok((outcome, rate))
}

/// Makes changes until it is `over`; how many, and how many a second.
fn make(manifests: &Manifests, over: &AtomicBool) -> Result<(usize, f64)> {
    let (start, mut made) = (Instant::now(), 0);
    while !over.load(Ordering::Relaxed) {
        let number = made / 3;
        match made % 3 {
            0 => remove(manifests, number)?,
            1 => manifests.write(&name(READY + number), &pod_yaml(READY + number, true))?,
            _ => manifests.write(&name(THERE + number), &pod_yaml(THERE + number, false))?,
        }
        made += 1;
        // By the clock: one that was late makes none of the others late.
        let due = Duration::from_secs(1) * u32::try_from(made).unwrap_or(u32::MAX) / RATE;
        thread::sleep(due.saturating_sub(start.elapsed()));
    }
    Ok((made, made as f64 / start.elapsed().as_secs_f64()))
}

fn remove(manifests: &Manifests, number: usize) -> Result<()> {
    let file = manifests.folder().join(format!("{}.yaml", name(number)));
    if file.exists() { manifests.remove(&name(number)) } else { Ok(()) }
}

/// Until the agent of the measured pods knows one that was not there at first.
fn arrived(stage: &Stage) -> Result<()> {
    eventually("a changing pod is known to agent a", Patience::LONG, || {
        let workloads = stage.world.ask_agent(A, &["config", "workloads"])?;
        let number =
            |workload: &serde_json::Value| workload["pod"].as_str()?.strip_prefix("changing-")?.parse::<usize>().ok();
        Ok(workloads.iter().filter_map(number).any(|number| number >= THERE).then_some(()))
    })
    .context("while pods change")
}

fn name(number: usize) -> String {
    format!("changing-{number}")
}

fn namespace_yaml(namespace: &str, mode: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {namespace}, labels: {{ nodemesh.io/mode: {mode} }} }}\n---\n\
         apiVersion: v1\nkind: ServiceAccount\nmetadata: {{ name: {ACCOUNT}, namespace: {namespace} }}\n"
    )
}

fn pod_yaml(number: usize, ready: bool) -> String {
    let node = [A, B][number % 2];
    let (namespace, _) = NAMESPACES[number / 2 % 2];
    let ip = format!("10.244.{}.{}", number % 2 + 1, FIRST_ADDRESS + number / 2 % ADDRESSES);
    let ready = if ready { "True" } else { "False" };
    format!(
        "apiVersion: v1\nkind: Pod\n\
         metadata: {{ name: {pod}, namespace: {namespace}, uid: 00000000-0000-4000-9000-{number:012x} }}\n\
         spec: {{ nodeName: {node}, serviceAccountName: {ACCOUNT}, containers: [{{ name: app, image: example.com/app }}] }}\n\
         status: {{ phase: Running, hostIP: {host}, podIP: {ip}, podIPs: [{{ ip: {ip} }}], \
         conditions: [{{ type: Ready, status: \"{ready}\" }}] }}\n",
        pod = name(number),
        node = node.name(),
        host = node.address(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn those_that_are_there_at_a_time_have_addresses_of_their_own_in_every_place() {
        let ip = |number| {
            let yaml = pod_yaml(number, true);
            yaml.split("podIP: ").nth(1).unwrap().split(',').next().unwrap().to_owned()
        };
        for first in 0..3 * ADDRESSES {
            // One more appears before the oldest goes.
            assert_eq!((first..=first + THERE).map(ip).collect::<BTreeSet<_>>().len(), THERE + 1);
        }
        let places: BTreeSet<_> = (0..THERE).map(|number| (number % 2, number / 2 % 2)).collect();
        assert_eq!(places.len(), 4);
        const { assert!(FIRST_ADDRESS + ADDRESSES <= 255) };
    }
}
