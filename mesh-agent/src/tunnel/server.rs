//! The receiving end of HBONE: one TCP connection from a peer's agent, many streams on it.

use std::{future::Future, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Method, Request, StatusCode};
use rustls::ServerConfig;
use tokio::{
    net::TcpStream,
    task::{JoinError, JoinSet},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    BAGGAGE_HEADER, FORWARDED_HEADER, HEADER_LIST, Windows,
    address::parse_authority,
    ahead::ReadAhead,
    error::ServeError,
    keepalive::Keepalive,
    respond::{Inbound, Respond},
    tls::{ALPN, TlsFacts, widen},
};
use crate::identity::Peer;

/// Streams that a peer opened and reset before we looked at them, beyond which it is taken for an attack.
const PENDING_RESETS: usize = 100;
/// Streams reset by us for the peer's faults, beyond which the connection ends.
const FAULTY_STREAMS: usize = 256;

/// How peers' connections are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    pub windows: Windows,
    /// Streams of one connection at the same time.
    pub streams: u32,
    /// For TLS, and again for HTTP/2.
    pub handshake_timeout: Duration,
    pub keepalive: Keepalive,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            windows: Windows::default(),
            streams: 200,
            handshake_timeout: Duration::from_secs(10),
            keepalive: Keepalive::default(),
        }
    }
}

/// Serves one accepted connection until the peer leaves. `handler` runs as a task of its own for every well-formed
/// CONNECT. When `drain` is ready the peer is told to open no more streams; those that are open go on.
///
/// Returns when the connection and all its handlers have ended. Dropped before, it ends both at once.
pub async fn serve<H, F>(
    tcp: TcpStream,
    tls: Arc<ServerConfig>,
    settings: &ServerSettings,
    handler: H,
    drain: impl Future<Output = ()>,
) -> Result<(), ServeError>
where
    H: Fn(Inbound, Respond) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let remote = tcp.peer_addr().and_then(|remote| tcp.set_nodelay(true).map(|()| remote)).map_err(ServeError::Tls)?;
    let limit = settings.handshake_timeout;
    let mut tls = timeout(limit, TlsAcceptor::from(tls).accept(ReadAhead::new(tcp)))
        .await
        .map_err(|_| ServeError::TlsTimeout(limit))?
        .map_err(ServeError::handshake)?;
    widen(tls.get_mut().1);
    let (peer, facts) = authenticated(&tls)?;
    let mut connection = timeout(limit, builder(settings).handshake::<_, Bytes>(tls))
        .await
        .map_err(|_| ServeError::HandshakeTimeout(limit))?
        .map_err(ServeError::Handshake)?;

    let mut handlers = JoinSet::new();
    let pings = connection.ping_pong();
    let mut dead = pin!(settings.keepalive.watch(pings, || true));
    let mut drain = pin!(drain);
    let mut draining = false;
    let outcome = loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, send))) => {
                    if let Some((inbound, respond)) = admit(request, send, &peer, remote, facts) {
                        handlers.spawn(handler(inbound, respond));
                    }
                }
                Some(Err(error)) => break Err(ServeError::Connection(error)),
                None => break Ok(()),
            },
            Some(ended) = handlers.join_next() => report(ended),
            () = &mut drain, if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            () = &mut dead => break Err(ServeError::Unresponsive),
        }
    };
    // Tells the streams, and so the handlers, that the connection is over.
    drop(connection);
    while let Some(ended) = handlers.join_next().await {
        report(ended);
    }
    outcome
}

/// rustls has verified chain and name already; here the name is read once more to be kept.
fn authenticated(tls: &TlsStream<ReadAhead>) -> Result<(Arc<Peer>, TlsFacts), ServeError> {
    let (_, state) = tls.get_ref();
    if state.alpn_protocol() != Some(ALPN) {
        return Err(ServeError::Alpn);
    }
    let leaf = state.peer_certificates().and_then(|chain| chain.first()).ok_or(ServeError::NoClientCertificate)?;
    let peer = Peer::read(leaf).map_err(|error| ServeError::Identity(error.to_string()))?;
    let facts = TlsFacts::of(state).expect("the handshake is done");
    Ok((Arc::new(peer), facts))
}

fn builder(settings: &ServerSettings) -> h2::server::Builder {
    let ServerSettings { windows, streams, handshake_timeout: _, keepalive: _ } = settings;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .max_frame_size(windows.frame)
        .data_frame_budget(windows.frame_budget())
        .max_concurrent_streams(*streams)
        .max_header_list_size(HEADER_LIST)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(FAULTY_STREAMS));
    builder
}

/// Answers what is no tunnel itself, so that a handler sees only what it can decide on.
fn admit(
    request: Request<RecvStream>,
    send: SendResponse<Bytes>,
    peer: &Arc<Peer>,
    remote: SocketAddr,
    tls: TlsFacts,
) -> Option<(Inbound, Respond)> {
    let (head, recv) = request.into_parts();
    let respond = Respond::new(send, recv);
    if head.method != Method::CONNECT {
        respond.refuse(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED");
        return None;
    }
    let Some(authority) = head.uri.authority().and_then(|authority| parse_authority(authority.as_str())) else {
        respond.refuse(StatusCode::BAD_REQUEST, "BAD_AUTHORITY");
        return None;
    };
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_string);
    let (forwarded, baggage) = (header(FORWARDED_HEADER), header(BAGGAGE_HEADER));
    Some((Inbound { peer: peer.clone(), remote, authority, forwarded, baggage, tls }, respond))
}

/// A handler's panic costs its own stream only, but is never silent.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the handler of a tunnelled stream failed");
    }
}
