//! Sets of labels with what is counted under each: bounded in number, shared out, and gone after a time without use. No
//! count is lost: what finds no room is counted under the set of the overflow by who asks, and whoever counts holds the
//! lock under which a set goes, so that none counts in one that is gone.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Threads that count at the same time seldom wait for each other.
const SHARDS: usize = 16;

/// How many time series there may be, over all metrics that share it.
#[derive(Debug)]
pub struct Room {
    most: usize,
    used: AtomicUsize,
    /// By whose they are: one workload has at most a quarter, so that none takes the place of all others.
    shares: Mutex<HashMap<Box<str>, usize>>,
}

/// `K` tells sets apart, `V` is counted.
#[derive(Debug)]
pub struct Sets<K, V> {
    shards: [Mutex<ByHash<K, V>>; SHARDS],
    hasher: RandomState,
    room: Arc<Room>,
    /// Time series of one set.
    cost: usize,
    /// Sets that were ever made.
    made: AtomicU64,
}

/// A set, for as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    hash: u64,
    number: u64,
}

/// By the hash of their labels, so that a lookup makes no key.
type ByHash<K, V> = HashMap<u64, Vec<Set<K, V>>>;

#[derive(Debug)]
struct Set<K, V> {
    /// No other one ever had it.
    number: u64,
    key: K,
    labels: Arc<str>,
    /// `None`: it is the overflow's, which takes no room and stays.
    owner: Option<Box<str>>,
    values: V,
    /// Something was counted since it was looked at last.
    used: bool,
    /// Something was counted that nobody has read.
    unread: bool,
    since: Option<Instant>,
}

impl Room {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, used: AtomicUsize::new(0), shares: Mutex::default() })
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub fn most(&self) -> usize {
        self.most
    }

    fn take(&self, owner: &str, cost: usize) -> bool {
        let mut shares = locked(&self.shares);
        let used = self.used();
        let own = shares.get(owner).copied().unwrap_or_default();
        if used + cost > self.most || own + cost > self.most / 4 {
            return false;
        }
        match shares.get_mut(owner) {
            Some(share) => *share += cost,
            None => drop(shares.insert(owner.into(), cost)),
        }
        self.used.store(used + cost, Ordering::Relaxed);
        true
    }

    fn free(&self, owner: &str, cost: usize) {
        let mut shares = locked(&self.shares);
        if let Some(share) = shares.get_mut(owner) {
            *share -= cost;
            if *share == 0 {
                shares.remove(owner);
            }
        }
        self.used.fetch_sub(cost, Ordering::Relaxed);
    }
}

impl<K, V: Default + Clone> Sets<K, V> {
    pub fn new(room: Arc<Room>, cost: usize) -> Self {
        Self { shards: Default::default(), hasher: RandomState::new(), room, cost, made: AtomicU64::new(0) }
    }

    pub fn room(&self) -> &Room {
        &self.room
    }

    pub fn hasher(&self) -> <RandomState as BuildHasher>::Hasher {
        self.hasher.build_hasher()
    }

    /// Counts under the set at this place. `false`: it is gone, and nothing was counted.
    pub fn count_at(&self, place: Place, count: impl FnOnce(&mut V)) -> bool {
        let Place { hash, number } = place;
        let mut shard = self.shard(hash);
        let set = shard.get_mut(&hash).and_then(|sets| sets.iter_mut().find(|set| set.number == number));
        set.map(|set| set.count(count)).is_some()
    }

    /// Counts under the set that `is`, and says where; where there is none, one is made for `owner` (of the overflow:
    /// `None`). `None`: there is no room, and nothing was counted.
    pub fn count(
        &self,
        hash: u64,
        is: impl Fn(&K) -> bool,
        make: impl FnOnce() -> (K, String),
        owner: Option<&dyn Fn() -> String>,
        count: impl FnOnce(&mut V),
    ) -> Option<Place> {
        let mut shard = self.shard(hash);
        if let Some(set) = shard.get_mut(&hash).and_then(|sets| sets.iter_mut().find(|set| is(&set.key))) {
            set.count(count);
            return Some(Place { hash, number: set.number });
        }
        let owner = owner.map(|owner| owner().into_boxed_str());
        if owner.as_ref().is_some_and(|owner| !self.room.take(owner, self.cost)) {
            return None;
        }
        let (key, labels) = make();
        let mut values = V::default();
        count(&mut values);
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let set = Set { number, key, labels: labels.into(), owner, values, used: true, unread: true, since: None };
        shard.entry(hash).or_default().push(set);
        Some(Place { hash, number })
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, ByHash<K, V>> {
        locked(&self.shards[(hash >> 60) as usize % SHARDS])
    }

    /// All that is counted until now, in the order of labels.
    pub fn read(&self) -> Vec<(Arc<str>, V)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            for set in locked(shard).values_mut().flatten() {
                set.unread = false;
                all.push((Arc::clone(&set.labels), set.values.clone()));
            }
        }
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// Takes out what was not used for `idle`, and how many that were; to be called now and then. What nobody has read
    /// stays while somebody reads at all.
    pub fn expire(&self, now: Instant, idle: Duration, is_read: bool) -> usize {
        let mut gone = 0;
        for shard in &self.shards {
            let mut shard = locked(shard);
            shard.retain(|_, sets| {
                sets.retain_mut(|set| {
                    if std::mem::take(&mut set.used) {
                        set.since = None;
                    }
                    let since = *set.since.get_or_insert(now);
                    let Some(owner) = &set.owner else { return true };
                    let stays = now.saturating_duration_since(since) < idle || (set.unread && is_read);
                    if !stays {
                        self.room.free(owner, self.cost);
                        gone += 1;
                    }
                    stays
                });
                !sets.is_empty()
            });
        }
        gone
    }
}

impl<K, V> Set<K, V> {
    fn count(&mut self, count: impl FnOnce(&mut V)) {
        (self.used, self.unread) = (true, true);
        count(&mut self.values);
    }
}

/// Nothing that holds one of these locks can panic half way through a change.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
