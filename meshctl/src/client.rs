//! The connection to agents and controller: gRPC over a unix socket. Every failure says which socket and what to do.

use std::{
    io,
    path::{Path, PathBuf},
};

use hyper_util::rt::TokioIo;
use mesh_common::proto::nodemesh::{Item, Query, StatusQuery, admin_client::AdminClient, item, query};
use tokio::{net::UnixStream, sync::mpsc, task::JoinSet};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};

/// Where an agent listens unless it was told otherwise.
const AGENT_SOCKET: &str = "/run/nodemesh/agent.sock";
/// Where the controller listens unless it was told otherwise.
const CONTROLLER_SOCKET: &str = "/var/lib/nodemesh/admin.sock";

/// Whom to ask, and about which node.
#[derive(Debug)]
pub struct Servers {
    sockets: Vec<PathBuf>,
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
    /// The nodes of those who were asked about another node than theirs.
    elsewhere: Vec<String>,
    // Dropping it ends the streams.
    _tasks: JoinSet<()>,
}

/// What one server said.
#[derive(Debug)]
pub enum Heard {
    Item(Box<Item>),
    Failed(Failure),
    /// It is the agent of this node, and was asked about another.
    Elsewhere(String),
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Unreachable(_) | Self::Output(_) => 3,
        }
    }

    fn of_status(socket: &Path, status: &Status) -> Self {
        let said = format!("{}: {}", socket.display(), status.message());
        match status.code() {
            Code::InvalidArgument | Code::NotFound => Self::Usage(said),
            Code::Unimplemented => {
                Self::Unreachable(format!("{}: this server does not know the question; is it older?", socket.display()))
            }
            _ => Self::Unreachable(said),
        }
    }

    fn of_connect(socket: &Path, error: &io::Error) -> Self {
        let socket = socket.display();
        Self::Unreachable(match error.kind() {
            io::ErrorKind::NotFound => format!(
                "there is no socket {socket}: is the agent (or controller) running? Name its socket by --agent or \
                 --controller"
            ),
            io::ErrorKind::PermissionDenied => {
                format!("no permission to open {socket}: only root may ask; try sudo meshctl …")
            }
            io::ErrorKind::ConnectionRefused => {
                format!("nobody listens on {socket}: its process has ended; see its log and start it again")
            }
            _ => format!("cannot open {socket}: {error}"),
        })
    }
}

impl Servers {
    /// `bool`: whether it was typed, which beats what the environment says.
    pub fn choose(
        (agents, agents_typed): (Vec<PathBuf>, bool),
        (controller, controller_typed): (Option<PathBuf>, bool),
        node: String,
    ) -> Result<Self, Failure> {
        let sockets = match (agents.is_empty(), controller) {
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
            (true, None) => vec![default_socket(Path::new(AGENT_SOCKET), Path::new(CONTROLLER_SOCKET))?],
        };
        Ok(Self { sockets, node })
    }

    /// Asks all at once. Of several agents those of other nodes than the one that is asked about say nothing.
    pub fn ask(&self, kind: query::Kind) -> Answers {
        let query = Query { node: self.node.clone(), kind: Some(kind) };
        let (sender, heard) = mpsc::channel(64);
        let several = self.sockets.len() > 1;
        let mut tasks = JoinSet::new();
        for socket in &self.sockets {
            let (socket, query, sender) = (socket.clone(), query.clone(), sender.clone());
            tasks.spawn(async move {
                if let Err(failure) = relay(&socket, query, several, &sender).await {
                    // Without a receiver nobody wants to know any more.
                    let _ = sender.send(Heard::Failed(failure)).await;
                }
            });
        }
        Answers { heard, asked: self.sockets.len(), node: self.node.clone(), elsewhere: Vec::new(), _tasks: tasks }
    }
}

impl Answers {
    /// As if one server had been asked, which says this.
    #[cfg(test)]
    pub fn of(heard: mpsc::Receiver<Heard>) -> Self {
        Self { heard, asked: 1, node: String::new(), elsewhere: Vec::new(), _tasks: JoinSet::new() }
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

    /// Every agent is another node's. Told once.
    fn nobody(&mut self) -> Option<Failure> {
        let mut others = std::mem::take(&mut self.elsewhere);
        others.sort();
        (others.len() == self.asked && self.asked > 0).then(|| {
            Failure::Usage(format!("no agent of node {}: these are the agents of {}", self.node, others.join(", ")))
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
fn first(failures: Vec<Failure>) -> Result<(), Failure> {
    let words = failures.iter().map(Failure::to_string).collect::<Vec<_>>().join("\nmeshctl: ");
    match failures.into_iter().next() {
        None => Ok(()),
        Some(Failure::Usage(_)) => Err(Failure::Usage(words)),
        Some(_) => Err(Failure::Unreachable(words)),
    }
}

async fn relay(socket: &Path, query: Query, several: bool, sender: &mpsc::Sender<Heard>) -> Result<(), Failure> {
    let mut admin = AdminClient::new(channel(socket).await?);
    let node = query.node.clone();
    let Err(status) = items(&mut admin, query, sender).await else { return Ok(()) };
    // "Not found" is also said of a pod, so the agent is asked whose it is.
    if several
        && !node.is_empty()
        && status.code() == Code::NotFound
        && let Some(own) = own_node(&mut admin).await
        && own != node
    {
        let _ = sender.send(Heard::Elsewhere(own)).await;
        return Ok(());
    }
    Err(Failure::of_status(socket, &status))
}

async fn items(admin: &mut AdminClient<Channel>, query: Query, sender: &mpsc::Sender<Heard>) -> Result<(), Status> {
    let mut stream = admin.ask(query).await?.into_inner();
    while let Some(item) = stream.message().await? {
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

fn default_socket(agent: &Path, controller: &Path) -> Result<PathBuf, Failure> {
    // One that may not be looked at counts as there: to open it says what is missing.
    let there = [agent, controller].into_iter().find(|socket| socket.try_exists().unwrap_or(true));
    there.map(Path::to_path_buf).ok_or_else(|| {
        Failure::Unreachable(format!(
            "there is no socket of an agent ({}) nor of the controller ({}): is one of them running here? Name its \
             socket by --agent or --controller",
            agent.display(),
            controller.display()
        ))
    })
}

/// The socket is opened here rather than by the channel, whose errors would not say why it failed.
async fn channel(socket: &Path) -> Result<Channel, Failure> {
    let stream = UnixStream::connect(socket).await.map_err(|error| Failure::of_connect(socket, &error))?;
    let mut opened = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = opened.take().ok_or_else(|| io::Error::other("the server closed the connection"));
        async move { stream }
    });
    // The name is never resolved; gRPC wants an authority.
    Endpoint::from_static("http://mesh.invalid")
        .connect_with_connector(connector)
        .await
        .map_err(|error| Failure::Unreachable(format!("{} does not speak gRPC: {error}", socket.display())))
}

#[cfg(test)]
mod tests;
