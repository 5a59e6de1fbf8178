//! The controller's own part of `meshctl status`.

use std::{collections::BTreeSet, io::Write};

use mesh_common::proto::nodemesh::{ControllerStatus, MissingNode, UnjoinedPod};
use serde_json::{Value, json};

use crate::{
    client::Failure,
    output::{Mood, Screen},
};

/// Several replicas as one controller: each is linked to agents of its own, and knows nothing of the others'.
pub fn merged(replicas: Vec<ControllerStatus>) -> Option<ControllerStatus> {
    let linked: BTreeSet<String> = replicas.iter().flat_map(|replica| replica.connected_nodes.clone()).collect();
    let mut merged = replicas.into_iter().reduce(|mut merged, replica| {
        merged.problems.extend(replica.problems);
        merged.missing_nodes.extend(replica.missing_nodes);
        // Said by the replica to which the pod's agent is linked alone.
        merged.unjoined_pods.extend(replica.unjoined_pods);
        if !merged.version.split(", ").any(|version| version == replica.version) {
            merged.version = format!("{}, {}", merged.version, replica.version);
        }
        merged
    })?;
    merged.problems.sort();
    merged.problems.dedup();
    merged.missing_nodes.retain(|missing| !linked.contains(&missing.node));
    merged.missing_nodes.sort_by(|a, b| a.node.cmp(&b.node));
    merged.missing_nodes.dedup_by(|a, b| a.node == b.node);
    merged.connected_nodes = linked.into_iter().collect();
    Some(merged)
}

pub fn is_wrong(status: &ControllerStatus) -> bool {
    !status.problems.is_empty() || !status.missing_nodes.is_empty() || !status.unjoined_pods.is_empty()
}

pub fn text<W: Write>(status: &ControllerStatus, screen: &mut Screen<W>) -> Result<(), Failure> {
    let ControllerStatus {
        version,
        connected_nodes,
        workloads,
        services,
        policies,
        problems,
        missing_nodes,
        unjoined_pods,
        mesh_pods,
        observed_pods,
    } = status;
    let held = format!("{workloads} workloads, {services} services, {policies} policies");
    let observed = if *observed_pods == 0 { String::new() } else { format!(", {observed_pods} observed") };
    let pods = if *mesh_pods == 1 { "1 pod".into() } else { format!("{mesh_pods} pods") };
    screen.line(&format!("controller {version}: {held}; {pods} in the mesh{observed}"), Mood::Plain)?;
    match connected_nodes.as_slice() {
        [] => screen.line("connected nodes: none", Mood::Bad)?,
        nodes => screen.line(&format!("connected nodes: {}", nodes.join(", ")), Mood::Plain)?,
    }
    for node in missing_nodes {
        screen.line(&missing_text(node), Mood::Bad)?;
    }
    for UnjoinedPod { node, namespace, name, pod_uid: _, redirected } in unjoined_pods {
        let state = if *redirected { "refuses connections" } else { "is not redirected yet" };
        screen.line(&format!("node {node}  not joined: pod {namespace}/{name} {state}"), Mood::Bad)?;
    }
    for problem in problems {
        screen.line(&format!("problem: {problem}"), Mood::Bad)?;
    }
    screen.line("", Mood::Plain)?;
    Ok(())
}

/// Only redirected pods depend on their agent; the controller cannot tell one that is dead from one that lost its way.
pub fn missing_text(missing: &MissingNode) -> String {
    let MissingNode { node, mesh_pods, redirected_pods } = missing;
    let pods = |count: &u32| if *count == 1 { "1 mesh pod".into() } else { format!("{count} mesh pods") };
    let refuse = format!(
        "its {} {} connections, unless the agent runs on without the controller",
        pods(redirected_pods),
        if *redirected_pods == 1 { "refuses" } else { "refuse" }
    );
    let waiting = mesh_pods.saturating_sub(*redirected_pods);
    let wait = format!("{} {} not redirected yet", pods(&waiting), if waiting == 1 { "is" } else { "are" });
    match (redirected_pods, waiting) {
        (_, 0) => format!("node {node}  not connected: {refuse}"),
        (0, _) => format!("node {node}  not connected: its {wait}"),
        _ => format!("node {node}  not connected: {refuse}; {wait}"),
    }
}

pub fn record(status: &ControllerStatus) -> Value {
    let missing_nodes = status.missing_nodes.iter().map(|MissingNode { node, mesh_pods, redirected_pods }| {
        json!({ "node": node, "mesh_pods": mesh_pods, "redirected_pods": redirected_pods })
    });
    let unjoined_pods = status.unjoined_pods.iter().map(|UnjoinedPod { node, namespace, name, pod_uid, redirected }| {
        json!({ "node": node, "namespace": namespace, "pod": name, "pod_uid": pod_uid, "redirected": redirected })
    });
    json!({
        "kind": "controller",
        "node": "controller",
        "version": status.version,
        "connected_nodes": status.connected_nodes,
        "workloads": status.workloads,
        "services": status.services,
        "policies": status.policies,
        "problems": status.problems,
        "missing_nodes": missing_nodes.collect::<Vec<_>>(),
        "unjoined_pods": unjoined_pods.collect::<Vec<_>>(),
        "mesh_pods": status.mesh_pods,
        "observed_pods": status.observed_pods,
    })
}
