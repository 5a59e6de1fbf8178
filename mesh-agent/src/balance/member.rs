//! What is known of one endpoint by those who use it.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{ewma::PeakEwma, outlier::Streaks};

#[derive(Debug)]
pub struct Member {
    pub address: SocketAddr,
    pub streaks: Streaks,
    /// Requests under way.
    active: AtomicU32,
    latency: Mutex<PeakEwma>,
}

impl Member {
    pub fn new(address: SocketAddr) -> Self {
        let (streaks, active, latency) = Default::default();
        Self { address, streaks, active, latency }
    }

    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    pub fn begin(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn latency(&self) -> MutexGuard<'_, PeakEwma> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
