//! Wiring: source -> publisher -> servers.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use mesh_common::proto::{
    auth::istio_certificate_service_server::IstioCertificateServiceServer,
    discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
    nodemesh::{admin_server::AdminServer, agent_link_server::AgentLinkServer},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Request, Status,
    service::interceptor::InterceptedService,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use crate::{
    admin::{self, AdminService},
    ca::{Authority, CertificateService},
    config::{JoinToken, Run, SourceArg},
    link::{LinkService, Links},
    publish::{Memory, Publisher},
    serve::DiscoveryService,
    source::Directory,
    tokens::{Tokens, write_private},
};

/// Largest request to sign: the request itself and a little around it.
const CERTIFICATE_REQUEST: usize = 64 << 10;
/// Reports that may wait to be published.
const REPORTS: usize = 64;

/// A running controller; dropping it ends it.
#[derive(Debug)]
pub struct App {
    /// Where agents connect, with the port that was really taken.
    pub address: SocketAddr,
    admin_socket: PathBuf,
    tasks: JoinSet<Result<()>>,
}

impl App {
    /// Starts everything; on return agents are served.
    ///
    /// # Errors
    /// If the state folder, the source, the socket or the port cannot be used.
    pub fn start(config: &Run) -> Result<Self> {
        private_folder(&config.state)?;
        let settings = config.settings();
        let authority = Arc::new(Authority::open(&config.state, &config.trust_domain, config.certificate_ttl)?);
        let tokens = Tokens::new(&config.state);
        let SourceArg::Directory(path) = &config.source;
        let (directory, first) = Directory::open(path)?;
        let (publisher, published) = Publisher::new(settings, Memory::new(&config.state), &first)?;
        let (updates, updated) = watch::channel(first);
        let (reports, reported) = mpsc::channel(REPORTS);
        let links = Links::default();

        let (certificate, key) = authority.serving(&config.server_name)?;
        let listen = || format!("--listen {}", config.listen);
        let incoming = TcpIncoming::bind(config.listen).with_context(listen)?.with_nodelay(Some(true));
        let address = incoming.local_addr().with_context(listen)?;
        let admin_socket = config.admin_socket();
        let admin_listener = admin::listen(&admin_socket)?;

        let check = authenticate(tokens.clone());
        let certificates = CertificateService::new(authority, &config.trust_domain, published.clone());
        let certificates =
            IstioCertificateServiceServer::new(certificates).max_decoding_message_size(CERTIFICATE_REQUEST);
        let discovery = DiscoveryService::new(tokens.clone(), published.clone());
        // What an agent already holds comes in its first request.
        let discovery = AggregatedDiscoveryServiceServer::new(discovery).max_decoding_message_size(64 << 20);
        let link = AgentLinkServer::new(LinkService::new(links.clone(), tokens, reports));
        let agents = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(Identity::from_pem(certificate, key)))
            .context("the controller's own certificate cannot be used")?
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .add_service(InterceptedService::new(certificates, check.clone()))
            .add_service(InterceptedService::new(discovery, check.clone()))
            .add_service(InterceptedService::new(link, check))
            .serve_with_incoming(incoming);
        let admin = Server::builder()
            .add_service(AdminServer::new(AdminService::new(links, published)))
            .serve_with_incoming(UnixListenerStream::new(admin_listener));

        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            directory.follow(updates).await;
            Err(anyhow!("the configuration is no longer followed"))
        });
        tasks.spawn(async move {
            publisher.run(updated, reported).await;
            Err(anyhow!("nothing is published any more"))
        });
        tasks.spawn(async move { agents.await.context("serving agents ended") });
        tasks.spawn(async move { admin.await.context("serving the admin socket ended") });
        Ok(Self { address, admin_socket, tasks })
    }

    /// Waits until a part fails; all others end with it.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => anyhow::Error::new(error).context("a part of the controller crashed"),
            Some(Ok(Ok(()))) | None => anyhow!("a part of the controller ended"),
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.admin_socket);
    }
}

/// Makes a token and hands it over.
pub fn join_token(config: &JoinToken) -> Result<()> {
    private_folder(&config.state)?;
    let token = Tokens::new(&config.state).create(&config.node)?;
    match &config.out {
        Some(path) => write_private(path, token.as_bytes()),
        None => {
            println!("{token}");
            Ok(())
        }
    }
}

fn private_folder(path: &std::path::Path) -> Result<()> {
    let place = || format!("--state {}", path.display());
    fs::create_dir_all(path).with_context(place)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).with_context(place)
}

/// Lets only agents with a token through, and notes whose they are.
fn authenticate(tokens: Tokens) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |mut request| {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer "));
        let caller = token.and_then(|token| tokens.verify(token));
        let caller = caller.ok_or_else(|| Status::unauthenticated("no join token, or one that is not valid"))?;
        request.extensions_mut().insert(caller);
        Ok(request)
    }
}

#[cfg(test)]
mod tests;
