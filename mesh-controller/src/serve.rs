//! The delta discovery server. One task a connection; what it must send is decided in `session`, from the catalog.

mod agents;
mod answer;
mod authenticate;
mod catalog;
mod refused;
mod session;
mod spread;
#[cfg(test)]
mod tests;
mod tls;

pub use agents::Agents;
pub use catalog::{Catalog, digest};
pub use refused::{caller, not_signed, put_off, refuse};
pub use session::{Acknowledged, TRAFFIC_REFUSED};

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use mesh_common::proto::discovery::{DeltaDiscoveryRequest, aggregated_discovery_service_server::SERVICE_NAME};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tonic::{
    Request, Status, Streaming,
    body::Body,
    codec::Codec,
    codegen::{
        Service,
        http::{self, header::CONTENT_TYPE},
    },
    metadata::GRPC_CONTENT_TYPE,
    server::NamedService,
};
use tonic_prost::ProstCodec;

use crate::{
    link::Links,
    monitoring::figures::{self, Stream},
    publish::Published,
    tokens::{Authenticator, Caller},
};
use answer::{Answer, Answers};
use session::Session;

/// What an agent already holds comes in its first request.
const LARGEST_REQUEST: usize = 64 << 20;
/// Responses that may wait for a slow agent.
const BACKLOG: usize = 8;

/// Serves what is published, to each agent its own.
#[derive(Clone, Debug)]
pub struct DiscoveryService {
    authenticator: Authenticator,
    links: Links,
    published: watch::Receiver<Arc<Published>>,
}

/// One connection.
struct Connection {
    caller: Caller,
    authenticator: Authenticator,
    links: Links,
    published: watch::Receiver<Arc<Published>>,
    responses: mpsc::Sender<Result<Answer, Status>>,
}

impl DiscoveryService {
    pub fn new(authenticator: Authenticator, links: Links, published: watch::Receiver<Arc<Published>>) -> Self {
        Self { authenticator, links, published }
    }

    fn answer(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let method = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(SERVICE_NAME));
        if method != Some("/DeltaAggregatedResources") {
            return Err(Status::unimplemented("only the incremental protocol is served"));
        }
        let decoder = ProstCodec::<(), DeltaDiscoveryRequest>::default().decoder();
        let request = request.map(|body| Streaming::new_request(decoder, body, None, Some(LARGEST_REQUEST)));
        let request = Request::from_http(request);
        let caller = caller(&request)?;
        let (responses, waiting) = mpsc::channel(BACKLOG);
        let published = self.published.clone();
        let (authenticator, links) = (self.authenticator.clone(), self.links.clone());
        let connection = Connection { caller, authenticator, links, published, responses };
        tokio::spawn(connection.serve(request.into_inner()));
        let mut response = http::Response::new(Body::new(Answers::new(waiting)));
        response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
        Ok(response)
    }
}

impl NamedService for DiscoveryService {
    const NAME: &'static str = SERVICE_NAME;
}

/// As a generated server would, but for its encoder: see [`answer`].
impl Service<http::Request<Body>> for DiscoveryService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        ready(Ok(self.answer(request).unwrap_or_else(Status::into_http)))
    }
}

impl Connection {
    async fn serve(mut self, mut requests: Streaming<DeltaDiscoveryRequest>) {
        let node = self.caller.node().to_owned();
        tracing::info!(node, "agent subscribed");
        let mut session = Session::new(&node);
        let mut stream = Stream::new();
        stream.outdated(Instant::now());
        let mut token_check = tokio::time::interval(self.authenticator.check_interval());
        loop {
            let mut start = Instant::now();
            let answer = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => {
                        start = Instant::now();
                        let now = self.published.borrow().clone();
                        session.request(&now.catalog, request)
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(node, %error, "the agent's stream broke");
                        break;
                    }
                },
                changed = self.published.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    start = Instant::now();
                    let now = self.published.borrow_and_update().clone();
                    stream.outdated(now.since.unwrap_or(start));
                    session.refresh(&now.catalog)
                }
                _ = token_check.tick() => {
                    if let Err(refusal) = self.authenticator.still(&self.caller) {
                        let _ = self.responses.send(Err(refuse(&node, &refusal))).await;
                        break;
                    }
                    None
                }
                () = self.responses.closed() => break,
            };
            self.links.acknowledge(&node, session.acknowledged());
            if let Some(answer) = answer {
                let type_url = answer.type_url.clone();
                if self.responses.send(Ok(answer)).await.is_err() {
                    break;
                }
                figures::pushed(&type_url, start.elapsed());
                stream.sent();
            } else if session.is_current() {
                stream.current();
            }
        }
        tracing::info!(node, "agent unsubscribed");
    }
}
