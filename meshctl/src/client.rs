//! The connection to agents and controller: gRPC over a unix socket, or through the Kubernetes API.

mod kubernetes;
mod server;

use std::{
    io,
    path::{Path, PathBuf},
};

use mesh_common::proto::nodemesh::{Item, Query, StatusQuery, admin_client::AdminClient, item, query};
use tokio::{sync::mpsc, task::JoinSet};
use tonic::{Code, Status, transport::Channel};

pub use kubernetes::Cluster;
use server::Server;

/// Where an agent listens unless it was told otherwise.
const AGENT_SOCKET: &str = "/run/nodemesh/agent.sock";
/// The name under which the controller itself answers.
pub const CONTROLLER: &str = "controller";
/// Where the controller listens unless it was told otherwise.
const CONTROLLER_SOCKET: &str = "/var/lib/nodemesh/admin.sock";

/// Whom to ask, and about which node.
#[derive(Debug)]
pub struct Servers {
    servers: Vec<Server>,
    /// Empty: every node that the servers can reach.
    node: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The question makes no sense, here or to the server.
    #[error("{0}")]
    Usage(String),
    /// Nobody answered, or not to the end.
    #[error("{0}")]
    Unreachable(String),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// The answers of all servers in the order of their arrival.
#[derive(Debug)]
pub struct Answers {
    heard: mpsc::Receiver<Heard>,
    /// How many servers were asked, and about which node.
    asked: usize,
    node: String,
    /// They are replicas of the controller.
    replicas: bool,
    /// The nodes of those who were asked about another node than theirs; replicas that are not linked to its agent.
    elsewhere: Vec<String>,
    // Dropping it ends the streams.
    _tasks: JoinSet<()>,
}

/// What one server said.
#[derive(Debug)]
pub enum Heard {
    Item(Box<Item>),
    Failed(Failure),
    /// It is the agent of this node, and was asked about another; or this replica, which is not linked to its agent.
    Elsewhere(String),
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Unreachable(_) | Self::Output(_) => 3,
        }
    }
}

impl Servers {
    /// `bool`: whether it was typed, which beats what the environment says. Without any of them the sockets that are
    /// here are taken, and without those the cluster.
    pub async fn choose(
        (agents, agents_typed): (Vec<PathBuf>, bool),
        (controller, controller_typed): (Option<PathBuf>, bool),
        cluster: &Cluster,
        node: String,
    ) -> Result<Self, Failure> {
        let here = Self::here((agents, agents_typed), (controller, controller_typed), cluster, node.clone())?;
        match here {
            Some(servers) => Ok(servers),
            None => Self::of_cluster(cluster, node).await.map_err(|failure| or_socket(failure, cluster)),
        }
    }

    /// As [`Self::choose`]; `None`: the cluster is meant.
    pub fn here(
        (agents, agents_typed): (Vec<PathBuf>, bool),
        (controller, controller_typed): (Option<PathBuf>, bool),
        cluster: &Cluster,
        node: String,
    ) -> Result<Option<Self>, Failure> {
        if cluster.access.is_named() {
            if agents_typed || controller_typed {
                let why = "name sockets (--agent, --controller) or a cluster (--kubeconfig, --context), not both";
                return Err(Failure::Usage(why.into()));
            }
            return Ok(None);
        }
        let sockets = sockets((agents, agents_typed), (controller, controller_typed))?;
        Ok(sockets.map(|sockets| Self { servers: sockets.into_iter().map(Server::Socket).collect(), node }))
    }

    pub async fn of_cluster(cluster: &Cluster, node: String) -> Result<Self, Failure> {
        let servers = cluster.replicas().await?.into_iter().map(Server::Replica).collect();
        Ok(Self { servers, node })
    }

    #[cfg(test)]
    pub fn of_sockets(sockets: Vec<PathBuf>, node: String) -> Self {
        Self { servers: sockets.into_iter().map(Server::Socket).collect(), node }
    }

    /// The same, asked about one node.
    pub fn about(&self, node: &str) -> Self {
        Self { servers: self.servers.clone(), node: node.to_owned() }
    }

    /// They are a cluster's controllers, each with agents of its own.
    pub fn are_replicas(&self) -> bool {
        matches!(self.servers.first(), Some(Server::Replica(_)))
    }

    /// Asks all at once. Of several agents those of other nodes than the one that is asked about say nothing.
    pub fn ask(&self, kind: query::Kind) -> Answers {
        let query = Query { node: self.node.clone(), kind: Some(kind) };
        let (sender, heard) = mpsc::channel(64);
        let several = self.servers.len() > 1;
        let mut tasks = JoinSet::new();
        for (index, server) in self.servers.iter().enumerate() {
            let (server, query, sender) = (server.clone(), query.clone(), sender.clone());
            tasks.spawn(async move {
                if let Err(failure) = relay(&server, query, (index, several), &sender).await {
                    // Without a receiver nobody wants to know any more.
                    let _ = sender.send(Heard::Failed(failure)).await;
                }
            });
        }
        let (asked, node, replicas) = (self.servers.len(), self.node.clone(), self.are_replicas());
        Answers { heard, asked, node, replicas, elsewhere: Vec::new(), _tasks: tasks }
    }
}

impl Answers {
    /// As if one server had been asked, which says this.
    #[cfg(test)]
    pub fn of(heard: mpsc::Receiver<Heard>) -> Self {
        Self { heard, asked: 1, node: String::new(), replicas: false, elsewhere: Vec::new(), _tasks: JoinSet::new() }
    }

    /// How many servers were asked.
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// The next answer; `None` when every server has said all.
    pub async fn next(&mut self) -> Option<Result<(String, item::Kind), Failure>> {
        loop {
            match self.heard.recv().await {
                Some(Heard::Item(item)) => {
                    // A kind that this version does not know is left out.
                    if let Item { node, kind: Some(kind) } = *item {
                        return Some(Ok((node, kind)));
                    }
                }
                Some(Heard::Failed(failure)) => return Some(Err(failure)),
                Some(Heard::Elsewhere(node)) => self.elsewhere.push(node),
                None => return self.nobody().map(Err),
            }
        }
    }

    /// Every agent is another node's, or nobody is linked to it. Told once.
    fn nobody(&mut self) -> Option<Failure> {
        let mut others = std::mem::take(&mut self.elsewhere);
        others.sort();
        let (node, places) = (&self.node, others.join(", "));
        (others.len() == self.asked && self.asked > 0).then(|| match self.replicas {
            true => Failure::Unreachable(format!("the agent of node {node} is not connected to any of {places}")),
            false => Failure::Usage(format!("no agent of node {node}: these are the agents of {places}")),
        })
    }

    /// Everything. Failures come beside it: one dead agent does not hide what the others say.
    pub async fn all(mut self) -> (Vec<(String, item::Kind)>, Result<(), Failure>) {
        let (mut items, mut failures) = (Vec::new(), Vec::new());
        while let Some(answer) = self.next().await {
            match answer {
                Ok(item) => items.push(item),
                Err(failure) => failures.push(failure),
            }
        }
        (items, first(failures))
    }
}

/// The first failure carries the words of all.
pub fn first(failures: Vec<Failure>) -> Result<(), Failure> {
    let words = failures.iter().map(Failure::to_string).collect::<Vec<_>>().join("\nmeshctl: ");
    match failures.into_iter().next() {
        None => Ok(()),
        Some(Failure::Usage(_)) => Err(Failure::Usage(words)),
        Some(_) => Err(Failure::Unreachable(words)),
    }
}

async fn relay(
    server: &Server,
    query: Query,
    (index, several): (usize, bool),
    sender: &mpsc::Sender<Heard>,
) -> Result<(), Failure> {
    let mut admin = AdminClient::new(server.channel().await?);
    let node = query.node.clone();
    // Replicas have the same configuration, which is told once.
    let only_agents = index > 0 && matches!(server, Server::Replica(_));
    let Err(status) = items(&mut admin, query, only_agents, sender).await else { return Ok(()) };
    if !several || node.is_empty() {
        return Err(server.said(&status));
    }
    let elsewhere = match (server, status.code()) {
        // It is linked to another replica, or to none.
        (Server::Replica(replica), Code::FailedPrecondition) => Some(replica.to_string()),
        // "Not found" is also said of a pod, so the agent is asked whose it is.
        (Server::Socket(_), Code::NotFound) => own_node(&mut admin).await.filter(|own| *own != node),
        _ => None,
    };
    match elsewhere {
        Some(place) => {
            let _ = sender.send(Heard::Elsewhere(place)).await;
            Ok(())
        }
        None => Err(server.said(&status)),
    }
}

async fn items(
    admin: &mut AdminClient<Channel>,
    query: Query,
    only_agents: bool,
    sender: &mpsc::Sender<Heard>,
) -> Result<(), Status> {
    let mut stream = admin.ask(query).await?.into_inner();
    while let Some(item) = stream.message().await? {
        // What replicas say of themselves differs.
        if only_agents && item.node == CONTROLLER && !matches!(item.kind, Some(item::Kind::Controller(_))) {
            continue;
        }
        if sender.send(Heard::Item(Box::new(item))).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The node under whose name this server answers.
async fn own_node(admin: &mut AdminClient<Channel>) -> Option<String> {
    let query = Query { node: String::new(), kind: Some(query::Kind::Status(StatusQuery {})) };
    let item = admin.ask(query).await.ok()?.into_inner().message().await.ok()??;
    Some(item.node)
}

/// Those that were named, or one that is here; `None`: neither.
fn sockets(
    (agents, agents_typed): (Vec<PathBuf>, bool),
    (controller, controller_typed): (Option<PathBuf>, bool),
) -> Result<Option<Vec<PathBuf>>, Failure> {
    Ok(Some(match (agents.is_empty(), controller) {
        (false, Some(_)) if agents_typed == controller_typed => {
            return Err(Failure::Usage(
                "name agents (--agent, MESH_AGENT_SOCKET) or the controller (--controller, MESH_CONTROLLER_SOCKET), \
                 not both"
                    .into(),
            ));
        }
        (false, Some(controller)) if controller_typed => vec![controller],
        (false, _) => agents,
        (true, Some(controller)) => vec![controller],
        (true, None) => {
            return Ok(default_socket(Path::new(AGENT_SOCKET), Path::new(CONTROLLER_SOCKET)).map(|socket| vec![socket]));
        }
    }))
}

/// One that may not be looked at counts as there: to open it says what is missing.
fn default_socket(agent: &Path, controller: &Path) -> Option<PathBuf> {
    [agent, controller].into_iter().find(|socket| socket.try_exists().unwrap_or(true)).map(Path::to_path_buf)
}

/// Nobody said where to ask: both ways are named.
pub fn or_socket(failure: Failure, cluster: &Cluster) -> Failure {
    match failure {
        Failure::Usage(why) if !cluster.access.is_named() => Failure::Unreachable(format!(
            "there is no socket of an agent ({AGENT_SOCKET}) nor of the controller ({CONTROLLER_SOCKET}), and no cluster \
             to ask ({why}): name a socket by --agent or --controller, or a cluster by --kubeconfig"
        )),
        failure => failure,
    }
}

#[cfg(test)]
mod tests;
