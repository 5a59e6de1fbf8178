//! What is to be learnt while somebody else holds the state: whoever teaches does not wait for it, and nothing is
//! forgotten. Knows nothing of what is learnt.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// How many lessons wait at most. Of those beyond the next connect teaches.
pub const AT_MOST: usize = 256;

/// Lessons that wait, by what makes them the same.
pub struct Lessons<K, L> {
    waiting: Mutex<HashMap<K, L>>,
    given: Notify,
}

impl<K, L> Default for Lessons<K, L> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), given: Notify::new() }
    }
}

impl<K: Eq + Hash, L> Lessons<K, L> {
    /// Learns it now if nobody holds `state`, else as soon as it is free.
    pub fn give<S>(&self, state: &Mutex<S>, key: K, lesson: L, learn: impl FnOnce(&mut S, K, L)) {
        if let Ok(mut state) = state.try_lock() {
            return learn(&mut state, key, lesson);
        }
        let mut waiting = self.waiting();
        if waiting.len() < AT_MOST {
            waiting.insert(key, lesson);
            self.given.notify_one();
        }
    }

    /// Learns what waits, for ever. Needs a runtime of several threads: it waits for `state`.
    pub async fn learn_waiting<S>(&self, state: &Mutex<S>, learn: impl Fn(&mut S, K, L)) {
        loop {
            self.given.notified().await;
            tokio::task::block_in_place(|| {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                let waiting = std::mem::take(&mut *self.waiting());
                for (key, lesson) in waiting {
                    learn(&mut state, key, lesson);
                }
            });
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<K, L>> {
        // Nothing panics while it holds this lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::*;

    type Learnt = Vec<(u32, &'static str)>;

    fn push(state: &mut Learnt, key: u32, lesson: &'static str) {
        state.push((key, lesson));
    }

    /// What was learnt once there are so many, sorted.
    async fn learnt(state: &Mutex<Learnt>, count: usize) -> Learnt {
        let start = Instant::now();
        while state.lock().expect("no panic").len() < count {
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", state.lock());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut learnt = state.lock().expect("no panic").clone();
        learnt.sort_unstable();
        learnt
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_comes_while_the_state_is_held_is_learnt_as_soon_as_it_is_free() {
        let (lessons, state) = (Arc::new(Lessons::default()), Arc::new(Mutex::new(Learnt::new())));
        // Nobody holds it: at once, and without anybody who waits.
        lessons.give(&state, 1, "at once", push);
        assert_eq!(*state.lock().expect("no panic"), [(1, "at once")]);

        // Given before anybody waits for them, and after; none of those who give waits for the state.
        let student = {
            let held = state.lock().expect("no panic");
            lessons.give(&state, 2, "early", push);
            let (theirs, its) = (Arc::clone(&lessons), Arc::clone(&state));
            let student = tokio::spawn(async move { theirs.learn_waiting(&its, push).await });
            lessons.give(&state, 3, "late", push);
            // The same once more: the newest counts, once.
            lessons.give(&state, 2, "again", push);
            assert_eq!(*held, [(1, "at once")]);
            student
        };
        assert_eq!(learnt(&state, 3).await, [(1, "at once"), (2, "again"), (3, "late")]);

        // Free again: the next one does not wait.
        lessons.give(&state, 4, "at once", push);
        assert!(learnt(&state, 4).await.contains(&(4, "at once")));
        student.abort();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_more_wait_than_are_learnt_without_a_pause() {
        let (lessons, state) = (Arc::new(Lessons::default()), Arc::new(Mutex::new(Learnt::new())));
        {
            let _held = state.lock().expect("no panic");
            for key in 0..AT_MOST as u32 + 5 {
                lessons.give(&state, key, "", push);
            }
        }
        let (theirs, its) = (Arc::clone(&lessons), Arc::clone(&state));
        let student = tokio::spawn(async move { theirs.learn_waiting(&its, push).await });
        assert_eq!(learnt(&state, AT_MOST).await.len(), AT_MOST);
        student.abort();
    }
}
