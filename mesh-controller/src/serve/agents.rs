//! The server that agents connect to: TLS, the token of every call, then discovery, certificates and the link.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use mesh_common::proto::{
    auth::istio_certificate_service_server::IstioCertificateServiceServer,
    discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
    nodemesh::agent_link_server::AgentLinkServer,
};
use tokio::sync::{mpsc, watch};
use tonic::transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming};

use super::{DiscoveryService, authenticate::Authenticate};
use crate::{
    ca::{Authority, CertificateService, LimitSettings, Limits},
    link::{LinkService, Links},
    publish::{NodeReport, Published},
    tokens::Authenticator,
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
    pub limits: LimitSettings,
    pub authenticator: Authenticator,
    pub links: Links,
    pub reports: mpsc::Sender<NodeReport>,
    pub published: watch::Receiver<Arc<Published>>,
}

impl Agents<'_> {
    /// Listens at once; the address has the port that was really taken. The future serves until it fails.
    pub fn serve(self) -> Result<(SocketAddr, impl Future<Output = Result<()>> + Send + use<>)> {
        let Self { listen, server_name, trust_domain, authority, limits, authenticator, links, reports, published } =
            self;
        let (certificate, key) = authority.serving(server_name)?;
        let place = || format!("--listen {listen}");
        let incoming = TcpIncoming::bind(listen).with_context(place)?.with_nodelay(Some(true));
        let address = incoming.local_addr().with_context(place)?;

        let certificates = CertificateService::new(authority, trust_domain, Limits::new(limits), published.clone());
        let certificates =
            IstioCertificateServiceServer::new(certificates).max_decoding_message_size(CERTIFICATE_REQUEST);
        let discovery = DiscoveryService::new(authenticator.clone(), published);
        let discovery = AggregatedDiscoveryServiceServer::new(discovery).max_decoding_message_size(DISCOVERY_REQUEST);
        let link = AgentLinkServer::new(LinkService::new(links, authenticator.clone(), reports));
        let server = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(Identity::from_pem(certificate, key)).timeout(HANDSHAKE))
            .context("the controller's own certificate cannot be used")?
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .layer(tower::layer::layer_fn(move |inner| Authenticate::new(authenticator.clone(), inner)))
            .add_service(certificates)
            .add_service(discovery)
            .add_service(link)
            .serve_with_incoming(incoming);
        Ok((address, async move { server.await.context("serving agents ended") }))
    }
}
