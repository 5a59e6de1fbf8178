//! What agents counted, summed so that nothing counts twice ([`mesh_common::model::ByBoth`]), with who told of it.

use std::{collections::BTreeSet, ops::Deref, time::Duration};

use mesh_common::{
    model::{ByBoth, Reporter, Seen, Sums},
    proto::nodemesh::{Endpoint, Security, Stat},
};

use super::By;
use crate::words;

/// What a sum is of; what it is not by is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub source: String,
    pub destination: String,
    pub service: String,
    pub route: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sum {
    /// That told of it.
    pub nodes: BTreeSet<String>,
    pub seen: Seen,
    pub source_identity: String,
    pub destination_identity: String,
}

#[derive(Debug)]
pub struct Summed {
    by: By,
    parts: ByBoth<Key, Sum>,
}

impl Summed {
    pub fn new(by: By) -> Self {
        Self { by, parts: ByBoth::default() }
    }

    pub fn add(&mut self, node: &str, row: &Stat) {
        self.parts.add(key(self.by, row), Reporter::from(row), Sum::of(node, row));
    }

    /// In the order of their names.
    pub fn rows(self) -> Vec<(Key, Sum)> {
        match self.by {
            By::Workloads | By::Edges => self.parts.at_destination().collect(),
            By::Services | By::Routes => self.parts.at_source().collect(),
        }
    }
}

fn key(by: By, row: &Stat) -> Key {
    let service = words::short_service(&row.service);
    let destination = row.destination.as_ref().map(name).unwrap_or_default();
    match by {
        By::Workloads => Key { destination, ..Key::default() },
        By::Services => Key { service, ..Key::default() },
        By::Routes => Key { service, route: row.route.clone(), ..Key::default() },
        By::Edges => Key { source: row.source.as_ref().map(name).unwrap_or_default(), destination, ..Key::default() },
    }
}

/// `namespace/workload`; whom the mesh does not know is outside, whatever the address.
pub fn name(end: &Endpoint) -> String {
    let Endpoint { namespace, pod, workload, .. } = end;
    match (namespace.as_str(), workload.as_str(), pod.as_str()) {
        ("", ..) => "outside".to_owned(),
        (namespace, "", "") => namespace.to_owned(),
        (namespace, "", pod) => format!("{namespace}/{pod}"),
        (namespace, workload, _) => format!("{namespace}/{workload}"),
    }
}

impl Deref for Sum {
    type Target = Seen;

    fn deref(&self) -> &Seen {
        &self.seen
    }
}

impl Sums for Sum {
    fn add(&mut self, other: &Self) {
        let Self { nodes, seen, source_identity, destination_identity } = other;
        self.nodes.extend(nodes.iter().cloned());
        self.seen.add(seen);
        for (known, other) in
            [(&mut self.source_identity, source_identity), (&mut self.destination_identity, destination_identity)]
        {
            if known.is_empty() {
                known.clone_from(other);
            }
        }
    }

    fn with_requests_of(self, other: Self) -> Self {
        Self { seen: self.seen.with_requests_of(other.seen), ..self }
    }
}

impl Sum {
    /// What one node says.
    pub fn of(node: &str, row: &Stat) -> Self {
        let identity = |end: &Option<Endpoint>| end.as_ref().map(|end| end.identity.clone()).unwrap_or_default();
        Self {
            nodes: BTreeSet::from([node.to_owned()]),
            seen: row.into(),
            source_identity: identity(&row.source),
            destination_identity: identity(&row.destination),
        }
    }

    pub fn requests_per_second(&self) -> f64 {
        self.rates.requests
    }

    pub fn connections_per_second(&self) -> f64 {
        self.rates.connections
    }

    pub fn bytes_per_second(&self) -> f64 {
        self.rates.bytes_sent + self.rates.bytes_received
    }

    /// Of requests, or of connections where none are read; `None`: there was neither.
    pub fn success(&self) -> Option<f64> {
        let (all, bad) = match self.requests {
            0 => (self.connections, self.refused_connections.saturating_add(self.failed_connections)),
            requests => (requests, self.refused_requests.saturating_add(self.failed_requests)),
        };
        (all > 0).then(|| all.saturating_sub(bad) as f64 / all as f64)
    }

    pub fn refused(&self) -> u64 {
        self.refused_requests.saturating_add(self.refused_connections)
    }

    pub fn failed(&self) -> u64 {
        self.failed_requests.saturating_add(self.failed_connections)
    }

    /// What share of connections and requests was secured so; `None`: there was none.
    pub fn secured(&self, by: Security) -> Option<f64> {
        let all: u64 = self.security.iter().sum();
        let so = self.security[by as usize];
        (all > 0).then(|| so as f64 / all as f64)
    }

    pub fn quantile(&self, share: f64) -> Option<Duration> {
        self.latency.quantile(share)
    }
}

#[cfg(test)]
mod tests;
