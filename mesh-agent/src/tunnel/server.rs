//! The receiving end of HBONE: one TCP connection from a peer's agent, many streams on it.

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, request::Parts};
use tokio::{
    net::TcpStream,
    task::{JoinError, JoinSet},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    BAGGAGE_HEADER, FORWARDED_HEADER, HEADER_LIST, HEADER_LIST_READ, STREAMS, VERIFY_HEADER, Windows,
    address::parse_authority,
    ahead::ReadAhead,
    error::ServeError,
    keepalive::Keepalive,
    resets::Resets,
    respond::{Inbound, Respond},
    tls::{ALPN, TlsFacts, widen},
};
use crate::{
    identity::{End, Peer, Serving},
    telemetry::reason,
};

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
            streams: STREAMS as u32,
            handshake_timeout: Duration::from_secs(10),
            keepalive: Keepalive::default(),
        }
    }
}

/// A stream that was refused here, because no handler could decide on it.
#[derive(Clone, Debug)]
pub struct Malformed {
    pub peer: Arc<Peer>,
    /// The other end of the TCP connection.
    pub remote: SocketAddr,
    /// A stable code.
    pub reason: &'static str,
    /// For people; the peer's own words are cut and escaped.
    pub why: String,
    pub tls: TlsFacts,
}

/// How much of what a peer wrote is worth repeating.
const SHOWN: usize = 128;

/// Serves one accepted connection from `remote` until the peer leaves. `handler` runs as a task of its own for every
/// well-formed CONNECT; what is refused before, `malformed` gets to record. When `drain` is ready the peer is told to
/// open no more streams; those that are open go on. When the roots that bear the peer out are trusted no more, the
/// connection ends.
///
/// Returns when the connection and all its handlers have ended. Dropped before, it ends both at once.
pub async fn serve<H, F>(
    tcp: TcpStream,
    remote: SocketAddr,
    tls: Serving,
    settings: &ServerSettings,
    handler: H,
    malformed: impl Fn(Malformed),
    drain: impl Future<Output = ()>,
) -> Result<(), ServeError>
where
    H: Fn(Inbound, Respond) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    tcp.set_nodelay(true).map_err(ServeError::Tls)?;
    let limit = settings.handshake_timeout;
    let roots = tls.roots;
    let mut tls = timeout(limit, TlsAcceptor::from(tls.config).accept(ReadAhead::new(tcp)))
        .await
        .map_err(|_| ServeError::TlsTimeout(limit))?
        .map_err(ServeError::handshake)?;
    widen(tls.get_mut().1);
    let (peer, facts) = authenticated(&tls)?;
    let chain = tls.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
    let mut distrusted = pin!(roots.distrust(End::Client, chain));
    let (tls, mut resets) = Resets::new(tls);
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
                    let (head, recv) = request.into_parts();
                    let respond = Respond::new(send, recv);
                    match admit(&head) {
                        Ok(Wanted { authority, forwarded, baggage, verify }) => {
                            let peer = peer.clone();
                            let inbound =
                                Inbound { peer, remote, authority, forwarded, baggage, verify, tls: facts };
                            handlers.spawn(handler(inbound, respond));
                        }
                        Err(Refused { status, reason, why }) => {
                            respond.refuse(status, reason);
                            malformed(Malformed { peer: peer.clone(), remote, reason, why, tls: facts });
                        }
                    }
                }
                // The peer left without a word, as one does that was killed. Its streams have records of their own.
                Some(Err(error)) if left_without_a_word(&error) => {
                    tracing::debug!(%remote, %error, "the peer of a tunnel is gone");
                    break Ok(());
                }
                // Told that no more streams are wanted, a peer may go without another word.
                Some(Err(_)) if draining && handlers.is_empty() => break Ok(()),
                Some(Err(error)) => break Err(ServeError::Connection(error)),
                None => break Ok(()),
            },
            Some(ended) = handlers.join_next() => report(ended),
            Some(stream) = resets.recv() => malformed(reset(stream, &peer, remote, facts)),
            () = &mut drain, if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            () = &mut dead => break Err(ServeError::Unresponsive),
            () = &mut distrusted => break Err(ServeError::Distrusted),
        }
    };
    while let Ok(stream) = resets.try_recv() {
        malformed(reset(stream, &peer, remote, facts));
    }
    // Tells the streams, and so the handlers, that the connection is over.
    drop(connection);
    while let Some(ended) = handlers.join_next().await {
        report(ended);
    }
    outcome
}

fn left_without_a_word(error: &h2::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    error.get_io().is_some_and(|error| matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
}

/// rustls has verified chain and name already; here the name is read once more to be kept.
fn authenticated(tls: &TlsStream<ReadAhead>) -> Result<(Arc<Peer>, TlsFacts), ServeError> {
    let (_, state) = tls.get_ref();
    if state.alpn_protocol() != Some(ALPN) {
        return Err(ServeError::Alpn);
    }
    let leaf = state.peer_certificates().and_then(|chain| chain.first()).ok_or(ServeError::NoClientCertificate)?;
    let peer = Peer::read(leaf).map_err(ServeError::Identity)?;
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
        .max_header_list_size(HEADER_LIST_READ)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(FAULTY_STREAMS));
    builder
}

/// The record of a stream that HTTP/2 itself refused.
fn reset(stream: u32, peer: &Arc<Peer>, remote: SocketAddr, tls: TlsFacts) -> Malformed {
    let why = format!("stream {stream} is malformed or has endless headers");
    Malformed { peer: peer.clone(), remote, reason: reason::BAD_REQUEST, why, tls }
}

/// What a well-formed CONNECT says.
struct Wanted {
    authority: SocketAddr,
    forwarded: Option<String>,
    baggage: Option<String>,
    verify: Option<u16>,
}

/// Why a request is none.
struct Refused {
    status: StatusCode,
    reason: &'static str,
    why: String,
}

/// Refuses what is no tunnel itself, so that a handler sees only what it can decide on.
fn admit(head: &Parts) -> Result<Wanted, Refused> {
    let refused = |status, reason, why| Err(Refused { status, reason, why });
    if head.method != Method::CONNECT {
        let method: String = head.method.as_str().chars().take(SHOWN).collect();
        return refused(StatusCode::METHOD_NOT_ALLOWED, reason::METHOD_NOT_ALLOWED, format!("{method} is not CONNECT"));
    }
    let size = size(&head.headers);
    if size > HEADER_LIST as usize {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let why = format!("{size} bytes of headers; {HEADER_LIST} are the most");
        return refused(status, reason::HEADERS_TOO_LARGE, why);
    }
    let text = head.uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    // CONNECT with `:protocol` (RFC 8441) has a path; a tunnel has none.
    let plain = head.uri.path_and_query().is_none();
    let Some(authority) = parse_authority(text).filter(|_| plain) else {
        let shown: String = text.chars().take(SHOWN).flat_map(char::escape_default).collect();
        return refused(StatusCode::BAD_REQUEST, reason::BAD_AUTHORITY, format!("`{shown}` is not ip:port"));
    };
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_string);
    let verify = header(VERIFY_HEADER).and_then(|port| port.parse().ok()).filter(|port| *port != 0);
    Ok(Wanted { authority, forwarded: header(FORWARDED_HEADER), baggage: header(BAGGAGE_HEADER), verify })
}

/// As HTTP/2 counts (RFC 9113, section 6.5.2).
fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// A handler's panic costs its own stream only, but is never silent.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the handler of a tunnelled stream failed");
    }
}
