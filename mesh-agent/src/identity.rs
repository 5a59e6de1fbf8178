//! The identities that this node's pods speak with: keys, certificates and who may be at the other end of a TLS
//! connection. Knows no transport: what signs is a [`Signer`], what reads the bytes is a rustls configuration.
//!
//! Keys are made here, live in memory only, and no `Debug` prints them.

mod cache;
mod certificate;
mod fault;
mod key;
mod peer;
mod renew;
mod trust;
mod verify;

#[cfg(test)]
pub mod pki;
#[cfg(test)]
mod tests;

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

pub use cache::{CertificateState, Certificates};
pub use certificate::{Certificate, ChainError, Serving};
pub use fault::{fault, of_peer};
pub use mesh_common::model::Identity;
pub use peer::{Peer, PeerError};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
pub use trust::{Anchors, End, Trust};
pub use verify::refusal;

/// What [`Signer::sign`] returns: the certificate chain as PEM, leaf first, root last.
pub type Signing<'a> = Pin<Box<dyn Future<Output = Result<Vec<String>, SignError>> + Send + 'a>>;

/// A certificate authority as the agent sees it.
pub trait Signer: Send + Sync + 'static {
    /// Has the CSR (PEM) signed for `identity`. Every element of the answer may hold one or more PEM certificates;
    /// the roots, one or more while they rotate, come last.
    fn sign<'a>(&'a self, identity: &'a Identity, csr_pem: String) -> Signing<'a>;
}

/// Why the certificate authority gave no certificate.
#[derive(Debug)]
pub struct SignError {
    retryable: bool,
    retry_after: Duration,
    source: Box<dyn Error + Send + Sync>,
}

impl SignError {
    /// The authority could not be asked or could not answer: the same request may succeed shortly.
    pub fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { retryable: true, retry_after: Duration::ZERO, source: source.into() }
    }

    /// The authority said no: whoever waits is told at once.
    pub fn refused(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { retryable: false, retry_after: Duration::ZERO, source: source.into() }
    }

    /// The authority says when to come again.
    pub fn after(self, retry_after: Duration) -> Self {
        Self { retry_after, ..self }
    }

    pub fn retry_after(&self) -> Duration {
        self.retry_after
    }

    pub fn retryable(&self) -> bool {
        self.retryable
    }
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.retryable {
            "the certificate authority did not answer"
        } else {
            "refused by the certificate authority"
        };
        write!(f, "{what}: {}", self.source)
    }
}

impl Error for SignError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}

/// The one set of algorithms of the agent. Taken explicitly everywhere, so that no process-wide default decides.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}
