//! The key sets of issuers of tokens (`jwksUri`), fetched by every replica for itself and kept fresh. An issuer whose
//! keys cannot be had is one whose tokens are refused.
//!
//! - A set is fetched at once when it is wanted, then every five minutes (`--jwks-refresh`); after a failure again
//!   after 1, 2, 4 … up to 60 seconds.
//! - When it cannot be fetched, the last good one counts for an hour after it was fetched, then none. None outlives
//!   the controller.
//! - A replica that starts tries each set once before it serves agents, for ten seconds at most.

mod address;
mod fetch;
#[cfg(test)]
mod tests;

pub use fetch::Fetcher;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh_common::model::traffic::Millis;
use metrics::counter;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

/// By URI: how long fetching it may take.
pub type Wanted = BTreeMap<String, Millis>;

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

/// Requests under way.
const AT_ONCE: usize = 8;

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

/// Keeps the sets.
#[derive(Debug)]
pub struct Keeper {
    fetcher: Arc<Fetcher>,
    pace: Pace,
    known: BTreeMap<String, Known>,
    fetching: JoinSet<(String, Result<String, String>)>,
    sets: watch::Sender<Arc<Sets>>,
}

#[derive(Debug)]
struct Known {
    within: Duration,
    due: Instant,
    fetching: bool,
    /// In a row.
    failures: u32,
    good: Option<(Arc<str>, Instant)>,
    why: Option<String>,
}

impl Keeper {
    pub fn new(fetcher: Fetcher, pace: Pace) -> (Self, watch::Receiver<Arc<Sets>>) {
        let (sets, told) = watch::channel(Arc::default());
        let (known, fetching) = (BTreeMap::new(), JoinSet::new());
        (Self { fetcher: Arc::new(fetcher), pace, known, fetching, sets }, told)
    }

    /// Tries each of them once.
    pub async fn first(&mut self, wanted: &Wanted, within: Duration) {
        self.want(wanted);
        let tried = async {
            while self.known.values().any(|known| known.good.is_none() && known.why.is_none()) {
                self.start();
                let Some(done) = self.fetching.join_next().await else { return };
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
            self.start();
            let next = self.next();
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                Some(done) = self.fetching.join_next(), if !self.fetching.is_empty() => self.done(done),
                () = sleep_until(next) => self.tell(),
            }
        }
    }

    fn want(&mut self, wanted: &Wanted) {
        let before = self.known.len();
        self.known.retain(|uri, _| wanted.contains_key(uri));
        let forgotten = self.known.len() < before;
        for (uri, within) in wanted {
            let within = Duration::from(*within);
            let fresh = || Known { within, due: Instant::now(), fetching: false, failures: 0, good: None, why: None };
            self.known.entry(uri.clone()).or_insert_with(fresh).within = within;
        }
        if forgotten {
            self.tell();
        }
    }

    /// Starts what is due.
    fn start(&mut self) {
        let now = Instant::now();
        let due = self.known.iter_mut().filter(|(_, known)| !known.fetching && known.due <= now);
        for (uri, known) in due.take(AT_ONCE.saturating_sub(self.fetching.len())) {
            known.fetching = true;
            let (fetcher, uri, within) = (Arc::clone(&self.fetcher), uri.clone(), known.within);
            self.fetching.spawn(async move {
                let fetched = fetcher.fetch(&uri, within).await;
                (uri, fetched)
            });
        }
    }

    /// When something is to be done, if nothing happens before.
    fn next(&self) -> Instant {
        let Self { pace, known, fetching, .. } = self;
        // Whatever ends makes room for others.
        let room = fetching.len() < AT_ONCE;
        let due = known.values().filter(|known| room && !known.fetching).map(|known| known.due);
        let now = Instant::now();
        let over = known.values().filter_map(|known| known.good.as_ref()).map(|(_, since)| *since + pace.keep);
        let over = over.filter(|over| *over > now);
        due.chain(over).min().unwrap_or(now + pace.refresh)
    }

    fn done(&mut self, done: Result<(String, Result<String, String>), tokio::task::JoinError>) {
        let now = Instant::now();
        match done {
            Ok((uri, fetched)) => {
                counter!("mesh_jwks_fetches_total", "result" => if fetched.is_ok() { "ok" } else { "failed" })
                    .increment(1);
                // Nobody wants it any more.
                let Some(known) = self.known.get_mut(&uri) else { return };
                known.fetching = false;
                match fetched {
                    Ok(keys) => {
                        (known.failures, known.why, known.due) = (0, None, now + self.pace.refresh);
                        known.good = Some((keys.into(), now));
                    }
                    Err(why) => {
                        if known.why.as_ref() != Some(&why) {
                            tracing::warn!(uri, why, "the keys of an issuer of tokens cannot be fetched");
                        }
                        let again = self.pace.again * 2_u32.pow(known.failures.min(16));
                        known.due = now + again.min(self.pace.again_at_most);
                        (known.failures, known.why) = (known.failures + 1, Some(why));
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "fetching keys crashed");
                for known in self.known.values_mut().filter(|known| known.fetching) {
                    (known.fetching, known.due) = (false, now + self.pace.again_at_most);
                    known.why = Some("fetching crashed".into());
                }
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
