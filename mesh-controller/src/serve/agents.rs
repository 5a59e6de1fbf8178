//! The server that agents connect to: TLS, the token of every call, then discovery, certificates and the link.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use mesh_common::proto::{
    auth::istio_certificate_service_server::IstioCertificateServiceServer,
    discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
    nodemesh::agent_link_server::AgentLinkServer,
};
use tokio::sync::{mpsc, watch};
use tonic::{
    Request, Status,
    service::interceptor::InterceptedService,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use super::DiscoveryService;
use crate::{
    ca::{Authority, CertificateService},
    link::{LinkService, Links},
    publish::{NodeReport, Published},
    tokens::{TokenError, Tokens},
};

/// Largest request to sign: the request itself and a little around it.
const CERTIFICATE_REQUEST: usize = 64 << 10;
/// What an agent already holds comes in its first request.
const DISCOVERY_REQUEST: usize = 64 << 20;

/// A caller that has not finished its handshake by then is gone, or means no good.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What serving agents takes.
pub struct Agents<'a> {
    pub listen: SocketAddr,
    pub server_name: &'a str,
    pub trust_domain: &'a str,
    pub authority: Arc<Authority>,
    pub tokens: Tokens,
    pub links: Links,
    pub reports: mpsc::Sender<NodeReport>,
    pub published: watch::Receiver<Arc<Published>>,
}

impl Agents<'_> {
    /// Listens at once; the address has the port that was really taken. The future serves until it fails.
    pub fn serve(self) -> Result<(SocketAddr, impl Future<Output = Result<()>> + Send + use<>)> {
        let Self { listen, server_name, trust_domain, authority, tokens, links, reports, published } = self;
        let (certificate, key) = authority.serving(server_name)?;
        let place = || format!("--listen {listen}");
        let incoming = TcpIncoming::bind(listen).with_context(place)?.with_nodelay(Some(true));
        let address = incoming.local_addr().with_context(place)?;

        let check = authenticate(tokens.clone());
        let certificates = CertificateService::new(authority, trust_domain, published.clone());
        let certificates =
            IstioCertificateServiceServer::new(certificates).max_decoding_message_size(CERTIFICATE_REQUEST);
        let discovery = DiscoveryService::new(tokens.clone(), links.clone(), published);
        let discovery = AggregatedDiscoveryServiceServer::new(discovery).max_decoding_message_size(DISCOVERY_REQUEST);
        let link = AgentLinkServer::new(LinkService::new(links, tokens, reports));
        let server = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(Identity::from_pem(certificate, key)).timeout(HANDSHAKE))
            .context("the controller's own certificate cannot be used")?
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .add_service(InterceptedService::new(certificates, check.clone()))
            .add_service(InterceptedService::new(discovery, check.clone()))
            .add_service(InterceptedService::new(link, check))
            .serve_with_incoming(incoming);
        Ok((address, async move { server.await.context("serving agents ended") }))
    }
}

/// Lets only agents with a token through, and notes whose they are. Who is refused is logged.
fn authenticate(tokens: Tokens) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |mut request| {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer "));
        match token.ok_or(TokenError::Missing).and_then(|token| tokens.verify(token)) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Ok(request)
            }
            Err(error) => {
                let remote = request.remote_addr().map(|address| address.to_string()).unwrap_or_default();
                tracing::warn!(target: "audit", remote, %error, "caller refused");
                Err(Status::unauthenticated(error.to_string()))
            }
        }
    }
}
