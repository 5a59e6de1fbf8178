//! Who speaks to whom of late: workloads, and the edges between them. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
};

use mesh_common::{
    model::{ByBoth, Reporter, Seen},
    proto::nodemesh::{Endpoint, Stat, WorkloadInfo, item},
};
use serde_json::{Value, json};

use super::{Said, words};

/// Edges that are told, the busiest: a browser draws no more in time.
const MOST_EDGES: usize = 20_000;
/// Likewise of workloads without any edge.
const MOST_IDLE: usize = 5_000;
/// Whom the mesh knows by an address alone is one node of the graph.
const OUTSIDE: Name<'static> = ("", "outside the mesh");

/// Namespace and workload.
type Name<'a> = (&'a str, &'a str);

#[derive(Default)]
struct Known<'a> {
    pods: u32,
    meshed: u32,
    services: BTreeSet<&'a str>,
}

/// Edges are rows without names: ten thousand of them are sent every few seconds. `columns` has the names.
pub fn graph(workloads: &Said, seen: &Said) -> Value {
    let known = known(workloads);
    let seconds = stats(seen).map(|stat| stat.seconds).max().unwrap_or_default();
    let edges = edges(stats(seen));
    let mut edges: Vec<((Name<'_>, Name<'_>), Seen)> = edges.at_destination().collect();
    let left_out = edges.len().saturating_sub(MOST_EDGES);
    if left_out > 0 {
        edges.sort_by_key(|(_, seen)| {
            Reverse((seen.requests + seen.connections, seen.bytes_sent + seen.bytes_received))
        });
        edges.truncate(MOST_EDGES);
    }
    let busy: HashSet<Name<'_>> = edges.iter().flat_map(|((source, destination), _)| [*source, *destination]).collect();
    let idle = known.iter().filter(|(name, known)| known.meshed > 0 && !busy.contains(*name)).map(|(name, _)| *name);
    let shown: BTreeSet<Name<'_>> = idle.take(MOST_IDLE).chain(busy.iter().copied()).collect();
    let places: HashMap<Name<'_>, usize> = shown.iter().enumerate().map(|(place, name)| (*name, place)).collect();
    let none = Known::default();
    let nodes: Vec<Value> = shown
        .iter()
        .map(|name| {
            let Known { pods, meshed, services } = known.get(name).unwrap_or(&none);
            json!({ "namespace": name.0, "name": name.1, "pods": pods, "meshed": meshed, "services": services })
        })
        .collect();
    let rows: Vec<Value> = edges
        .iter()
        .map(|((source, destination), seen)| {
            let ends = [json!(places[source]), json!(places[destination])];
            Value::Array(ends.into_iter().chain(words::figures(seen)).collect())
        })
        .collect();
    let columns: Vec<&str> = ["source", "destination"].into_iter().chain(words::FIGURES).collect();
    let errors: BTreeSet<&String> = workloads.errors.iter().chain(&seen.errors).collect();
    json!({
        "seconds": seconds,
        "nodes": nodes,
        "columns": columns,
        "edges": rows,
        "left_out": left_out,
        "errors": errors,
    })
}

fn known(workloads: &Said) -> BTreeMap<Name<'_>, Known<'_>> {
    let mut known: BTreeMap<Name<'_>, Known<'_>> = BTreeMap::new();
    for workload in infos(workloads) {
        let name = (workload.namespace.as_str(), name_of(workload));
        let known = known.entry(name).or_default();
        known.pods += 1;
        known.meshed += u32::from(workload.protocol == "HBONE");
        known.services.extend(workload.services.iter().map(String::as_str));
    }
    known
}

/// What was seen of edges, by what their ends are called.
pub fn edges<'a>(stats: impl Iterator<Item = &'a Stat>) -> ByBoth<(Name<'a>, Name<'a>)> {
    let mut edges = ByBoth::default();
    for stat in stats {
        let key = (named(stat.source.as_ref()), named(stat.destination.as_ref()));
        edges.add(key, Reporter::from(stat), Seen::from(stat));
    }
    edges
}

pub fn named(end: Option<&Endpoint>) -> Name<'_> {
    match end {
        Some(end) if !end.workload.is_empty() => (&end.namespace, &end.workload),
        Some(end) if !end.pod.is_empty() => (&end.namespace, &end.pod),
        _ => OUTSIDE,
    }
}

/// Agents of an earlier version do not say whose a pod is.
pub fn name_of(workload: &WorkloadInfo) -> &str {
    if workload.workload.is_empty() { &workload.name } else { &workload.workload }
}

pub fn stats(said: &Said) -> impl Iterator<Item = &Stat> {
    said.items.iter().filter_map(|(_, kind)| match kind {
        item::Kind::Stat(stat) => Some(&**stat),
        _ => None,
    })
}

pub fn infos(said: &Said) -> impl Iterator<Item = &WorkloadInfo> {
    said.items.iter().filter_map(|(_, kind)| match kind {
        item::Kind::Workload(workload) => Some(workload),
        _ => None,
    })
}
