//! The mesh itself: labels that say what they mean, and, once it is installed, what runs and what agents report.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::{Namespace, Pod},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use mesh_install::{AGENT, CONTROLLER};

use super::{Finding, authority, facts::Facts};
use crate::{bypass, install::rollout};

pub const MODE: &str = "nodemesh.io/mode";
const SAME_NODE: &str = "nodemesh.io/same-node";
pub const REDIRECTION: &str = "nodemesh.io/redirection";
/// Labels by which other meshes take a namespace.
const OTHERS: &[(&str, &str)] =
    &[("istio-injection", "enabled"), ("istio.io/dataplane-mode", "ambient"), ("linkerd.io/inject", "enabled")];
/// Agents renew every 10 s.
const LEASE: i64 = 40;

pub fn labels(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut joined = 0;
    for namespace in &facts.namespaces {
        let name = format!("namespace {}", name(&namespace.metadata));
        findings.extend(words(&name, &namespace.metadata));
        findings.extend(of_namespace(&name, namespace, facts.now));
        joined += usize::from(mode(&namespace.metadata) == Some("mesh"));
    }
    for pod in &facts.pods {
        let name = format!("pod {}", full(&pod.metadata));
        findings.extend(words(&name, &pod.metadata));
        let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        if host_network && wanted(facts, pod) == Some("mesh") {
            let hint = "it has the node's network, which is not redirected: to STRICT pods it is a stranger";
            findings.push(Finding::warning("labels", format!("{name} cannot join"), hint));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("labels", format!("{joined} namespaces are in the mesh")));
    }
    findings
}

fn of_namespace(name: &str, namespace: &Namespace, now: Timestamp) -> Vec<Finding> {
    let metadata = &namespace.metadata;
    let mut findings = Vec::new();
    let meshed = mode(metadata).is_some_and(|mode| mode != "none");
    let other = OTHERS.iter().find(|(label, value)| of(&metadata.labels, label) == Some(value));
    if let Some((label, value)) = other.filter(|_| meshed) {
        let hint = format!("take one away: kubectl label {name} {label}-");
        findings.push(Finding::error("labels", format!("{name} is for two meshes: {label}={value} too"), hint));
    }
    if meshed && metadata.name.as_deref() == Some("kube-system") {
        findings.push(Finding::warning("labels", "kube-system is labelled", "its pods never join"));
    }
    if let Some(until) = of(&metadata.annotations, bypass::UNTIL) {
        findings.extend(match until.parse::<Timestamp>() {
            Ok(until) if until > now => Some(Finding::warning(
                "labels",
                format!("{name} is out of the mesh until {until}"),
                format!("back at once: meshctl bypass {} --end", metadata.name.as_deref().unwrap_or_default()),
            )),
            Ok(_) => None,
            Err(_) => Some(Finding::error(
                "labels",
                format!("{name}: annotation {}: {until:?} is no time", bypass::UNTIL),
                "meshctl bypass writes it",
            )),
        });
    }
    findings
}

/// Labels of the mesh whose values mean nothing.
fn words(name: &str, metadata: &ObjectMeta) -> Vec<Finding> {
    let known =
        [(MODE, &["mesh", "observe", "none"][..], "counts as none"), (SAME_NODE, &["direct", "tls"], "counts as tls")];
    let wrong = known.iter().filter_map(|(label, words, meaning)| {
        let value = of(&metadata.labels, label).filter(|value| !words.contains(value))?;
        let what = format!("{name}: label {label}={value} {meaning}");
        Some(Finding::error("labels", what, format!("one of {}", words.join(", "))))
    });
    wrong.collect()
}

pub fn running(facts: &Facts) -> Vec<Finding> {
    let Some((agents, controller)) = installed(facts) else {
        return vec![Finding::error("mesh", "it is not installed", "meshctl install")];
    };
    let namespace = agents.metadata.namespace.as_deref();
    let mut findings = rollouts(agents, controller);
    findings.extend(links(facts, namespace.unwrap_or_default()));
    findings.extend(authority::judge(facts, controller));
    findings.extend(pods(facts));
    findings
}

/// The agents, and the controller beside them.
pub fn installed(facts: &Facts) -> Option<(&DaemonSet, Option<&Deployment>)> {
    let agents = facts.daemon_sets.iter().find(|set| set.metadata.name.as_deref() == Some(AGENT))?;
    let beside = |one: &&Deployment| {
        one.metadata.name.as_deref() == Some(CONTROLLER) && one.metadata.namespace == agents.metadata.namespace
    };
    Some((agents, facts.deployments.iter().find(beside)))
}

pub fn rollouts(agents: &DaemonSet, controller: Option<&Deployment>) -> Vec<Finding> {
    let namespace = agents.metadata.namespace.as_deref();
    let mut findings = Vec::new();
    let controller = controller.map(|one| ("Deployment", serde_json::to_value(one).unwrap_or_default()));
    let sets = controller.into_iter().chain([("DaemonSet", serde_json::to_value(agents).unwrap_or_default())]);
    for (kind, mut object) in sets {
        object["kind"] = kind.into();
        let progress = rollout::progress(&object);
        let what = format!("{}: {}", object["metadata"]["name"].as_str().unwrap_or_default(), progress.text);
        findings.push(match progress.done {
            true => Finding::ok("mesh", what),
            false => Finding::error("mesh", what, format!("kubectl -n {} get pods", namespace.unwrap_or_default())),
        });
    }
    findings
}

/// Nodes with an agent that no controller hears.
pub fn links(facts: &Facts, namespace: &str) -> Vec<Finding> {
    let nodes = agents(facts, namespace);
    let linked = |node: &str| {
        let lease = facts.leases.iter().find(|lease| {
            lease.metadata.namespace.as_deref() == Some(namespace)
                && lease.metadata.name.as_deref().and_then(|name| name.strip_prefix("mesh-agent-")) == Some(node)
        });
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref()).map(|time| time.0);
        renewed.is_some_and(|renewed| facts.now.duration_since(renewed).as_secs() < LEASE)
    };
    let lost = nodes.iter().filter(|node| !linked(node)).copied().collect::<Vec<_>>();
    if lost.is_empty() {
        return vec![Finding::ok("mesh", format!("{} agents are linked to a controller", nodes.len()))];
    }
    let hint = format!(
        "what they have is in force, and nothing newer: kubectl -n {namespace} logs -l app.kubernetes.io/name={AGENT}"
    );
    vec![Finding::error("mesh", format!("no controller hears the agents of {}", lost.join(", ")), hint)]
}

/// The nodes with a pod of an agent.
pub fn agents<'a>(facts: &'a Facts, namespace: &str) -> BTreeSet<&'a str> {
    let is_agent = |pod: &&Pod| {
        pod.metadata.namespace.as_deref() == Some(namespace)
            && of(&pod.metadata.labels, mesh_install::NAME_LABEL) == Some(AGENT)
    };
    facts.pods.iter().filter(is_agent).filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref()).collect()
}

/// What agents say of pods.
fn pods(facts: &Facts) -> Vec<Finding> {
    let (mut enabled, mut findings) = (0, Vec::new());
    for pod in &facts.pods {
        let said = of(&pod.metadata.annotations, REDIRECTION);
        let name = full(&pod.metadata);
        match said {
            Some("enabled") => enabled += 1,
            Some(why) if why.starts_with("failed") => {
                let hint = "meshctl status on its node says more";
                findings.push(Finding::error("mesh", format!("pod {name}: {why}"), hint));
            }
            Some(why) if why.starts_with("pending") => {
                findings.push(Finding::warning(
                    "mesh",
                    format!("pod {name}: {why}"),
                    "it joins as soon as that is over",
                ));
            }
            _ => {}
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("mesh", format!("{enabled} pods are redirected")));
    }
    findings
}

/// Its namespace is out of the mesh for some time.
pub fn is_bypassed(facts: &Facts, pod: &Pod) -> bool {
    let namespace = facts.namespaces.iter().find(|one| one.metadata.name == pod.metadata.namespace);
    let until = namespace.and_then(|one| of(&one.metadata.annotations, bypass::UNTIL)?.parse::<Timestamp>().ok());
    until.is_some_and(|until| until > facts.now)
}

/// The pod's own label, or else its namespace's.
pub fn wanted<'a>(facts: &'a Facts, pod: &'a Pod) -> Option<&'a str> {
    let namespace = || facts.namespaces.iter().find(|one| one.metadata.name == pod.metadata.namespace);
    mode(&pod.metadata).or_else(|| mode(&namespace()?.metadata))
}

fn mode(metadata: &ObjectMeta) -> Option<&str> {
    of(&metadata.labels, MODE)
}

pub fn of<'a>(words: &'a Option<BTreeMap<String, String>>, name: &str) -> Option<&'a str> {
    words.as_ref()?.get(name).map(String::as_str)
}

fn name(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

pub fn full(metadata: &ObjectMeta) -> String {
    format!("{}/{}", metadata.namespace.as_deref().unwrap_or_default(), name(metadata))
}
