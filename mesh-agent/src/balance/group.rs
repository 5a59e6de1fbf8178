//! Endpoints that are equally near: one of them is chosen by the policy's algorithm. Never changes but for its turn;
//! whoever comes or goes makes a new one.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{
    draws::{Draws, of_address},
    member::Member,
    ring::Ring,
};

/// Draws until somebody is looked for in order instead.
const ATTEMPTS: usize = 6;

/// How one is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Of two by chance the one with fewer requests under way for its weight.
    LeastRequest,
    RoundRobin,
    Random,
    /// Of two by chance the one with the lower peak latency times requests under way, for its weight.
    PeakEwma,
    /// By a key; without one by chance.
    Hash,
}

#[derive(Debug)]
pub struct Group {
    members: Vec<Arc<Member>>,
    /// Where the part of each ends, if they do not weigh the same.
    ends: Vec<u64>,
    total: u64,
    /// From one turn to the next. It shares no divisor with the total: in as many turns as that everybody had exactly
    /// their part, and in between about it.
    stride: u64,
    turn: AtomicU64,
    ring: Option<Ring>,
}

impl Group {
    /// Who weighs nothing is left out. `turn`: see [`Group::turn`].
    pub fn new(members: Vec<(Arc<Member>, u64)>, way: Way, turn: u64) -> Self {
        let common = members.iter().fold(0, |common, (_, weight)| divisor(common, *weight)).max(1);
        let weighty = members.into_iter().filter(|(_, weight)| *weight > 0);
        let (members, weights): (Vec<_>, Vec<_>) = weighty.map(|(member, weight)| (member, weight / common)).unzip();
        let ring = (way == Way::Hash).then(|| {
            let hash = |(member, weight): (&Arc<Member>, &u64)| (of_address(member.address), *weight);
            Ring::new(&members.iter().zip(&weights).map(hash).collect::<Vec<_>>())
        });
        let mut total = 0_u64;
        let mut ends = Vec::new();
        if weights.iter().any(|weight| *weight != 1) {
            ends.extend(weights.iter().map(|weight| {
                total = total.saturating_add(*weight);
                total
            }));
        } else {
            total = u64::try_from(members.len()).unwrap_or(u64::MAX);
        }
        let stride = if ends.is_empty() { 1 } else { stride(total) };
        Self { members, ends, total, stride, turn: AtomicU64::new(turn), ring }
    }

    /// Whose turn it is: for the group that takes this one's place.
    pub fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    /// Somebody who is not among those that were tried, if there is one.
    pub fn choose(
        &self,
        way: Way,
        key: Option<u64>,
        tried: &[SocketAddr],
        draws: &mut Draws,
        now: Instant,
    ) -> Option<&Arc<Member>> {
        let index = match (way, key) {
            (Way::Hash, Some(key)) => self.ring.as_ref()?.find(key, |member| self.is_new(member, tried))?,
            (Way::Hash | Way::Random, _) => self.by_chance(tried, draws)?,
            (Way::RoundRobin, _) => self.in_turn(tried, draws)?,
            (Way::LeastRequest, _) => self.better(tried, draws, |member| f64::from(member.active()))?,
            (Way::PeakEwma, _) => self.better(tried, draws, |member| member.latency().load(member.active(), now))?,
        };
        self.members.get(index)
    }

    fn by_chance(&self, tried: &[SocketAddr], draws: &mut Draws) -> Option<usize> {
        self.look(tried, draws, |group, draws| group.whose(draws.below(group.total)))
    }

    fn in_turn(&self, tried: &[SocketAddr], draws: &mut Draws) -> Option<usize> {
        self.look(tried, draws, |group, draws| {
            let mut turn = group.turn.fetch_add(1, Ordering::Relaxed);
            if turn == 0 {
                // Clients that begin at the same time begin at different endpoints.
                turn = (draws.next() >> 1).max(1);
                group.turn.store(turn + 1, Ordering::Relaxed);
            }
            let point = (u128::from(turn) * u128::from(group.stride)) % u128::from(group.total.max(1));
            group.whose(u64::try_from(point).unwrap_or(0))
        })
    }

    fn better(&self, tried: &[SocketAddr], draws: &mut Draws, load: impl Fn(&Member) -> f64) -> Option<usize> {
        let one = self.by_chance(tried, draws)?;
        let (begin, weight) = self.part(one);
        let drawn = |group: &Self, draws: &mut Draws| {
            let point = draws.below(group.total - weight);
            group.whose(if point < begin { point } else { point + weight })
        };
        let other = (0..ATTEMPTS).find_map(|_| {
            let other = (weight < self.total).then(|| drawn(self, draws))?;
            self.is_new(other, tried).then_some(other)
        });
        let Some(other) = other else { return Some(one) };
        let load = |index: usize, weight: u64| load(&self.members[index]) / weight as f64;
        Some(if load(other, self.part(other).1) < load(one, weight) { other } else { one })
    }

    /// Who is found in a few attempts, or the first from somewhere.
    fn look(
        &self,
        tried: &[SocketAddr],
        draws: &mut Draws,
        attempt: impl Fn(&Self, &mut Draws) -> usize,
    ) -> Option<usize> {
        if self.members.is_empty() {
            return None;
        }
        let found = (0..ATTEMPTS).map(|_| attempt(self, draws)).find(|index| self.is_new(*index, tried));
        found.or_else(|| {
            let from = self.whose(draws.below(self.total));
            (from..self.members.len()).chain(0..from).find(|index| self.is_new(*index, tried))
        })
    }

    fn is_new(&self, index: usize, tried: &[SocketAddr]) -> bool {
        self.members.get(index).is_some_and(|member| !tried.contains(&member.address))
    }

    /// Whose part a point below the total is in.
    fn whose(&self, point: u64) -> usize {
        if self.ends.is_empty() {
            usize::try_from(point).unwrap_or(0)
        } else {
            self.ends.partition_point(|end| *end <= point)
        }
    }

    /// Where one's part begins, and how long it is.
    fn part(&self, index: usize) -> (u64, u64) {
        match self.ends.get(index) {
            Some(end) => {
                let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
                (begin, end - begin)
            }
            None => (u64::try_from(index).unwrap_or(0), 1),
        }
    }
}

/// Near the golden section of the total, which spreads turns most evenly.
fn stride(total: u64) -> u64 {
    let golden = u64::try_from(u128::from(total) * 618_034 / 1_000_000).unwrap_or(1).max(1);
    (golden..).find(|stride| divisor(*stride, total) == 1).unwrap_or(1)
}

/// The greatest that divides both; 0 is divided by all.
fn divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { divisor(other, one % other) }
}
