//! Client connections kept for reuse. A connection belongs to one source pod, one pair of identities and one address:
//! two pods never share one, also not of one account, since its life and its address are those of its pod.

mod attempt;
mod entries;

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};

use self::entries::{Inner, Lease, Turn};
use super::{ConnectRequest, Keepalive, STREAMS, TlsFacts, TunnelError, TunnelStream, Windows};
use crate::identity::{Certificate, Identity};

/// Connections tried for one stream: a peer that accepts and drops must not keep an app waiting for ever.
const TRIES: usize = 3;

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// UID of the source pod.
    pub source_pod: String,
    pub source: Identity,
    /// Who must answer at `address`.
    pub destination: Identity,
    /// The destination pod's address with its HBONE port.
    pub address: SocketAddr,
}

/// How connections are made and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    pub windows: Windows,
    /// Streams of one connection at the same time; the next one opens another connection.
    pub streams: usize,
    /// How long a connection without streams is kept.
    pub idle_timeout: Duration,
    /// For TCP.
    pub connect_timeout: Duration,
    /// For TLS.
    pub handshake_timeout: Duration,
    /// For all of [`Pool::open`]: the peer's agent answers once its application took the connection.
    pub answer_timeout: Duration,
    pub keepalive: Keepalive,
}

/// All client connections of the agent. Dropped, it closes them.
pub struct Pool {
    inner: Arc<Inner>,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            windows: Windows::default(),
            streams: STREAMS,
            idle_timeout: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(20),
            keepalive: Keepalive::default(),
        }
    }
}

impl Pool {
    pub fn new(settings: PoolSettings) -> Self {
        Self { inner: Arc::new(Inner { settings, entries: Mutex::default(), next_id: AtomicU64::new(0) }) }
    }

    /// Opens a stream on a pooled connection, or on a new one made with `dial`, which is called for each connection
    /// that is needed. Openers of one key share a handshake. A pooled connection that turns out dead is replaced
    /// without notice. `certificate` is the source's; one newer than a connection's retires that connection. It fails
    /// if there is no answer in time: a peer that takes the stream and is silent keeps no app waiting for ever.
    pub async fn open<D, F>(
        &self,
        key: &PoolKey,
        certificate: &Certificate,
        dial: D,
        request: &ConnectRequest,
    ) -> Result<(TunnelStream, TlsFacts), TunnelError>
    where
        D: Fn() -> F,
        F: Future<Output = io::Result<TcpStream>>,
    {
        if *certificate.identity() != key.source {
            let (certificate, asked) = (Box::new(certificate.identity().clone()), Box::new(key.source.clone()));
            return Err(TunnelError::WrongCertificate { certificate, asked });
        }
        let after = self.inner.settings.answer_timeout;
        timeout(after, self.open_in_time(key, certificate, dial, request))
            .await
            .unwrap_or(Err(TunnelError::AnswerTimeout { address: key.address, after }))
    }

    async fn open_in_time<D, F>(
        &self,
        key: &PoolKey,
        certificate: &Certificate,
        dial: D,
        request: &ConnectRequest,
    ) -> Result<(TunnelStream, TlsFacts), TunnelError>
    where
        D: Fn() -> F,
        F: Future<Output = io::Result<TcpStream>>,
    {
        let mut tries = 0;
        loop {
            tries += 1;
            let Lease { id, send, place, shared, fresh } = self.lease(key, certificate, &dial).await?;
            match place.open(send, request).await {
                Ok(stream) => return Ok((stream, shared.tls)),
                Err(_) if shared.forgotten.load(Ordering::Acquire) => return Err(TunnelError::SourceGone),
                // An agent that drains says so to a new connection too: the next one meets its successor.
                Err(failed) if failed.replaceable && (!fresh || failed.draining) && tries < TRIES => {
                    self.inner.retire(key, id);
                }
                Err(failed) => return Err(failed.error),
            }
        }
    }

    /// Closes every connection of a pod that is gone, live streams too.
    pub fn forget_source(&self, uid: &str) {
        self.inner.lock().retain(|key, entry| {
            let gone = key.source_pod == uid;
            if gone {
                entry.connections.iter().for_each(|pooled| pooled.shared.forgotten.store(true, Ordering::Release));
            }
            !gone
        });
    }

    /// No new streams on any connection that exists now; live ones go on, and each connection ends with its last.
    pub fn retire_all(&self) {
        self.inner.lock().values_mut().flat_map(|entry| &mut entry.connections).for_each(|pooled| pooled.send = None);
    }

    /// The same for the connections of one pod.
    pub fn retire_source(&self, uid: &str) {
        let mut entries = self.inner.lock();
        let own = entries.iter_mut().filter(|(key, _)| key.source_pod == uid);
        own.flat_map(|(_, entry)| &mut entry.connections).for_each(|pooled| pooled.send = None);
    }

    /// Connections that exist, retired ones included.
    pub fn connections(&self) -> usize {
        self.inner.lock().values().map(|entry| entry.connections.len()).sum()
    }

    async fn lease<D, F>(&self, key: &PoolKey, certificate: &Certificate, dial: &D) -> Result<Lease, TunnelError>
    where
        D: Fn() -> F,
        F: Future<Output = io::Result<TcpStream>>,
    {
        loop {
            match self.inner.turn(key, certificate) {
                Turn::Go(lease) => return Ok(lease),
                Turn::Lead(attempt) => return attempt.run(certificate, dial()).await,
                Turn::Wait(mut outcome) => {
                    // An error means that the attempt is over without a failure of its own: look again.
                    if let Ok(failure) = outcome.wait_for(Option::is_some).await
                        && let Some(error) = failure.as_ref()
                    {
                        return Err(error.clone());
                    }
                }
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("connections", &self.connections()).finish_non_exhaustive()
    }
}
