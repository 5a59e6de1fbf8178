//! The local socket by which pods join and leave: for the CNI plugin, and for `mesh-agent pod`. One request a
//! connection: a line of JSON, with the descriptor of the pod's network namespace beside it (SCM_RIGHTS) for `add`, and
//! for `remove` if it is there still. Answer: a line of JSON, `{"ok":true,...}` or `{"error":"..."}`.
//!
//! Plugin and agent are of two versions while an agent is being replaced, so both read tolerantly: fields that are not
//! known are passed over, those that are missing have their default, and an operation that is not known is refused. A
//! new field must mean nothing to whoever does not know it.

use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    net::IpAddr,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{net::UnixListener, sync::mpsc};

use super::registry::Command;

/// Longest request; the containers of a full node fit many times.
const LONGEST: usize = 256 * 1024;
/// For a request to be read and its answer to be written.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon a request is repeated that met an agent which is being replaced.
const AGAIN: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    pub operation: Operation,
    pub namespace: String,
    pub name: String,
    /// The pod's UID in Kubernetes; optional where there is none.
    pub pod_uid: String,
    /// Cgroup v2 folder of the pod, for `add`; empty: the agent looks for it by the UID.
    pub cgroup: PathBuf,
    /// What the pod's namespace was given; empty: those of the configuration count.
    pub addresses: Vec<IpAddr>,
    /// The runtime's name for the pod's sandbox; empty: none.
    pub container: String,
    /// For `gc`: the containers that there are.
    pub attachments: Vec<String>,
    /// For `add` and `check`: how long to wait until the pod is what it shall be. 0: the answer says only that it was
    /// heard.
    pub wait_ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    Add,
    Remove,
    /// Is the pod what it shall be, by proof?
    Check,
    /// Forget the pods of containers that are not listed.
    Gc,
    /// Can the agent serve pods that join?
    Status,
    #[default]
    #[serde(other)]
    Unknown,
}

/// What the agent says of a request that it fulfilled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The pod is in the mesh.
    Enrolled,
    /// Its connections are recorded.
    Observed,
    /// It is not to be in the mesh.
    Unmeshed,
    /// It heard.
    #[default]
    #[serde(other)]
    Done,
}

/// Why the agent does not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub why: String,
    /// It may be otherwise in a moment.
    pub later: bool,
}

impl Refusal {
    pub fn now(why: impl Into<String>) -> Self {
        Self { why: why.into(), later: false }
    }

    pub fn later(why: impl Into<String>) -> Self {
        Self { why: why.into(), later: true }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Reply {
    ok: bool,
    answer: Answer,
    error: String,
    /// It may be otherwise in a moment.
    later: bool,
    /// Another agent takes over this moment: the same request will be answered by it.
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
    #[error("the agent did not answer within {:.1} s", .0.as_secs_f64())]
    Slow(Duration),
    #[error("not yet: {0}")]
    Later(String),
    #[error("the agent refuses: {0}")]
    Refused(String),
}

/// Asks the agent at `socket`, for `limit` at most; `netns` goes along for `add`. While one agent replaces another, it
/// asks again.
pub fn request(
    socket: &Path,
    request: &Request,
    netns: Option<BorrowedFd<'_>>,
    limit: Duration,
) -> Result<Answer, JoinError> {
    let start = Instant::now();
    loop {
        let left = limit.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(JoinError::Slow(limit));
        }
        match ask(socket, request, netns, left)? {
            Reply { ok: true, answer, .. } => return Ok(answer),
            Reply { again: true, .. } => thread::sleep(AGAIN),
            Reply { error, later: true, .. } => return Err(JoinError::Later(error)),
            Reply { error, .. } => return Err(JoinError::Refused(error)),
        }
    }
}

fn ask(socket: &Path, request: &Request, netns: Option<BorrowedFd<'_>>, limit: Duration) -> Result<Reply, JoinError> {
    let slow = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => JoinError::Slow(limit),
        _ => JoinError::Io(error),
    };
    let stream = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    // An agent that was stopped has a queue that fills: connecting may take for ever, too.
    stream.set_write_timeout(Some(limit))?;
    stream.set_read_timeout(Some(limit))?;
    stream.connect(&SockAddr::unix(socket)?).map_err(|source| match slow(source) {
        JoinError::Io(source) => JoinError::Connect { path: socket.to_owned(), source },
        slow => slow,
    })?;
    let mut stream = UnixStream::from(OwnedFd::from(stream));
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = netns.into_iter().collect();
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for the descriptor").into());
    }
    let sent =
        sendmsg(&stream, &[IoSlice::new(&line)], &mut ancillary, SendFlags::NOSIGNAL).map_err(|e| slow(e.into()))?;
    stream.write_all(&line[sent..]).map_err(slow)?;
    let mut answer = String::new();
    stream.take(LONGEST as u64).read_to_string(&mut answer).map_err(slow)?;
    if answer.is_empty() {
        return Err(JoinError::Io(io::Error::other("it closed without an answer")));
    }
    Ok(serde_json::from_str(&answer)?)
}

/// Why the agent cannot serve pods that join; `None`: it can.
pub type NotReady = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// Serves joins for ever: without descriptors to spare, pods wait, and no connection suffers.
pub async fn serve_joins(listener: UnixListener, commands: mpsc::Sender<Command>, not_ready: NotReady) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "accept failed on the socket for joins");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let (commands, not_ready) = (commands.clone(), Arc::clone(&not_ready));
        tokio::spawn(async move {
            if let Err(e) = answer(stream, commands, not_ready).await {
                tracing::warn!(error = %e, "a join request broke off");
            }
        });
    }
}

async fn answer(
    stream: tokio::net::UnixStream,
    commands: mpsc::Sender<Command>,
    not_ready: NotReady,
) -> io::Result<()> {
    let stream = stream.into_std()?;
    let received = tokio::task::spawn_blocking(move || {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let request = receive(&stream)?;
        io::Result::Ok((stream, request))
    });
    let (mut stream, request) = received.await.map_err(io::Error::other)??;
    let performed = match request {
        Ok((request, netns)) => perform(request, netns, &commands, &not_ready).await,
        Err(why) => Some(Err(Refusal::now(why))),
    };
    let reply = match performed {
        Some(Ok(answer)) => Reply { ok: true, answer, ..Reply::default() },
        Some(Err(Refusal { why, later })) => Reply { error: why, later, ..Reply::default() },
        None => Reply { error: "the agent is shutting down".to_owned(), later: true, again: true, ..Reply::default() },
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    tokio::task::spawn_blocking(move || stream.write_all(&line)).await.map_err(io::Error::other)?
}

/// `None`: this agent does not answer any more; another one may.
async fn perform(
    request: Request,
    netns: Option<OwnedFd>,
    commands: &mpsc::Sender<Command>,
    not_ready: &NotReady,
) -> Option<Result<Answer, Refusal>> {
    let operation = request.operation;
    let by_container = operation == Operation::Remove && !request.container.is_empty();
    if matches!(operation, Operation::Add | Operation::Remove | Operation::Check) && !by_container {
        for (field, value) in [("namespace", &request.namespace), ("name", &request.name)] {
            if value.is_empty() {
                return Some(Err(Refusal::now(format!("{field}: is empty"))));
            }
        }
    }
    let (done, result) = tokio::sync::oneshot::channel();
    let command = match (operation, netns) {
        (Operation::Add, Some(netns)) => Command::Join { request, netns, done },
        (Operation::Add, None) => {
            return Some(Err(Refusal::now("add: no descriptor of a network namespace came along")));
        }
        (Operation::Remove, netns) => Command::Leave { request, netns, done },
        (Operation::Check, _) => Command::Check { request, done },
        (Operation::Gc, _) => Command::Keep { containers: request.attachments, done },
        (Operation::Status, _) => return Some(not_ready().map_or(Ok(Answer::Done), |why| Err(Refusal::later(why)))),
        (Operation::Unknown, _) => {
            let own = env!("CARGO_PKG_VERSION");
            return Some(Err(Refusal::now(format!("operation: the agent, version {own}, does not know it"))));
        }
    };
    commands.send(command).await.ok()?;
    result.await.ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_understood_as_far_as_it_goes() {
        let newer = r#"{"operation":"add","namespace":"shop","name":"cart","colour":"red"}"#;
        let read: Request = serde_json::from_str(newer).unwrap();
        let known =
            Request { operation: Operation::Add, namespace: "shop".into(), name: "cart".into(), ..read.clone() };
        assert_eq!(read, known);
        assert_eq!((read.wait_ms, read.addresses.len()), (0, 0));
        let unknown: Request = serde_json::from_str(r#"{"operation":"paint"}"#).unwrap();
        assert_eq!(unknown.operation, Operation::Unknown);
        let reply: Reply = serde_json::from_str(r#"{"ok":true,"answer":"painted","by":"me"}"#).unwrap();
        assert_eq!((reply.ok, reply.answer), (true, Answer::Done));
        let old: Reply = serde_json::from_str(r#"{"ok":true}"#).unwrap();
        assert_eq!((old.ok, old.answer), (true, Answer::Done));
    }
}
