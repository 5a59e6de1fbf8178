//! One connection that nobody else uses, and a marker through it there and back: what `meshctl verify` captures. The
//! peer's agent answers it itself; its application hears nothing.

use std::{future::Future, io, net::SocketAddr};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};

use super::{
    ConnectRequest, PoolKey, PoolSettings, TlsFacts, TunnelError, VERIFY_HEADER,
    connection::{connect, refused, request},
};
use crate::identity::{Certificate, Peer};

/// The marker that comes back, and the identity that the peer has seen. No more is read.
const LONGEST: usize = 2048;

/// A connection that came about.
#[derive(Debug)]
pub struct Probed {
    /// What this end of the session says of it.
    pub tls: TlsFacts,
    /// The peer, as its certificate proved in this session.
    pub peer: Peer,
    pub answer: Result<Vec<u8>, TunnelError>,
}

/// Ends with the task.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Dials, shakes hands and asks the peer's agent whether it would let this source reach `port`. `marker` goes through
/// the tunnel in any case, and comes back if it would.
pub async fn probe<F>(
    key: &PoolKey,
    certificate: &Certificate,
    settings: &PoolSettings,
    dial: F,
    forwarded: SocketAddr,
    port: u16,
    marker: Bytes,
) -> Result<Probed, TunnelError>
where
    F: Future<Output = io::Result<TcpStream>>,
{
    let (mut send, connection, shared) = connect(key, certificate, settings, dial).await?;
    let driver = Driver(tokio::spawn(async move {
        // What ends it ends the stream too, which says why.
        let _ = connection.await;
    }));
    let peer = Peer::read(&shared.chain[0]).map_err(|error| TunnelError::identity(key.address, &error))?;
    let wanted = ConnectRequest { authority: key.address, forwarded: Some(forwarded), baggage: None };
    let mut request = request(&wanted);
    request.headers_mut().insert(VERIFY_HEADER, port.into());
    let answer = async {
        let failed = |error: h2::Error| shared.failed(error).error;
        std::future::poll_fn(|cx| send.poll_ready(cx)).await.map_err(failed)?;
        let (response, mut body) = send.send_request(request, false).map_err(failed)?;
        body.send_data(marker, true).map_err(failed)?;
        let (head, mut data) = response.await.map_err(failed)?.into_parts();
        if head.status != StatusCode::OK {
            return Err(refused(key.address, &head));
        }
        let mut all = BytesMut::new();
        while let Some(piece) = data.data().await {
            let piece = piece.map_err(failed)?;
            let _ = data.flow_control().release_capacity(piece.len());
            all.extend_from_slice(&piece[..piece.len().min(LONGEST - all.len())]);
        }
        Ok(all.to_vec())
    };
    let late = |_| TunnelError::AnswerTimeout { address: key.address, after: settings.answer_timeout };
    let answer = timeout(settings.answer_timeout, answer).await.unwrap_or_else(|over| Err(late(over)));
    let tls = shared.tls;
    drop(driver);
    Ok(Probed { tls, peer, answer })
}
