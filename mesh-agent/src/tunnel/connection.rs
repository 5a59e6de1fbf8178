//! One client connection: from a dialled socket to HTTP/2 inside mutual TLS, and streams on it.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use h2::{
    Reason,
    client::{Connection, SendRequest},
};
use http::{Method, Request, StatusCode, Uri, Version};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    BAGGAGE_HEADER, FORWARDED_HEADER, HEADER_LIST, REASON_HEADER,
    address::{format_authority, format_forwarded},
    ahead::ReadAhead,
    error::TunnelError,
    pool::{PoolKey, PoolSettings},
    stream::TunnelStream,
    tls::{ALPN, LastTlsError, Observed, TlsFacts, widen},
};
use crate::identity::{Certificate, Peer};

/// A refusal's reason is the peer's text: no more of it than this reaches flow records.
const REASON_SHOWN: usize = 64;

/// Where a stream should go, and what else the peer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The destination `ip:port`, as the peer's agent will dial or deliver it.
    pub authority: SocketAddr,
    /// The app's own address, sent as `forwarded`.
    pub forwarded: Option<SocketAddr>,
    /// Facts on the source workload, sent as they are.
    pub baggage: Option<String>,
}

pub type Http2 = Connection<Observed<TlsStream<ReadAhead>>, Bytes>;

/// What pool, driver and streams of one connection share.
pub struct Shared {
    pub address: SocketAddr,
    pub tls: TlsFacts,
    /// No new streams from here on: a certificate of either end is over.
    pub expires: SystemTime,
    /// Set when the source pod went: nothing is retried for it.
    pub forgotten: AtomicBool,
    /// Streams that hold a place.
    pub active: AtomicUsize,
    idle_since: Mutex<Instant>,
    last_tls_error: LastTlsError,
    /// What the peer presented.
    pub chain: Vec<CertificateDer<'static>>,
}

/// One of the streams that a connection may have; free again when dropped.
pub struct Place(Arc<Shared>);

/// A stream that did not come about, and whether another connection may be tried for it.
pub struct Failed {
    pub error: TunnelError,
    pub replaceable: bool,
    /// The peer said that it takes no more streams on this connection, and nothing worse.
    pub draining: bool,
}

/// Dials and shakes hands, each within its time.
pub async fn connect<F>(
    key: &PoolKey,
    certificate: &Certificate,
    settings: &PoolSettings,
    dial: F,
) -> Result<(SendRequest<Bytes>, Http2, Arc<Shared>), TunnelError>
where
    F: Future<Output = io::Result<TcpStream>>,
{
    let address = key.address;
    let unreachable = |source| TunnelError::Connect { address, source: Arc::new(source) };
    let late = |_| TunnelError::ConnectTimeout { address, after: settings.connect_timeout };
    let tcp = timeout(settings.connect_timeout, dial).await.map_err(late)?.map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;

    let connector = TlsConnector::from(certificate.client_config(&key.destination));
    let late = |_| TunnelError::TlsTimeout { address, after: settings.handshake_timeout };
    let mut tls =
        timeout(settings.handshake_timeout, connector.connect(ServerName::from(address.ip()), ReadAhead::new(tcp)))
            .await
            .map_err(late)?
            .map_err(|error| TunnelError::handshake(address, error))?;
    let (_, state) = tls.get_mut();
    widen(state);
    if state.alpn_protocol() != Some(ALPN) {
        return Err(TunnelError::Alpn(address));
    }
    let facts = TlsFacts::of(state).expect("the handshake is done");
    let chain = state.peer_certificates().expect("the verifier has seen it").to_vec();
    let peer = Peer::read(&chain[0]).map_err(|error| TunnelError::identity(address, &error))?;

    let (io, last_tls_error) = Observed::new(tls);
    let windows = settings.windows;
    let (send, connection) = h2::client::Builder::new()
        .initial_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .max_frame_size(windows.frame)
        .data_frame_budget(windows.frame_budget())
        .max_header_list_size(HEADER_LIST)
        .enable_push(false)
        .handshake(io)
        .await
        .map_err(|error| TunnelError::Http2 { address, source: Arc::new(error) })?;
    let shared = Arc::new(Shared {
        address,
        tls: facts,
        expires: peer.not_after.min(certificate.not_after()),
        forgotten: AtomicBool::new(false),
        active: AtomicUsize::new(0),
        idle_since: Mutex::new(Instant::now()),
        last_tls_error,
        chain,
    });
    Ok((send, connection, shared))
}

impl Shared {
    /// Only under the pool's lock, so that an idle connection cannot be closed between the look and the taking.
    pub fn take_place(self: &Arc<Self>) -> Place {
        self.active.fetch_add(1, Ordering::AcqRel);
        Place(self.clone())
    }

    /// Since when nothing uses the connection; `None` while something does.
    pub fn idle_since(&self) -> Option<Instant> {
        let since = *self.idle_since.lock().expect("nothing panics while it is held");
        (self.active.load(Ordering::Acquire) == 0).then_some(since)
    }

    /// Tells what a stream's failure means for the connection.
    pub fn failed(&self, error: h2::Error) -> Failed {
        let address = self.address;
        // The answer is missing because the connection ended or was ending, not because the peer decided on the
        // stream. Nothing of the app's has been sent before the answer, so that asking again repeats nothing.
        let refused_stream = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        let draining = error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
        let replaceable = error.is_io() || (error.is_go_away() && error.is_remote()) || refused_stream;
        let error = match self.last_tls_error.get() {
            Some(tls) if !error.is_reset() => TunnelError::tls(address, tls),
            _ if error.is_reset() => TunnelError::Reset { address, source: Arc::new(error) },
            _ => TunnelError::Http2 { address, source: Arc::new(error) },
        };
        Failed { error, replaceable, draining }
    }
}

impl Place {
    /// Opens one stream and waits for the peer's answer, however long the peer takes: only the caller knows how long
    /// its app would. A dead peer is found by the keep-alive.
    pub async fn open(self, send: SendRequest<Bytes>, wanted: &ConnectRequest) -> Result<TunnelStream, Failed> {
        let shared = self.0.clone();
        let mut send = send.ready().await.map_err(|error| Failed { replaceable: true, ..shared.failed(error) })?;
        let (response, body) = send.send_request(request(wanted), false).map_err(|error| shared.failed(error))?;
        // The connection lives as long as somebody could open streams on it: that is the pool's to say.
        drop(send);
        let (head, recv) = response.await.map_err(|error| shared.failed(error))?.into_parts();
        if head.status == StatusCode::OK {
            return Ok(TunnelStream::new(body, recv, Some(Box::new(self))));
        }
        Err(Failed { error: refused(shared.address, &head), replaceable: false, draining: false })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.idle_since.lock().expect("nothing panics while it is held") = Instant::now();
        self.0.active.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The answer of an agent that said no.
pub fn refused(address: SocketAddr, head: &http::response::Parts) -> TunnelError {
    let reason = head.headers.get(REASON_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let reason = reason.chars().take(REASON_SHOWN).collect();
    TunnelError::Refused { address, status: head.status, reason }
}

pub fn request(wanted: &ConnectRequest) -> Request<()> {
    let authority = format_authority(wanted.authority);
    let uri = Uri::builder().authority(authority).build().expect("ip:port is an authority");
    let mut builder = Request::builder().method(Method::CONNECT).uri(uri).version(Version::HTTP_2);
    if let Some(client) = wanted.forwarded {
        builder = builder.header(FORWARDED_HEADER, format_forwarded(client));
    }
    // Workload names are plain; a value that no header can carry is left out rather than failing the app's connection.
    if let Some(baggage) = wanted.baggage.as_deref().and_then(|b| http::HeaderValue::from_str(b).ok()) {
        builder = builder.header(BAGGAGE_HEADER, baggage);
    }
    builder.body(()).expect("every part was checked")
}
