//! Finds connections whose peer is gone without a word: a node that lost power sends no FIN.

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

/// When to ask whether the peer still lives, and how long to wait for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub interval: Duration,
    pub patience: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), patience: Duration::from_secs(20) }
    }
}

impl Keepalive {
    /// Returns when the peer is found dead. Pings only while `busy`: nobody waits for an idle connection. Runs beside
    /// the future that drives the connection, never alone.
    pub async fn watch(self, pings: Option<PingPong>, busy: impl Fn() -> bool) {
        // Handed out once for each connection; without it there is nothing to find out.
        let Some(mut pings) = pings else { return std::future::pending().await };
        loop {
            sleep(self.interval).await;
            if busy() && !matches!(timeout(self.patience, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
                return;
            }
        }
    }
}
