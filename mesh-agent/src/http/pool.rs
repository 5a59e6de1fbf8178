//! The connections of one pod to the endpoints of one destination. An HTTP/1.1 connection carries one request at a time
//! and is kept for the next; one of HTTP/2 carries many.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_common::model::traffic::ConnectionPool;
use tokio::{sync::Notify, time::timeout};

use super::{Connect, Endpoint, Refused, Way, body::RequestBody};
use crate::balance::{Cluster, Connected, Overflow};

/// How long a connection without requests is kept, where nobody says: shorter than servers keep theirs.
const IDLE: Duration = Duration::from_secs(55);
/// For TCP, TLS and the tunnel together, where nobody says.
const CONNECT: Duration = Duration::from_secs(10);
/// Streams of one connection of HTTP/2, where neither the user nor the server says fewer.
const STREAMS: u32 = 100;
/// Unread bytes of a stream and of a connection.
const WINDOW: u32 = 1 << 20;
/// Of an answer's head.
const HEADER_LIST: u32 = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    Http1,
    Http2,
}

#[derive(Debug, Default)]
pub struct Pool {
    lanes: Mutex<HashMap<SocketAddr, Lane>>,
    /// A connection came back, or ended.
    freed: Notify,
}

/// Of one endpoint.
#[derive(Debug, Default)]
struct Lane {
    idle: Vec<(Instant, Box<Connection<http1::SendRequest<RequestBody>>>)>,
    shared: Vec<Arc<Shared>>,
}

struct Connection<S> {
    send: S,
    /// Requests that it has carried.
    served: u32,
    since: Instant,
}

#[derive(Debug)]
struct Shared {
    connection: Connection<http2::SendRequest<RequestBody>>,
    served: AtomicU32,
    active: AtomicU32,
    /// Takes nothing new.
    retired: AtomicBool,
    idle_since: Mutex<Instant>,
}

/// A place on a connection, for one request.
pub struct Lease {
    kind: Kind,
    pool: Arc<Pool>,
    address: SocketAddr,
    again: bool,
}

enum Kind {
    Http1(Option<Box<Connection<http1::SendRequest<RequestBody>>>>),
    Http2(Arc<Shared>),
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoConnection {
    Overflow(Overflow),
    /// Its code.
    Refused(&'static str),
    Timeout,
    /// What answered speaks no HTTP.
    Handshake,
}

/// What became of a request that was sent.
#[derive(Debug)]
pub enum NotSent {
    /// Nothing of it left: it can be sent on another connection.
    Unsent(Request<RequestBody>),
    Failed(hyper::Error),
}

impl Pool {
    /// A place on a connection to `endpoint`: one that is there, or a new one.
    pub async fn lease(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        settings: &ConnectionPool,
        endpoint: &Endpoint,
        version: Version,
        connect: &impl Connect,
    ) -> Result<Lease, NoConnection> {
        if let Some(lease) = self.known(settings, endpoint.address, version) {
            return Ok(lease);
        }
        // From here on it waits, for a connection of its own or for somebody else's.
        let _waiting = cluster.admit_waiting().map_err(NoConnection::Overflow)?;
        let bound = settings.connect_timeout.map_or(CONNECT, Into::into);
        let found = timeout(bound, async {
            loop {
                let freed = self.freed.notified();
                if let Some(lease) = self.known(settings, endpoint.address, version) {
                    return Ok(lease);
                }
                match cluster.admit_connection() {
                    Ok(counts) => return self.open(counts, endpoint, version, connect).await,
                    // As many as there may be: somebody's will be free.
                    Err(_) => {
                        self.evict(endpoint.address);
                        freed.await;
                    }
                }
            }
        });
        found.await.unwrap_or(Err(NoConnection::Timeout))
    }

    /// On a connection that is there.
    fn known(self: &Arc<Self>, settings: &ConnectionPool, address: SocketAddr, version: Version) -> Option<Lease> {
        let mut lanes = self.lanes();
        let lane = lanes.get_mut(&address)?;
        let kind = match version {
            Version::Http1 => loop {
                let (_, connection) = lane.idle.pop()?;
                if connection.is_usable(settings) && !connection.send.is_closed() {
                    break Kind::Http1(Some(connection));
                }
            },
            Version::Http2 => {
                lane.shared.retain(|shared| !shared.is_over());
                let shared = lane.shared.iter().find(|shared| shared.take(settings))?;
                Kind::Http2(Arc::clone(shared))
            }
        };
        Some(Lease { kind, pool: Arc::clone(self), address, again: true })
    }

    async fn open(
        self: &Arc<Self>,
        counts: Connected,
        endpoint: &Endpoint,
        version: Version,
        connect: &impl Connect,
    ) -> Result<Lease, NoConnection> {
        let Way { io, until } = connect.connect(endpoint).await.map_err(|Refused(code)| NoConnection::Refused(code))?;
        let pool = Arc::clone(self);
        let since = Instant::now();
        let address = endpoint.address;
        let kind = match version {
            Version::Http1 => {
                let mut builder = http1::Builder::new();
                builder.max_buf_size(64 * 1024).max_headers(100);
                let (send, driver) = builder.handshake(TokioIo::new(io)).await.map_err(|_| NoConnection::Handshake)?;
                tokio::spawn(async move {
                    tokio::select! { _ = driver.with_upgrades() => {}, () = until => {} }
                    drop(counts);
                    pool.freed.notify_waiters();
                });
                Kind::Http1(Some(Box::new(Connection { send, served: 0, since })))
            }
            Version::Http2 => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(WINDOW)
                    .initial_connection_window_size(WINDOW * 4)
                    .max_header_list_size(HEADER_LIST)
                    .keep_alive_interval(Duration::from_secs(30))
                    .keep_alive_timeout(Duration::from_secs(10));
                let (send, driver) = builder.handshake(TokioIo::new(io)).await.map_err(|_| NoConnection::Handshake)?;
                tokio::spawn(async move {
                    tokio::select! { _ = driver => {}, () = until => {} }
                    drop(counts);
                    pool.freed.notify_waiters();
                });
                let shared = Arc::new(Shared {
                    connection: Connection { send, served: 0, since },
                    served: AtomicU32::new(1),
                    active: AtomicU32::new(1),
                    retired: AtomicBool::new(false),
                    idle_since: Mutex::new(since),
                });
                self.lanes().entry(address).or_default().shared.push(Arc::clone(&shared));
                self.freed.notify_waiters();
                Kind::Http2(shared)
            }
        };
        Ok(Lease { kind, pool: Arc::clone(self), address, again: false })
    }

    /// Closes an idle connection to another endpoint, so that there may be one to this.
    fn evict(&self, but: SocketAddr) {
        let mut lanes = self.lanes();
        let other = lanes.iter_mut().find(|(address, lane)| **address != but && !lane.idle.is_empty());
        if let Some((_, lane)) = other {
            lane.idle.pop();
        }
    }

    /// Only these endpoints' connections are kept for others; what is under way goes on.
    pub fn retain(&self, is_endpoint: impl Fn(SocketAddr) -> bool) {
        self.lanes().retain(|address, lane| {
            let stays = is_endpoint(*address);
            if !stays {
                lane.shared.iter().for_each(|shared| shared.retired.store(true, Ordering::Relaxed));
            }
            stays
        });
    }

    /// Closes what has been idle for too long.
    pub fn sweep(&self, settings: &ConnectionPool) {
        let idle: Duration = settings.http_idle_timeout.map_or(IDLE, Into::into);
        self.lanes().retain(|_, lane| {
            lane.idle.retain(|(since, connection)| since.elapsed() < idle && connection.is_usable(settings));
            lane.shared.retain(|shared| !shared.is_over() && !shared.is_idle(idle));
            !lane.idle.is_empty() || !lane.shared.is_empty()
        });
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<SocketAddr, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Connection<S> {
    fn is_usable(&self, settings: &ConnectionPool) -> bool {
        settings.max_requests_per_connection.is_none_or(|most| self.served < most)
            && settings.max_connection_duration.is_none_or(|longest| self.since.elapsed() < Duration::from(longest))
    }
}

impl Shared {
    fn take(&self, settings: &ConnectionPool) -> bool {
        let most = settings.max_streams.unwrap_or(STREAMS);
        if self.retired.load(Ordering::Relaxed) || self.connection.send.is_closed() {
            return false;
        }
        let old = settings
            .max_connection_duration
            .is_some_and(|longest| self.connection.since.elapsed() >= Duration::from(longest));
        let used = settings.max_requests_per_connection.is_some_and(|most| self.served.load(Ordering::Relaxed) >= most);
        if old || used {
            self.retired.store(true, Ordering::Relaxed);
            return false;
        }
        let more = |active: u32| (active < most).then(|| active + 1);
        if self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return false;
        }
        self.served.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn is_over(&self) -> bool {
        self.connection.send.is_closed()
            || (self.retired.load(Ordering::Relaxed) && self.active.load(Ordering::Relaxed) == 0)
    }

    fn is_idle(&self, longest: Duration) -> bool {
        let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.active.load(Ordering::Relaxed) == 0 && since.elapsed() >= longest
    }
}

impl Lease {
    /// It carried requests before: it may have been closed meanwhile.
    pub fn is_used(&self) -> bool {
        self.again
    }

    pub fn version(&self) -> Version {
        match self.kind {
            Kind::Http1(_) => Version::Http1,
            Kind::Http2(_) => Version::Http2,
        }
    }

    pub async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, NotSent> {
        let sent = match &mut self.kind {
            Kind::Http1(None) => unreachable!("a lease is complete after its answer"),
            Kind::Http1(Some(connection)) => {
                connection.served += 1;
                if connection.send.ready().await.is_err() {
                    return Err(NotSent::Unsent(request));
                }
                connection.send.try_send_request(request).await
            }
            Kind::Http2(shared) => shared.connection.send.clone().try_send_request(request).await,
        };
        sent.map_err(|mut error| match error.take_message() {
            Some(request) => NotSent::Unsent(request),
            None => NotSent::Failed(error.into_error()),
        })
    }

    /// The answer has come to its end: the connection is free for the next request.
    pub fn complete(mut self) {
        if let Kind::Http1(connection) = &mut self.kind
            && let Some(connection) = connection.take()
            && !connection.send.is_closed()
        {
            self.pool.lanes().entry(self.address).or_default().idle.push((Instant::now(), connection));
            self.pool.freed.notify_one();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Kind::Http2(shared) = &self.kind {
            *shared.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            shared.active.fetch_sub(1, Ordering::Relaxed);
            self.pool.freed.notify_one();
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("address", &self.address).finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("served", &self.served).finish_non_exhaustive()
    }
}
