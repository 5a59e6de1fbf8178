//! A place on a connection, and the connections themselves.

use std::{
    convert::Infallible,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use mesh_common::model::traffic::ConnectionPool;
use tokio::{sync::oneshot, time::timeout};

use super::{Key, Pool, STREAMS};
use crate::http::{Used, body::RequestBody};

/// How long an endpoint that has answered may take until it has read the rest of the request.
pub const REST: Duration = Duration::from_secs(1);

pub struct Connection<S> {
    pub send: S,
    /// Requests that it has carried.
    pub served: u32,
    pub since: Instant,
    used: Used,
    /// Tells that nobody has it any more.
    _held: oneshot::Sender<Infallible>,
}

pub type OneByOne = Box<Connection<http1::SendRequest<RequestBody>>>;

#[derive(Debug)]
pub struct Shared {
    pub connection: Connection<http2::SendRequest<RequestBody>>,
    pub served: AtomicU32,
    pub active: AtomicU32,
    /// Takes nothing new.
    pub retired: AtomicBool,
    pub idle_since: Mutex<Instant>,
}

/// A place on a connection, for one request.
pub struct Lease {
    pub(super) kind: Kind,
    pub(super) pool: Arc<Pool>,
    pub(super) key: Key,
    pub(super) settings: ConnectionPool,
    pub(super) again: bool,
}

pub enum Kind {
    Http1(Option<OneByOne>),
    Http2(Arc<Shared>),
}

/// What became of a request that was sent.
#[derive(Debug)]
pub enum NotSent {
    /// Nothing of it left: it can be sent on another connection.
    Unsent,
    Failed(hyper::Error),
}

impl<S> Connection<S> {
    /// Made, and not yet used.
    pub fn is_new(&self) -> bool {
        self.served == 0 && self.since.elapsed() < REST
    }

    /// And what resolves when it is dropped.
    pub fn new(send: S, used: Used) -> (Self, oneshot::Receiver<Infallible>) {
        let (held, dropped) = oneshot::channel();
        (Self { send, served: 0, since: Instant::now(), used, _held: held }, dropped)
    }

    pub fn is_usable(&self, settings: &ConnectionPool) -> bool {
        settings.max_requests_per_connection.is_none_or(|most| self.served < most)
            && settings.max_connection_duration.is_none_or(|longest| self.since.elapsed() < Duration::from(longest))
    }
}

impl Shared {
    /// Made, and not yet used.
    pub fn is_new(&self) -> bool {
        self.connection.is_new() && self.served.load(Ordering::Relaxed) == 0
    }

    /// `fresh`: whatever its state.
    pub fn take(&self, settings: &ConnectionPool, fresh: bool) -> bool {
        if fresh {
            self.active.fetch_add(1, Ordering::Relaxed);
            self.served.fetch_add(1, Ordering::Relaxed);
            return true;
        }
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

    pub fn is_over(&self) -> bool {
        self.connection.send.is_closed() || (self.retired.load(Ordering::Relaxed) && self.is_free())
    }

    pub fn is_free(&self) -> bool {
        self.active.load(Ordering::Relaxed) == 0
    }

    pub fn is_idle(&self, longest: Duration) -> bool {
        let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_free() && since.elapsed() >= longest
    }
}

impl Lease {
    /// It carried requests before: it may have been closed meanwhile.
    pub fn is_used(&self) -> bool {
        self.again
    }

    /// How its connection is carried.
    pub fn used(&self) -> Option<Used> {
        match &self.kind {
            Kind::Http1(connection) => connection.as_ref().map(|connection| connection.used),
            Kind::Http2(shared) => Some(shared.connection.used),
        }
    }

    pub async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, NotSent> {
        let sent = match &mut self.kind {
            Kind::Http1(None) => unreachable!("a lease is complete after its answer"),
            Kind::Http1(Some(connection)) => {
                connection.served += 1;
                if connection.send.ready().await.is_err() {
                    return Err(NotSent::Unsent);
                }
                connection.send.try_send_request(request).await
            }
            Kind::Http2(shared) => shared.connection.send.clone().try_send_request(request).await,
        };
        sent.map_err(|mut error| match error.take_message() {
            Some(_) => NotSent::Unsent,
            None => NotSent::Failed(error.into_error()),
        })
    }

    /// The answer has come to its end: the connection is free for the next request, once the endpoint has read this one
    /// to its end too.
    pub fn complete(mut self) {
        let Kind::Http1(connection) = &mut self.kind else { return };
        let Some(mut connection) = connection.take() else { return };
        if connection.send.is_closed() || !connection.is_usable(&self.settings) {
            return;
        }
        if connection.send.is_ready() {
            return self.pool.rests(&self.key, connection);
        }
        let (pool, key) = (Arc::clone(&self.pool), self.key.clone());
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(REST, connection.send.ready()).await {
                pool.rests(&key, connection);
            }
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Kind::Http2(shared) = &self.kind {
            *shared.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            shared.active.fetch_sub(1, Ordering::Relaxed);
            self.pool.wake();
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("key", &self.key).finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("served", &self.served).finish_non_exhaustive()
    }
}
