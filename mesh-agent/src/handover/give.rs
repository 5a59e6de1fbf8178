//! The agent that runs: offers what it has to a successor, for as long as it runs.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::sync::{mpsc, oneshot};

use super::{
    About, PROTOCOL, Sockets,
    wire::{Active, Channel, Hello, Message, Pod},
};
use crate::{
    identity::Certificates,
    pods::{Command, HandedActive, HandedPod, HandedPods},
};

/// For each message of a successor, but for the one with which it asks: it may wait for its own controller.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often the thread that waits for successors looks whether it is to end.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
const SUCCESSORS: i32 = 8;

/// What there is to give.
#[derive(Clone)]
pub struct Giver {
    pub about: About,
    pub commands: mpsc::Sender<Command>,
    pub certificates: Arc<Certificates>,
    pub sockets: Arc<Sockets>,
}

/// While it lives, successors are answered.
#[derive(Debug)]
#[must_use = "dropping it ends the offer"]
pub struct Offer(Arc<AtomicBool>);

impl Drop for Offer {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Listens at `path`, mode 0600; what a dead agent left there is replaced.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.cloexec().nonblocking(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.listen(SUCCESSORS)?;
    Ok(socket.into())
}

/// Answers successors from threads of its own, since descriptors travel by blocking calls. That a hand-over succeeded
/// is told by the registry, which ends.
pub fn offer(giver: Giver) -> io::Result<Offer> {
    let stop = Arc::new(AtomicBool::new(false));
    let listener = Socket::from(giver.sockets.handover.try_clone()?);
    let stopping = Arc::clone(&stop);
    thread::Builder::new().name("handover".to_owned()).spawn(move || {
        while !stopping.load(Ordering::Acquire) {
            let mut ready = [PollFd::new(&listener, PollFlags::IN)];
            if !matches!(poll(&mut ready, Some(&LOOK)), Ok(1..)) || stopping.load(Ordering::Acquire) {
                continue;
            }
            // Another process may have been quicker: the socket is its too during a hand-over.
            let Ok((socket, _)) = listener.accept() else { continue };
            let giver = giver.clone();
            thread::spawn(move || {
                if let Err(error) = converse(socket, &giver) {
                    tracing::warn!(%error, "a hand-over broke off; this agent goes on");
                }
            });
        }
    })?;
    Ok(Offer(stop))
}

fn converse(socket: Socket, giver: &Giver) -> io::Result<()> {
    let user = rustix::net::sockopt::socket_peercred(&socket)?.uid;
    let channel = Channel::new(socket)?;
    channel.patience(Some(PATIENCE))?;
    let refuse = |why: String| {
        tracing::warn!(why, "a successor is refused");
        channel.send(&Message::Refused { why }, &[])
    };
    if !user.is_root() {
        return refuse("only root may take over".to_owned());
    }
    let Some((Message::Hello(hello), _)) = channel.receive()? else { return Ok(()) };
    if let Some(why) = unfit(&giver.about, &hello) {
        return refuse(why);
    }
    tracing::info!(version = hello.version, "a successor is here");
    channel.send(&Message::Welcome { version: env!("CARGO_PKG_VERSION").to_owned() }, &[])?;
    channel.patience(None)?;
    let Some((Message::Take, _)) = channel.receive()? else {
        tracing::warn!("the successor went before it asked for anything");
        return Ok(());
    };
    channel.patience(Some(PATIENCE))?;
    let (given, handed) = oneshot::channel();
    let (serves, served) = oneshot::channel();
    let gone = |_| io::Error::other("this agent ends, or another one has taken over");
    if giver.commands.blocking_send(Command::HandOver { given, served }).is_err() {
        return refuse("it ends, or another agent has taken over".to_owned());
    }
    // Dropped on every way out but the last, `serves` tells the registry to go on.
    give(&channel, giver, handed.blocking_recv().map_err(|_| gone(()))??)?;
    let Some((Message::Serving, _)) = channel.receive()? else {
        return Err(io::Error::other("the successor went before it served"));
    };
    if serves.send(()).is_err() {
        return refuse("it took too long, and the old agent goes on".to_owned());
    }
    channel.send(&Message::Released, &[])
}

/// Why this successor cannot be served; `None`: it can.
fn unfit(own: &About, hello: &Hello) -> Option<String> {
    if hello.protocol != PROTOCOL {
        let (theirs, version) = (hello.protocol, &hello.version);
        return Some(format!("it speaks version {PROTOCOL} of the hand-over, agent {version} speaks {theirs}"));
    }
    match serde_json::from_value::<About>(hello.about.clone()) {
        Ok(about) => own.differs(&about),
        Err(e) => Some(format!("what the successor says of itself cannot be read: {e}")),
    }
}

fn give(channel: &Channel, giver: &Giver, handed: HandedPods) -> io::Result<()> {
    for HandedPod { namespace, name, pod_uid, cgroup, netns, active } in handed.pods {
        let mut descriptors = vec![netns.as_fd()];
        descriptors.extend(active.as_ref().map(|active| active.listener.as_fd()));
        let wire = active.as_ref().map(|active| {
            let HandedActive { uid, pod_uid, identity, ips, probe_ports, index, epoch, listener: _ } = active;
            let (uid, pod_uid, identity) = (uid.clone(), pod_uid.clone(), identity.to_string());
            Active {
                uid,
                pod_uid,
                identity,
                addresses: ips.iter().collect(),
                probe_ports: probe_ports.clone(),
                index: *index,
                epoch: *epoch,
            }
        });
        channel.send(&Message::Pod(Pod { namespace, name, pod_uid, cgroup, active: wire }), &descriptors)?;
    }
    for certificate in giver.certificates.held() {
        let (chain, key) = certificate.secrets();
        let identity = certificate.identity().to_string();
        channel.send(&Message::Certificate { identity, chain: chain.to_vec(), key: key.to_vec() }, &[])?;
    }
    let Sockets { admin, joins, handover } = &*giver.sockets;
    channel.send(&Message::Sockets, &[admin.as_fd(), joins.as_fd(), handover.as_fd()])?;
    channel.send(&Message::End { next_epoch: handed.next_epoch }, &[])
}
