//! The key sets of issuers of tokens (`jwksUri`), fetched by every replica for itself and kept fresh. An issuer whose
//! keys cannot be had is one whose tokens are refused.
//!
//! - A set is fetched at once when it is wanted, then every five minutes (`--jwks-refresh`); after a failure again
//!   after 1, 2, 4 … up to 60 seconds; or, if that is more, after the time that it took, once for each failure in a
//!   row (eight times at most).
//! - Who has waited longest is next, and of one namespace few are fetched at once: slow issuers hold up no other
//!   namespace's.
//! - When it cannot be fetched, the last good one counts for an hour after it was fetched, then none. None outlives
//!   the controller. An agent keeps what it was told of last for as long as it hears nothing else, over its own
//!   restarts too: one without its controller goes on to take tokens by the last keys, and a key that was taken back
//!   counts there until the agent hears of it.
//! - A replica that starts tries each set once before it serves agents, for ten seconds at most.

mod address;
mod fetch;
#[cfg(test)]
mod tests;

pub use fetch::Fetcher;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use mesh_common::model::traffic::Millis;
use metrics::counter;
use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};

/// What is to be fetched, and from whom nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// By URI.
    pub sets: BTreeMap<String, Want>,
    /// Addresses of the cluster's nodes.
    pub nodes: Arc<BTreeSet<IpAddr>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// How long fetching it may take.
    pub within: Millis,
    /// Of those who want it; at least one.
    pub namespaces: BTreeSet<String>,
}

/// By URI, as far as they were asked for.
pub type Sets = BTreeMap<String, Fetched>;

/// What is known of one set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// The keys that count, as `KeySet::written` has them.
    pub keys: Option<Arc<str>>,
    /// Why it could not be fetched the last time.
    pub why: Option<String>,
}

/// Requests under way, and those for one namespace.
const AT_ONCE: usize = 16;
const OF_ONE: usize = 2;
/// How often the time that a failure took is waited, at most.
const TIMES: u32 = 8;

/// How soon what happens.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub refresh: Duration,
    /// After the first failure; twice as long after each other one.
    pub again: Duration,
    /// The longest that this becomes.
    pub again_at_most: Duration,
    /// How long a set counts after it was fetched.
    pub keep: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(300),
            again: Duration::from_secs(1),
            again_at_most: Duration::from_secs(60),
            keep: Duration::from_secs(3600),
        }
    }
}

impl Pace {
    /// The pause after a failure that took so long, and that so many others in a row went before.
    fn after(&self, failures: u32, took: Duration) -> Duration {
        let again = self.again * 2_u32.pow(failures.min(16));
        again.min(self.again_at_most).max(took * failures.saturating_add(1).min(TIMES))
    }
}

/// Keeps the sets.
#[derive(Debug)]
pub struct Keeper {
    fetcher: Arc<Fetcher>,
    pace: Pace,
    known: BTreeMap<String, Known>,
    nodes: Arc<BTreeSet<IpAddr>>,
    fetching: JoinSet<Result<String, String>>,
    under_way: HashMap<Id, UnderWay>,
    sets: watch::Sender<Arc<Sets>>,
}

#[derive(Debug)]
struct UnderWay {
    uri: String,
    /// For whom.
    namespace: String,
    since: Instant,
}

#[derive(Debug)]
struct Known {
    want: Want,
    due: Instant,
    /// In a row.
    failures: u32,
    good: Option<(Arc<str>, Instant)>,
    why: Option<String>,
}

impl Keeper {
    pub fn new(fetcher: Fetcher, pace: Pace) -> (Self, watch::Receiver<Arc<Sets>>) {
        let (sets, told) = watch::channel(Arc::default());
        let (known, nodes, fetching, under_way) = Default::default();
        (Self { fetcher: Arc::new(fetcher), pace, known, nodes, fetching, under_way, sets }, told)
    }

    /// Tries each of them once.
    pub async fn first(&mut self, wanted: &Wanted, within: Duration) {
        self.want(wanted);
        let tried = async {
            while self.known.values().any(|known| known.good.is_none() && known.why.is_none()) {
                self.start(Instant::now());
                let Some(done) = self.fetching.join_next_with_id().await else { return };
                self.done(done);
            }
        };
        // What was not tried yet is told when it was.
        let _ = timeout(within, tried).await;
    }

    /// Until nobody can want any more.
    pub async fn run(mut self, mut wanted: watch::Receiver<Wanted>) {
        loop {
            let now_wanted = wanted.borrow_and_update().clone();
            self.want(&now_wanted);
            let now = Instant::now();
            self.start(now);
            let next = self.next(now);
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                Some(done) = self.fetching.join_next_with_id(), if !self.fetching.is_empty() => self.done(done),
                () = sleep_until(next) => self.tell(),
            }
        }
    }

    fn want(&mut self, Wanted { sets: wanted, nodes }: &Wanted) {
        self.nodes = Arc::clone(nodes);
        let before = self.known.len();
        self.known.retain(|uri, _| wanted.contains_key(uri));
        let forgotten = self.known.len() < before;
        for (uri, want) in wanted {
            let fresh = || Known { want: Want::default(), due: Instant::now(), failures: 0, good: None, why: None };
            self.known.entry(uri.clone()).or_insert_with(fresh).want.clone_from(want);
        }
        if forgotten {
            self.tell();
        }
    }

    /// Starts what is due, and has room.
    fn start(&mut self, now: Instant) {
        let Self { fetcher, known, nodes, fetching, under_way, .. } = self;
        let mut due: Vec<_> = known.iter().filter(|(_, known)| known.due <= now).collect();
        due.sort_by_key(|(_, known)| known.due);
        for (uri, Known { want, .. }) in due {
            if fetching.len() >= AT_ONCE {
                return;
            }
            // Also one that nobody wanted for a while.
            if under_way.values().any(|other| other.uri == *uri) {
                continue;
            }
            let busy = |namespace: &str| under_way.values().filter(|other| other.namespace == namespace).count();
            let Some(namespace) = want.namespaces.iter().find(|namespace| busy(namespace) < OF_ONE) else { continue };
            let (fetcher, nodes) = (Arc::clone(fetcher), Arc::clone(nodes));
            let (fetched, within) = (uri.clone(), Duration::from(want.within));
            let task = fetching.spawn(async move { fetcher.fetch(&fetched, within, &nodes).await });
            under_way
                .insert(task.id(), UnderWay { uri: uri.clone(), namespace: namespace.clone(), since: Instant::now() });
        }
    }

    /// When something is to be done, if nothing happens before. What was due and has not been started waits for one
    /// that ends.
    fn next(&self, now: Instant) -> Instant {
        let Self { pace, known, .. } = self;
        let due = known.values().map(|known| known.due);
        let over = known.values().filter_map(|known| known.good.as_ref()).map(|(_, since)| *since + pace.keep);
        due.chain(over).filter(|at| *at > now).min().unwrap_or(now + pace.refresh)
    }

    fn done(&mut self, done: Result<(Id, Result<String, String>), JoinError>) {
        let now = Instant::now();
        let (id, fetched) = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "fetching keys crashed");
                (error.id(), Err("fetching crashed".into()))
            }
        };
        counter!("mesh_jwks_fetches_total", "result" => if fetched.is_ok() { "ok" } else { "failed" }).increment(1);
        let Some(UnderWay { uri, since, .. }) = self.under_way.remove(&id) else { return };
        // Nobody wants it any more.
        let Some(known) = self.known.get_mut(&uri) else { return };
        match fetched {
            Ok(keys) => {
                (known.failures, known.why, known.due) = (0, None, now + self.pace.refresh);
                known.good = Some((keys.into(), now));
            }
            Err(why) => {
                if known.why.as_ref() != Some(&why) {
                    tracing::warn!(uri, why, "the keys of an issuer of tokens cannot be fetched");
                }
                known.due = now + self.pace.after(known.failures, now - since);
                (known.failures, known.why) = (known.failures + 1, Some(why));
            }
        }
        self.tell();
    }

    fn tell(&self) {
        let now = Instant::now();
        let tried = self.known.iter().filter(|(_, known)| known.good.is_some() || known.why.is_some());
        let sets: Sets = tried
            .map(|(uri, Known { good, why, .. })| {
                let good = good.as_ref().filter(|(_, since)| now < *since + self.pace.keep);
                (uri.clone(), Fetched { keys: good.map(|(keys, _)| Arc::clone(keys)), why: why.clone() })
            })
            .collect();
        self.sets.send_if_modified(|told| {
            let news = **told != sets;
            if news {
                *told = Arc::new(sets);
            }
            news
        });
    }
}
