//! How soon a failed watch is tried again. Sooner than the client's own default (30 s): while the API is away nothing
//! of it is followed, and an API that starts again is up within seconds. Spread by the kind's own clock.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use kube::runtime::utils::Backoff;

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// Without a failure for so long, the next one counts as the first.
const CALM: Duration = Duration::from_secs(30);

/// Doubles with each failure, by chance up to a half more.
#[derive(Debug)]
pub struct Retry {
    next: Duration,
    last: Option<Instant>,
    chance: RandomState,
}

impl Default for Retry {
    fn default() -> Self {
        Self { next: SHORTEST, last: None, chance: RandomState::new() }
    }
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) > CALM + LONGEST) {
            self.next = SHORTEST;
        }
        self.last = Some(now);
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        let part = u32::try_from(self.chance.hash_one(now) % 512).unwrap_or_default();
        Some(wait + wait * part / 1024)
    }
}

impl Backoff for Retry {
    /// A list that succeeds resets nothing: a watch that can be listed and not watched would be listed without end.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_get_longer_up_to_a_bound() {
        let waits: Vec<_> = Retry::default().take(10).collect();
        assert!(waits[0] >= SHORTEST && waits[0] < SHORTEST * 2);
        assert!(waits[3] >= SHORTEST * 8, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= LONGEST * 2), "{waits:?}");
        assert!(waits[9] >= LONGEST, "{waits:?}");
    }
}
