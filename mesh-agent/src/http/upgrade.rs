//! Connections that become another protocol's: WebSocket and what else HTTP/1.1 upgrades to, and CONNECT.

use std::future::Future;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::message;

/// Whether an answer makes bytes of what follows (RFC 9110, 7.8 and 9.3.6).
pub fn is_agreed(method: &Method, status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || (*method == Method::CONNECT && status.is_success())
}

/// An answer keeps the word for what it switches to.
pub fn keep_headers(headers: &mut HeaderMap) {
    let to = headers.get(header::UPGRADE).cloned();
    message::strip(headers);
    if let Some(to) = to {
        headers.insert(header::UPGRADE, to);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Copies both ways once both sides have switched, until `ends` resolves. `held` lives as long as that.
pub fn join(
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    held: impl Send + 'static,
    ends: impl Future<Output = ()> + Send + 'static,
) {
    tokio::spawn(async move {
        let _held = held;
        let (Ok(downstream), Ok(upstream)) = tokio::join!(downstream, upstream) else { return };
        let (mut client, mut server) = (TokioIo::new(downstream), TokioIo::new(upstream));
        tokio::select! {
            // An end that breaks ends both: they close when they drop.
            _ = copy_bidirectional(&mut client, &mut server) => {}
            () = ends => {}
        }
    });
}
