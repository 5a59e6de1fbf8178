//! One stream that a peer asks for, and the answer to it. Exactly one answer is given: silence would leave the peer's
//! app waiting.

use std::{future::poll_fn, io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderValue, Response, StatusCode};

use super::{REASON_HEADER, stream::TunnelStream, tls::TlsFacts};
use crate::identity::Peer;

/// What a peer asks for and who it is.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// Proven by the certificate.
    pub peer: Arc<Peer>,
    /// The other end of the TCP connection.
    pub remote: SocketAddr,
    /// Where the peer wants to go. Well-formed, nothing more: whether it is ours is for the caller to check.
    pub authority: SocketAddr,
    /// The `forwarded` header: a claim.
    pub forwarded: Option<String>,
    /// The `baggage` header: a claim.
    pub baggage: Option<String>,
    /// The `nodemesh-verify` header: the agent itself is asked, about this port.
    pub verify: Option<u16>,
    pub tls: TlsFacts,
}

/// The right to answer one stream, once. Dropped unused, it answers 503 with reason `ABANDONED`.
#[must_use]
#[derive(Debug)]
pub struct Respond {
    send: SendResponse<Bytes>,
    /// Taken by `accept`; what is refused is never read.
    recv: Option<RecvStream>,
    answered: bool,
}

impl Respond {
    pub(super) fn new(send: SendResponse<Bytes>, recv: RecvStream) -> Self {
        Self { send, recv: Some(recv), answered: false }
    }

    /// Answers 200: from here on both sides may send. Fails if the peer has given up meanwhile.
    pub fn accept(mut self) -> io::Result<TunnelStream> {
        self.answered = true;
        let send = self.send.send_response(Response::new(()), false).map_err(io::Error::other)?;
        let recv = self.recv.take().expect("only `accept` takes it, and it consumes self");
        Ok(TunnelStream::new(send, recv, None))
    }

    /// Answers `status` with `reason`, an upper-case word that the peer's flow records show.
    pub fn refuse(mut self, status: StatusCode, reason: &'static str) {
        self.answer(status, reason);
    }

    /// Ready when the peer has given up on the stream: whoever is still dialling for it can stop.
    pub async fn cancelled(&mut self) {
        // Both outcomes, a reset and a lost connection, mean the same here.
        let _ = poll_fn(|cx| self.send.poll_reset(cx)).await;
    }

    fn answer(&mut self, status: StatusCode, reason: &'static str) {
        self.answered = true;
        let mut response = Response::new(());
        *response.status_mut() = status;
        response.headers_mut().insert(REASON_HEADER, HeaderValue::from_static(reason));
        if let Err(error) = self.send.send_response(response, true) {
            tracing::debug!(%status, reason, %error, "the refused peer is gone");
        }
    }
}

impl Drop for Respond {
    fn drop(&mut self) {
        if !self.answered {
            self.answer(StatusCode::SERVICE_UNAVAILABLE, "ABANDONED");
        }
    }
}
