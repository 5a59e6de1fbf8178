//! The agent that starts: asks whether another one runs, and takes over from it.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{
    About, Handed, PATIENCE, Sockets,
    peer::{ENDS, Process},
    wire::{Active, Channel, Hello, Message, Pod},
};
use crate::pods::{Addresses, HandedActive, HandedPod, HandedPods};

/// How often an agent is asked that closed the conversation before it answered: it ends, or has no descriptor left.
const LOOK: Duration = Duration::from_millis(50);

/// An agent runs and is ready to hand over.
#[derive(Debug)]
pub struct Takeover {
    channel: Channel,
    process: Process,
}

/// Why there is no taking over. The old agent goes on.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    #[error("cannot reach the agent that runs, at {path}")]
    Connect { path: PathBuf, source: io::Error },
    #[error("the agent that runs does not answer; end it first")]
    Silent(#[source] io::Error),
    #[error("the agent that runs does not hand over: {0}; end it first")]
    Refused(String),
    #[error("the agent that runs says what nobody asked it")]
    Unexpected,
    /// It has ended: this agent starts as after a crash.
    #[error("the agent that ran is gone")]
    Gone,
    /// Two would serve the same pods.
    #[error("the agent that runs broke off the hand-over without a word and still runs; end it first")]
    Lives,
    #[error("the agent that runs hands over what cannot be read: {0}")]
    Content(String),
    #[error("the hand-over broke off")]
    Io(#[from] io::Error),
}

/// Asks whoever listens at `path`; `None`: nobody does. Blocks for some seconds at most.
pub fn find(path: &Path, about: &About) -> Result<Option<Takeover>, TakeoverError> {
    let deadline = Instant::now() + ENDS;
    loop {
        let Some(channel) = connect(path)? else { return Ok(None) };
        channel.patience(Some(PATIENCE))?;
        // One that ends closes a conversation that it never began, and whoever comes then finds nobody.
        let sent = channel.send(&Message::Hello(Hello::new(about)?), &[]);
        match channel.receive().map_err(TakeoverError::Silent)? {
            Some((Message::Welcome { version }, descriptors)) => {
                let process = descriptors.into_iter().next().ok_or_else(|| missing("a welcome"))?;
                tracing::info!(version, "an agent runs; this one takes over from it");
                return Ok(Some(Takeover { channel, process: Process::from_descriptor(process) }));
            }
            Some((Message::Refused { why }, _)) => return Err(TakeoverError::Refused(why)),
            Some(_) => return Err(TakeoverError::Unexpected),
            None if Instant::now() > deadline => {
                let error = sent.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                return Err(TakeoverError::Silent(error));
            }
            None => thread::sleep(LOOK),
        }
    }
}

fn connect(path: &Path) -> Result<Option<Channel>, TakeoverError> {
    let failed = |source| TakeoverError::Connect { path: path.to_owned(), source };
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.cloexec(), None).map_err(failed)?;
    match socket.connect(&SockAddr::unix(path).map_err(failed)?) {
        Ok(()) => Ok(Some(Channel::new(socket)?)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(e) => Err(failed(e)),
    }
}

impl Takeover {
    /// The old agent has not closed the conversation. If it has, [`Takeover::ended`] tells what follows.
    pub fn is_open(&self) -> bool {
        self.channel.is_open()
    }

    /// The conversation is over; an error: the old agent's process is not. Blocks for some seconds at most.
    pub fn ended(&self) -> Result<(), TakeoverError> {
        if self.process.ends(ENDS)? { Ok(()) } else { Err(TakeoverError::Lives) }
    }

    /// Everything that the old agent has. From here on it waits, some seconds, for [`Takeover::serving`]. Blocks.
    pub fn take(&self) -> Result<Handed, TakeoverError> {
        // What it said before it went is read before its going is.
        let _ = self.channel.send(&Message::Take, &[]);
        let (mut pods, mut certificates, mut sockets) = (Vec::new(), Vec::new(), None);
        loop {
            match self.channel.receive()? {
                Some((Message::Pod(pod), descriptors)) => pods.push(handed_pod(pod, descriptors)?),
                Some((Message::Certificate { identity, chain, key }, _)) => {
                    let identity = identity.parse().map_err(|e| TakeoverError::Content(format!("identity: {e}")))?;
                    certificates.push((identity, chain, key));
                }
                Some((Message::Sockets, descriptors)) => {
                    let [admin, joins, handover] = descriptors.try_into().map_err(|_| missing("sockets"))?;
                    sockets = Some(Sockets { admin, joins, handover });
                }
                Some((Message::End { next_epoch }, _)) => {
                    let sockets = sockets.ok_or_else(|| missing("sockets"))?;
                    return Ok(Handed { pods: HandedPods { pods, next_epoch }, certificates, sockets });
                }
                Some((Message::Refused { why }, _)) => return Err(TakeoverError::Refused(why)),
                Some(_) => return Err(TakeoverError::Unexpected),
                None => return Err(self.ended().err().unwrap_or(TakeoverError::Gone)),
            }
        }
    }

    /// This agent serves: the old one may let go. Blocks. An error: it did not, and this one must not go on.
    pub fn serving(self) -> Result<(), TakeoverError> {
        // If it closed the conversation, it may have said why before.
        let _ = self.channel.send(&Message::Serving, &[]);
        match self.channel.receive().map_err(TakeoverError::Silent)? {
            Some((Message::Released, _)) => Ok(()),
            Some((Message::Refused { why }, _)) => Err(TakeoverError::Refused(why)),
            Some(_) => Err(TakeoverError::Unexpected),
            // Should it have died meanwhile, there is nothing left to let go.
            None => self.ended(),
        }
    }
}

fn missing(what: &str) -> TakeoverError {
    TakeoverError::Content(format!("{what} without their descriptors"))
}

fn handed_pod(pod: Pod, descriptors: Vec<OwnedFd>) -> Result<HandedPod, TakeoverError> {
    let Pod { namespace, name, pod_uid, cgroup, container, given, older, active } = pod;
    let mut descriptors = descriptors.into_iter();
    let netns = descriptors.next().ok_or_else(|| missing("a pod"))?;
    let active = active
        .map(|active| {
            let Active { uid, pod_uid, identity, addresses, probe_ports, index, epoch } = active;
            let ips = Addresses::of(&addresses)
                .ok_or_else(|| TakeoverError::Content("a redirected pod without addresses".to_owned()))?;
            let listener = descriptors.next().ok_or_else(|| missing("a redirected pod"))?;
            let identity = identity.parse().map_err(|e| TakeoverError::Content(format!("identity: {e}")))?;
            Ok::<_, TakeoverError>(HandedActive { uid, pod_uid, identity, ips, probe_ports, index, epoch, listener })
        })
        .transpose()?;
    let given = Addresses::of(&given);
    Ok(HandedPod { namespace, name, pod_uid, cgroup, container, given, older, netns, active })
}
