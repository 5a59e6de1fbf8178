//! Why a tunnel did not come about, with codes that metrics and flow records keep.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;
use rustls::PeerIncompatible;

use crate::{
    identity::{self, Identity, PeerError},
    telemetry::reason,
};

/// Why [`Pool::open`](super::Pool::open) gave no stream. Clones: openers that shared a handshake share its failure.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TunnelError {
    #[error("{address} cannot be reached: {source}")]
    Connect { address: SocketAddr, source: Arc<io::Error> },
    #[error("{address} did not answer within {after:?}")]
    ConnectTimeout { address: SocketAddr, after: Duration },
    /// The peer's agent took the stream and said nothing.
    #[error("{address} gave no answer within {} s", .after.as_secs_f64())]
    AnswerTimeout { address: SocketAddr, after: Duration },
    #[error("TLS with {address} failed: {source}")]
    Tls { address: SocketAddr, source: Arc<rustls::Error> },
    #[error("TLS with {address} broke off: {source}")]
    TlsIo { address: SocketAddr, source: Arc<io::Error> },
    #[error("{address} did not finish the TLS handshake within {after:?}")]
    TlsTimeout { address: SocketAddr, after: Duration },
    /// Authenticated, but as somebody else.
    #[error("{address} is not who it should be: {reason}")]
    Identity { address: SocketAddr, code: &'static str, reason: String },
    #[error("the certificate is for `{certificate}`, the source is `{asked}`")]
    WrongCertificate { certificate: Box<Identity>, asked: Box<Identity> },
    #[error("{0} does not speak HTTP/2 inside TLS")]
    Alpn(SocketAddr),
    #[error("HTTP/2 with {address} failed: {source}")]
    Http2 { address: SocketAddr, source: Arc<h2::Error> },
    /// The peer's agent gave up on the stream without saying why.
    #[error("{address} reset the stream before answering: {source}")]
    Reset { address: SocketAddr, source: Arc<h2::Error> },
    /// The peer's agent said no. `reason` is its word, empty if it gave none.
    #[error("{address} refused: {status} {reason}")]
    Refused { address: SocketAddr, status: StatusCode, reason: String },
    /// [`Pool::forget_source`](super::Pool::forget_source) came in between.
    #[error("the source pod is gone")]
    SourceGone,
}

/// Why [`serve`](super::serve) ended other than by the peer or by draining.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the client did not finish the TLS handshake within {0:?}")]
    TlsTimeout(Duration),
    #[error("TLS with the client failed: {0}")]
    Tls(#[source] io::Error),
    #[error("the client presented no certificate")]
    NoClientCertificate,
    #[error("the client's certificate is no workload's: {0}")]
    Identity(#[source] PeerError),
    #[error("the client does not speak TLS 1.3: {0}")]
    Version(#[source] io::Error),
    #[error("the client did not offer HTTP/2 inside TLS")]
    Alpn,
    #[error("the HTTP/2 handshake with the client failed: {0}")]
    Handshake(#[source] h2::Error),
    #[error("the client did not finish the HTTP/2 handshake within {0:?}")]
    HandshakeTimeout(Duration),
    #[error("the connection with the client failed: {0}")]
    Connection(#[source] h2::Error),
    #[error("the client stopped answering")]
    Unresponsive,
    #[error("the root of the client's certificate is no longer trusted")]
    Distrusted,
}

/// Every word of [`TunnelError::code`] and [`ServeError::code`].
#[cfg(test)]
pub const CODES: &[&str] = &[
    "CONNECT",
    "TLS_FAILURE",
    "IDENTITY_ERROR",
    "H2_HANDSHAKE_FAILURE",
    "REFUSED",
    "NO_CLIENT_CERTIFICATE",
    "H2_CONNECTION_FAILURE",
];

impl TunnelError {
    /// The response flag of flow records and metrics. Stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::AnswerTimeout { .. }
            | Self::Reset { .. }
            | Self::SourceGone => reason::CONNECT,
            Self::Tls { source, .. } => identity::fault(source).unwrap_or(reason::TLS_FAILURE),
            Self::TlsIo { .. } | Self::TlsTimeout { .. } => reason::TLS_FAILURE,
            Self::Identity { code, .. } => code,
            Self::WrongCertificate { .. } => reason::IDENTITY_ERROR,
            Self::Alpn(_) => reason::ALPN_MISMATCH,
            Self::Http2 { .. } => reason::H2_HANDSHAKE_FAILURE,
            Self::Refused { .. } => "REFUSED",
        }
    }

    /// From a failed TLS handshake.
    pub(super) fn handshake(address: SocketAddr, error: io::Error) -> Self {
        match tls_error(&error) {
            Some(tls) => Self::tls(address, tls),
            None => Self::TlsIo { address, source: Arc::new(error) },
        }
    }

    pub(super) fn tls(address: SocketAddr, error: &rustls::Error) -> Self {
        match identity::refusal(error) {
            Some(refused) => Self::identity(address, refused),
            None => Self::Tls { address, source: Arc::new(error.clone()) },
        }
    }

    pub(super) fn identity(address: SocketAddr, refused: &PeerError) -> Self {
        Self::Identity { address, code: identity::of_peer(refused), reason: refused.to_string() }
    }
}

impl ServeError {
    /// The word that the failure is counted under. Stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Tls(error) => tls_error(error).and_then(identity::fault).unwrap_or(reason::TLS_FAILURE),
            Self::TlsTimeout(_) => reason::TLS_FAILURE,
            Self::Version(_) => reason::TLS_VERSION,
            Self::NoClientCertificate => reason::NO_CLIENT_CERTIFICATE,
            Self::Identity(error) => identity::of_peer(error),
            Self::Alpn => reason::ALPN_MISMATCH,
            Self::Handshake(_) | Self::HandshakeTimeout(_) => reason::H2_HANDSHAKE_FAILURE,
            Self::Connection(_) | Self::Unresponsive => reason::H2_CONNECTION_FAILURE,
            Self::Distrusted => reason::CERT_UNKNOWN_ISSUER,
        }
    }

    /// From a failed TLS handshake.
    pub(super) fn handshake(error: io::Error) -> Self {
        match tls_error(&error) {
            Some(rustls::Error::NoCertificatesPresented) => Self::NoClientCertificate,
            Some(rustls::Error::NoApplicationProtocol) => Self::Alpn,
            Some(rustls::Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired,
            )) => Self::Version(error),
            _ => Self::Tls(error),
        }
    }
}

/// tokio-rustls wraps rustls' error into an I/O error.
pub(super) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| (inner as &(dyn Error + 'static)).downcast_ref())
}
