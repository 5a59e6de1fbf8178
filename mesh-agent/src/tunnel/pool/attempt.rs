//! The making of a connection: one handshake for all who wait, then a task that moves the bytes.

use std::{
    future::Future,
    io,
    pin::pin,
    sync::{Arc, Weak},
};

use tokio::{
    net::TcpStream,
    sync::{oneshot, watch},
    time::{Instant, sleep_until},
};

use super::{
    PoolKey,
    entries::{Inner, Lease, Pooled},
};
use crate::{
    identity::{Certificate, End},
    tunnel::{
        TunnelError,
        connection::{Http2, Shared, connect},
    },
};

/// The one handshake of a key. Dropped without a connection, it lets the next opener try.
pub struct Attempt<'a> {
    pub inner: &'a Arc<Inner>,
    pub key: &'a PoolKey,
    pub id: u64,
    pub outcome: watch::Sender<Option<TunnelError>>,
}

impl Attempt<'_> {
    pub async fn run<F>(self, certificate: &Certificate, dial: F) -> Result<Lease, TunnelError>
    where
        F: Future<Output = io::Result<TcpStream>>,
    {
        let (send, connection, shared) =
            connect(self.key, certificate, &self.inner.settings, dial).await.inspect_err(|error| {
                self.outcome.send_replace(Some(error.clone()));
            })?;
        let mut entries = self.inner.lock();
        // The source may have been forgotten meanwhile, and even have begun anew.
        let entry =
            entries.get_mut(self.key).filter(|entry| entry.attempt.as_ref().is_some_and(|(id, _)| *id == self.id));
        let entry = entry.ok_or(TunnelError::SourceGone)?;
        let (close, closed) = oneshot::channel();
        let pooled = Pooled {
            id: self.id,
            send: Some(send),
            serial: certificate.serial().to_string(),
            not_before: certificate.not_before(),
            shared: shared.clone(),
            _close: close,
        };
        let lease = pooled.lease(usize::MAX).expect("a new connection is empty");
        entry.connections.push(pooled);
        drop(entries);
        let distrusted = certificate.roots().distrust(End::Server, shared.chain.clone());
        let closed = async move {
            tokio::select! {
                _ = closed => {}
                () = distrusted => {
                    tracing::info!(address = %shared.address, "the root of a tunnel's peer is no longer trusted: it ends");
                }
            }
        };
        tokio::spawn(drive(
            connection,
            Arc::downgrade(self.inner),
            self.key.clone(),
            self.id,
            lease.shared.clone(),
            closed,
        ));
        Ok(Lease { fresh: true, ..lease })
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut entries = self.inner.lock();
        if let Some(entry) = entries.get_mut(self.key)
            && entry.attempt.as_ref().is_some_and(|(id, _)| *id == self.id)
        {
            entry.attempt = None;
            if entry.is_empty() {
                entries.remove(self.key);
            }
        }
    }
}

/// Moves a connection's bytes until it ends, is closed, is found dead, or has been idle for long.
async fn drive(
    connection: Http2,
    pool: Weak<Inner>,
    key: PoolKey,
    id: u64,
    shared: Arc<Shared>,
    closed: impl Future<Output = ()> + Send,
) {
    let Some(settings) = pool.upgrade().map(|inner| inner.settings.clone()) else { return };
    let mut connection = connection;
    let pings = connection.ping_pong();
    let mut dead = pin!(settings.keepalive.watch(pings, || shared.idle_since().is_none()));
    let mut closed = pin!(closed);
    let mut look = Some(Instant::now() + settings.idle_timeout);
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(address = %key.address, %error, "tunnel connection ended");
                }
                break;
            }
            () = &mut closed => break,
            () = &mut dead => {
                tracing::info!(address = %key.address, "tunnel peer stopped answering");
                break;
            }
            () = sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() => {
                let Some(inner) = pool.upgrade() else { break };
                look = inner.retire_idle(&key, id, &shared);
            }
        }
    }
    // The pool first: no opener may still find a connection whose driver is gone.
    if let Some(inner) = pool.upgrade() {
        inner.remove(&key, id);
    }
    drop(connection);
}
