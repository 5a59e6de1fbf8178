//! Rates, errors and latencies of the last ten minutes: who spoke to whom, by which service and route.
//!
//! Each pair of workloads, service and route is one key, seen from one end, with slots of ten seconds; sums by
//! workload, service, route or pair are made of these when somebody asks. There are at most [`KEYS`] keys and
//! [`BYTES`] of slots: 4 MiB and 16 MiB. What finds no key counts under the one without names; what finds no room for
//! a new slot takes its key's oldest two for one, so that what is long ago is told less exactly in time, and nothing
//! is lost. A key without a slot of the last ten minutes goes.

mod sum;

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, Hash, Hasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use mesh_common::model::ServiceName;

use super::{
    cost::Costs,
    flow::{Direction, Facts, Flow, Path, Udp},
};
pub use sum::Sum;

/// Pairs of workloads, with service and route, that are summed by themselves.
const KEYS: usize = 8192;
/// Of all slots, with the room that they leave for more.
const BYTES: usize = 16 << 20;
const SLOT: u64 = 10;
/// That are kept.
const SLOTS: u64 = 60;
/// Threads that count at the same time seldom wait for each other.
const SHARDS: usize = 16;

/// What sums are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// Of the destination.
    Workload,
    Service,
    Route,
    /// From source to destination.
    Edge,
    /// The same, but a namespace is the destination's.
    EdgeTo,
}

#[derive(Debug)]
pub struct Stats {
    shards: [Mutex<HashMap<u64, Vec<Series>>>; SHARDS],
    hasher: RandomState,
    keys: AtomicUsize,
    bytes: AtomicUsize,
    limits: (usize, usize),
    costs: Costs,
}

/// A namespace and a workload; of whom the configuration does not know, nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    pub namespace: String,
    pub workload: String,
}

/// One row of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub reporter: Direction,
    /// It left the node: its destination's agent may tell of it too.
    pub leaves: bool,
    /// Of pairs only.
    pub source: Option<Name>,
    /// Of workloads and pairs.
    pub destination: Option<Name>,
    pub service: Option<Arc<ServiceName>>,
    /// "": none was asked.
    pub route: String,
    /// That the sums are about.
    pub seconds: u32,
    pub sum: Sum,
}

#[derive(Debug)]
struct Series {
    key: Key,
    /// The oldest first; a slot that nothing happened in is not there.
    slots: VecDeque<Slot>,
}

#[derive(Debug)]
struct Slot {
    at: u64,
    sum: Sum,
}

#[derive(Debug, PartialEq)]
struct Key {
    direction: Direction,
    source: Name,
    destination: Name,
    service: Option<Arc<ServiceName>>,
    route: Box<str>,
    /// It leaves the node: its destination's agent may tell of it too. So rows of what it cannot know stand by
    /// themselves, and who sums counts everything once.
    leaves: bool,
    /// What found no key of its own.
    overflow: bool,
}

impl Default for Stats {
    fn default() -> Self {
        Self::bounded(KEYS, BYTES)
    }
}

fn route(flow: &Flow) -> &str {
    flow.http.as_ref().and_then(|http| http.route.as_deref()).unwrap_or_default()
}

fn leaves(flow: &Flow) -> bool {
    flow.direction == Direction::Outbound && matches!(flow.path, Some(Path::Tunnel | Path::Passthrough))
}

fn slot_of(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / SLOT)
}

impl Key {
    fn of(flow: &Flow) -> Self {
        let name = |facts: &Facts| Name { namespace: facts.namespace.clone(), workload: facts.workload.clone() };
        Self {
            direction: flow.direction,
            source: name(&flow.source.facts),
            destination: name(&flow.destination.facts),
            service: flow.service.clone(),
            route: route(flow).into(),
            leaves: leaves(flow),
            overflow: false,
        }
    }

    fn overflow(direction: Direction) -> Self {
        let (source, destination, service, route, leaves) = Default::default();
        Self { direction, source, destination, service, route, leaves, overflow: true }
    }

    fn is(&self, flow: &Flow) -> bool {
        let same = |name: &Name, facts: &Facts| name.workload == facts.workload && name.namespace == facts.namespace;
        self.direction == flow.direction
            && !self.overflow
            && same(&self.source, &flow.source.facts)
            && same(&self.destination, &flow.destination.facts)
            && self.leaves == leaves(flow)
            && self.service == flow.service
            && &*self.route == route(flow)
    }
}

impl Stats {
    fn bounded(keys: usize, bytes: usize) -> Self {
        Self {
            shards: Default::default(),
            hasher: RandomState::new(),
            keys: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            limits: (keys, bytes),
            costs: Costs::default(),
        }
    }

    pub fn costs(&self) -> &Costs {
        &self.costs
    }

    /// A connection or a request ended.
    pub fn ended(&self, flow: &Flow) {
        let end = slot_of(flow.end);
        self.at(flow, end, |sum| sum.ended(flow));
        if flow.http.is_none() {
            // Where it began: that is no news once it is out of the window.
            let start = slot_of(flow.start);
            if start + SLOTS > end {
                self.at(flow, start.min(end), |sum| sum.connections += 1);
            }
        }
        self.costs.ended(flow);
    }

    /// So many bytes of an open connection passed until now: from the source, and back.
    pub fn passed(&self, flow: &Flow, sent: u64, received: u64) {
        self.passed_at(flow, sent, received, SystemTime::now());
    }

    fn passed_at(&self, flow: &Flow, sent: u64, received: u64, now: SystemTime) {
        if sent > 0 || received > 0 {
            self.at(flow, slot_of(now), |sum| sum.passed(sent, received));
            self.costs.passed(flow, sent + received);
        }
    }

    /// So many datagrams passed, with so many bytes, from the source and back. They cost the agent nothing.
    pub fn datagrams(&self, flow: &Flow, datagrams: Udp, sent: u64, received: u64) {
        self.at(flow, slot_of(SystemTime::now()), |sum| {
            sum.datagrams += datagrams.sent + datagrams.received;
            sum.passed(sent, received);
        });
    }

    /// Counts in the slot of that time.
    fn at(&self, flow: &Flow, slot: u64, count: impl FnOnce(&mut Sum)) {
        let hash = {
            let mut state = self.hasher.build_hasher();
            let names = |facts: &Facts, state: &mut _| (&facts.workload, &facts.namespace).hash(state);
            names(&flow.source.facts, &mut state);
            names(&flow.destination.facts, &mut state);
            let service = flow.service.as_ref().map(|service| &service.hostname);
            (flow.direction, leaves(flow), service, route(flow)).hash(&mut state);
            state.finish()
        };
        let mut shard = self.shard(hash);
        let sets = shard.entry(hash).or_default();
        let place = sets.iter().position(|series| series.key.is(flow));
        let place = place.or_else(|| {
            let fits = self
                .keys
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |keys| (keys < self.limits.0).then_some(keys + 1));
            fits.ok()?;
            sets.push(Series { key: Key::of(flow), slots: VecDeque::new() });
            Some(sets.len() - 1)
        });
        if let Some(place) = place {
            return self.count(&mut sets[place], slot, count);
        }
        if sets.is_empty() {
            shard.remove(&hash);
        }
        drop(shard);
        // One for each end, beside the bound.
        let hash = self.hasher.hash_one(("", flow.direction));
        let mut shard = self.shard(hash);
        let sets = shard.entry(hash).or_default();
        let is = |series: &Series| series.key.overflow && series.key.direction == flow.direction;
        let place = sets.iter().position(is).unwrap_or_else(|| {
            sets.push(Series { key: Key::overflow(flow.direction), slots: VecDeque::new() });
            sets.len() - 1
        });
        self.count(&mut sets[place], slot, count);
    }

    fn count(&self, series: &mut Series, at: u64, count: impl FnOnce(&mut Sum)) {
        let Series { slots, .. } = series;
        let before = slots.capacity();
        let place = slots.partition_point(|slot| slot.at < at);
        if slots.get(place).is_none_or(|slot| slot.at != at) {
            if slots.len() == before {
                // By doubling, but from one: most keys are of one moment.
                slots.reserve_exact(before.max(1));
            }
            slots.insert(place, Slot { at, sum: Sum::default() });
        }
        let grown = slots.capacity() - before;
        let sum = &mut slots[place].sum;
        let before = sum.allocated();
        count(sum);
        let more = grown * size_of::<Slot>() + sum.allocated() - before;
        let bytes = self.bytes.fetch_add(more, Ordering::Relaxed) + more;
        // Nobody asks for what is older than the window.
        while slots.front().is_some_and(|slot| slot.at + SLOTS < at) {
            self.free(slots.pop_front().map_or(0, |slot| slot.sum.allocated()));
        }
        if bytes > self.limits.1 && slots.len() > 1 {
            let oldest = slots.pop_front().expect("there are two");
            let next = slots.front_mut().expect("there are two");
            let before = oldest.sum.allocated() + next.sum.allocated();
            next.sum.merge(&oldest.sum);
            let after = next.sum.allocated();
            self.free(before.saturating_sub(after));
            self.bytes.fetch_add(after.saturating_sub(before), Ordering::Relaxed);
        }
        self.shrink(slots);
    }

    /// Gives back what many slots took that are gone.
    fn shrink(&self, slots: &mut VecDeque<Slot>) {
        let before = slots.capacity();
        if before > 4 * slots.len() {
            slots.shrink_to(2 * slots.len());
            self.free((before - slots.capacity()) * size_of::<Slot>());
        }
    }

    fn free(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// To be called now and then: keys without a slot of the window go.
    pub fn expire(&self, now: SystemTime) {
        let now = slot_of(now);
        for shard in &self.shards {
            let mut shard = locked(shard);
            shard.retain(|_, sets| {
                sets.retain_mut(|series| {
                    let slots = &mut series.slots;
                    while slots.front().is_some_and(|slot| slot.at + SLOTS < now) {
                        self.free(slots.pop_front().map_or(0, |slot| slot.sum.allocated()));
                    }
                    self.shrink(slots);
                    let stays = !slots.is_empty();
                    if !stays && !series.key.overflow {
                        self.keys.fetch_sub(1, Ordering::Relaxed);
                    }
                    stays
                });
                !sets.is_empty()
            });
        }
    }

    /// The last `seconds` (0: 60; rounded up to slots, 600 at most), with `open` connections, of destinations in
    /// `namespace` (for [`By::Edge`]: sources, for services and routes: the service; "": all). What found no key of its
    /// own has no names, and is in every answer.
    pub fn rows(&self, by: By, namespace: &str, seconds: u32, open: &[Flow]) -> Vec<Row> {
        self.rows_at(by, namespace, seconds, open, SystemTime::now())
    }

    fn rows_at(&self, by: By, namespace: &str, seconds: u32, open: &[Flow], now: SystemTime) -> Vec<Row> {
        let seconds = if seconds == 0 { 60 } else { seconds };
        let slots = u64::from(seconds).div_ceil(SLOT).min(SLOTS);
        let newest = slot_of(now);
        // The newest one is not over yet: it comes beside as many whole ones.
        let from = newest.saturating_sub(slots);
        let mut rows: HashMap<Grouped, Sum> = HashMap::new();
        let asked = |key: &Key| {
            let of = match (by, &key.service) {
                (By::Edge, _) => &key.source.namespace,
                (By::EdgeTo, _) => &key.destination.namespace,
                // What no endpoint was asked about has no destination: a fault, a redirect, a refusal.
                (By::Service | By::Route, Some(service)) => &service.namespace,
                _ => &key.destination.namespace,
            };
            namespace.is_empty() || key.overflow || of == namespace
        };
        for shard in &self.shards {
            for series in locked(shard).values().flatten().filter(|series| asked(&series.key)) {
                let within = series.slots.iter().filter(|slot| slot.at >= from);
                for slot in within {
                    rows.entry(Grouped::by(by, &series.key)).or_default().merge(&slot.sum);
                }
            }
        }
        for flow in open {
            let key = Key::of(flow);
            if asked(&key) {
                rows.entry(Grouped::by(by, &key)).or_default().open(flow, slot_of(flow.start) >= from);
            }
        }
        let seconds = (slots * SLOT) as u32;
        let mut rows: Vec<_> = rows.into_iter().map(|(grouped, sum)| grouped.row(seconds, sum)).collect();
        let order = |row: &Row| {
            let Row { reporter, source, destination, service, route, .. } = row;
            (source.clone(), destination.clone(), service.clone(), route.clone(), *reporter as u8)
        };
        rows.sort_by_cached_key(order);
        rows
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, HashMap<u64, Vec<Series>>> {
        locked(&self.shards[(hash >> 60) as usize % SHARDS])
    }
}

/// Nothing that holds one of these locks can panic half way through a change.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What rows differ in.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Grouped {
    reporter: Direction,
    source: Option<Name>,
    destination: Option<Name>,
    service: Option<Arc<ServiceName>>,
    route: Arc<str>,
    leaves: bool,
}

impl Grouped {
    fn by(by: By, key: &Key) -> Self {
        let (source, destination) = (|| Some(key.source.clone()), || Some(key.destination.clone()));
        let service = || key.service.clone();
        let (source, destination, service, route) = match by {
            By::Workload => (None, destination(), None, ""),
            By::Service => (None, None, service(), ""),
            By::Route => (None, None, service(), &*key.route),
            By::Edge | By::EdgeTo => (source(), destination(), service(), ""),
        };
        Self { reporter: key.direction, source, destination, service, route: route.into(), leaves: key.leaves }
    }

    fn row(self, seconds: u32, sum: Sum) -> Row {
        let Self { reporter, source, destination, service, route, leaves } = self;
        Row { reporter, leaves, source, destination, service, route: (*route).to_owned(), seconds, sum }
    }
}

#[cfg(test)]
mod tests;
