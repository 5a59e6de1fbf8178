//! The lists: workloads, services, agents. Pure.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::{
    model::{ByBoth, Reporter, Seen},
    proto::nodemesh::{Counter, NodeStatus, PodState, Redirection, ServiceInfo, Stat, WorkloadInfo, item},
};
use serde_json::{Value, json};

use super::{
    Said,
    graph::{infos, name_of, named, stats},
    words,
};

pub fn workloads(workloads: &Said, told: &Said) -> Value {
    #[derive(Default)]
    struct Row<'a> {
        pods: Vec<&'a WorkloadInfo>,
    }
    let seen = by_workload(stats(told));
    let mut rows: BTreeMap<(&str, &str), Row<'_>> = BTreeMap::new();
    for pod in infos(workloads) {
        rows.entry((&pod.namespace, name_of(pod))).or_default().pods.push(pod);
    }
    let rows = rows.iter().map(|(name, Row { pods })| {
        let different = |of: &dyn Fn(&WorkloadInfo) -> Vec<String>| -> BTreeSet<String> {
            pods.iter().flat_map(|pod| of(pod)).filter(|text| !text.is_empty()).collect()
        };
        json!({
            "namespace": name.0,
            "name": name.1,
            "pods": pods.len(),
            "meshed": pods.iter().filter(|pod| pod.protocol == "HBONE").count(),
            "healthy": pods.iter().filter(|pod| pod.healthy).count(),
            "nodes": different(&|pod| vec![pod.node.clone()]),
            "identities": different(&|pod| vec![pod.identity.clone()]),
            "revisions": different(&|pod| vec![pod.revision.clone()]),
            "services": different(&|pod| pod.services.clone()),
            "seen": words::seen(seen.get(name)),
        })
    });
    json!({ "rows": rows.collect::<Vec<_>>(), "errors": errors(&[workloads, told]) })
}

pub fn services(services: &Said, told: &Said) -> Value {
    let seen = by_service(stats(told), |stat| stat.service.as_str());
    let rows = service_infos(services).map(|service| {
        let name = format!("{}/{}", service.namespace, service.hostname);
        service_row(service, seen.get(name.as_str()))
    });
    json!({ "rows": rows.collect::<Vec<_>>(), "errors": errors(&[services, told]) })
}

pub fn service_row(service: &ServiceInfo, seen: Option<&Seen>) -> Value {
    let ServiceInfo { namespace, hostname, addresses, ports, endpoints, load_balancing } = service;
    let healthy = endpoints.iter().filter(|endpoint| endpoint.ends_with("(healthy)")).count();
    json!({
        "namespace": namespace,
        "hostname": hostname,
        "addresses": addresses,
        "ports": ports,
        "endpoints": endpoints.len(),
        "healthy": healthy,
        "load_balancing": load_balancing,
        "seen": words::seen(seen),
    })
}

pub fn agents(said: &Said) -> Value {
    let (mut nodes, mut controllers) = (Vec::new(), Vec::new());
    for (node, kind) in &said.items {
        match kind {
            item::Kind::Status(status) => nodes.push(agent(node, status)),
            item::Kind::Controller(status) => {
                let missing = status.missing_nodes.iter().map(|missing| {
                    json!({ "node": missing.node, "pods": missing.mesh_pods, "redirected": missing.redirected_pods })
                });
                controllers.push(json!({
                    "version": status.version,
                    "agents": status.connected_nodes,
                    "workloads": status.workloads,
                    "services": status.services,
                    "policies": status.policies,
                    "mesh_pods": status.mesh_pods,
                    "observed_pods": status.observed_pods,
                    "missing": missing.collect::<Vec<_>>(),
                    "unjoined": status.unjoined_pods.iter()
                        .map(|pod| format!("{}/{} on {}", pod.namespace, pod.name, pod.node)).collect::<Vec<_>>(),
                    "problems": status.problems,
                }));
            }
            _ => {}
        }
    }
    nodes.sort_by_cached_key(|row: &Value| row["node"].as_str().unwrap_or_default().to_owned());
    json!({ "rows": nodes, "controllers": controllers, "errors": said.errors })
}

fn agent(node: &str, status: &NodeStatus) -> Value {
    let in_state = |wanted: Redirection| status.pods.iter().filter(|pod| pod.redirection() == wanted).count();
    let wrong = status.pods.iter().filter(|pod| !pod.fault.is_empty() || pod.redirection() == Redirection::Failed);
    let wrong = wrong.map(|pod| {
        let PodState { namespace, name, message, fault, .. } = pod;
        let why = if fault.is_empty() { message } else { fault };
        format!("{namespace}/{name}: {}: {why}", words::redirection(pod.redirection()))
    });
    let counters = status.counters.iter().map(|Counter { name, value }| (name.clone(), json!(value)));
    json!({
        "node": node,
        "version": status.version,
        "started": words::time(status.started),
        "connected": status.controller_connected,
        "from_disk": status.configuration_from_disk,
        "draining": status.draining,
        "telemetry_off": status.telemetry_off,
        "not_ready": status.not_ready,
        "last_nack": status.last_nack,
        "generation": status.generation,
        "workloads": status.workloads,
        "services": status.services,
        "policies": status.policies,
        "redirected": in_state(Redirection::Enabled),
        "pending": in_state(Redirection::Pending),
        "failed": in_state(Redirection::Failed),
        "connections": status.open_connections,
        "tunnels": status.tunnels,
        "wrong": wrong.collect::<Vec<_>>(),
        "counters": counters.collect::<serde_json::Map<_, _>>(),
    })
}

/// What came to each workload.
pub fn by_workload<'a>(stats: impl Iterator<Item = &'a Stat>) -> BTreeMap<(&'a str, &'a str), Seen> {
    both(stats, |stat| named(stat.destination.as_ref())).at_destination().collect()
}

/// What clients sent, by service or route.
pub fn by_service<'a, K: Ord>(stats: impl Iterator<Item = &'a Stat>, key: impl Fn(&'a Stat) -> K) -> BTreeMap<K, Seen> {
    both(stats, key).at_source().collect()
}

fn both<'a, K: Ord>(stats: impl Iterator<Item = &'a Stat>, key: impl Fn(&'a Stat) -> K) -> ByBoth<K> {
    let mut both = ByBoth::default();
    for stat in stats {
        both.add(key(stat), Reporter::from(stat), Seen::from(stat));
    }
    both
}

pub fn service_infos(said: &Said) -> impl Iterator<Item = &ServiceInfo> {
    said.items.iter().filter_map(|(_, kind)| match kind {
        item::Kind::Service(service) => Some(service),
        _ => None,
    })
}

/// Of several answers, each once.
pub fn errors<'a>(said: &[&'a Said]) -> BTreeSet<&'a String> {
    said.iter().flat_map(|said| &said.errors).collect()
}
