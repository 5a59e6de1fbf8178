//! How many connections are being served, and the word to their tunnels that no more streams are wanted.

use std::{future::Future, sync::Arc};

use tokio::sync::watch;

#[derive(Debug, Default)]
pub struct Live {
    count: watch::Sender<usize>,
    drains: watch::Sender<u32>,
}

/// One connection; it counts until this drops.
#[derive(Debug)]
pub struct Counted {
    live: Arc<Live>,
    drains: watch::Receiver<u32>,
}

impl Live {
    pub fn enter(self: &Arc<Self>) -> Counted {
        self.count.send_modify(|count| *count += 1);
        Counted { live: Arc::clone(self), drains: self.drains.subscribe() }
    }

    /// Tells every tunnel that is there now, and none that comes later, to take no more streams.
    pub fn drain(&self) {
        self.drains.send_modify(|drains| *drains += 1);
    }

    /// Resolves at the next drain.
    pub fn next_drain(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut drains = self.drains.subscribe();
        async move {
            if drains.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Resolves when no connection is left.
    pub async fn none_left(&self) {
        // The sender lives in `self`.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Counted {
    /// Resolves when the connection is to take no more streams.
    pub async fn drained(&self) {
        if self.drains.clone().changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.live.count.send_modify(|count| *count -= 1);
    }
}
