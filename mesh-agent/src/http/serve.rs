//! The server towards the client.

use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    sync::{Arc, PoisonError},
    time::Duration,
};

use http::{Method, Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::{Connect, HEAD_BYTES, HEADERS, Io, Session, WINDOW, body::ResponseBody, exchange};

/// Which version of HTTP the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    Http1,
    Http2,
}

/// A client must send a request's head within this, its rest before it included: hyper does not tell them apart, and
/// clients keep connections for minutes.
const HEAD: Duration = Duration::from_secs(600);
/// Requests at once on one connection of HTTP/2.
const STREAMS: u32 = 100;
/// Streams that a client resets before they are looked at (CVE-2023-44487), and that break the protocol
/// (CVE-2025-8671).
const RESETS: usize = 100;

/// Serves a client until it is done, whatever its connection has become. When `ends` resolves, it takes no more
/// requests.
pub async fn serve<C: Connect>(session: Arc<Session<C>>, io: impl Io, spoken: Spoken, ends: impl Future<Output = ()>) {
    let answer = |request| {
        let session = Arc::clone(&session);
        async move { exchange::answer(&session, request).await }
    };
    serve_by(answer, io, spoken, ends).await;
    let switched = session.switched.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(switched) = switched {
        switched.join().await;
    }
}

/// The same, with answers by `answer`.
pub(super) async fn serve_by<F>(
    answer: impl Fn(Request<Incoming>) -> F,
    io: impl Io,
    spoken: Spoken,
    ends: impl Future<Output = ()>,
) where
    F: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        // Of HTTP/1.1 hyper knows what has no body.
        let bare = spoken == Spoken::Http2 && request.method() == Method::HEAD;
        let answered = answer(request);
        async move {
            let mut response = answered.await;
            if bare && matches!(response.body(), ResponseBody::Text(_)) {
                *response.body_mut() = ResponseBody::Empty;
            }
            Ok::<_, Infallible>(response)
        }
    });
    let io = TokioIo::new(io);
    let mut ends = pin!(ends);
    let served = match spoken {
        Spoken::Http1 => {
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(HEAD_BYTES)
                .max_headers(HEADERS)
                .half_close(true)
                .auto_date_header(false);
            let mut connection = pin!(builder.serve_connection(io, service).with_upgrades());
            tokio::select! {
                served = connection.as_mut() => served,
                () = ends.as_mut() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
        Spoken::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_header_list_size(HEAD_BYTES as u32)
                .max_concurrent_streams(STREAMS)
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW * 4)
                .max_pending_accept_reset_streams(RESETS)
                .max_local_error_reset_streams(RESETS)
                .keep_alive_interval(Duration::from_secs(30))
                .auto_date_header(false);
            let mut connection = pin!(builder.serve_connection(io, service));
            tokio::select! {
                served = connection.as_mut() => served,
                () = ends.as_mut() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a client's connection ended");
    }
}
