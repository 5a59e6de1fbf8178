//! The newest records, bounded, with a share for each source pod: one that floods pushes out its own records, not those
//! of the others. Its connections and its requests have a share each: there are many more requests, and a pod that asks
//! much would be seen to have no connections. While there is room, nobody's share counts; a full store takes the room
//! from who is above the own share, or else from who has most.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::SystemTime,
};

use super::flow::Flow;

#[derive(Debug)]
pub struct Kept {
    /// By source pod, requests apart; all clients that are no pods share two, or a spoofer of addresses had as many as
    /// it likes.
    rings: HashMap<u64, VecDeque<(u64, Arc<Flow>)>>,
    hasher: RandomState,
    total: usize,
    bound: usize,
    written: u64,
    replaced: Option<Replaced>,
}

/// Records that made room for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    pub count: u64,
    /// The last end of one: all that ended later are kept.
    pub newest: SystemTime,
}

impl Kept {
    pub fn new(bound: usize) -> Self {
        let hasher = RandomState::new();
        Self { rings: HashMap::new(), hasher, total: 0, bound: bound.max(1), written: 0, replaced: None }
    }

    /// The record that made room for it, if it took some; for the caller to drop.
    pub fn push(&mut self, flow: Arc<Flow>) -> Option<Arc<Flow>> {
        // Pods that share a hash share a ring, which harms nobody.
        let pod = self.hasher.hash_one((&flow.source.namespace, &flow.source.pod, flow.http.is_some()));
        let replaced = if self.total == self.bound { self.take_one(pod) } else { None };
        self.written += 1;
        self.rings.entry(pod).or_default().push_back((self.written, flow));
        self.total += 1;
        replaced
    }

    /// The oldest record of `pod` if it holds more than its share, otherwise of the pod that holds most.
    fn take_one(&mut self, pod: u64) -> Option<Arc<Flow>> {
        let share = self.bound / self.rings.len().max(1);
        let own = self.rings.get(&pod).is_some_and(|ring| ring.len() > share);
        let largest =
            if own { Some(pod) } else { self.rings.iter().max_by_key(|(_, ring)| ring.len()).map(|(pod, _)| *pod) };
        let from = largest?;
        let ring = self.rings.get_mut(&from)?;
        let taken = ring.pop_front();
        if ring.is_empty() {
            self.rings.remove(&from);
        }
        let (_, flow) = taken?;
        self.total -= 1;
        let before = self.replaced.unwrap_or(Replaced { count: 0, newest: flow.end });
        self.replaced = Some(Replaced { count: before.count + 1, newest: before.newest.max(flow.end) });
        Some(flow)
    }

    pub fn replaced(&self) -> Option<Replaced> {
        self.replaced
    }

    /// Oldest first.
    pub fn all(&self) -> Vec<Arc<Flow>> {
        let mut all: Vec<_> = self.rings.values().flatten().collect();
        all.sort_unstable_by_key(|(written, _)| *written);
        all.into_iter().map(|(_, flow)| Arc::clone(flow)).collect()
    }

    pub fn find(&self, id: u64) -> Option<Arc<Flow>> {
        self.rings.values().flatten().find(|(_, flow)| flow.id == id).map(|(_, flow)| Arc::clone(flow))
    }
}
