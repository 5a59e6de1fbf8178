//! The dashboard: a page in the browser that shows what the mesh says of itself, and the JSON that it reads. It asks
//! the questions that meshctl asks and changes nothing. It listens on loopback only; every answer but the page's own
//! files takes the token.

mod api;
mod asked;
mod certificates;
mod explain;
mod files;
mod flows;
mod fresh;
mod graph;
mod guard;
mod service;
mod tables;
mod token;
mod words;

use std::{convert::Infallible, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_common::proto::nodemesh::{item, query};
use tokio::{net::TcpListener, sync::Semaphore};

use api::Api;
pub use token::Token;

/// At once; more wait. A browser opens six.
const CONNECTIONS: usize = 64;
/// Until a client has said what it wants, and between two requests of a connection.
const PATIENCE: Duration = Duration::from_secs(30);
/// A request's line and headers.
const LARGEST_HEAD: usize = 16 * 1024;

/// Who knows the mesh: the controller with its links, or meshctl with all of its replicas.
pub trait Source: Send + Sync + 'static {
    /// Everything that is said to this question by this node, or by all if it is empty.
    fn ask(&self, node: String, kind: query::Kind) -> BoxFuture<'static, Said>;
}

/// An answer, perhaps without some nodes.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// With the node that says it, or "controller".
    pub items: Vec<(String, item::Kind)>,
    /// What went wrong, for people.
    pub errors: Vec<String>,
}

/// A dashboard that listens.
#[derive(Debug)]
pub struct Dashboard {
    listener: TcpListener,
    pub address: SocketAddr,
    pub token: Token,
}

impl Dashboard {
    /// Listens at once, with a new token.
    ///
    /// # Errors
    /// The address is taken, or is none of loopback.
    pub async fn listen(address: SocketAddr) -> Result<Self> {
        anyhow::ensure!(address.ip().is_loopback(), "the dashboard listens on loopback only, not at {address}");
        let place = || format!("the dashboard cannot listen at {address}");
        let listener = TcpListener::bind(address).await.with_context(place)?;
        let address = listener.local_addr().with_context(place)?;
        Ok(Self { listener, address, token: Token::new()? })
    }

    /// Writes the token to `dashboard.token` in this folder, mode 0600.
    pub fn keep_token(&self, state: &Path) -> Result<()> {
        crate::tokens::write_private(&state.join("dashboard.token"), format!("{}\n", self.token.as_text()).as_bytes())
    }

    /// Where a browser finds it. What stands behind `#` never leaves the browser.
    pub fn url(address: &str, token: &str) -> String {
        format!("http://{address}/#token={token}")
    }

    /// Serves, and never ends.
    pub async fn serve(self, source: Arc<dyn Source>) {
        let Self { listener, address: _, token } = self;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let served = Arc::new(Served { token, api: Api::new(source) });
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept failed at the address of the dashboard");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let served = Arc::clone(&served);
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let served = Arc::clone(&served);
                    // Bodies are not read: a request that has one ends its connection.
                    let request = request.map(|_| ());
                    async move { Ok::<_, Infallible>(served.respond(&request).await) }
                });
                let mut server = http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(LARGEST_HEAD);
                if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "a reader of the dashboard went");
                }
                drop(place);
            });
        }
    }
}

/// What every connection shares.
struct Served {
    token: Token,
    api: Api,
}

impl Served {
    async fn respond(&self, request: &Request<()>) -> Response<Full<Bytes>> {
        let mut response = match guard::refusal(request) {
            Some((status, why)) => plain(status, why),
            None => match request.uri().path().strip_prefix("/api/") {
                None => files::answer(request),
                Some(_) if !self.token.is_borne_by(request.headers()) => {
                    let mut response = plain(StatusCode::UNAUTHORIZED, "a token is needed: see `meshctl dashboard`\n");
                    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                    response
                }
                Some(question) => self.api.answer(question, request.uri().query().unwrap_or("")).await,
            },
        };
        guard::harden(&mut response);
        response
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests;
