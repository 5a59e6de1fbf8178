//! Who is left alone for a while: Envoy's outlier detection by failures in a row. Its clock is a tick every interval,
//! at which endpoints come back and are forgiven; nothing runs for it, ticks that passed are made up for when somebody
//! asks.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use mesh_common::model::traffic::{Outlier, Percent};

use super::Outcome;

/// Ejections are no longer than this, or than the base if that is more (Envoy's `max_ejection_time`).
const LONGEST: Duration = Duration::from_secs(300);

/// Failures of an endpoint in a row.
#[derive(Debug, Default)]
pub struct Streaks {
    errors: AtomicU32,
    gateway: AtomicU32,
    local: AtomicU32,
}

/// What is known of an endpoint's ejections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    since: Option<Instant>,
    /// How many times the base an ejection lasts.
    times: u32,
    back: Option<Instant>,
}

/// When there are ticks.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    start: Instant,
    interval: Duration,
    /// How many are made up for.
    seen: u64,
}

impl Streaks {
    /// Whether the endpoint should be ejected: a streak is as long as it may be. The streak then begins anew.
    pub fn note(&self, outcome: Outcome, rule: &Outlier) -> bool {
        let local = match (outcome, rule.consecutive_local_failures) {
            (Outcome::Cancelled, _) => return false,
            (Outcome::Status(status), split) => {
                if split.is_some() {
                    end(&self.local);
                }
                return self.answer(status, rule);
            }
            (_, Some(most)) => most,
            (Outcome::Timeout, None) => return self.answer(504, rule),
            (Outcome::ConnectFailed | Outcome::Reset, None) => return self.answer(503, rule),
        };
        grows(&self.local, Some(local))
    }

    pub fn forget(&self) {
        [&self.errors, &self.gateway, &self.local].into_iter().for_each(end);
    }

    /// It failed last.
    pub fn any(&self) -> bool {
        [&self.errors, &self.gateway, &self.local].iter().any(|streak| streak.load(Ordering::Relaxed) > 0)
    }

    fn answer(&self, status: u16, rule: &Outlier) -> bool {
        if status < 500 {
            end(&self.errors);
            end(&self.gateway);
            return false;
        }
        let gateway = if (502..=504).contains(&status) {
            grows(&self.gateway, rule.consecutive_gateway_errors)
        } else {
            end(&self.gateway);
            false
        };
        grows(&self.errors, rule.consecutive_5xx) || gateway
    }
}

/// Written only where it changes something: most answers are well, from many threads.
fn end(streak: &AtomicU32) {
    if streak.load(Ordering::Relaxed) != 0 {
        streak.store(0, Ordering::Relaxed);
    }
}

fn grows(streak: &AtomicU32, most: Option<u32>) -> bool {
    let Some(most) = most.filter(|most| *most > 0) else { return false };
    let reached = streak.fetch_add(1, Ordering::Relaxed) >= most - 1;
    if reached {
        streak.store(0, Ordering::Relaxed);
    }
    reached
}

impl Standing {
    pub fn is_ejected(&self) -> bool {
        self.since.is_some()
    }

    /// Another ejection would be longer than the first.
    pub fn is_remembered(&self) -> bool {
        self.times > 0
    }

    pub fn eject(&mut self, rule: &Outlier, now: Instant) {
        self.since = Some(now);
        if base(rule).saturating_mul(self.times) < longest(rule).saturating_add(base(rule)) {
            self.times = self.times.saturating_add(1);
        }
    }

    pub fn let_back(&mut self, now: Instant) {
        self.since = None;
        self.back = Some(now);
    }

    /// When it comes back: the first tick after its time.
    pub fn returns(&self, rule: &Outlier, ticks: &Ticks) -> Option<Instant> {
        let over = self.since? + base(rule).saturating_mul(self.times).min(longest(rule));
        Some(ticks.at(ticks.first_from(over)))
    }

    /// Makes up for all ticks until now; whether it came back.
    pub fn advance(&mut self, rule: &Outlier, ticks: &Ticks, now: Instant) -> bool {
        let until = ticks.passed(now);
        let returned = self.returns(rule, ticks).filter(|at| *at <= ticks.at(until));
        if let Some(at) = returned {
            self.let_back(at);
        }
        // From one interval after it came back, each tick forgives an ejection.
        if let (None, Some(back)) = (self.since, self.back) {
            let first = ticks.first_from(back + ticks.interval);
            let forgiven = (until + 1).saturating_sub(first);
            self.times = self.times.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        }
        returned.is_some()
    }
}

/// Envoy's bound: with one more they may not be more than the share. It may be that nobody can be ejected.
pub fn may_eject(ejected: usize, all: usize, most: Percent) -> bool {
    let [more, all] = [ejected + 1, all].map(|count| u64::try_from(count).unwrap_or(u64::MAX));
    more.saturating_mul(u64::from(Percent::ALL.0)) <= all.saturating_mul(u64::from(most.0.min(Percent::ALL.0)))
}

impl Ticks {
    pub fn new(interval: Duration, start: Instant) -> Self {
        Self { start, interval: interval.max(Duration::from_millis(1)), seen: 0 }
    }

    pub fn is_every(&self, interval: Duration) -> bool {
        self.interval == Self::new(interval, self.start).interval
    }

    /// To be called after all standings are advanced.
    pub fn see(&mut self, now: Instant) {
        self.seen = self.seen.max(self.passed(now));
    }

    /// How many ticks there were until now.
    fn passed(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.start).as_nanos() / self.interval.as_nanos();
        u64::try_from(passed).unwrap_or(u64::MAX).max(self.seen)
    }

    /// Number of the first tick that is not before a time, nor made up for.
    fn first_from(&self, time: Instant) -> u64 {
        let first = time.saturating_duration_since(self.start).as_nanos().div_ceil(self.interval.as_nanos());
        u64::try_from(first).unwrap_or(u64::MAX).max(self.seen + 1)
    }

    fn at(&self, tick: u64) -> Instant {
        let since = self.interval.as_nanos().saturating_mul(u128::from(tick));
        self.start + Duration::from_nanos(u64::try_from(since).unwrap_or(u64::MAX))
    }
}

fn base(rule: &Outlier) -> Duration {
    rule.base_ejection.into()
}

fn longest(rule: &Outlier) -> Duration {
    LONGEST.max(base(rule))
}
