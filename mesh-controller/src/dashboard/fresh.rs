//! What was found out a moment ago, for all who ask for it within that moment: it is made once, by a task of its own,
//! and those who ask meanwhile wait for that. Bounded; what nobody asks for is not made.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::time::Instant;

pub struct Fresh<V: Clone> {
    kept: Mutex<BTreeMap<Vec<u8>, Kept<V>>>,
    bounds: Bounds<V>,
}

pub struct Bounds<V> {
    /// From the moment in which it was asked for first.
    pub life: Duration,
    /// What is kept at once; the oldest goes.
    pub most: usize,
    /// In place of what panicked.
    pub failed: fn(&dyn fmt::Display) -> V,
}

struct Kept<V: Clone> {
    since: Instant,
    found: Shared<BoxFuture<'static, V>>,
}

impl<V: Clone + Send + Sync + 'static> Fresh<V> {
    pub fn new(bounds: Bounds<V>) -> Self {
        Self { kept: Mutex::default(), bounds }
    }

    /// What is known under this key, or what this makes.
    pub fn find(&self, key: Vec<u8>, make: impl FnOnce() -> BoxFuture<'static, V>) -> Shared<BoxFuture<'static, V>> {
        let Bounds { life, most, failed } = self.bounds;
        // Nothing panics while it holds this lock, and nothing waits.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone: Vec<_> = kept.extract_if(.., |_, kept| kept.since.elapsed() >= life).collect();
        let known = kept.get(&key).map(|known| known.found.clone());
        let found = known.unwrap_or_else(|| {
            if kept.len() >= most {
                let oldest = kept.iter().min_by_key(|(_, kept)| kept.since).map(|(key, _)| key.clone());
                gone.extend(oldest.and_then(|key| kept.remove_entry(&key)));
            }
            // A task of its own: who asked first may go, and others wait for the same.
            let task = tokio::spawn(make());
            let found = async move { task.await.unwrap_or_else(|error| failed(&error)) }.boxed().shared();
            kept.insert(key, Kept { since: Instant::now(), found: found.clone() });
            found
        });
        drop(kept);
        // Where nobody waits for it: what agents of a large mesh said is long, and takes its time to free.
        if !gone.is_empty() {
            tokio::task::spawn_blocking(|| drop(gone));
        }
        found
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
