//! A token bucket that is exact: it counts parts of tokens, so that nothing is lost between two looks.

use std::time::{Duration, Instant};

use mesh_common::model::traffic::TokenBucket;

/// Full at the beginning. Its parts are such that a request costs as many as the interval has nanoseconds, and every
/// nanosecond brings as many as there are requests in an interval.
#[derive(Clone, Debug)]
pub struct Bucket {
    cost: u128,
    rate: u128,
    size: u128,
    filled: u128,
    /// Of `filled`; none: it was never asked.
    at: Option<Instant>,
}

impl Bucket {
    pub fn new(TokenBucket { requests, interval, burst }: &TokenBucket) -> Self {
        let cost = Duration::from(*interval).as_nanos().max(1);
        // A burst of nothing would refuse for ever what the rate allows.
        let burst = if *requests == 0 { *burst } else { (*burst).max(1) };
        let size = u128::from(burst) * cost;
        Self { cost, rate: u128::from(*requests), size, filled: size, at: None }
    }

    /// `Err`: how long until there is a token, if nobody else takes it; of a bucket that never fills, an interval.
    pub fn has(&mut self, now: Instant) -> Result<(), Duration> {
        self.fill(now);
        let Some(lacks) = self.cost.checked_sub(self.filled).filter(|lacks| *lacks > 0) else { return Ok(()) };
        let wait = if self.rate == 0 { self.cost } else { lacks.div_ceil(self.rate) };
        Err(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    /// After [`Bucket::has`] said so.
    pub fn take(&mut self) {
        self.filled = self.filled.saturating_sub(self.cost);
    }

    /// Whether nobody would see a difference if it were made anew.
    pub fn is_full(&self, now: Instant) -> bool {
        self.filled_at(now) == self.size
    }

    /// When it was asked last.
    pub fn last(&self) -> Option<Instant> {
        self.at
    }

    fn fill(&mut self, now: Instant) {
        self.filled = self.filled_at(now);
        self.at = self.at.max(Some(now));
    }

    fn filled_at(&self, now: Instant) -> u128 {
        // Clocks of two threads may be read in one order and come here in the other.
        let elapsed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.size.min(self.filled.saturating_add(elapsed.as_nanos().saturating_mul(self.rate)))
    }
}
