//! Who speaks to whom: totals since the agent started, bounded in number.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::Arc,
    time::SystemTime,
};

use super::flow::{Flow, Party, Verdict};

/// Two records with equal ends, service, path, security, direction and age are of one edge; datagrams have their own.
/// Ports of clients do not count, neither do addresses of pods: pods come back with others.
#[derive(Clone, Debug)]
pub struct Edge(pub Arc<Flow>);

#[derive(Clone, Copy, Debug)]
pub struct Totals {
    pub connections: u64,
    pub refused: u64,
    pub failed: u64,
    pub sent: u64,
    pub received: u64,
    /// Both ways.
    pub datagrams: u64,
    pub last: SystemTime,
}

#[derive(Debug)]
pub struct Edges {
    totals: HashMap<Edge, Totals>,
    bound: usize,
    dropped: u64,
}

impl Edge {
    fn parts(&self) -> impl Hash + Eq + '_ {
        let Flow { source, destination, service, path, security, direction, older, udp, .. } = &*self.0;
        // Whom no pod's name tells apart, the address does.
        let ip = |party: &Party| party.address.map(|address| address.ip()).filter(|_| party.pod.is_empty());
        (
            (&source.namespace, &source.pod, &source.workload, &source.identity, ip(source)),
            (&destination.namespace, &destination.pod, &destination.identity, ip(destination)),
            (destination.address.map(|address| address.port()), service, path, security, direction, older),
            udp.is_some(),
        )
    }
}

impl Hash for Edge {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for Edge {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Edge {}

impl Totals {
    /// Of an edge that no connection has ended on yet.
    pub fn none(last: SystemTime) -> Self {
        Self { connections: 0, refused: 0, failed: 0, sent: 0, received: 0, datagrams: 0, last }
    }
}

impl Edges {
    pub fn new(bound: usize) -> Self {
        Self { totals: HashMap::new(), bound: bound.max(1), dropped: 0 }
    }

    /// Counts a connection that ended; the number of edges that were dropped to make room.
    pub fn ended(&mut self, flow: &Arc<Flow>) -> u64 {
        let edge = Edge(Arc::clone(flow));
        let dropped =
            if self.totals.len() >= self.bound && !self.totals.contains_key(&edge) { self.make_room() } else { 0 };
        let totals = self.totals.entry(edge).or_insert_with(|| Totals::none(flow.end));
        totals.connections += 1;
        match flow.verdict {
            Verdict::Forwarded | Verdict::Audit => {}
            Verdict::Dropped => totals.refused += 1,
            Verdict::Error => totals.failed += 1,
        }
        totals.sent += flow.sent;
        totals.received += flow.received;
        totals.datagrams += flow.udp.map_or(0, |udp| udp.sent + udp.received);
        totals.last = totals.last.max(flow.end);
        dropped
    }

    /// Drops the eighth that was silent for longest, so that a flood of new edges does not search them all each time.
    fn make_room(&mut self) -> u64 {
        let mut ages: Vec<_> = self.totals.values().map(|totals| totals.last).collect();
        ages.sort_unstable();
        let oldest = ages[ages.len() / 8];
        let before = self.totals.len();
        self.totals.retain(|_, totals| totals.last > oldest);
        let dropped = (before - self.totals.len()) as u64;
        self.dropped += dropped;
        dropped
    }

    /// Since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    pub fn all(&self) -> HashMap<Edge, Totals> {
        self.totals.clone()
    }
}
