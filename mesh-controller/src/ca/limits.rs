//! How much one node's agent, and all of them together, may ask of the authority; and which keys are in use.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::refusal::{Reason, Refusal};

/// Keys that are remembered. Who asks so often that one is forgotten has met the rate limit for minutes.
const KEYS: usize = 16 << 10;
/// How long a request waits for its turn to be signed.
const PATIENCE: Duration = Duration::from_secs(2);
/// When to come again if there was no turn.
const CROWDED: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Requests of one node at once.
    pub burst: u32,
    /// Requests of one node a second, from then on.
    pub per_second: u32,
    /// Requests that are being signed at the same time, of all nodes.
    pub signing: usize,
}

/// Clones share their counts.
#[derive(Clone, Debug)]
pub struct Limits {
    settings: LimitSettings,
    nodes: Arc<Mutex<HashMap<String, Bucket>>>,
    turns: Arc<Semaphore>,
    keys: Arc<Mutex<Keys>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Requests that may come now.
    left: f64,
    at: Instant,
}

/// Which key was signed for whom, the oldest first.
#[derive(Debug, Default)]
struct Keys {
    owners: HashMap<Vec<u8>, Vec<u8>>,
    order: VecDeque<Vec<u8>>,
}

/// A refusal, and when to come again.
pub type Crowded = (Refusal, Duration);

impl Limits {
    pub fn new(settings: LimitSettings) -> Self {
        let turns = Arc::new(Semaphore::new(settings.signing));
        Self { settings, nodes: Arc::default(), turns, keys: Arc::default() }
    }

    /// Counts a request of this node.
    pub fn admit(&self, node: &str) -> Result<(), Crowded> {
        let now = Instant::now();
        let mut nodes = lock(&self.nodes);
        let bucket = nodes.entry(node.to_owned()).or_insert(Bucket { left: self.settings.burst.into(), at: now });
        let outcome = bucket.take(&self.settings, now).map_err(|after| {
            let LimitSettings { burst, per_second, .. } = self.settings;
            let why = format!("node {node} asks for more than {burst} certificates at once and {per_second} a second");
            (Refusal::new(Reason::RateLimited, why), after)
        });
        // A node that has been quiet is a new one again.
        if nodes.len() > 4096 {
            nodes.retain(|_, bucket| bucket.now(&self.settings, now) < self.settings.burst.into());
        }
        outcome
    }

    /// Waits for a turn to sign; dropping it ends the turn.
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit, Crowded> {
        match tokio::time::timeout(PATIENCE, self.turns.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => {
                Err((Refusal::new(Reason::AuthorityBusy, "the authority has too much to sign"), CROWDED))
            }
        }
    }

    /// Notes that this public key (DER) is the identity's on that node.
    ///
    /// # Errors
    /// If it was signed for another one.
    pub fn own_key(&self, key: &[u8], node: &str, identity: &str) -> Result<(), Refusal> {
        let hash = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes).as_ref().to_vec();
        let (key, owner) = (hash(key), hash(format!("{node}/{identity}").as_bytes()));
        let mut keys = lock(&self.keys);
        match keys.owners.get(&key) {
            Some(known) if *known == owner => Ok(()),
            Some(_) => Err(Refusal::new(Reason::CsrKeyReused, "csr: its key was signed for another identity or node")),
            None => {
                if keys.order.len() >= KEYS
                    && let Some(oldest) = keys.order.pop_front()
                {
                    keys.owners.remove(&oldest);
                }
                keys.order.push_back(key.clone());
                keys.owners.insert(key, owner);
                Ok(())
            }
        }
    }
}

impl Bucket {
    fn now(&self, settings: &LimitSettings, now: Instant) -> f64 {
        let gained = now.duration_since(self.at).as_secs_f64() * f64::from(settings.per_second);
        (self.left + gained).min(settings.burst.into())
    }

    /// Takes one, or says when there will be one.
    fn take(&mut self, settings: &LimitSettings, now: Instant) -> Result<(), Duration> {
        (self.left, self.at) = (self.now(settings, now), now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - self.left) / f64::from(settings.per_second)))
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks, and nothing waits.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: LimitSettings = LimitSettings { burst: 3, per_second: 2, signing: 1 };

    #[test]
    fn a_node_gets_its_burst_and_then_its_rate() {
        let begin = Instant::now();
        let mut bucket = Bucket { left: 3.0, at: begin };
        let at = |ms| begin + Duration::from_millis(ms);
        assert!((0..3).all(|_| bucket.take(&SETTINGS, at(0)).is_ok()));
        assert_eq!(bucket.take(&SETTINGS, at(0)), Err(Duration::from_millis(500)));
        assert_eq!(bucket.take(&SETTINGS, at(250)), Err(Duration::from_millis(250)));
        assert_eq!(bucket.take(&SETTINGS, at(500)), Ok(()));
        // However long it rests, it gets no more than its burst.
        assert!((0..3).all(|_| bucket.take(&SETTINGS, at(60_000)).is_ok()));
        assert!(bucket.take(&SETTINGS, at(60_000)).is_err());
    }

    #[test]
    fn one_node_s_hunger_is_not_another_s() {
        let limits = Limits::new(SETTINGS);
        assert!((0..3).all(|_| limits.admit("a").is_ok()));
        assert_eq!(limits.admit("a").expect_err("too many").0.reason, Reason::RateLimited);
        assert!(limits.admit("b").is_ok());
    }

    #[test]
    fn a_key_has_one_owner() {
        let limits = Limits::new(SETTINGS);
        assert!(limits.own_key(b"k", "a", "cart").is_ok());
        assert!(limits.own_key(b"k", "a", "cart").is_ok());
        for (node, identity) in [("b", "cart"), ("a", "web")] {
            let refusal = limits.own_key(b"k", node, identity).expect_err("another owner");
            assert_eq!(refusal.reason, Reason::CsrKeyReused);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_a_turn_for_so_many() {
        let limits = Limits::new(SETTINGS);
        let turn = limits.turn().await.expect("the first");
        assert_eq!(limits.turn().await.expect_err("the second").0.reason, Reason::AuthorityBusy);
        drop(turn);
        assert!(limits.turn().await.is_ok());
    }
}
