//! The end of an agent, in order: no new streams on its tunnels, live connections go on until they end or the deadline
//! comes, and what is left then is reset.

use std::{future::Future, time::Duration};

use crate::proxy::Proxy;

/// How often the tunnels that this agent dialled are looked at once no connection is left.
const LOOK: Duration = Duration::from_millis(20);

/// Resolves when no connection is left and what they said is sent, when `deadline` has passed, or when `hurry` is
/// ready.
pub async fn drain(proxy: &Proxy, deadline: Duration, hurry: impl Future<Output = ()>) {
    proxy.live.drain();
    proxy.pool.retire_all();
    let live = proxy.live.count();
    tracing::info!(live, ?deadline, "draining");
    tokio::select! {
        () = all_sent(proxy) => tracing::info!("drained"),
        () = tokio::time::sleep(deadline) => {
            tracing::warn!(left = proxy.live.count(), "the deadline has come; what is left is reset");
        }
        () = hurry => tracing::warn!(left = proxy.live.count(), "told to hurry; what is left is reset"),
    }
}

/// A connection is done when its last bytes are handed to its tunnel, where they may wait for room. A tunnel that takes
/// no more streams ends with what it has sent.
async fn all_sent(proxy: &Proxy) {
    loop {
        proxy.live.none_left().await;
        // New ones may have been dialled for connections that came while this agent drained.
        proxy.pool.retire_all();
        if proxy.pool.connections() == 0 && proxy.live.count() == 0 {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}
