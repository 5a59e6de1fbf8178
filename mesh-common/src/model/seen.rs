//! What agents saw of a workload, service, route or edge of late, put together so that nothing counts twice. A
//! connection between two nodes is told by both agents, as its source's and as its destination's: one of the two sums
//! counts. One within a node is told by its only agent, as its source's, and counts besides. Where the end that counts
//! read no requests, and the other one did, the figures of requests are the other's. Durations add up by bucket, so
//! that a quantile of a sum is as good as one of a part.

use std::collections::BTreeMap;

use super::Latency;

/// As whose agent somebody tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reporter {
    /// As both, or of what reached nobody: no other agent tells it.
    Within,
    Source,
    Destination,
}

/// Sums over the last `seconds`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The longest time that some node's figures are about.
    pub seconds: u32,
    /// What a second is of each node's figures: nodes that began late have shorter ones.
    pub rates: Rates,
    pub requests: u64,
    /// Answered with 5xx, or by a gRPC status that counts like one, or not at all.
    pub failed_requests: u64,
    /// By the mesh: policy, token, limit.
    pub refused_requests: u64,
    /// By hundreds of the status; the first: no answer.
    pub answers: [u64; 6],
    pub latency: Latency,
    /// That began; requests are not counted here.
    pub connections: u64,
    pub refused_connections: u64,
    pub failed_connections: u64,
    /// Now.
    pub open: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub datagrams: u64,
    /// Connections and requests by the number of the wire's `Security`, and of its `Path`.
    pub security: [u64; 4],
    pub path: [u64; 5],
    /// The largest.
    pub rtt_us: u32,
    pub retransmits: u64,
}

/// A second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub requests: f64,
    pub failed_requests: f64,
    pub refused_requests: f64,
    pub connections: f64,
    pub refused_connections: f64,
    pub failed_connections: f64,
    pub bytes_sent: f64,
    pub bytes_received: f64,
    pub datagrams: f64,
}

/// What adds up over nodes.
pub trait Sums: Default {
    /// Adds what another node saw at the same end.
    fn add(&mut self, other: &Self);

    /// With the requests that the other end read, if it has none of its own.
    #[must_use]
    fn with_requests_of(self, other: Self) -> Self;
}

/// What was seen of each key, apart by who tells it.
#[derive(Clone, Debug)]
pub struct ByBoth<K, S = Seen>(BTreeMap<K, Parts<S>>);

#[derive(Clone, Debug)]
struct Parts<S> {
    within: Option<S>,
    source: Option<S>,
    destination: Option<S>,
}

impl Seen {
    /// Of one node: its rates are those of its own time.
    #[must_use]
    pub fn of_one_node(self) -> Self {
        let rate = |count: u64| if self.seconds == 0 { 0.0 } else { count as f64 / f64::from(self.seconds) };
        let rates = Rates {
            requests: rate(self.requests),
            failed_requests: rate(self.failed_requests),
            refused_requests: rate(self.refused_requests),
            connections: rate(self.connections),
            refused_connections: rate(self.refused_connections),
            failed_connections: rate(self.failed_connections),
            bytes_sent: rate(self.bytes_sent),
            bytes_received: rate(self.bytes_received),
            datagrams: rate(self.datagrams),
        };
        Self { rates, ..self }
    }
}

impl Rates {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed_requests += other.failed_requests;
        self.refused_requests += other.refused_requests;
        self.connections += other.connections;
        self.refused_connections += other.refused_connections;
        self.failed_connections += other.failed_connections;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.datagrams += other.datagrams;
    }
}

impl Sums for Seen {
    fn add(&mut self, other: &Self) {
        let Self {
            seconds,
            rates,
            requests,
            failed_requests,
            refused_requests,
            answers,
            latency,
            connections,
            refused_connections,
            failed_connections,
            open,
            bytes_sent,
            bytes_received,
            datagrams,
            security,
            path,
            rtt_us,
            retransmits,
        } = other;
        self.rates.add(rates);
        self.seconds = self.seconds.max(*seconds);
        self.rtt_us = self.rtt_us.max(*rtt_us);
        self.latency.merge(latency);
        for (own, more) in [
            (&mut self.requests, requests),
            (&mut self.failed_requests, failed_requests),
            (&mut self.refused_requests, refused_requests),
            (&mut self.connections, connections),
            (&mut self.refused_connections, refused_connections),
            (&mut self.failed_connections, failed_connections),
            (&mut self.open, open),
            (&mut self.bytes_sent, bytes_sent),
            (&mut self.bytes_received, bytes_received),
            (&mut self.datagrams, datagrams),
            (&mut self.retransmits, retransmits),
        ]
        .into_iter()
        .chain(self.answers.iter_mut().zip(answers))
        .chain(self.security.iter_mut().zip(security))
        .chain(self.path.iter_mut().zip(path))
        {
            *own = own.saturating_add(*more);
        }
    }

    fn with_requests_of(self, other: Self) -> Self {
        if self.requests > 0 {
            return self;
        }
        let Self { requests, failed_requests, refused_requests, answers, latency, rates: others, .. } = other;
        let rates = Rates {
            requests: others.requests,
            failed_requests: others.failed_requests,
            refused_requests: others.refused_requests,
            ..self.rates
        };
        Self { requests, failed_requests, refused_requests, answers, latency, rates, ..self }
    }
}

impl<S> Default for Parts<S> {
    fn default() -> Self {
        Self { within: None, source: None, destination: None }
    }
}

impl<K, S> Default for ByBoth<K, S> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, S: Sums> ByBoth<K, S> {
    pub fn add(&mut self, key: K, reporter: Reporter, seen: S) {
        let Parts { within, source, destination } = self.0.entry(key).or_default();
        let place = match reporter {
            Reporter::Within => within,
            Reporter::Source => source,
            Reporter::Destination => destination,
        };
        match place {
            Some(sum) => sum.add(&seen),
            None => *place = Some(seen),
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Of workloads and edges: the destination's agents know what they refused, and how long their application took.
    /// The source's count if no destination told.
    pub fn at_destination(self) -> impl Iterator<Item = (K, S)> {
        self.totals(|source, destination| (destination, source))
    }

    /// Of services and routes, which the client's agent chose: the source's, or the destination's if no source told.
    pub fn at_source(self) -> impl Iterator<Item = (K, S)> {
        self.totals(|source, destination| (source, destination))
    }

    /// `first` says who counts, and who else told.
    fn totals(self, first: impl Fn(Option<S>, Option<S>) -> (Option<S>, Option<S>)) -> impl Iterator<Item = (K, S)> {
        self.0.into_iter().map(move |(key, Parts { within, source, destination })| {
            let told = match first(source, destination) {
                (Some(first), Some(other)) => Some(first.with_requests_of(other)),
                (first, other) => first.or(other),
            };
            let sum = match (within, told) {
                (Some(mut within), Some(told)) => {
                    within.add(&told);
                    Some(within)
                }
                (within, told) => within.or(told),
            };
            (key, sum.unwrap_or_default())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn seen(requests: u64, connections: u64, ms: u64) -> Seen {
        let mut seen = Seen { seconds: 60, requests, connections, ..Seen::default() };
        (0..requests).for_each(|_| seen.latency.record(Duration::from_millis(ms)));
        seen.security[2] = requests;
        seen.of_one_node()
    }

    #[test]
    fn nodes_add_up_and_ends_do_not() {
        let mut edges = ByBoth::default();
        // Two nodes of the destination, one of the source, which read the same requests.
        edges.add("cart > web", Reporter::Destination, seen(60, 2, 1));
        edges.add("cart > web", Reporter::Destination, seen(120, 2, 1));
        edges.add("cart > web", Reporter::Source, seen(180, 4, 2));
        // A cart and a web of one node, which nobody else saw.
        edges.add("cart > web", Reporter::Within, seen(20, 1, 1));
        // Its destination is not in the mesh.
        edges.add("cart > api", Reporter::Source, seen(30, 5, 2));
        // Nobody answers there.
        edges.add("cart > gone", Reporter::Within, Seen { failed_connections: 3, ..seen(0, 3, 0) });
        assert_eq!((edges.len(), edges.is_empty()), (3, false));
        let (destination, source) = (edges.clone().at_destination(), edges.at_source());
        let (destination, source): (BTreeMap<_, _>, BTreeMap<_, _>) = (destination.collect(), source.collect());
        let web = &destination["cart > web"];
        assert_eq!((web.requests, web.connections, web.security[2]), (200, 5, 200));
        let p99 = |seen: &Seen| seen.latency.quantile(0.99).map(|p99| p99.as_micros() / 900);
        assert_eq!(p99(web), Some(1), "what the destination saw");
        assert_eq!((web.rates.requests, web.rates.connections), (200.0 / 60.0, 5.0 / 60.0));
        let web = &source["cart > web"];
        assert_eq!((web.requests, p99(web)), (200, Some(2)));
        for all in [&destination, &source] {
            assert_eq!((all["cart > api"].requests, all["cart > gone"].failed_connections), (30, 3));
        }
    }

    #[test]
    fn requests_that_one_end_alone_read_are_not_lost_and_nodes_have_their_own_time() {
        let mut edges = ByBoth::default();
        edges.add("web", Reporter::Source, Seen { failed_requests: 6, ..seen(60, 9, 2) }.of_one_node());
        edges.add("web", Reporter::Destination, seen(0, 3, 0));
        // This agent is ten seconds old.
        edges.add("web", Reporter::Destination, Seen { seconds: 10, ..seen(0, 1, 0) }.of_one_node());
        let (_, web) = edges.at_destination().next().expect("one key");
        assert_eq!((web.requests, web.failed_requests, web.latency.count(), web.connections), (60, 6, 60, 4));
        assert_eq!((web.rates.requests, web.rates.failed_requests), (1.0, 0.1));
        assert_eq!((web.seconds, web.rates.connections), (60, 3.0 / 60.0 + 1.0 / 10.0));
        assert_eq!(Seen { seconds: 0, ..seen(5, 5, 1) }.of_one_node().rates, Rates::default());
    }
}
