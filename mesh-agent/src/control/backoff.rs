//! How long to wait before the next attempt.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// Exponential, capped, with jitter, so that the agents of a cluster do not return to a controller in step.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The last attempt worked: begin anew.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Between half and all of the step, which doubles from 50 ms to at most 5 s.
    pub fn delay(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(LONGEST);
        // The keys of a new RandomState differ each time; that is random enough to spread agents.
        let spread = RandomState::new().hash_one(step);
        step / 2 + (step / 2).mul_f64(spread as f64 / u64::MAX as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_cap_and_begins_anew() {
        let mut backoff = Backoff::default();
        for step in [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let delay = backoff.delay();
            let step = Duration::from_millis(step);
            assert!(delay >= step / 2 && delay <= step, "{delay:?} of {step:?}");
        }
        backoff.reset();
        assert!(backoff.delay() <= FIRST);
    }
}
