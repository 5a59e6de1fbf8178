//! The delta discovery server. One task a connection; what it must send is decided in `session`, from the catalog.

mod agents;
mod authenticate;
mod catalog;
mod refused;
mod session;
#[cfg(test)]
mod tests;
mod tls;

pub use agents::Agents;
pub use catalog::{Catalog, digest};
pub use refused::{caller, put_off, refuse};
pub use session::Acknowledged;

use std::sync::Arc;

use mesh_common::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, aggregated_discovery_service_server as server,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    link::Links,
    publish::Published,
    tokens::{Authenticator, Caller},
};
use session::Session;

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
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl DiscoveryService {
    pub fn new(authenticator: Authenticator, links: Links, published: watch::Receiver<Arc<Published>>) -> Self {
        Self { authenticator, links, published }
    }
}

#[tonic::async_trait]
impl server::AggregatedDiscoveryService for DiscoveryService {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let caller = caller(&request)?;
        let (responses, stream) = mpsc::channel(BACKLOG);
        let published = self.published.clone();
        let (authenticator, links) = (self.authenticator.clone(), self.links.clone());
        let connection = Connection { caller, authenticator, links, published, responses };
        tokio::spawn(connection.serve(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Connection {
    async fn serve(mut self, mut requests: Streaming<DeltaDiscoveryRequest>) {
        let node = self.caller.node().to_owned();
        tracing::info!(node, "agent subscribed");
        let mut session = Session::new(&node);
        let mut token_check = tokio::time::interval(self.authenticator.check_interval());
        loop {
            let answer = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => {
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
                    let now = self.published.borrow_and_update().clone();
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
            if let Some(answer) = answer
                && self.responses.send(Ok(answer)).await.is_err()
            {
                break;
            }
        }
        tracing::info!(node, "agent unsubscribed");
    }
}
