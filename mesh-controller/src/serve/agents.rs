//! The server that agents connect to: TLS, the token of every call, then discovery, certificates and the link.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use mesh_common::proto::{
    auth::istio_certificate_service_server::IstioCertificateServiceServer, nodemesh::agent_link_server::AgentLinkServer,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tonic::transport::Server;

use super::{DiscoveryService, authenticate::Authenticate, tls};
use crate::{
    ca::{Authority, CertificateService, LimitSettings, Limits},
    link::{LinkService, Links},
    publish::{NodeReport, Published},
    tokens::Authenticator,
};

/// Largest request to sign: the request itself and a little around it.
const CERTIFICATE_REQUEST: usize = 64 << 10;

/// What serving agents takes.
pub struct Agents<'a> {
    pub listen: SocketAddr,
    pub server_name: &'a str,
    pub trust_domain: &'a str,
    pub authority: Authority,
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
        let place = || format!("--listen {listen}");
        let listener = std::net::TcpListener::bind(listen).with_context(place)?;
        listener.set_nonblocking(true).with_context(place)?;
        let address = listener.local_addr().with_context(place)?;
        let incoming =
            tls::accept(TcpListener::from_std(listener).with_context(place)?, server_name, authority.material())?;

        let certificates = CertificateService::new(authority, trust_domain, Limits::new(limits), published.clone());
        let certificates =
            IstioCertificateServiceServer::new(certificates).max_decoding_message_size(CERTIFICATE_REQUEST);
        let discovery = DiscoveryService::new(authenticator.clone(), links.clone(), published);
        let link = AgentLinkServer::new(LinkService::new(links, authenticator.clone(), reports));
        let server = Server::builder()
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
