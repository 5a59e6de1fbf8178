//! The TLS layer as the tunnel sees it: facts for flow records, and a connection that remembers why TLS ended.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use rustls::{CommonState, ConnectionCommon};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::tls_error;

/// The only ALPN value that either side takes.
pub const ALPN: &[u8] = b"h2";

/// Plaintext that rustls takes before it must be written out: enough for the largest chunk that is read from an
/// application's socket, so that it leaves in one call.
const WRITE_LIMIT: usize = 256 * 1024;

/// What was negotiated, by rustls' names: `TLSv1_3`, `TLS13_AES_256_GCM_SHA384`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    pub version: &'static str,
    pub cipher: &'static str,
}

/// Where a TLS error of a running connection is kept. In TLS 1.3 the client is done before the server has judged its
/// certificate: the refusal comes as an alert on the first read, and h2 keeps only the text of I/O errors.
pub type LastTlsError = Arc<OnceLock<rustls::Error>>;

/// Widens what rustls takes at once; its own limit of 64 KB cuts the end off a full chunk and sends it by itself.
pub fn widen<S>(state: &mut ConnectionCommon<S>) {
    state.set_buffer_limit(Some(WRITE_LIMIT));
}

/// Passes everything through and notes the first TLS error.
pub struct Observed<T> {
    inner: T,
    last: LastTlsError,
}

impl TlsFacts {
    /// `None` before the handshake is done.
    pub fn of(state: &CommonState) -> Option<Self> {
        Some(Self {
            version: state.protocol_version()?.as_str()?,
            cipher: state.negotiated_cipher_suite()?.suite().as_str()?,
        })
    }
}

impl<T> Observed<T> {
    pub fn new(inner: T) -> (Self, LastTlsError) {
        let last = LastTlsError::default();
        (Self { inner, last: last.clone() }, last)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Observed<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let outcome = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        if let Some(error) = outcome.as_ref().err().and_then(tls_error) {
            // Only the first says why; later ones are consequences.
            let _ = self.last.set(error.clone());
        }
        Poll::Ready(outcome)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Observed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
