//! Peak latency, exponentially weighted (as Finagle's PeakEwma has it): it rises at once and falls slowly.

use std::time::{Duration, Instant};

/// After this time without news a latency weighs 1/e.
const DECAY: Duration = Duration::from_secs(10);
/// Of an endpoint that could not be connected to: its failure comes fast, but must not look fast.
const UNREACHABLE: Duration = Duration::from_secs(1);
/// Nothing is known, but something is under way: only if all others are like that.
const UNKNOWN: f64 = 1e15;

#[derive(Clone, Copy, Debug, Default)]
pub struct PeakEwma {
    /// Nanoseconds; when.
    seen: Option<(f64, Instant)>,
}

impl PeakEwma {
    pub fn observe(&mut self, latency: Duration, now: Instant) {
        let latency = nanoseconds(latency);
        let cost = match self.seen {
            Some((cost, at)) if latency < cost => {
                let kept = kept(at, now);
                cost * kept + latency * (1.0 - kept)
            }
            _ => latency,
        };
        self.seen = Some((cost, now));
    }

    /// A failure does not make an endpoint look better.
    pub fn fail(&mut self, latency: Duration, connected: bool, now: Instant) {
        let least = if connected { Duration::ZERO } else { UNREACHABLE };
        let known = Duration::from_nanos(self.now(now) as u64);
        self.observe(latency.max(least).max(known), now);
    }

    /// What a further request would cost.
    pub fn load(&self, active: u32, now: Instant) -> f64 {
        match self.now(now) {
            0.0 if active > 0 => UNKNOWN + f64::from(active),
            cost => cost * (f64::from(active) + 1.0),
        }
    }

    fn now(&self, now: Instant) -> f64 {
        self.seen.map_or(0.0, |(cost, at)| cost * kept(at, now))
    }
}

fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

fn kept(at: Instant, now: Instant) -> f64 {
    (-now.saturating_duration_since(at).as_secs_f64() / DECAY.as_secs_f64()).exp()
}
