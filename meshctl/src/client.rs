//! The connection to agents and controller: gRPC over a unix socket. Every failure says which socket and what to do.

use std::{
    io,
    path::{Path, PathBuf},
};

use hyper_util::rt::TokioIo;
use mesh_common::proto::nodemesh::{Item, Query, admin_client::AdminClient, item, query};
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
    items: mpsc::Receiver<Result<Item, Failure>>,
    // Dropping it ends the streams.
    _tasks: JoinSet<()>,
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
                    "name agents (--agent, MESH_AGENT) or the controller (--controller, MESH_CONTROLLER), not both"
                        .into(),
                ));
            }
            (false, Some(controller)) if controller_typed => vec![controller],
            (false, _) => agents,
            (true, Some(controller)) => vec![controller],
            (true, None) if Path::new(AGENT_SOCKET).exists() => vec![AGENT_SOCKET.into()],
            (true, None) => vec![CONTROLLER_SOCKET.into()],
        };
        Ok(Self { sockets, node })
    }

    /// Asks all at once.
    pub fn ask(&self, kind: query::Kind) -> Answers {
        let query = Query { node: self.node.clone(), kind: Some(kind) };
        let (sender, items) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        for socket in &self.sockets {
            let (socket, query, sender) = (socket.clone(), query.clone(), sender.clone());
            tasks.spawn(async move {
                if let Err(failure) = relay(&socket, query, &sender).await {
                    // Without a receiver nobody wants to know any more.
                    let _ = sender.send(Err(failure)).await;
                }
            });
        }
        Answers { items, _tasks: tasks }
    }
}

impl Answers {
    /// The next answer; `None` when every server has said all.
    pub async fn next(&mut self) -> Option<Result<(String, item::Kind), Failure>> {
        loop {
            return Some(match self.items.recv().await? {
                // A kind that this version does not know is left out.
                Ok(Item { kind: None, .. }) => continue,
                Ok(Item { node, kind: Some(kind) }) => Ok((node, kind)),
                Err(failure) => Err(failure),
            });
        }
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

async fn relay(socket: &Path, query: Query, sender: &mpsc::Sender<Result<Item, Failure>>) -> Result<(), Failure> {
    let mut admin = AdminClient::new(channel(socket).await?);
    let failed = |status: Status| Failure::of_status(socket, &status);
    let mut stream = admin.ask(query).await.map_err(failed)?.into_inner();
    while let Some(item) = stream.message().await.map_err(failed)? {
        if sender.send(Ok(item)).await.is_err() {
            break;
        }
    }
    Ok(())
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
mod tests {
    use super::*;

    fn path(text: &str) -> PathBuf {
        PathBuf::from(text)
    }

    #[test]
    fn what_is_typed_beats_the_environment() {
        let chosen = |agent, controller| {
            Servers::choose((vec![path("/a")], agent), (Some(path("/c")), controller), String::new())
                .map(|servers| servers.sockets)
        };
        assert_eq!(chosen(true, false).unwrap(), [path("/a")]);
        assert_eq!(chosen(false, true).unwrap(), [path("/c")]);
        assert_eq!(chosen(true, true).unwrap_err().exit_code(), 2);
        assert_eq!(chosen(false, false).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_wrong_question_is_not_a_lost_server() {
        let code = |code| Failure::of_status(Path::new("/a"), &Status::new(code, "said")).exit_code();
        assert_eq!(code(Code::InvalidArgument), 2);
        assert_eq!(code(Code::NotFound), 2);
        assert_eq!(code(Code::Unavailable), 3);
        assert_eq!(code(Code::Unimplemented), 3);
    }

    #[test]
    fn a_socket_that_cannot_be_opened_says_what_to_do() {
        let said = |kind| Failure::of_connect(Path::new("/run/x.sock"), &io::Error::from(kind)).to_string();
        assert!(said(io::ErrorKind::NotFound).contains("no socket /run/x.sock: is the agent"));
        assert!(said(io::ErrorKind::PermissionDenied).contains("sudo"));
        assert!(said(io::ErrorKind::ConnectionRefused).contains("has ended"));
    }
}
