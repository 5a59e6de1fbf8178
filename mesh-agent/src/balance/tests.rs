//! One client, some endpoints, a clock that stands until it is moved, and chance from a fixed seed.

mod choice;
mod ejection;
mod limits;
mod localities;
mod properties;
mod rates;
mod speed;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_common::model::{
    Locality,
    traffic::{Algorithm, Balancing, HashOn, Millis, Outlier, Percent, TrafficPolicy},
};

use super::{Client, Cluster, Endpoint, Outcome, Picked, draws::Draws};

pub struct World {
    pub cluster: Arc<Cluster>,
    pub now: Instant,
    draws: Draws,
}

impl World {
    pub fn new(policy: TrafficPolicy, endpoints: &[Endpoint]) -> Self {
        Self::at(policy, Client::default(), endpoints)
    }

    pub fn at(policy: TrafficPolicy, client: Client, endpoints: &[Endpoint]) -> Self {
        let cluster = Arc::new(Cluster::new(Arc::new(policy), Arc::new(client)));
        let now = Instant::now();
        cluster.set_endpoints(endpoints, now);
        Self { cluster, now, draws: Draws::new(7) }
    }

    pub fn set(&self, endpoints: &[Endpoint]) {
        self.cluster.set_endpoints(endpoints, self.now);
    }

    pub fn passes(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    pub fn try_pick(&mut self, key: Option<u64>, tried: &[SocketAddr]) -> Option<Picked> {
        self.cluster.pick(key, tried, self.draws.next(), self.now)
    }

    pub fn pick(&mut self) -> Picked {
        self.try_pick(None, &[]).expect("somebody is there")
    }

    /// Port of who takes a key.
    pub fn holder(&mut self, key: u64) -> u16 {
        self.try_pick(Some(key), &[]).expect("somebody is there").address().port()
    }

    /// A request to one endpoint, whoever is drawn, with such an end. Others that are drawn end as if cancelled.
    pub fn ends(&mut self, port: u16, outcome: Outcome) {
        for _ in 0..10_000 {
            let picked = self.pick();
            if picked.address().port() == port {
                return picked.done(outcome, self.now);
            }
        }
        panic!("{port} is never chosen");
    }

    /// How many of so many requests, one after the other, each port gets.
    pub fn spread(&mut self, requests: usize) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..requests {
            *counts.entry(self.pick().address().port()).or_default() += 1;
        }
        counts
    }

    pub fn counts(&self) -> super::Counts {
        self.cluster.counts(self.now)
    }
}

pub fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, (port >> 8) as u8, port as u8], port))
}

pub fn endpoint(port: u16) -> Endpoint {
    Endpoint { address: address(port), locality: Locality::default(), labels: Arc::default(), weight: 1 }
}

pub fn endpoints(ports: std::ops::Range<u16>) -> Vec<Endpoint> {
    ports.map(endpoint).collect()
}

pub fn weighted(weights: &[u32]) -> Vec<Endpoint> {
    (1..).zip(weights).map(|(port, weight)| Endpoint { weight: *weight, ..endpoint(port) }).collect()
}

pub fn balanced(algorithm: Algorithm) -> TrafficPolicy {
    TrafficPolicy { balancing: Balancing { algorithm, ..Balancing::default() }, ..TrafficPolicy::default() }
}

pub fn hashed() -> TrafficPolicy {
    balanced(Algorithm::Hash(HashOn::SourceIp))
}

/// Five errors in a row, ticks each 10 s, 30 s for each ejection, everybody.
pub fn outlier() -> Outlier {
    Outlier {
        consecutive_5xx: Some(5),
        consecutive_gateway_errors: None,
        consecutive_local_failures: None,
        interval: Millis(10_000),
        base_ejection: Millis(30_000),
        max_ejected: Percent::ALL,
        min_health: Percent(0),
    }
}

pub fn watched(outlier: Outlier) -> TrafficPolicy {
    TrafficPolicy { outlier: Some(outlier), ..balanced(Algorithm::Random) }
}

/// Whether a count is within five standard deviations of what chance gives.
pub fn is_about(count: usize, of: usize, share: f64) -> bool {
    let (of, count) = (of as f64, count as f64);
    (count - of * share).abs() <= 5.0 * (of * share * (1.0 - share)).sqrt() + 1.0
}
