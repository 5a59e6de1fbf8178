//! Agents and controller: missing, not ready, of other versions, with old rules; who leads; clocks; what the kernel's
//! tables lost.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::DaemonSet;
use mesh_common::{
    model::{LOSSES, advice},
    proto::nodemesh::NodeStatus,
};
use mesh_install::{AGENT, CONTROLLER};

use super::{
    count, or_well,
    said::{Said, ahead},
};
use crate::{
    check::{Finding, Mark, cluster, facts::Facts, mesh},
    status,
};

/// Beyond this, certificates that were just made are not valid yet: they are backdated by a minute.
const SKEW: i64 = 10;

pub fn judge(facts: Option<&Facts>, said: &Said, node: &str) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        facts.map(|facts| of_cluster(facts, said, node)).unwrap_or_default().into_iter().collect();
    let unheard = said.unheard.iter().map(|why| {
        let hint = "what it would say was not looked at; its log and `kubectl describe pod` say why it is silent";
        Finding::error("agents", format!("no answer: {why}"), hint)
    });
    findings.extend(unheard);
    for (node, status) in &said.nodes {
        findings.extend(one(node, status));
        findings.extend(losses(node, status));
    }
    findings.extend(missing(said));
    findings.extend(versions(said));
    let known = or_well(findings, "agents", format!("heard: {}", count(said.nodes.len(), "agent")));
    known.into_iter().chain(facts.map(leader)).collect()
}

fn of_cluster(facts: &Facts, said: &Said, node: &str) -> Vec<Finding> {
    let Some((agents, controller)) = mesh::installed(facts) else {
        return vec![Finding::error("mesh", "it is not installed", "meshctl install")];
    };
    let namespace = agents.metadata.namespace.as_deref().unwrap_or_default();
    let mut findings = mesh::rollouts(agents, controller);
    if node.is_empty() {
        findings.extend(mesh::links(facts, namespace));
    }
    findings.extend(cluster::clock(facts));
    findings.retain(|finding| finding.mark != Mark::Ok);
    let there = mesh::agents(facts, namespace);
    for name in wanted(facts, agents).filter(|name| node.is_empty() || node == *name) {
        if !there.contains(name) {
            let hint = format!(
                "its pods are not in the mesh, and those that were are refused: kubectl -n {namespace} describe daemonset \
                 {AGENT} says why none is there"
            );
            findings.push(Finding::error("agents", format!("node {name} has no agent"), hint));
        } else if said.controller.is_some() && !said.nodes.iter().any(|(known, _)| known == name) {
            let hint = format!("kubectl -n {namespace} logs of its pod {AGENT} says why it is not linked");
            findings.push(Finding::error("agents", format!("the agent of node {name} does not answer"), hint));
        }
    }
    findings
}

/// Nodes that the agents' DaemonSet selects.
fn wanted<'a>(facts: &'a Facts, agents: &'a DaemonSet) -> impl Iterator<Item = &'a str> {
    let pod = agents.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let selector = pod.and_then(|pod| pod.node_selector.clone()).unwrap_or_default();
    let selected = facts.nodes.iter().filter(move |node| {
        selector.iter().all(|(label, value)| mesh::of(&node.metadata.labels, label) == Some(value.as_str()))
    });
    selected.filter_map(|node| node.metadata.name.as_deref())
}

fn one(node: &str, status: &NodeStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !status.controller_connected {
        let hint = "its rules stay as they are, and its pods' certificates end by themselves: is a controller there, and \
                    does the agent's log say why it is not connected?";
        findings.push(Finding::error("agents", format!("the agent of {node} has no controller"), hint));
    }
    if !status.not_ready.is_empty() {
        // An overwritten CNI configuration is told so too.
        let hint = match status.not_ready.contains("CNI") {
            true => {
                "new pods start outside the mesh, or wait: the agent writes its CNI configuration anew; look who \
                     removes it (`meshctl check` names other CNI plugins)"
            }
            false => "new pods cannot join there until that is over; the agent's log says more",
        };
        findings.push(Finding::error("agents", format!("{node} is not ready: {}", status.not_ready), hint));
    }
    if !status.last_nack.is_empty() {
        let hint = "what it had before stays in force, and a policy without a last good version refuses: mend the object; \
                    an agent older than its controller may be the reason";
        findings.push(Finding::error("agents", format!("{node} refused a configuration: {}", status.last_nack), hint));
    }
    if status.configuration_from_disk {
        let hint = "they may be old: changes since its last run count only once a controller has answered";
        findings.push(Finding::warning("agents", format!("{node} has the rules of its disk"), hint));
    }
    if status.draining {
        let hint = "it is being replaced; if that lasts longer than --drain-deadline, look for the agent after it";
        findings.push(Finding::warning("agents", format!("{node} drains"), hint));
    }
    let times = status.pods.iter().filter_map(|pod| pod.proven).chain(status.started);
    if let Some(skew) = times.map(|time| ahead(time.seconds)).max().filter(|skew| *skew > SKEW) {
        let hint = "certificates are good from a moment to a moment: set the clocks by NTP, this machine's too";
        findings.push(Finding::error(
            "clock",
            format!("the clock of {node} is {skew} s ahead of this machine's"),
            hint,
        ));
    }
    findings
}

/// Counters outlive agents: they say that it happened, not when.
fn losses<'a>(node: &'a str, status: &'a NodeStatus) -> impl Iterator<Item = Finding> + 'a {
    let lost = status.counters.iter().filter(|counter| counter.value > 0 && LOSSES.contains(&counter.name.as_str()));
    lost.map(move |counter| {
        let what = format!("{node}: {} {} since its programs were loaded", counter.name, counter.value);
        Finding::warning("losses", what, advice(&counter.name).unwrap_or("see `meshctl status -v`"))
    })
}

fn missing(said: &Said) -> Vec<Finding> {
    let Some(controller) = &said.controller else { return Vec::new() };
    let hint = "start the agent, or see its log: redirected pods cannot connect without it";
    let nodes = controller.missing_nodes.iter();
    let mut findings: Vec<Finding> =
        nodes.map(|node| Finding::error("agents", status::controller::missing_text(node), hint)).collect();
    findings.extend(controller.unjoined_pods.iter().map(|pod| {
        let what = format!("the agent of {} does not take pod {}/{} in", pod.node, pod.namespace, pod.name);
        let hint = if pod.redirected {
            "its connections are refused until it does; see the agent's log"
        } else {
            "it is not redirected yet: its connections are plaintext; see the agent's log"
        };
        Finding::error("pods", what, hint)
    }));
    findings
}

fn versions(said: &Said) -> Option<Finding> {
    let mut versions: BTreeSet<&str> = said.nodes.iter().map(|(_, status)| status.version.as_str()).collect();
    versions.extend(said.controller.iter().flat_map(|status| status.version.split(", ")));
    versions.remove("");
    if versions.len() < 2 {
        return None;
    }
    let all = said.nodes.iter().map(|(node, status)| format!("{node} {}", status.version));
    let all = all.chain(said.controller.iter().map(|status| format!("controller {}", status.version)));
    let what = format!("several versions run: {}", all.collect::<Vec<_>>().join(", "));
    Some(Finding::warning("versions", what, "`meshctl upgrade` goes on; that of the controller comes first"))
}

/// Who writes conditions and looks after the CA.
fn leader(facts: &Facts) -> Finding {
    let namespace = mesh::installed(facts).and_then(|(agents, _)| agents.metadata.namespace.clone());
    let lease = facts
        .leases
        .iter()
        .find(|lease| lease.metadata.name.as_deref() == Some(CONTROLLER) && lease.metadata.namespace == namespace);
    let hint = "conditions, events and taints wait, and the CA is not rotated: is a controller there, may it write Leases, \
                and what does its log say of the election?";
    let spec = lease.and_then(|lease| lease.spec.as_ref());
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
    let (Some(spec), Some(holder)) = (spec, holder) else {
        return Finding::error("leader", "no controller leads", hint);
    };
    let renewed = spec.renew_time.as_ref().map(|time| facts.now.duration_since(time.0).as_secs()).unwrap_or(i64::MAX);
    match renewed > i64::from(spec.lease_duration_seconds.unwrap_or(0)) {
        true => Finding::error("leader", format!("{holder} has not led for {renewed} s, and nobody else does"), hint),
        false => Finding::ok("leader", format!("{holder} leads")),
    }
}
