//! How long a connection of bytes may last, and how long without one. It ends nothing itself.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use mesh_common::model::traffic::ConnectionPool;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{direct, telemetry::reason};

/// What records say of it.
pub const IDLE: &str = "nothing has passed for as long as the service's rules permit";

/// None: for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Without a byte in either direction.
    pub idle: Option<Duration>,
    pub longest: Option<Duration>,
}

/// What ends a connection though nobody denies it.
#[derive(Default)]
pub struct Ends {
    pub bounds: Bounds,
    /// Resolves when the connection goes past rules that are newer: it ends when it is quiet, or after a while.
    pub outdated: Option<Outdated>,
}

pub type Outdated = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Looks after one connection.
pub struct Clock {
    bounds: Bounds,
    outdated: Option<Outdated>,
    /// It is outdated: these are no bounds of the user's.
    is_outdated: bool,
    began: Instant,
    /// The last time that a byte was seen to have passed.
    active: Instant,
    bytes: u64,
    /// Made at the first look; it may be early, and is set again then.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl From<&ConnectionPool> for Bounds {
    fn from(pool: &ConnectionPool) -> Self {
        Self { idle: pool.tcp_idle_timeout.map(Into::into), longest: pool.max_connection_duration.map(Into::into) }
    }
}

impl Clock {
    pub fn new(Ends { bounds, outdated }: Ends) -> Self {
        let began = Instant::now();
        Self { bounds, outdated, is_outdated: false, began, active: began, bytes: 0, sleep: None }
    }

    /// When a bound is reached unless something passes, and which.
    fn next(&self) -> Option<(Instant, &'static str)> {
        let longest = self.bounds.longest.map(|longest| (self.began + longest, reason::DURATION_OVER));
        let idle = self.bounds.idle.map(|idle| (self.active + idle, reason::IDLE_TIMEOUT));
        longest.into_iter().chain(idle).min_by_key(|(at, _)| *at)
    }

    /// Ready when a bound is reached, with its code and what to say. `bytes` have passed until now.
    pub fn poll(&mut self, cx: &mut Context<'_>, bytes: u64) -> Poll<(&'static str, String)> {
        if let Some(outdated) = &mut self.outdated
            && outdated.as_mut().poll(cx).is_ready()
        {
            self.bounds = Bounds { idle: Some(direct::QUIET), longest: Some(direct::LONGEST) };
            (self.is_outdated, self.outdated, self.sleep) = (true, None, None);
            (self.began, self.active) = (Instant::now(), Instant::now());
        }
        if self.bounds == Bounds::default() {
            return Poll::Pending;
        }
        if self.bytes != bytes {
            (self.bytes, self.active) = (bytes, Instant::now());
        }
        loop {
            let Some((at, code)) = self.next() else { return Poll::Pending };
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
            ready!(sleep.as_mut().poll(cx));
            if at <= Instant::now() {
                if self.is_outdated {
                    return Poll::Ready((reason::RULES_NEWER, reason::OUTDATED.to_owned()));
                }
                let why = match code {
                    reason::IDLE_TIMEOUT => IDLE,
                    _ => "it has lasted as long as the service's rules permit",
                };
                return Poll::Ready((code, why.to_owned()));
            }
            sleep.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn clock(idle: u64, longest: u64) -> Clock {
        let span = |millis: u64| (millis > 0).then(|| Duration::from_millis(millis));
        Clock::new(Ends { bounds: Bounds { idle: span(idle), longest: span(longest) }, outdated: None })
    }

    #[tokio::test]
    async fn a_connection_ends_when_it_is_idle_or_old() {
        for (idle, longest, code, after) in [
            (20, 60_000, reason::IDLE_TIMEOUT, 20),
            (0, 20, reason::DURATION_OVER, 20),
            (60_000, 30, reason::DURATION_OVER, 30),
        ] {
            let began = Instant::now();
            let mut clock = clock(idle, longest);
            let (seen, _) = poll_fn(|cx| clock.poll(cx, 0)).await;
            assert_eq!(seen, code);
            assert!(began.elapsed() >= Duration::from_millis(after), "{code}");
        }
    }

    #[tokio::test]
    async fn what_passes_puts_the_end_off() {
        let mut clock = clock(200, 0);
        let began = Instant::now();
        let mut last = began;
        for bytes in 1..=3 {
            tokio::time::sleep(Duration::from_millis(70)).await;
            last = Instant::now();
            assert!(poll_fn(|cx| Poll::Ready(clock.poll(cx, bytes))).await.is_pending(), "{bytes}");
        }
        poll_fn(|cx| clock.poll(cx, 3)).await;
        assert!(last.elapsed() >= Duration::from_millis(200) && began.elapsed() >= Duration::from_millis(410));
    }

    #[tokio::test]
    async fn what_is_outdated_ends_in_a_quiet_moment() {
        let (now, outdated) = tokio::sync::oneshot::channel::<()>();
        let outdated = Box::pin(async move { drop(outdated.await) });
        let mut clock = Clock::new(Ends { bounds: Bounds::default(), outdated: Some(outdated) });
        assert!(poll_fn(|cx| Poll::Ready(clock.poll(cx, 1))).await.is_pending());
        let began = Instant::now();
        now.send(()).unwrap();
        let (code, _) = poll_fn(|cx| clock.poll(cx, 1)).await;
        assert_eq!(code, reason::RULES_NEWER);
        assert!(began.elapsed() >= direct::QUIET);
    }

    #[tokio::test]
    async fn without_bounds_it_stays() {
        let mut clock = clock(0, 0);
        let over = tokio::time::timeout(Duration::from_millis(50), poll_fn(|cx| clock.poll(cx, 0))).await;
        assert!(over.is_err());
    }
}
