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
    About, PATIENCE, PROTOCOL, Sockets,
    peer::Process,
    wire::{Active, Channel, Hello, Message, Pod},
};
use crate::{
    identity::Certificates,
    pods::{Addresses, Command, HandedActive, HandedPod, HandedPods},
};

/// How often the thread that waits for successors looks whether it is to end.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Before a connection that could not be accepted is tried again.
const REST: Duration = Duration::from_millis(100);
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
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => {
                    tracing::warn!(%error, "a successor cannot be answered");
                    thread::sleep(REST);
                    continue;
                }
            };
            let (giver, stopping) = (giver.clone(), Arc::clone(&stopping));
            let answering = thread::Builder::new().name("successor".to_owned()).spawn(move || {
                if let Err(error) = converse(socket, &giver, &stopping) {
                    tracing::warn!(%error, "a hand-over broke off; this agent goes on");
                }
            });
            if let Err(error) = answering {
                tracing::warn!(%error, "a successor cannot be answered");
            }
        }
    })?;
    Ok(Offer(stop))
}

fn converse(socket: Socket, giver: &Giver, stop: &AtomicBool) -> io::Result<()> {
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
    let own = match Process::own() {
        Ok(own) => own,
        Err(e) => return refuse(format!("it cannot open a descriptor of its own process: {e}")),
    };
    tracing::info!(version = hello.version, "a successor is here");
    channel.send(&Message::Welcome { version: env!("CARGO_PKG_VERSION").to_owned() }, &[own.descriptor()])?;
    hand_over(&channel, giver, stop).inspect_err(|error| {
        // Not without a word: this agent lives and goes on. The successor may have gone, which is as good.
        let _ = channel.send(&Message::Refused { why: error.to_string() }, &[]);
    })
}

/// An error: this agent goes on, and the successor is yet to hear it.
fn hand_over(channel: &Channel, giver: &Giver, stop: &AtomicBool) -> io::Result<()> {
    // It may wait for its own controller.
    channel.patience(None)?;
    let Some((Message::Take, _)) = channel.receive()? else {
        return Err(io::Error::other("the successor went before it asked for anything"));
    };
    channel.patience(Some(PATIENCE))?;
    let (given, handed) = oneshot::channel();
    let (serves, served) = oneshot::channel();
    let gone = || io::Error::other("this agent ends, or another one has taken over");
    giver.commands.blocking_send(Command::HandOver { given, served }).map_err(|_| gone())?;
    // Dropped on every way out but the last, `serves` tells the registry to go on.
    give(channel, giver, handed.blocking_recv().map_err(|_| gone())??)?;
    let Some((Message::Serving, _)) = channel.receive()? else {
        return Err(io::Error::other("the successor went before it served"));
    };
    let (lets_go, let_go) = oneshot::channel();
    serves.send(lets_go).map_err(|_| io::Error::other("it took too long, and the old agent goes on"))?;
    // The next one is the successor's to answer.
    stop.store(true, Ordering::Release);
    // Dropped is as good: nothing is left that could act.
    let _ = let_go.blocking_recv();
    if let Err(error) = channel.send(&Message::Released, &[]) {
        tracing::error!(%error, "another agent serves the pods, and went before it was told that they are its own");
    }
    Ok(())
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
    for HandedPod { namespace, name, pod_uid, cgroup, container, given, older, netns, active } in handed.pods {
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
        let given = given.iter().flat_map(Addresses::iter).collect();
        let pod = Pod { namespace, name, pod_uid, cgroup, container, given, older, active: wire };
        channel.send(&Message::Pod(pod), &descriptors)?;
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
