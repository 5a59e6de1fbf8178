//! A connection as it is made, apart from the requests that want it: one that ends before leaves it to the next.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32},
    },
    time::{Duration, Instant},
};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;

use super::{
    Key, NoConnection, Place, Pool, Version, Wanted,
    bound::Bound,
    lease::{Connection, OneByOne, Shared},
};
use crate::http::{CONNECT, Connect, Endpoint, HEAD_BYTES, HEADERS, Refused, WINDOW, Way, tls::Secured};

/// Counts in its lane until it drops, and leaves there what came of it.
struct Opening {
    pool: Arc<Pool>,
    key: Key,
    made: Option<Result<Made, NoConnection>>,
}

enum Made {
    OneByOne(OneByOne),
    Shared(Arc<Shared>),
}

impl Opening {
    fn comes_to(&mut self, made: Result<Made, NoConnection>) {
        self.made = Some(made);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut inside = self.pool.inside();
        let is_endpoint = inside.endpoints.contains(&self.key.address);
        if let Some(lane) = inside.lanes.get_mut(&self.key) {
            lane.opening -= 1;
            let is_of_use = is_endpoint || lane.waiting > 0;
            match self.made.take() {
                Some(Ok(Made::OneByOne(connection))) if is_of_use => lane.idle.push((Instant::now(), connection)),
                Some(Ok(Made::Shared(shared))) if is_of_use => lane.shared.push(shared),
                Some(Err(why)) => {
                    lane.failed = lane.failed.max(lane.waiting.saturating_sub(lane.opening));
                    lane.failure = Some(why);
                }
                Some(Ok(_)) | None => {}
            }
        }
        drop(inside);
        self.pool.wake();
    }
}

/// It counts in its lane already.
pub fn begin(pool: &Arc<Pool>, place: Place, key: Key, wanted: &Wanted<'_>, connect: impl Connect) {
    let bound = wanted.settings.connect_timeout.map_or(CONNECT, Into::into);
    let (endpoint, tls) = (wanted.endpoint.clone(), wanted.tls.cloned());
    let mut opening = Opening { pool: Arc::clone(pool), key, made: None };
    tokio::spawn(async move {
        let made = timeout(bound, make(place, opening.key.version, &endpoint, tls.as_ref(), &connect)).await;
        opening.comes_to(made.unwrap_or(Err(NoConnection::Timeout)));
    });
}

async fn make(
    place: Place,
    version: Version,
    endpoint: &Endpoint,
    tls: Option<&Secured>,
    connect: &impl Connect,
) -> Result<Made, NoConnection> {
    let way = connect.connect(endpoint).await;
    let Way { io, until, used } = way.map_err(|Refused(code)| NoConnection::Refused(code))?;
    let io = match tls {
        Some(tls) => Box::new(tls.client(io, version).await.map_err(NoConnection::Tls)?),
        None => io,
    };
    let (io, keeper) = Bound::new(io);
    match version {
        Version::Http1 => {
            let mut builder = http1::Builder::new();
            builder.max_buf_size(HEAD_BYTES).max_headers(HEADERS);
            let (send, driver) = builder.handshake(TokioIo::new(io)).await.map_err(|_| NoConnection::Handshake)?;
            let (connection, dropped) = Connection::new(send, used);
            tokio::spawn(async move {
                keeper.keep(driver.with_upgrades(), until, dropped).await;
                drop(place);
            });
            Ok(Made::OneByOne(Box::new(connection)))
        }
        Version::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW * 4)
                .max_header_list_size(HEAD_BYTES as u32)
                .keep_alive_interval(Duration::from_secs(30))
                .keep_alive_timeout(Duration::from_secs(10));
            let (send, driver) = builder.handshake(TokioIo::new(io)).await.map_err(|_| NoConnection::Handshake)?;
            let (connection, dropped) = Connection::new(send, used);
            tokio::spawn(async move {
                keeper.keep(driver, until, dropped).await;
                drop(place);
            });
            Ok(Made::Shared(Arc::new(Shared {
                idle_since: Mutex::new(connection.since),
                connection,
                served: AtomicU32::new(0),
                active: AtomicU32::new(0),
                retired: AtomicBool::new(false),
            })))
        }
    }
}
