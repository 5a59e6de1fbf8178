//! The connections of one pod to the endpoints of one destination. An HTTP/1.1 connection carries one request at a time
//! and is kept for the next; one of HTTP/2 carries many.

mod bound;
mod lease;

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_common::model::traffic::ConnectionPool;
use tokio::{sync::Notify, time::timeout};

use super::{Connect, Endpoint, Refused, Way, tls::Secured};
use crate::balance::{Cluster, Connected, Overflow};
use bound::Bound;
use lease::{Connection, Kind, OneByOne, Shared};
pub use lease::{Lease, NotSent};

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
/// Of an answer.
const HEADERS: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    Http1,
    Http2,
}

#[derive(Debug, Default)]
pub struct Pool {
    lanes: Mutex<HashMap<Key, Lane>>,
    /// A connection came back, or ended. All who wait are told: who it is of use to, nobody knows but they.
    freed: Notify,
}

/// What makes one connection as good as another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    address: SocketAddr,
    /// By which settings, and for whom.
    tls: Option<(u64, String)>,
}

#[derive(Debug, Default)]
struct Lane {
    idle: Vec<(Instant, OneByOne)>,
    shared: Vec<Arc<Shared>>,
    /// Somebody makes a connection that others will share.
    opening: bool,
    /// Its endpoint is none any more.
    gone: bool,
}

/// Where a connection leads, and how it is to be spoken on.
pub struct Wanted<'a> {
    pub endpoint: &'a Endpoint,
    pub version: Version,
    pub settings: &'a ConnectionPool,
    pub tls: Option<&'a Secured>,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoConnection {
    Overflow(Overflow),
    /// Its code.
    Refused(&'static str),
    Timeout,
    /// TLS failed, by its own words.
    Tls(String),
    /// What answered speaks no HTTP.
    Handshake,
}

/// One who makes a connection for all who wait for it.
struct Opening<'a>(&'a Pool, Option<&'a Key>);

/// A connection's place among those that there may be. Who waits for one is told when it is free.
#[derive(Debug)]
pub struct Place {
    counts: Option<Connected>,
    pool: Arc<Pool>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let Self(pool, Some(key)) = self else { return };
        if let Some(lane) = pool.lanes().get_mut(key) {
            lane.opening = false;
        }
        pool.wake();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.counts.take());
        self.pool.wake();
    }
}

impl Wanted<'_> {
    fn key(&self) -> Key {
        let tls = self.tls.map(|tls| (tls.id(), tls.host().to_owned()));
        Key { address: self.endpoint.address, tls }
    }
}

impl Pool {
    /// A place on a connection: one that is there, or a new one.
    pub async fn lease(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        wanted: Wanted<'_>,
        connect: &impl Connect,
    ) -> Result<Lease, NoConnection> {
        let key = wanted.key();
        if let Some(lease) = self.known(&wanted, &key) {
            return Ok(lease);
        }
        // From here on it waits, for a connection of its own or for somebody else's.
        let _waiting = cluster.admit_waiting().map_err(NoConnection::Overflow)?;
        let bound = wanted.settings.connect_timeout.map_or(CONNECT, Into::into);
        loop {
            // Before it looks: what is freed after that wakes it, and what it frees itself does not.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(lease) = self.known(&wanted, &key) {
                return Ok(lease);
            }
            if let Some((place, _opening)) = self.begin(cluster, &wanted, &key) {
                // How long it waits for others is for the request's own times to say.
                let opened = timeout(bound, self.open(place, &wanted, &key, connect));
                return opened.await.unwrap_or(Err(NoConnection::Timeout));
            }
            freed.await;
        }
    }

    /// Whoever waits looks again.
    pub fn wake(&self) {
        self.freed.notify_waiters();
    }

    /// A connection may be made; `None`: there are as many as there may be.
    pub fn place(self: &Arc<Self>, cluster: &Cluster) -> Option<Place> {
        let counts = cluster.admit_connection().ok()?;
        Some(Place { counts: Some(counts), pool: Arc::clone(self) })
    }

    /// On a connection that is there.
    fn known(self: &Arc<Self>, wanted: &Wanted<'_>, key: &Key) -> Option<Lease> {
        let mut lanes = self.lanes();
        let lane = lanes.get_mut(key)?;
        let kind = match wanted.version {
            Version::Http1 => loop {
                let (_, connection) = lane.idle.pop()?;
                if connection.is_usable(wanted.settings) && !connection.send.is_closed() {
                    break Kind::Http1(Some(connection));
                }
            },
            Version::Http2 => {
                lane.shared.retain(|shared| !shared.is_over());
                let shared = lane.shared.iter().find(|shared| shared.take(wanted.settings))?;
                Kind::Http2(Arc::clone(shared))
            }
        };
        Some(self.leased(kind, wanted, key, true))
    }

    fn leased(self: &Arc<Self>, kind: Kind, wanted: &Wanted<'_>, key: &Key, again: bool) -> Lease {
        let (pool, settings) = (Arc::clone(self), wanted.settings.clone());
        Lease { kind, pool, key: key.clone(), settings, again }
    }

    /// `None`: somebody else is at it, and it will do for this one too; or there are as many connections as there may
    /// be, and somebody's will be free.
    fn begin<'a>(
        self: &'a Arc<Self>,
        cluster: &Cluster,
        wanted: &Wanted<'_>,
        key: &'a Key,
    ) -> Option<(Place, Opening<'a>)> {
        let mut lanes = self.lanes();
        let shared = wanted.version == Version::Http2;
        if shared && lanes.get(key).is_some_and(|lane| lane.opening) {
            return None;
        }
        let Some(place) = self.place(cluster) else {
            evict(&mut lanes, wanted, key);
            return None;
        };
        if shared {
            lanes.entry(key.clone()).or_default().opening = true;
        }
        Some((place, Opening(self, shared.then_some(key))))
    }

    async fn open(
        self: &Arc<Self>,
        place: Place,
        wanted: &Wanted<'_>,
        key: &Key,
        connect: &impl Connect,
    ) -> Result<Lease, NoConnection> {
        let way = connect.connect(wanted.endpoint).await;
        let Way { io, until } = way.map_err(|Refused(code)| NoConnection::Refused(code))?;
        let io = match wanted.tls {
            Some(tls) => Box::new(tls.client(io, wanted.version).await.map_err(NoConnection::Tls)?),
            None => io,
        };
        let (io, keeper) = Bound::new(io);
        let since = Instant::now();
        let kind = match wanted.version {
            Version::Http1 => {
                let mut builder = http1::Builder::new();
                builder.max_buf_size(64 * 1024).max_headers(HEADERS);
                let (send, driver) = builder.handshake(TokioIo::new(io)).await.map_err(|_| NoConnection::Handshake)?;
                tokio::spawn(async move {
                    keeper.keep(driver.with_upgrades(), until).await;
                    drop(place);
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
                    keeper.keep(driver, until).await;
                    drop(place);
                });
                let shared = Arc::new(Shared {
                    connection: Connection { send, served: 0, since },
                    served: AtomicU32::new(1),
                    active: AtomicU32::new(1),
                    retired: AtomicBool::new(false),
                    idle_since: Mutex::new(since),
                });
                self.lanes().entry(key.clone()).or_default().shared.push(Arc::clone(&shared));
                Kind::Http2(shared)
            }
        };
        Ok(self.leased(kind, wanted, key, false))
    }

    /// A connection is free for the next request.
    fn rests(&self, key: &Key, connection: OneByOne) {
        let mut lanes = self.lanes();
        let lane = lanes.entry(key.clone()).or_default();
        if !lane.gone {
            lane.idle.push((Instant::now(), connection));
        }
        drop(lanes);
        self.wake();
    }

    /// Only these endpoints' connections are kept for others; what is under way goes on.
    pub fn retain(&self, is_endpoint: impl Fn(SocketAddr) -> bool) {
        for (key, lane) in self.lanes().iter_mut() {
            lane.gone = !is_endpoint(key.address);
            if lane.gone {
                lane.idle.clear();
                lane.shared.drain(..).for_each(|shared| shared.retired.store(true, Ordering::Relaxed));
            }
        }
    }

    /// Closes what has been idle for too long.
    pub fn sweep(&self, settings: &ConnectionPool) {
        let idle: Duration = settings.http_idle_timeout.map_or(IDLE, Into::into);
        self.lanes().retain(|_, lane| {
            lane.idle.retain(|(since, connection)| since.elapsed() < idle && connection.is_usable(settings));
            lane.shared.retain(|shared| !shared.is_over() && !shared.is_idle(idle));
            // What is still under way to an endpoint that has gone, nobody takes again: its endpoint is not chosen.
            !lane.idle.is_empty() || !lane.shared.is_empty() || lane.opening
        });
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Key, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes an idle connection that is of no use here, so that there may be one that is.
fn evict(lanes: &mut HashMap<Key, Lane>, wanted: &Wanted<'_>, but: &Key) {
    for (key, lane) in lanes {
        let (one, other) = (wanted.version == Version::Http1, wanted.version == Version::Http2);
        if (key != but || other) && lane.idle.pop().is_some() {
            return;
        }
        let free = |shared: &Arc<Shared>| (key != but || one) && shared.is_free();
        if let Some(place) = lane.shared.iter().position(free) {
            lane.shared.swap_remove(place).retired.store(true, Ordering::Relaxed);
            return;
        }
    }
}
