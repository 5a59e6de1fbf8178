//! What agents counted, summed so that nothing counts twice.
//!
//! One connection between two nodes is counted by both agents, one within a node by its only agent, as the source's. So
//! each sum has three parts: what stayed within a node, or went nowhere (`within`), what its source told of other nodes
//! and of outside (`source`), and what its destination told (`destination`). Of the last two only one counts: for
//! workloads and edges the destination's, which knows what it refused and how long its application took, or the
//! source's if no destination told; for services and routes, which the client's agent chose, the source's, or the
//! destination's if no source told. Where that end reads no requests, and the other does, the figures of requests are
//! the other's. Durations add up by bucket, so that a quantile of a sum is as good as one of a part.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_common::{
    model::Latency,
    proto::nodemesh::{Direction, Endpoint, Path, Security, Stat},
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
    pub nodes: BTreeSet<String>,
    /// The longest time that some node's figures are about.
    pub seconds: u32,
    pub requests: u64,
    pub failed_requests: u64,
    pub refused_requests: u64,
    /// By hundreds of the status; the first: no answer.
    pub answers: [u64; 6],
    pub latency: Latency,
    pub connections: u64,
    pub refused_connections: u64,
    pub failed_connections: u64,
    pub open: u64,
    pub sent: u64,
    pub received: u64,
    /// By the wire's number.
    pub security: BTreeMap<u32, u64>,
    pub path: BTreeMap<u32, u64>,
    pub datagrams: u64,
    pub rtt_us: u32,
    pub retransmits: u64,
    /// What a second is of each node's figures: nodes that started late have shorter ones.
    rates: Rates,
    pub source_identity: String,
    pub destination_identity: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rates {
    requests: f64,
    connections: f64,
    bytes: f64,
}

#[derive(Debug)]
pub struct Summed {
    by: By,
    parts: BTreeMap<Key, Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    within: Option<Sum>,
    source: Option<Sum>,
    destination: Option<Sum>,
}

impl Summed {
    pub fn new(by: By) -> Self {
        Self { by, parts: BTreeMap::new() }
    }

    pub fn add(&mut self, node: &str, row: &Stat) {
        let parts = self.parts.entry(key(self.by, row)).or_default();
        let part = match row.reporter() {
            Direction::Inbound => &mut parts.destination,
            Direction::Outbound | Direction::Unspecified if is_within(row) => &mut parts.within,
            Direction::Outbound | Direction::Unspecified => &mut parts.source,
        };
        part.get_or_insert_default().add(node, row);
    }

    /// In the order of their names.
    pub fn rows(self) -> Vec<(Key, Sum)> {
        let by = self.by;
        let all = self.parts.into_iter().map(|(key, Parts { within, source, destination })| {
            let (first, other) = match by {
                By::Workloads | By::Edges => (destination, source),
                By::Services | By::Routes => (source, destination),
            };
            let mut sum = within.unwrap_or_default();
            match (first, other) {
                (Some(first), Some(other)) => sum.merge(first.with_requests_of(other)),
                (first, other) => first.or(other).into_iter().for_each(|told| sum.merge(told)),
            }
            (key, sum)
        });
        all.collect()
    }
}

/// No other agent saw any of it: it took no way that leads off the node, or none at all.
fn is_within(row: &Stat) -> bool {
    let leaves = [Path::Tunnel, Path::Passthrough].map(|path| path as i32 as u32);
    !row.path.iter().any(|(path, count)| *count > 0 && leaves.contains(path))
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

impl Sum {
    pub fn add(&mut self, node: &str, row: &Stat) {
        let mut latency = Latency::default();
        row.latency.iter().for_each(|(bucket, count)| latency.add(*bucket, *count));
        let mut answers = [0; 6];
        answers.iter_mut().zip(&row.answers).for_each(|(sum, more)| *sum = *more);
        let identity = |end: &Option<Endpoint>| end.as_ref().map(|end| end.identity.clone()).unwrap_or_default();
        let per = |count: u64| if row.seconds == 0 { 0.0 } else { count as f64 / f64::from(row.seconds) };
        let bytes = row.bytes_sent.saturating_add(row.bytes_received);
        self.merge(Self {
            nodes: BTreeSet::from([node.to_owned()]),
            seconds: row.seconds,
            requests: row.requests,
            failed_requests: row.failed_requests,
            refused_requests: row.refused_requests,
            answers,
            latency,
            connections: row.connections,
            refused_connections: row.refused_connections,
            failed_connections: row.failed_connections,
            open: row.open,
            sent: row.bytes_sent,
            received: row.bytes_received,
            security: row.security.iter().map(|(of, count)| (*of, *count)).collect(),
            path: row.path.iter().map(|(of, count)| (*of, *count)).collect(),
            datagrams: row.datagrams,
            rtt_us: row.rtt_us,
            retransmits: row.retransmits,
            rates: Rates { requests: per(row.requests), connections: per(row.connections), bytes: per(bytes) },
            source_identity: identity(&row.source),
            destination_identity: identity(&row.destination),
        });
    }

    fn merge(&mut self, other: Self) {
        let Self {
            nodes,
            seconds,
            requests,
            failed_requests,
            refused_requests,
            answers,
            latency,
            connections,
            refused_connections,
            failed_connections,
            open,
            sent,
            received,
            security,
            path,
            datagrams,
            rtt_us,
            retransmits,
            rates,
            source_identity,
            destination_identity,
        } = other;
        self.nodes.extend(nodes);
        self.seconds = self.seconds.max(seconds);
        for (sum, more) in [
            (&mut self.requests, requests),
            (&mut self.failed_requests, failed_requests),
            (&mut self.refused_requests, refused_requests),
            (&mut self.connections, connections),
            (&mut self.refused_connections, refused_connections),
            (&mut self.failed_connections, failed_connections),
            (&mut self.open, open),
            (&mut self.sent, sent),
            (&mut self.received, received),
            (&mut self.datagrams, datagrams),
            (&mut self.retransmits, retransmits),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.answers.iter_mut().zip(answers).for_each(|(sum, more)| *sum = sum.saturating_add(more));
        self.latency.merge(&latency);
        security.into_iter().for_each(|(of, more)| *self.security.entry(of).or_default() += more);
        path.into_iter().for_each(|(of, more)| *self.path.entry(of).or_default() += more);
        self.rtt_us = self.rtt_us.max(rtt_us);
        self.rates.requests += rates.requests;
        self.rates.connections += rates.connections;
        self.rates.bytes += rates.bytes;
        for (known, other) in
            [(&mut self.source_identity, source_identity), (&mut self.destination_identity, destination_identity)]
        {
            if known.is_empty() {
                *known = other;
            }
        }
    }

    /// If it has none of its own.
    fn with_requests_of(self, other: Self) -> Self {
        if self.requests > 0 {
            return self;
        }
        let Self { requests, failed_requests, refused_requests, answers, latency, rates, .. } = other;
        let rates = Rates { requests: rates.requests, ..self.rates };
        Self { requests, failed_requests, refused_requests, answers, latency, rates, ..self }
    }

    pub fn requests_per_second(&self) -> f64 {
        self.rates.requests
    }

    pub fn connections_per_second(&self) -> f64 {
        self.rates.connections
    }

    pub fn bytes_per_second(&self) -> f64 {
        self.rates.bytes
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
        let all: u64 = self.security.values().sum();
        let so = self.security.get(&(by as i32 as u32)).copied().unwrap_or_default();
        (all > 0).then(|| so as f64 / all as f64)
    }

    pub fn quantile(&self, share: f64) -> Option<Duration> {
        self.latency.quantile(share)
    }
}

#[cfg(test)]
mod tests;
