//! How much may be under way at once. Whoever holds a permit counts until it is dropped; nobody waits here.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use mesh_common::model::traffic::{ConnectionPool, RetryBudget};

/// A bound that is reached: the request is answered 503 at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overflow {
    #[error("too many requests under way")]
    Requests,
    #[error("too many requests wait for a connection")]
    Pending,
    #[error("too many connections")]
    Connections,
}

/// Why there is no further try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetryRefused {
    #[error("too many retries under way")]
    Limit,
    #[error("too many retries for so few requests under way")]
    Budget,
}

/// A request under way.
#[derive(Debug)]
pub struct Admitted {
    _one: One,
}

/// A request that waits for a connection.
#[derive(Debug)]
pub struct Waiting {
    _one: One,
}

/// A connection, from its beginning.
#[derive(Debug)]
pub struct Connected {
    _one: One,
}

/// A try beside the first.
#[derive(Debug)]
pub struct RetryPermit {
    _one: One,
}

/// What is under way.
#[derive(Debug, Default)]
pub struct UnderWay {
    pub requests: Count,
    pub waiting: Count,
    pub connections: Count,
    pub retries: Count,
}

#[derive(Debug, Default)]
pub struct Count(Arc<AtomicU32>);

#[derive(Debug)]
struct One(Arc<AtomicU32>);

impl Count {
    pub fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more, if there are fewer than that.
    fn take(&self, most: Option<u32>) -> Option<One> {
        let most = most.unwrap_or(u32::MAX);
        let take = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < most).then(|| now + 1));
        take.is_ok().then(|| One(Arc::clone(&self.0)))
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl UnderWay {
    pub fn admit(&self, pool: &ConnectionPool) -> Result<Admitted, Overflow> {
        self.requests.take(pool.max_requests).map(|one| Admitted { _one: one }).ok_or(Overflow::Requests)
    }

    pub fn wait(&self, pool: &ConnectionPool) -> Result<Waiting, Overflow> {
        self.waiting.take(pool.max_pending).map(|one| Waiting { _one: one }).ok_or(Overflow::Pending)
    }

    pub fn connect(&self, pool: &ConnectionPool) -> Result<Connected, Overflow> {
        self.connections.take(pool.max_connections).map(|one| Connected { _one: one }).ok_or(Overflow::Connections)
    }

    /// Both bounds hold, where Envoy would forget the number if there is a budget.
    pub fn retry(&self, pool: &ConnectionPool, budget: Option<&RetryBudget>) -> Result<RetryPermit, RetryRefused> {
        let allowed = budget.map(|RetryBudget { percent, min_concurrency }| {
            let share = u64::from(self.requests.now()) * u64::from(percent.0) / 1_000_000;
            u32::try_from(share).unwrap_or(u32::MAX).max(*min_concurrency)
        });
        let most = pool.max_retries.unwrap_or(u32::MAX).min(allowed.unwrap_or(u32::MAX));
        let refused = || if pool.max_retries == Some(most) { RetryRefused::Limit } else { RetryRefused::Budget };
        self.retries.take(Some(most)).map(|one| RetryPermit { _one: one }).ok_or_else(refused)
    }
}
