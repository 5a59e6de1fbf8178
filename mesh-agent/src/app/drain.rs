//! The end of an agent, in order: no new streams on its tunnels, live connections go on until they end or the deadline
//! comes, and what is left then is reset.

use std::{future::Future, time::Duration};

use crate::proxy::Proxy;

/// Resolves when no connection is left, when `deadline` has passed, or when `hurry` is ready.
pub async fn drain(proxy: &Proxy, deadline: Duration, hurry: impl Future<Output = ()>) {
    proxy.live.drain();
    proxy.pool.retire_all();
    let live = proxy.live.count();
    tracing::info!(live, ?deadline, "draining");
    tokio::select! {
        () = proxy.live.none_left() => tracing::info!("drained"),
        () = tokio::time::sleep(deadline) => {
            tracing::warn!(left = proxy.live.count(), "the deadline has come; what is left is reset");
        }
        () = hurry => tracing::warn!(left = proxy.live.count(), "told to hurry; what is left is reset"),
    }
}
