//! Waiting for something to become true, with a deadline that names it.

use std::{
    fmt::Display,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};

use crate::config;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How long to wait, and how often to look. The limit is that of a machine of every day (see [`crate::patience`]).
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub limit: Duration,
    pub interval: Duration,
}

impl Patience {
    /// For what another process does at once.
    pub const SHORT: Self = Self { limit: Duration::from_secs(5), interval: Duration::from_millis(5) };
    /// For what passes through controller and agents, asked for with a program.
    pub const LONG: Self = Self { limit: Duration::from_secs(15), interval: Duration::from_millis(30) };

    /// The same look-out, but this long.
    pub fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }
}

/// Asks until there is an answer. An `Err` of `look` is not the end: the last one explains a missed deadline.
pub fn eventually<T>(what: impl Display, patience: Patience, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let (start, limit) = (Instant::now(), patience.limit * config::patience());
    loop {
        if interrupted() {
            bail!("interrupted while waiting for {what}");
        }
        let last = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if start.elapsed() > limit {
            let late = format!("{what}: not within {:.1} s", limit.as_secs_f64());
            return Err(match last {
                Some(error) => error.context(late),
                None => anyhow!("{late}"),
            });
        }
        thread::sleep(patience.interval);
    }
}

/// Makes every wait of this process end with an error, so that worlds are dropped in order; for a signal handler's
/// thread.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// [`interrupt`] was called.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
