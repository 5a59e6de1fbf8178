//! The connections of one pod to the endpoints of one destination. An HTTP/1.1 connection carries one request at a time
//! and is kept for the next; one of HTTP/2 carries many. Who finds none waits in line, first come, first served; a
//! connection is made apart from the request that wants it, and serves whoever is first when it is there.

mod bound;
mod lease;
mod opening;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use mesh_common::model::traffic::ConnectionPool;
use tokio::sync::{Notify, Semaphore};

use super::{Connect, Endpoint, tls::Secured};
use crate::balance::{Cluster, Connected, Overflow};
use lease::{Kind, OneByOne, Shared};
pub use lease::{Lease, NotSent};

/// How long a connection without requests is kept, where nobody says: shorter than servers keep theirs.
const IDLE: Duration = Duration::from_secs(55);
/// Streams of one connection of HTTP/2, where neither the user nor the server says fewer.
const STREAMS: u32 = 100;
/// Who has waited for so long takes a connection to another endpoint away from those who wait for that.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    Http1,
    Http2,
}

#[derive(Debug, Default)]
pub struct Pool {
    inside: Mutex<Inside>,
    /// Something is other than it was: whoever is first in a line looks again.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    lanes: HashMap<Key, Lane>,
    /// Connections to others are kept for nobody.
    endpoints: HashSet<SocketAddr>,
}

/// What makes one connection as good as another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    address: SocketAddr,
    version: Version,
    /// By which settings, and for whom.
    tls: Option<(u64, String)>,
}

#[derive(Debug)]
struct Lane {
    idle: Vec<(Instant, OneByOne)>,
    shared: Vec<Arc<Shared>>,
    /// Who has it looks for a connection; the others wait for it, in the order in which they came.
    turn: Arc<Semaphore>,
    waiting: usize,
    /// Connections that are being made.
    opening: usize,
    /// So many of those who wait, the first, have no connection to hope for, and why.
    failed: usize,
    failure: Option<NoConnection>,
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
    /// The endpoint is none any more.
    Gone,
    /// Its code.
    Refused(&'static str),
    Timeout,
    /// TLS failed, by its own words.
    Tls(String),
    /// What answered speaks no HTTP.
    Handshake,
}

/// A connection's place among those that there may be. Who waits for one is told when it is free.
#[derive(Debug)]
pub struct Place {
    counts: Option<Connected>,
    /// A connection that rests there does not hold it.
    pool: Weak<Pool>,
}

/// One who waits in a lane.
struct Waiter<'a> {
    pool: &'a Pool,
    key: &'a Key,
    turn: Arc<Semaphore>,
    since: Instant,
    /// Its turn came, and it goes with what there was for it.
    served: bool,
}

impl Default for Lane {
    fn default() -> Self {
        let (idle, shared, waiting, opening, failed, failure) = Default::default();
        Self { idle, shared, turn: Arc::new(Semaphore::new(1)), waiting, opening, failed, failure }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.counts.take());
        if let Some(pool) = self.pool.upgrade() {
            pool.wake();
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if let Some(lane) = self.pool.inside().lanes.get_mut(self.key) {
            lane.waiting -= 1;
            lane.failed = lane.failed.saturating_sub(usize::from(self.served)).min(lane.waiting);
        }
    }
}

impl Wanted<'_> {
    fn key(&self) -> Key {
        let tls = self.tls.map(|tls| (tls.id(), tls.host().to_owned()));
        Key { address: self.endpoint.address, version: self.version, tls }
    }
}

impl Lane {
    /// How many connections should be being made.
    fn wanted(&self, version: Version) -> usize {
        match version {
            Version::Http1 => self.waiting - self.failed,
            // The first may do for all.
            Version::Http2 => (self.waiting - self.failed).min(1),
        }
    }

    /// On a connection that is there; and whether it rested before. Who waited for one that was just made gets it even
    /// if it has ended already: it is told so, and does not wait for the next that ends.
    fn take(&mut self, version: Version, settings: &ConnectionPool, waited: bool) -> Option<(Kind, bool)> {
        match version {
            Version::Http1 => loop {
                let (_, connection) = self.idle.pop()?;
                let fresh = waited && connection.is_new();
                if fresh || (connection.is_usable(settings) && !connection.send.is_closed()) {
                    return Some((Kind::Http1(Some(connection)), !fresh));
                }
            },
            Version::Http2 => {
                let is_fresh = |shared: &Shared| waited && shared.is_new();
                self.shared.retain(|shared| !shared.is_over() || is_fresh(shared));
                self.shared.iter().find_map(|shared| {
                    let fresh = is_fresh(shared);
                    shared.take(settings, fresh).then(|| (Kind::Http2(Arc::clone(shared)), !fresh))
                })
            }
        }
    }

    /// Closes a connection that carries nothing.
    fn evict(&mut self) -> bool {
        if self.idle.pop().is_some() {
            return true;
        }
        let Some(place) = self.shared.iter().position(|shared| shared.is_free()) else { return false };
        self.shared.swap_remove(place).retired.store(true, Ordering::Relaxed);
        true
    }

    fn is_empty(&self) -> bool {
        self.idle.is_empty() && self.shared.is_empty() && self.waiting == 0 && self.opening == 0
    }
}

impl Pool {
    /// A place on a connection: one that is there, or a new one. It takes as long as it takes: how long a request may
    /// wait is for its own times to say, that of the policy is for making a connection.
    pub async fn lease(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        wanted: Wanted<'_>,
        connect: &impl Connect,
    ) -> Result<Lease, NoConnection> {
        let key = wanted.key();
        if let Some(lease) = self.known(&wanted, &key, None) {
            return Ok(lease);
        }
        let _waiting = cluster.admit_waiting().map_err(NoConnection::Overflow)?;
        let mut waiter = self.join(&key);
        self.open(cluster, &wanted, &waiter, connect);
        let turn = Arc::clone(&waiter.turn);
        let _turn = turn.acquire().await;
        loop {
            // Before it looks: what changes after that wakes it.
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = self.found(&wanted, &mut waiter) {
                // The next looks when this one counts no more.
                drop(waiter);
                return found;
            }
            self.open(cluster, &wanted, &waiter, connect);
            changed.await;
        }
    }

    fn join<'a>(&'a self, key: &'a Key) -> Waiter<'a> {
        let mut inside = self.inside();
        let lane = inside.lanes.entry(key.clone()).or_default();
        lane.waiting += 1;
        Waiter { pool: self, key, turn: Arc::clone(&lane.turn), since: Instant::now(), served: false }
    }

    /// For one whose turn it is; `None`: nothing yet.
    fn found(self: &Arc<Self>, wanted: &Wanted<'_>, waiter: &mut Waiter<'_>) -> Option<Result<Lease, NoConnection>> {
        let found = match self.known(wanted, waiter.key, Some(&*waiter)) {
            Some(lease) => Ok(lease),
            None => {
                let mut inside = self.inside();
                let is_endpoint = inside.endpoints.contains(&waiter.key.address);
                let lane = inside.lanes.get_mut(waiter.key)?;
                match &lane.failure {
                    Some(why) if lane.failed > 0 => Err(why.clone()),
                    // Who came with it chosen gets what was begun for it, and nothing more is.
                    _ if !is_endpoint && lane.opening == 0 => Err(NoConnection::Gone),
                    _ => return None,
                }
            }
        };
        waiter.served = true;
        Some(found)
    }

    /// On a connection that is there. Nobody passes those who wait.
    fn known(self: &Arc<Self>, wanted: &Wanted<'_>, key: &Key, waiter: Option<&Waiter<'_>>) -> Option<Lease> {
        let mut inside = self.inside();
        let lane = inside.lanes.get_mut(key)?;
        if waiter.is_none() && lane.waiting > 0 {
            return None;
        }
        let (kind, again) = lane.take(key.version, wanted.settings, waiter.is_some())?;
        let (pool, settings) = (Arc::clone(self), wanted.settings.clone());
        Some(Lease { kind, pool, key: key.clone(), settings, again })
    }

    /// Makes as many connections as those who wait need, and as there may be.
    fn open(self: &Arc<Self>, cluster: &Cluster, wanted: &Wanted<'_>, waiter: &Waiter<'_>, connect: &impl Connect) {
        let key = waiter.key;
        loop {
            let mut inside = self.inside();
            let Some(lane) = inside.lanes.get_mut(key).filter(|lane| lane.opening < lane.wanted(key.version)) else {
                return;
            };
            let Some(place) = self.place(cluster) else {
                return inside.evict(key, waiter.since.elapsed() >= PATIENCE);
            };
            lane.opening += 1;
            // What does not begin, because all ends, locks it too.
            drop(inside);
            opening::begin(self, place, key.clone(), wanted, connect.clone());
        }
    }

    /// A connection may be made; `None`: there are as many as there may be.
    pub fn place(self: &Arc<Self>, cluster: &Cluster) -> Option<Place> {
        let counts = cluster.admit_connection().ok()?;
        Some(Place { counts: Some(counts), pool: Arc::downgrade(self) })
    }

    /// Whoever waits looks again.
    pub fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// A connection is free for the next request.
    fn rests(&self, key: &Key, connection: OneByOne) {
        let mut inside = self.inside();
        if inside.endpoints.contains(&key.address) {
            inside.lanes.entry(key.clone()).or_default().idle.push((Instant::now(), connection));
        }
        drop(inside);
        self.wake();
    }

    /// Only these endpoints' connections are kept for others; what is under way goes on.
    pub fn keep(&self, endpoints: HashSet<SocketAddr>) {
        let mut inside = self.inside();
        for (_, lane) in inside.lanes.iter_mut().filter(|(key, _)| !endpoints.contains(&key.address)) {
            lane.idle.clear();
            lane.shared.drain(..).for_each(|shared| shared.retired.store(true, Ordering::Relaxed));
        }
        inside.endpoints = endpoints;
        drop(inside);
        self.wake();
    }

    /// Closes what has been idle for too long.
    pub fn sweep(&self, settings: &ConnectionPool) {
        let idle: Duration = settings.http_idle_timeout.map_or(IDLE, Into::into);
        self.inside().lanes.retain(|_, lane| {
            lane.idle.retain(|(since, connection)| {
                since.elapsed() < idle && connection.is_usable(settings) && !connection.send.is_closed()
            });
            lane.shared.retain(|shared| !shared.is_over() && !shared.is_idle(idle));
            !lane.is_empty()
        });
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    /// Closes a connection that carries nothing, of another lane, so that there may be one that is of use here. What
    /// others wait for is theirs, unless this one has waited for long.
    fn evict(&mut self, here: &Key, long: bool) {
        let mut others: Vec<_> = self.lanes.iter_mut().filter(|(key, _)| *key != here).map(|(_, lane)| lane).collect();
        let unwanted = others.iter_mut().any(|lane| lane.waiting == 0 && lane.evict());
        let _ = unwanted || (long && others.iter_mut().any(|lane| lane.evict()));
    }
}
