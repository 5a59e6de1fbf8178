//! The local socket by which pods join and leave: the entry for a CNI plugin, and for `mesh-agent pod`. One request a
//! connection: a line of JSON, with the descriptor of the pod's network namespace beside it (SCM_RIGHTS) for `add`.
//! Answer: a line of JSON, `{"ok":true}` or `{"error":"..."}`.

use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::{net::UnixListener, sync::mpsc};

use super::registry::Command;

/// Longest request; names of Kubernetes and paths fit many times.
const LONGEST: usize = 16 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon a request is repeated that met an agent which is being replaced.
const AGAIN: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub operation: Operation,
    pub namespace: String,
    pub name: String,
    /// The pod's UID in Kubernetes; optional where there is none.
    #[serde(default)]
    pub pod_uid: String,
    /// Cgroup v2 folder of the pod, for `add`.
    #[serde(default)]
    pub cgroup: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    Add,
    Remove,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Reply {
    #[serde(default)]
    ok: bool,
    #[serde(default)]
    error: String,
    /// Another agent takes over this moment: the same request will be answered by it.
    #[serde(default)]
    again: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("cannot reach the agent at {path}; is it running, and are you root?")]
    Connect { path: PathBuf, source: io::Error },
    #[error("the agent's socket broke off")]
    Io(#[from] io::Error),
    #[error("the agent's answer is no JSON of the expected form")]
    Answer(#[from] serde_json::Error),
    #[error("the agent refuses: {0}")]
    Refused(String),
}

/// Asks the agent at `socket`; `netns` goes along for `add`. While one agent replaces another, it asks again.
pub fn request(socket: &Path, request: &Request, netns: Option<BorrowedFd<'_>>) -> Result<(), JoinError> {
    let start = Instant::now();
    loop {
        match ask(socket, request, netns)? {
            Reply { ok: true, .. } => return Ok(()),
            Reply { again: true, .. } if start.elapsed() < PATIENCE => thread::sleep(AGAIN),
            Reply { error, .. } => return Err(JoinError::Refused(error)),
        }
    }
}

fn ask(socket: &Path, request: &Request, netns: Option<BorrowedFd<'_>>) -> Result<Reply, JoinError> {
    let mut stream =
        UnixStream::connect(socket).map_err(|source| JoinError::Connect { path: socket.to_owned(), source })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = netns.into_iter().collect();
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for the descriptor").into());
    }
    let sent =
        sendmsg(&stream, &[IoSlice::new(&line)], &mut ancillary, SendFlags::NOSIGNAL).map_err(io::Error::from)?;
    stream.write_all(&line[sent..])?;
    let mut answer = String::new();
    stream.take(LONGEST as u64).read_to_string(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

/// Serves joins for ever: without descriptors to spare, pods wait, and no connection suffers.
pub async fn serve_joins(listener: UnixListener, commands: mpsc::Sender<Command>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "accept failed on the socket for joins");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let commands = commands.clone();
        tokio::spawn(async move {
            if let Err(e) = answer(stream, commands).await {
                tracing::warn!(error = %e, "a join request broke off");
            }
        });
    }
}

async fn answer(stream: tokio::net::UnixStream, commands: mpsc::Sender<Command>) -> io::Result<()> {
    let stream = stream.into_std()?;
    let received = tokio::task::spawn_blocking(move || {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let request = receive(&stream)?;
        io::Result::Ok((stream, request))
    });
    let (mut stream, request) = received.await.map_err(io::Error::other)??;
    let result = match request {
        Ok((request, netns)) => perform(request, netns, &commands).await,
        Err(why) => Err(Refusal { why, again: false }),
    };
    let reply = match result {
        Ok(()) => Reply { ok: true, ..Reply::default() },
        Err(Refusal { why, again }) => Reply { error: why, again, ..Reply::default() },
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    tokio::task::spawn_blocking(move || stream.write_all(&line)).await.map_err(io::Error::other)?
}

struct Refusal {
    why: String,
    again: bool,
}

async fn perform(request: Request, netns: Option<OwnedFd>, commands: &mpsc::Sender<Command>) -> Result<(), Refusal> {
    let refused = |why| Refusal { why, again: false };
    for (field, value) in [("namespace", &request.namespace), ("name", &request.name)] {
        if value.is_empty() {
            return Err(refused(format!("{field}: is empty")));
        }
    }
    let (done, result) = tokio::sync::oneshot::channel();
    let command = match (request.operation, netns) {
        (Operation::Add, Some(netns)) => Command::Join { request, netns, done },
        (Operation::Add, None) => {
            return Err(refused("add: no descriptor of a network namespace came along".to_owned()));
        }
        (Operation::Remove, _) => Command::Leave { namespace: request.namespace, name: request.name, done },
    };
    let ended = || Refusal { why: "the agent is shutting down".to_owned(), again: true };
    commands.send(command).await.map_err(|_| ended())?;
    result.await.map_err(|_| ended())?.map_err(refused)
}

type Received = Result<(Request, Option<OwnedFd>), String>;

/// One line, and at most one descriptor. The outer error is the socket's, the inner one the request's.
fn receive(stream: &UnixStream) -> io::Result<Received> {
    let mut line = Vec::new();
    let mut netns = None;
    while !line.ends_with(b"\n") {
        let mut chunk = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let message =
            recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut chunk)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
                .map_err(io::Error::from)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                for fd in fds {
                    if netns.replace(fd).is_some() {
                        return Ok(Err("more than one descriptor came along".to_owned()));
                    }
                }
            }
        }
        if message.bytes == 0 {
            break;
        }
        line.extend_from_slice(&chunk[..message.bytes]);
        if line.len() > LONGEST {
            return Ok(Err(format!("the request is longer than {LONGEST} bytes")));
        }
    }
    Ok(serde_json::from_slice(&line).map(|request| (request, netns)).map_err(|e| e.to_string()))
}
