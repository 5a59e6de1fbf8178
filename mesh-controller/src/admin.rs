//! What meshctl asks of the controller: its own knowledge, and the agents' through their links. Served on a unix
//! socket that only the controller's user can open, and on loopback if that is asked for.

mod answers;
mod dashboard;

use std::{
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use mesh_common::proto::nodemesh::{
    ConfigKind, ConfigQuery, DashboardInfo, Item, Query, TapQuery, admin_server as server, item, query,
};
use tokio::{
    net::UnixListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use crate::{link::Links, publish::Published};

/// The name under which the controller itself answers.
const CONTROLLER: &str = "controller";
/// Items that may wait for a slow reader.
const BACKLOG: usize = 64;

#[derive(Clone)]
pub struct AdminService {
    links: Links,
    published: watch::Receiver<Arc<Published>>,
    /// Where the dashboard is, and its token.
    dashboard: Option<(SocketAddr, Arc<str>)>,
}

/// Opens the socket, mode 0600. One that a dead controller left behind is replaced.
pub fn listen(path: &Path) -> Result<UnixListener> {
    let place = || format!("--admin-socket {}", path.display());
    if path.exists() {
        ensure!(UnixStream::connect(path).is_err(), "{}: another controller answers there", place());
        std::fs::remove_file(path).with_context(place)?;
    }
    // The process's umask keeps others out from the first moment; this is for whoever changes the umask.
    let listener = UnixListener::bind(path).with_context(place)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(place)?;
    Ok(listener)
}

/// Answers on the socket until that fails.
pub async fn serve(listener: UnixListener, service: AdminService) -> Result<()> {
    Server::builder()
        .add_service(server::AdminServer::new(service))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .context("serving the admin socket ended")
}

/// The same on a TCP port until that fails. The port is taken at once.
pub fn serve_at(address: SocketAddr, service: AdminService) -> Result<impl Future<Output = Result<()>> + Send> {
    let incoming = TcpIncoming::bind(address).with_context(|| format!("--admin-listen {address}"))?;
    let server = Server::builder().add_service(server::AdminServer::new(service)).serve_with_incoming(incoming);
    Ok(async move { server.await.context("serving meshctl ended") })
}

impl AdminService {
    pub fn new(links: Links, published: watch::Receiver<Arc<Published>>) -> Self {
        Self { links, published, dashboard: None }
    }

    /// Who may ask everything is told where the dashboard is, and its token.
    pub fn with_dashboard(mut self, address: SocketAddr, token: &str) -> Self {
        self.dashboard = Some((address, token.into()));
        self
    }

    /// What the controller itself says to it, and whether agents are to be asked.
    ///
    /// # Errors
    /// If nobody is to answer it here.
    fn parts(&self, query: &Query) -> Result<(Vec<item::Kind>, bool), Status> {
        let kind = query.kind.as_ref().ok_or_else(|| Status::invalid_argument("the question is missing"))?;
        if let query::Kind::Tap(TapQuery { secrets: true, .. }) = kind {
            // Agents refuse it too, whoever asks them over the link.
            return Err(Status::invalid_argument(
                "secrets: an agent tells them on its own socket only: ask on the node, with --agent",
            ));
        }
        Ok(match query.node.as_str() {
            "" => (self.own(kind)?, is_theirs(kind)),
            CONTROLLER => (self.own(kind)?, false),
            _ => (Vec::new(), true),
        })
    }

    /// What the controller itself has to say.
    fn own(&self, query: &query::Kind) -> Result<Vec<item::Kind>, Status> {
        let now = self.published.borrow().clone();
        match query {
            query::Kind::Status(_) => Ok(vec![answers::status(&now.world, &self.links.reports())]),
            query::Kind::Config(config @ ConfigQuery { kind: _, namespace }) => match config.kind() {
                ConfigKind::Workloads => Ok(answers::workloads(&now.world, namespace)),
                ConfigKind::Services => Ok(answers::services(&now.world, namespace)),
                ConfigKind::Policies => Ok(answers::policies(&now.world, namespace)),
                ConfigKind::Accounts => Ok(answers::accounts(&now.world, namespace)),
                ConfigKind::Routes => Ok(answers::routes(&now.world, namespace)),
                ConfigKind::Certificates | ConfigKind::Connections => Ok(Vec::new()),
                ConfigKind::ConfigUnspecified => Err(Status::invalid_argument("config.kind: is missing")),
            },
            query::Kind::Dashboard(_) => match &self.dashboard {
                Some((address, token)) => Ok(vec![item::Kind::Dashboard(DashboardInfo {
                    address: address.to_string(),
                    token: token.to_string(),
                })]),
                None => Err(Status::failed_precondition(
                    "this controller serves no dashboard: start it with --dashboard 127.0.0.1:15080",
                )),
            },
            query::Kind::Flows(_)
            | query::Kind::Authz(_)
            | query::Kind::Routes(_)
            | query::Kind::Edges(_)
            | query::Kind::Explain(_)
            | query::Kind::Identity(_)
            | query::Kind::Verify(_)
            | query::Kind::Stat(_)
            | query::Kind::Tap(_)
            | query::Kind::Cost(_) => Ok(Vec::new()),
        }
    }

    async fn relay(
        self,
        node: Option<String>,
        query: Query,
        items: mpsc::Sender<Result<Item, Status>>,
    ) -> Result<(), Status> {
        let mut question = self.links.ask(node.as_deref(), &query)?;
        loop {
            let item = tokio::select! {
                item = question.next() => item,
                // Whoever asked is gone: the question with it.
                () = items.closed() => return Ok(()),
            };
            let Some(item) = item else { break };
            if items.send(Ok(item)).await.is_err() {
                return Ok(());
            }
        }
        match question.errors() {
            [] => Ok(()),
            errors => Err(Status::unavailable(errors.join("; "))),
        }
    }
}

/// Whether the agents must be asked too: configuration that the controller has itself is told once.
fn is_theirs(query: &query::Kind) -> bool {
    match query {
        query::Kind::Config(config) => matches!(config.kind(), ConfigKind::Certificates | ConfigKind::Connections),
        query::Kind::Dashboard(_) => false,
        query::Kind::Status(_)
        | query::Kind::Flows(_)
        | query::Kind::Authz(_)
        | query::Kind::Routes(_)
        | query::Kind::Edges(_)
        | query::Kind::Explain(_)
        | query::Kind::Identity(_)
        | query::Kind::Verify(_)
        | query::Kind::Stat(_)
        | query::Kind::Tap(_)
        | query::Kind::Cost(_) => true,
    }
}

#[tonic::async_trait]
impl server::Admin for AdminService {
    type AskStream = ReceiverStream<Result<Item, Status>>;

    async fn ask(&self, request: Request<Query>) -> Result<Response<Self::AskStream>, Status> {
        let query = request.into_inner();
        let (own, theirs) = self.parts(&query)?;
        let node = Some(query.node.clone()).filter(|node| !node.is_empty());
        let (sender, stream) = mpsc::channel(BACKLOG);
        let service = self.clone();
        tokio::spawn(async move {
            for kind in own {
                if sender.send(Ok(Item { node: CONTROLLER.to_owned(), kind: Some(kind) })).await.is_err() {
                    return;
                }
            }
            if theirs && let Err(status) = service.relay(node, query, sender.clone()).await {
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
