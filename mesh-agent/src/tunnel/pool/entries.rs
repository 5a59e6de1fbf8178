//! The pool's book: which connections exist, who may use which, and who makes the next one.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{PoolKey, PoolSettings, attempt::Attempt};
use crate::{
    identity::Certificate,
    tunnel::{
        TunnelError,
        connection::{Place, Shared},
    },
};

pub struct Inner {
    pub settings: PoolSettings,
    pub entries: Mutex<HashMap<PoolKey, Entry>>,
    pub next_id: AtomicU64,
}

#[derive(Default)]
pub struct Entry {
    pub connections: Vec<Pooled>,
    /// The handshake that is under way, if any; its failure is everybody's who waits for it.
    pub attempt: Option<(u64, watch::Receiver<Option<TunnelError>>)>,
}

/// A connection as the pool holds it. Dropping it closes the connection, streams and all.
pub struct Pooled {
    pub id: u64,
    /// `None` once retired: live streams go on, the connection ends with the last of them.
    pub send: Option<SendRequest<Bytes>>,
    pub serial: String,
    pub not_before: SystemTime,
    pub shared: Arc<Shared>,
    /// The driver ends when this goes.
    pub _close: oneshot::Sender<()>,
}

/// A place on a connection, taken but not used yet.
pub struct Lease {
    pub id: u64,
    pub send: SendRequest<Bytes>,
    pub place: Place,
    pub shared: Arc<Shared>,
    pub fresh: bool,
}

pub enum Turn<'a> {
    Go(Lease),
    Lead(Attempt<'a>),
    Wait(watch::Receiver<Option<TunnelError>>),
}

impl Inner {
    pub fn lock(&self) -> MutexGuard<'_, HashMap<PoolKey, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an opener does next. Decided under one lock, so that there is one leader.
    pub fn turn<'a>(self: &'a Arc<Self>, key: &'a PoolKey, certificate: &Certificate) -> Turn<'a> {
        let mut entries = self.lock();
        let entry = entries.entry(key.clone()).or_default();
        let now = SystemTime::now();
        for pooled in &mut entry.connections {
            if pooled.outdated(certificate, now) {
                pooled.send = None;
            }
            if let Some(lease) = pooled.lease(self.settings.streams) {
                return Turn::Go(lease);
            }
        }
        if let Some((_, outcome)) = &entry.attempt {
            return Turn::Wait(outcome.clone());
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (outcome, watched) = watch::channel(None);
        entry.attempt = Some((id, watched));
        Turn::Lead(Attempt { inner: self, key, id, outcome })
    }

    /// No new streams on this connection.
    pub fn retire(&self, key: &PoolKey, id: u64) {
        if let Some(pooled) = self.lock().get_mut(key).and_then(|e| e.connections.iter_mut().find(|p| p.id == id)) {
            pooled.send = None;
        }
    }

    pub fn remove(&self, key: &PoolKey, id: u64) {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(key) {
            entry.connections.retain(|pooled| pooled.id != id);
            if entry.is_empty() {
                entries.remove(key);
            }
        }
    }

    /// Retires the connection if nothing uses it since `idle_timeout`; otherwise says when to look again.
    pub fn retire_idle(&self, key: &PoolKey, id: u64, shared: &Shared) -> Option<Instant> {
        let mut entries = self.lock();
        let next = match shared.idle_since() {
            None => Instant::now() + self.settings.idle_timeout,
            Some(since) => Instant::from_std(since) + self.settings.idle_timeout,
        };
        if next > Instant::now() {
            return Some(next);
        }
        let pooled = entries.get_mut(key).and_then(|e| e.connections.iter_mut().find(|p| p.id == id))?;
        pooled.send = None;
        None
    }
}

impl Entry {
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.attempt.is_none()
    }
}

impl Pooled {
    /// Made with an older certificate than `certificate`, or with one that is over.
    pub fn outdated(&self, certificate: &Certificate, now: SystemTime) -> bool {
        let newer = self.serial != certificate.serial() && certificate.not_before() >= self.not_before;
        newer || self.shared.expires <= now
    }

    pub fn lease(&self, limit: usize) -> Option<Lease> {
        let send = self.send.clone()?;
        // The peer may allow fewer than we would use. None at all would be no connection.
        let limit = limit.min(send.current_max_send_streams()).max(1);
        let free = self.shared.active.load(Ordering::Acquire) < limit;
        free.then(|| Lease {
            id: self.id,
            send,
            place: self.shared.take_place(),
            shared: self.shared.clone(),
            fresh: false,
        })
    }
}
