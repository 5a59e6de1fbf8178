//! Who may be chosen at this moment, group by group. Made anew when somebody comes, goes, is ejected or comes back, or
//! when a new endpoint has grown; choosing itself changes nothing and waits for nobody.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Instant};

use mesh_common::model::traffic::{Algorithm, TrafficPolicy};

use super::{
    Client, Endpoint,
    draws::{Draws, mix, scale},
    group::{Group, Way},
    locality::Spread,
    member::Member,
    priority::{self, Health},
    warmup,
};

/// Weights are multiplied by this while somebody has only a part of theirs.
const FINE: f64 = 4096.0;

/// Who may be in a table.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub endpoint: &'a Endpoint,
    pub member: &'a Arc<Member>,
    pub joined: Instant,
    pub healthy: bool,
}

#[derive(Debug)]
pub struct Table {
    way: Way,
    /// Nearest first: number, part of the traffic, endpoints.
    groups: Vec<(usize, u64, Group)>,
    total: u64,
    /// When it should be made anew, whatever happens.
    pub due: Option<Instant>,
}

impl Default for Table {
    fn default() -> Self {
        Self { way: Way::Random, groups: Vec::new(), total: 0, due: None }
    }
}

impl Table {
    /// `old`: the one before it, which knows whose turn it is.
    pub fn new(
        candidates: &[Candidate<'_>],
        policy: &TrafficPolicy,
        client: &Client,
        old: &Self,
        now: Instant,
    ) -> Self {
        let spread = Spread::new(policy, client);
        let mut members = BTreeMap::<usize, Vec<&Candidate<'_>>>::new();
        for candidate in candidates {
            if let Some(group) = spread.group(candidate.endpoint) {
                members.entry(group).or_default().push(candidate);
            }
        }
        let health = members.values().map(|members| health(members)).collect::<Vec<_>>();
        let loads = loads(&spread, members.keys().copied(), &health, policy);
        let way = way(&policy.balancing.algorithm);
        let warm = policy.balancing.warmup.as_ref().filter(|_| way != Way::Hash);
        let part = |candidate: &Candidate<'_>| {
            warm.map_or(1.0, |warm| warmup::part(warm, now.saturating_duration_since(candidate.joined)))
        };
        let growing = candidates.iter().any(|candidate| part(candidate) < 1.0);
        let weight = |candidate: &Candidate<'_>| match candidate.endpoint.weight {
            0 => 0,
            weight if growing => ((f64::from(weight) * FINE * part(candidate)) as u64).max(1),
            weight => u64::from(weight),
        };
        let groups = members.into_iter().zip(loads).map(|((number, members), (share, panic))| {
            let turn = old.groups.iter().find(|group| group.0 == number).map_or(0, |group| group.2.turn());
            let chosen = members.into_iter().filter(|candidate| panic || candidate.healthy);
            let chosen = chosen.map(|candidate| (Arc::clone(candidate.member), weight(candidate)));
            (number, share, Group::new(chosen.collect(), way, turn))
        });
        // A part of nothing is not there for second tries either; a farther level is.
        let parts = matches!(spread, Spread::Parts(_));
        let groups = groups.filter(|(_, share, _)| !parts || *share > 0).collect::<Vec<_>>();
        let total = groups.iter().fold(0, |total: u64, (_, share, _)| total.saturating_add(*share));
        let due = warm.filter(|_| growing).map(|warm| now + warmup::step(warm));
        Self { way, groups, total, due }
    }

    pub fn choose(&self, key: Option<u64>, tried: &[SocketAddr], drawn: u64, now: Instant) -> Option<&Arc<Member>> {
        let mut draws = Draws::new(drawn);
        // A key stays with its group too.
        let point = match key.filter(|_| self.way == Way::Hash) {
            Some(key) => mix(!key),
            None if self.groups.len() > 1 => draws.next(),
            None => 0,
        };
        let first = self.group(scale(point, self.total))?;
        let all = self.groups.iter().map(|(.., group)| group);
        let mut order = std::iter::once(first).chain(all.filter(|group| !std::ptr::eq(*group, first)));
        let new = order.find_map(|group| group.choose(self.way, key, tried, &mut draws, now));
        new.or_else(|| first.choose(self.way, key, &[], &mut draws, now))
    }

    fn group(&self, mut point: u64) -> Option<&Group> {
        let found = self.groups.iter().find(|(_, share, _)| {
            let here = point < *share;
            point = point.saturating_sub(*share);
            here
        });
        found.map(|(.., group)| group)
    }
}

fn way(algorithm: &Algorithm) -> Way {
    match algorithm {
        Algorithm::LeastRequest => Way::LeastRequest,
        Algorithm::RoundRobin => Way::RoundRobin,
        Algorithm::Random | Algorithm::Passthrough => Way::Random,
        Algorithm::PeakEwma => Way::PeakEwma,
        Algorithm::Hash(_) => Way::Hash,
    }
}

fn health(members: &[&Candidate<'_>]) -> Health {
    Health { healthy: members.iter().filter(|candidate| candidate.healthy).count(), all: members.len() }
}

/// For each group its part of the traffic, and whether those that are not well are used too.
fn loads(
    spread: &Spread<'_>,
    groups: impl Iterator<Item = usize>,
    health: &[Health],
    policy: &TrafficPolicy,
) -> Vec<(u64, bool)> {
    let least = policy.outlier.as_ref().map(|outlier| outlier.min_health).unwrap_or_default();
    let Spread::Parts(parts) = spread else {
        return priority::loads(health, least).into_iter().map(|load| (load.share, load.panic)).collect();
    };
    // Parts are one level: each takes as much less of its own as it is not well (Envoy's locality weights).
    let all = health
        .iter()
        .fold(Health::default(), |sum, part| Health { healthy: sum.healthy + part.healthy, all: sum.all + part.all });
    let panic = priority::loads(&[all], least).iter().any(|load| load.panic);
    let whole = |health: &Health| if panic { Health { healthy: health.all, all: health.all } } else { *health };
    let weight = |group: usize| parts.get(group).map_or(0, |(_, weight)| u64::from(*weight));
    groups.zip(health).map(|(group, health)| (weight(group) * whole(health).available(), panic)).collect()
}
