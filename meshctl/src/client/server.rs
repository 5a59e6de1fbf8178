//! One server: its local socket, or a controller's pod that the Kubernetes API reaches. Every failure says which one
//! and what to do.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};

use super::{Failure, kubernetes::Replica};

/// Somebody to ask.
#[derive(Clone, Debug)]
pub enum Server {
    Socket(PathBuf),
    /// One of several that have the same configuration, each linked to agents of its own.
    Replica(Replica),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Replica(replica) => replica.fmt(f),
        }
    }
}

impl Server {
    pub(super) async fn channel(&self) -> Result<Channel, Failure> {
        match self {
            Self::Socket(path) => {
                // Opened here rather than by the channel, whose errors would not say why it failed.
                let stream = UnixStream::connect(path).await.map_err(|error| of_connect(path, &error))?;
                self.speak(stream).await
            }
            Self::Replica(replica) => self.speak(replica.open().await?).await,
        }
    }

    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) -> Result<Channel, Failure> {
        let mut opened = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_: Uri| {
            let stream = opened.take().ok_or_else(|| io::Error::other("the server closed the connection"));
            async move { stream }
        });
        // The name is never resolved; gRPC wants an authority.
        Endpoint::from_static("http://mesh.invalid")
            .connect_with_connector(connector)
            .await
            .map_err(|error| Failure::Unreachable(format!("{self} does not speak gRPC: {error}")))
    }

    pub(super) fn said(&self, status: &Status) -> Failure {
        let said = format!("{self}: {}", status.message());
        match status.code() {
            Code::InvalidArgument | Code::NotFound => Failure::Usage(said),
            Code::Unimplemented => {
                Failure::Unreachable(format!("{self}: this server does not know the question; is it older?"))
            }
            _ => Failure::Unreachable(said),
        }
    }
}

pub(super) fn of_connect(socket: &Path, error: &io::Error) -> Failure {
    let socket = socket.display();
    Failure::Unreachable(match error.kind() {
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
