//! Open connections that no policy was asked about, and plaintext where STRICT asks for more.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::{
    model::Policy,
    proto::nodemesh::{Direction, Flow, Security},
};

use super::{count, or_well, said::Said};
use crate::check::{Finding, facts::Facts};

/// As agents write it into such a connection's record.
const OLDER: &str = "older than the pod's enrolment";

pub fn judge(facts: Option<&Facts>, said: &Said) -> Vec<Finding> {
    let flows = || said.connections.iter().filter_map(|(node, open)| Some((node.as_str(), open.flow.as_ref()?)));
    let mut older: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for (node, flow) in flows().filter(|(_, flow)| flow.error.contains(OLDER)) {
        *older.entry((node, own(flow))).or_default() += 1;
    }
    let mut findings = Vec::new();
    for ((node, pod), times) in older {
        let connections = count(times, "connection");
        let what = format!("pod {pod} on {node}: {connections} older than its enrolment");
        let hint = "no policy was asked and nothing is encrypted; they end with the program's own, or, where policies deny \
                    them, after --strict-grace. To renew them now, restart the client";
        findings.push(Finding::warning("traffic", what, hint));
    }
    let (namespaces, pods) = (strict_namespaces(facts), strict_pods(said));
    let mut plain: BTreeMap<(&str, String), usize> = BTreeMap::new();
    let arrives = |flow: &Flow| {
        let namespace = flow.destination.as_ref().map(|end| end.namespace.as_str()).unwrap_or_default();
        flow.direction() == Direction::Inbound
            && flow.security() == Security::Plaintext
            && (namespaces.contains(namespace) || pods.contains(&own(flow)))
            && !flow.error.contains(OLDER)
    };
    for (node, flow) in flows().filter(|(_, flow)| arrives(flow)) {
        *plain.entry((node, own(flow))).or_default() += 1;
    }
    for ((node, pod), times) in plain {
        let what = format!("pod {pod} on {node}: {} in plaintext, though STRICT", count(times, "connection"));
        let hint = "a workload's or port's own PeerAuthentication permits it, or it is a kubelet's probe: `meshctl config \
                    connections` says from where, `meshctl authz check` why";
        findings.push(Finding::warning("traffic", what, hint));
    }
    or_well(findings, "traffic", format!("looked at: {}", count(said.connections.len(), "open connection")))
}

/// The pod of this node: the source of what leaves, the destination of what arrives.
fn own(flow: &Flow) -> String {
    let end = match flow.direction() {
        Direction::Inbound => flow.destination.as_ref(),
        _ => flow.source.as_ref(),
    };
    end.map(|end| format!("{}/{}", end.namespace, end.pod)).unwrap_or_default()
}

/// Namespaces whose PeerAuthentication without a selector is STRICT.
fn strict_namespaces(facts: Option<&Facts>) -> BTreeSet<&str> {
    let rules = facts.map(|facts| facts.rules.as_slice()).unwrap_or_default();
    let strict = rules.iter().filter(|rule| {
        rule.types.as_ref().is_some_and(|types| types.kind == "PeerAuthentication")
            && rule.data["spec"]["mtls"]["mode"] == "STRICT"
            && rule.data["spec"]["selector"]["matchLabels"].as_object().is_none_or(serde_json::Map::is_empty)
    });
    strict.filter_map(|rule| rule.metadata.namespace.as_deref()).collect()
}

/// Pods all of whose ports are STRICT, as `namespace/name`: whom the policy for that applies to.
fn strict_pods(said: &Said) -> BTreeSet<String> {
    let strict = said.policies.iter().filter(|policy| policy.name == Policy::STRICT_STATIC);
    let pods = strict.flat_map(|policy| &policy.workloads).filter_map(|uid| uid.split_once("/Pod/"));
    pods.map(|(_, pod)| pod.to_owned()).collect()
}
