//! In front of every service: lets only agents with a token through, and notes whose they are. Nothing of a call's body
//! is read before.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tonic::{
    body::Body,
    codegen::{Service, http},
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};

use super::refused::{REASON, note, refuse};
use crate::{
    refusal::{Reason, Refusal},
    tokens::Authenticator,
};

#[derive(Clone, Debug)]
pub struct Authenticate<S> {
    authenticator: Authenticator,
    inner: S,
}

impl<S> Authenticate<S> {
    pub fn new(authenticator: Authenticator, inner: S) -> Self {
        Self { authenticator, inner }
    }
}

impl<S> Service<http::Request<Body>> for Authenticate<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The one that was polled to be ready is used; its clone waits for the next call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let authenticator = self.authenticator.clone();
        Box::pin(async move {
            let caller = match bearer(&request) {
                Ok(token) => authenticator.verify(token).await,
                Err(refusal) => Err(refusal),
            };
            let caller = match caller {
                Ok(caller) => caller,
                Err(refusal) => return Ok(refuse(&remote(&request), &refusal).into_http()),
            };
            let (node, method) = (caller.node().to_owned(), request.uri().path().to_owned());
            request.extensions_mut().insert(caller);
            let response = inner.call(request).await?;
            note_unread(&node, &method, &response);
            Ok(response)
        })
    }
}

fn bearer(request: &http::Request<Body>) -> Result<&str, Refusal> {
    let header = request.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    header.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(|| {
        Refusal::new(Reason::TokenMissing, "no token of an agent: it is sent as `authorization: Bearer TOKEN`")
    })
}

fn remote(request: &http::Request<Body>) -> String {
    let extensions = request.extensions();
    let tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>().map(TlsConnectInfo::get_ref);
    let address = tls.or_else(|| extensions.get()).and_then(TcpConnectInfo::remote_addr);
    address.map(|address| address.to_string()).unwrap_or_default()
}

/// A call that no service saw, since it is too large, or none that there is, was refused too.
fn note_unread(node: &str, method: &str, response: &http::Response<Body>) {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    if let Some(code) = header("grpc-status").filter(|code| *code != "0")
        && header(REASON).is_none()
    {
        let said = header("grpc-message").unwrap_or_default();
        note(node, &Refusal::new(Reason::RequestInvalid, format!("{method}: gRPC status {code}: {said}")));
    }
}
