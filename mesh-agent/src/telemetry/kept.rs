//! The newest records, bounded, with a share for each source pod: one that floods pushes out its own records, not those
//! of the others.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::SystemTime,
};

use super::flow::Flow;

#[derive(Debug)]
pub struct Kept {
    /// By source pod; all clients that are no pods share one ring, or a spoofer of addresses had as many.
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

    /// Whether another record was dropped for it.
    pub fn push(&mut self, flow: Arc<Flow>) -> bool {
        // Pods that share a hash share a ring, which harms nobody.
        let pod = self.hasher.hash_one((&flow.source.namespace, &flow.source.pod));
        let full = self.total == self.bound;
        if full {
            self.drop_one(pod);
        }
        self.written += 1;
        self.rings.entry(pod).or_default().push_back((self.written, flow));
        self.total += 1;
        full
    }

    /// The oldest record of `pod` if it holds more than its share, otherwise of the pod that holds most.
    fn drop_one(&mut self, pod: u64) {
        let share = self.bound / self.rings.len().max(1);
        let own = self.rings.get(&pod).is_some_and(|ring| ring.len() > share);
        let largest =
            if own { Some(pod) } else { self.rings.iter().max_by_key(|(_, ring)| ring.len()).map(|(pod, _)| *pod) };
        let Some(from) = largest else { return };
        if let Some(ring) = self.rings.get_mut(&from) {
            if let Some((_, flow)) = ring.pop_front() {
                self.total -= 1;
                let before = self.replaced.unwrap_or(Replaced { count: 0, newest: flow.end });
                self.replaced = Some(Replaced { count: before.count + 1, newest: before.newest.max(flow.end) });
            }
            if ring.is_empty() {
                self.rings.remove(&from);
            }
        }
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
