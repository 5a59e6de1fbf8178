//! Pods that should be in the mesh and are not: what their agents say, and what is written on them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use mesh_common::proto::nodemesh::{Mode, PodState, Redirection};

use super::{or_well, said::Said};
use crate::{
    check::{Finding, Mark, facts::Facts, mesh},
    words,
};

pub fn judge(facts: Option<&Facts>, said: &Said, node: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut enabled = 0;
    for (node, status) in &said.nodes {
        for pod in &status.pods {
            findings.extend(one(node, pod));
            enabled += usize::from(pod.redirection() == Redirection::Enabled);
        }
    }
    if let Some(facts) = facts {
        // Bypassed namespaces, and words that mean nothing.
        findings.extend(mesh::labels(facts).into_iter().filter(|finding| finding.mark != Mark::Ok));
        findings.extend(compared(facts, said, node));
    }
    or_well(findings, "pods", format!("redirected: {}", super::count(enabled, "pod")))
}

fn one(node: &str, pod: &PodState) -> Option<Finding> {
    let name = format!("pod {}/{} on {node}", pod.namespace, pod.name);
    if !pod.fault.is_empty() {
        let hint = "an audit found its hooks changed and mends them; if it comes back, look who else attaches eBPF programs \
                    or removes pins (`meshctl check` names who does)";
        return Some(Finding::error("pods", format!("{name}: {}", pod.fault), hint));
    }
    let why = format!("{name}: {}: {}", words::redirection(pod.redirection()), pod.message);
    match pod.redirection() {
        Redirection::Failed => {
            let hint = "a new pod goes on without the mesh, one that was redirected is refused; it is tried again";
            Some(Finding::error("pods", why, hint))
        }
        Redirection::Pending if pod.mode() == Mode::Mesh => {
            let hint = "it speaks plaintext until then. If it waits for a certificate, see `meshctl identity` and the \
                        controller's log";
            Some(Finding::warning("pods", why, hint))
        }
        _ => None,
    }
}

/// What is written on pods, against what their agents say.
fn compared(facts: &Facts, said: &Said, node: &str) -> Vec<Finding> {
    let known: BTreeMap<&str, (&str, &PodState)> = said
        .nodes
        .iter()
        .flat_map(|(node, status)| status.pods.iter().map(move |pod| (pod.pod_uid.as_str(), (node.as_str(), pod))))
        .collect();
    let answered = |node: &str| said.nodes.iter().any(|(name, _)| name == node);
    let mut findings = Vec::new();
    for pod in facts.pods.iter().filter(|pod| should_join(facts, pod)) {
        let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        if !node.is_empty() && node != on {
            continue;
        }
        let name = format!("pod {}", mesh::full(&pod.metadata));
        let written = mesh::of(&pod.metadata.annotations, mesh::REDIRECTION).unwrap_or_default();
        match known.get(pod.metadata.uid.as_deref().unwrap_or_default()) {
            None if answered(on) => {
                let hint = "it is not redirected, and speaks plaintext: does the agent's log name it? Its container's \
                            processes must be below --cgroup";
                findings.push(Finding::error("pods", format!("{name}: the agent of {on} does not know it"), hint));
            }
            // The agent does not answer; that is said elsewhere.
            None => {
                if written != "enabled" {
                    let said = if written.is_empty() { "nothing is written on it" } else { written };
                    let hint = "nobody could ask its agent: see what is said of the node";
                    findings.push(Finding::error("pods", format!("{name} is not redirected: {said}"), hint));
                }
            }
            Some((on, state)) => {
                let says = words::redirection(state.redirection());
                if state.redirection() == Redirection::Disabled && state.fault.is_empty() {
                    let hint = "the agent was not told that it shall be in the mesh: is a controller connected, and is the \
                                label as meant (`meshctl check`)?";
                    let what = format!("{name}: the agent of {on} leaves it alone ({})", state.message);
                    findings.push(Finding::error("pods", what, hint));
                } else if !written.starts_with(says) {
                    let hint = "other replicas go by what is written: may the controller patch pods/status, and is the \
                                agent linked?";
                    let written = if written.is_empty() { "nothing is written on it" } else { written };
                    let what = format!("{name}: its agent says {says}, and {written}");
                    findings.push(Finding::warning("pods", what, hint));
                }
            }
        }
    }
    findings
}

/// It runs, its label or that of its namespace says so, and nothing takes it out.
fn should_join(facts: &Facts, pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let runs = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let namespace = pod.metadata.namespace.as_deref();
    let own = mesh::installed(facts).is_some_and(|(agents, _)| agents.metadata.namespace.as_deref() == namespace);
    let leaves = pod.metadata.deletion_timestamp.is_some();
    runs && !host_network
        && !own
        && !leaves
        && namespace != Some("kube-system")
        && mesh::wanted(facts, pod) == Some("mesh")
        && !mesh::is_bypassed(facts, pod)
}
