//! Connections that become another protocol's: WebSocket and what else HTTP/1.1 upgrades to, and CONNECT.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::{body::Cut, message, record::OpenRequest, watched::Watched};

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

/// Both ends of a connection that has become another protocol's, and what lives as long as that.
pub struct Switched {
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    _held: Box<dyn Send>,
    cut: Option<Cut>,
    /// `None`: it is no request's.
    pub told: Option<OpenRequest>,
}

impl Switched {
    /// `cut` resolves if it may not go on.
    pub fn new(downstream: OnUpgrade, upstream: OnUpgrade, held: impl Send + 'static, cut: Option<Cut>) -> Self {
        Self { downstream, upstream, _held: Box::new(held), cut, told: None }
    }

    /// Copies both ways once both sides have switched, until both have ended.
    pub async fn join(self) {
        let Self { downstream, upstream, _held, cut, told } = self;
        let ended = async {
            match cut {
                Some(cut) => cut.await,
                None => std::future::pending().await,
            }
        };
        let Ok((downstream, upstream)) = tokio::try_join!(downstream, upstream) else { return };
        // From now on its end is an end.
        let passed = told.as_ref().map(|told| Arc::clone(told.passed())).unwrap_or_default();
        let mut client = Watched::client(TokioIo::new(downstream), passed);
        let mut server = TokioIo::new(upstream);
        if let Some(told) = &told {
            told.whole();
        }
        tokio::select! {
            // An end that breaks ends both: they close when they drop.
            _ = copy_bidirectional(&mut client, &mut server) => {}
            _ = ended => {}
        }
    }
}

impl fmt::Debug for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switched").finish_non_exhaustive()
    }
}
