//! Both ends of a hand-over, in one process, with a registry that is played.

use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::sync::{mpsc, oneshot};

use super::{
    About, Giver, Sockets, Takeover, TakeoverError, find,
    give::Offer,
    listen, offer,
    peer::Process,
    wire::{Channel, Hello, Message},
};
use crate::{
    identity::{Certificates, Identity, SignError, Signer, Signing},
    pods::{Addresses, Command, HandedActive, HandedPod, HandedPods},
};

struct Nobody;

impl Signer for Nobody {
    fn sign<'a>(&'a self, _: &'a Identity, _: String) -> Signing<'a> {
        Box::pin(async { Err(SignError::unavailable("nobody signs here")) })
    }
}

/// An agent that runs, as its successor sees it.
struct Old {
    path: PathBuf,
    commands: mpsc::Receiver<Command>,
    listener: TcpListener,
    _offer: Offer,
    _folder: tempfile::TempDir,
}

fn about() -> About {
    About::new("n1", 15001, 15008, Path::new("/cgroup"), Path::new("/bpffs"))
}

fn socket(path: &Path) -> OwnedFd {
    std::os::unix::net::UnixListener::bind(path).expect("bound").into()
}

impl Old {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("handover.sock");
        let sockets = Sockets {
            admin: socket(&folder.path().join("agent.sock")),
            joins: socket(&folder.path().join("cni.sock")),
            handover: listen(&path).expect("listens"),
        };
        let (sender, commands) = mpsc::channel(1);
        let certificates = Certificates::new(Arc::new(Nobody), Default::default());
        let giver = Giver { about: about(), commands: sender, certificates, sockets: Arc::new(sockets) };
        let offer = offer(giver).expect("a thread");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        Self { path, commands, listener, _offer: offer, _folder: folder }
    }

    /// Plays the registry: hands out one pod, and says how the hand-over ended.
    fn hands_out(mut self) -> thread::JoinHandle<(Self, Result<(), oneshot::error::RecvError>)> {
        thread::spawn(move || {
            let Some(Command::HandOver { given, served }) = self.commands.blocking_recv() else {
                panic!("nobody asked");
            };
            given.send(self.pods()).expect("the successor waits");
            // Dropped, it is the word that nothing acts here any more.
            let end = served.blocking_recv().map(drop);
            (self, end)
        })
    }

    fn pods(&self) -> io::Result<HandedPods> {
        let active = HandedActive {
            uid: "Kubernetes//Pod/shop/cart".into(),
            pod_uid: "u".into(),
            identity: "spiffe://cluster.local/ns/shop/sa/cart".parse().expect("an identity"),
            ips: Addresses::of(&[[10, 0, 0, 1].into()]).expect("one address"),
            probe_ports: vec![8080],
            index: 3,
            epoch: 7,
            listener: self.listener.try_clone()?.into(),
        };
        let pod = HandedPod {
            namespace: "shop".into(),
            name: "cart".into(),
            pod_uid: "u".into(),
            cgroup: "/sys/fs/cgroup/x".into(),
            container: "c1".into(),
            given: Addresses::of(&[[10, 0, 0, 2].into()]),
            older: vec![(5, true)],
            netns: File::open("/proc/self/ns/net")?.into(),
            active: Some(active),
        };
        Ok(HandedPods { pods: vec![pod], next_epoch: 8 })
    }
}

fn address(listener: OwnedFd) -> SocketAddr {
    TcpListener::from(listener).local_addr().expect("bound")
}

#[test]
fn the_successor_gets_the_very_sockets() {
    let old = Old::new();
    let (path, listening) = (old.path.clone(), old.listener.local_addr().expect("bound"));
    let registry = old.hands_out();
    let takeover = find(&path, &about()).expect("an answer").expect("it runs");
    let mut handed = takeover.take().expect("handed");
    assert_eq!(handed.pods.next_epoch, 8);
    let pod = handed.pods.pods.pop().expect("one pod");
    assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("shop", "cart"));
    assert_eq!((pod.container.as_str(), pod.given), ("c1", Addresses::of(&[[10, 0, 0, 2].into()])));
    assert_eq!(pod.older, [(5, true)]);
    let active = pod.active.expect("it is redirected");
    assert_eq!((active.index, active.epoch), (3, 7));
    assert_eq!(address(active.listener), listening);
    let admin = std::os::unix::net::UnixListener::from(handed.sockets.admin).local_addr().expect("bound");
    assert!(admin.as_pathname().expect("a path").ends_with("agent.sock"));
    takeover.serving().expect("released");
    assert_eq!(registry.join().expect("no panic").1, Ok(()));
}

#[test]
fn a_successor_that_goes_before_it_serves_changes_nothing() {
    let old = Old::new();
    let path = old.path.clone();
    let registry = old.hands_out();
    let takeover = find(&path, &about()).expect("an answer").expect("it runs");
    let handed = takeover.take().expect("handed");
    drop((takeover, handed));
    let (old, end) = registry.join().expect("no panic");
    assert!(end.is_err(), "the registry goes on");
    // And the next one may.
    let registry = old.hands_out();
    let takeover = find(&path, &about()).expect("an answer").expect("it runs");
    takeover.take().expect("handed");
    takeover.serving().expect("released");
    assert_eq!(registry.join().expect("no panic").1, Ok(()));
}

#[test]
fn one_that_was_too_slow_must_not_go_on() {
    let mut old = Old::new();
    let path = old.path.clone();
    let registry = thread::spawn(move || {
        let Some(Command::HandOver { given, served }) = old.commands.blocking_recv() else { panic!("nobody asked") };
        // Before the answer: afterwards the successor may be quicker.
        drop(served);
        given.send(old.pods()).expect("the successor waits");
        old
    });
    let takeover = find(&path, &about()).expect("an answer").expect("it runs");
    takeover.take().expect("handed");
    let refused = takeover.serving().expect_err("the old one went on");
    assert!(matches!(&refused, TakeoverError::Refused(why) if why.contains("too long")), "{refused}");
    drop(registry.join().expect("no panic"));
}

#[test]
fn an_old_agent_that_fails_says_so_and_goes_on() {
    let old = Old::new();
    let path = old.path.clone();
    let registry = thread::spawn(move || {
        let mut old = old;
        let Some(Command::HandOver { given, served }) = old.commands.blocking_recv() else { panic!("nobody asked") };
        given.send(Err(io::Error::other("no descriptor is left"))).expect("the conversation waits");
        assert!(served.blocking_recv().is_err(), "the registry goes on");
        old
    });
    let takeover = find(&path, &about()).expect("an answer").expect("it runs");
    let refused = takeover.take().err().expect("there was nothing to take");
    assert!(matches!(&refused, TakeoverError::Refused(why) if why.contains("no descriptor")), "{refused}");
    drop(registry.join().expect("no panic"));
}

#[test]
fn nothing_acts_in_the_old_one_when_the_new_one_hears_that_it_let_go() {
    let mut old = Old::new();
    let path = old.path.clone();
    let ended = Arc::new(AtomicBool::new(false));
    let registry = thread::spawn({
        let ended = Arc::clone(&ended);
        move || {
            let Some(Command::HandOver { given, served }) = old.commands.blocking_recv() else {
                panic!("nobody asked");
            };
            given.send(old.pods()).expect("the successor waits");
            let lets_go = served.blocking_recv().expect("it serves");
            thread::sleep(Duration::from_millis(200));
            ended.store(true, Ordering::SeqCst);
            lets_go.send(()).expect("the successor waits");
            // Whoever comes now finds the successor, and nobody here.
            old
        }
    });
    let takeover = find(&path, &about()).expect("an answer").expect("it runs");
    takeover.take().expect("handed");
    takeover.serving().expect("released");
    assert!(ended.load(Ordering::SeqCst), "it was told too early");
    drop(registry.join().expect("no panic"));
}

/// An old agent that welcomes, and closes the conversation without a word before it is asked, or before it is told.
fn closes(process: Process, tells: bool) -> (tempfile::TempDir, Takeover) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("handover.sock");
    let listener = Socket::from(listen(&path).expect("listens"));
    listener.set_nonblocking(false).expect("set");
    let old = thread::spawn(move || {
        let channel = Channel::new(listener.accept().expect("it comes").0).expect("a channel");
        let Some((Message::Hello(_), _)) = channel.receive().expect("a hello") else { panic!("no hello") };
        let welcome = Message::Welcome { version: "1".into() };
        channel.send(&welcome, &[process.descriptor()]).expect("sent");
        if tells {
            let why = "it was too late".to_owned();
            channel.send(&Message::Refused { why }, &[]).expect("sent");
        }
    });
    let takeover = find(&path, &about()).expect("an answer").expect("it runs");
    old.join().expect("no panic");
    (folder, takeover)
}

#[test]
fn a_closed_conversation_is_not_the_end_of_the_old_agent() {
    let own = || Process::own().expect("a descriptor");
    let alive = thread::spawn(move || closes(own(), false).1.take().err().expect("it runs still"));
    let refused = closes(own(), false).1.serving().expect_err("it runs still");
    assert!(matches!(refused, TakeoverError::Lives), "{refused}");
    let refused = alive.join().expect("no panic");
    assert!(matches!(refused, TakeoverError::Lives), "{refused}");

    // What it said before it closed is heard, though nothing can be said to it any more.
    let refused = closes(own(), true).1.serving().expect_err("it said so");
    assert!(matches!(&refused, TakeoverError::Refused(why) if why.contains("too late")), "{refused}");

    let gone = || {
        let mut child = std::process::Command::new("true").spawn().expect("a process");
        let pid = rustix::process::Pid::from_child(&child);
        let descriptor = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("it was there");
        child.wait().expect("it ends");
        Process::from_descriptor(descriptor)
    };
    let ended = closes(gone(), false).1.take().err().expect("nothing was handed");
    assert!(matches!(ended, TakeoverError::Gone), "{ended}");
    closes(gone(), false).1.serving().expect("nobody is left to let go");
}

#[test]
fn what_cannot_work_together_says_so() {
    let old = Old::new();
    for (other, word) in [
        (About { node: "n2".into(), ..about() }, "node"),
        (About { outbound_port: 15002, ..about() }, "--outbound-port"),
        (About { hbone_port: 15009, ..about() }, "--hbone-port"),
        (About { layout: 0, ..about() }, "layout"),
        (About { cgroup: "/other".into(), ..about() }, "--cgroup is /cgroup, the other's /other"),
        (About { bpffs: "/other".into(), ..about() }, "--bpffs is /bpffs, the other's /other"),
    ] {
        let refused = find(&old.path, &other).expect_err("it differs");
        assert!(matches!(&refused, TakeoverError::Refused(why) if why.contains(word)), "{refused}");
    }

    // A version to come, which says of itself what nobody here understands.
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    socket.connect(&SockAddr::unix(&old.path).expect("a path")).expect("it listens");
    let channel = Channel::new(socket).expect("a channel");
    let hello = Hello { protocol: 99, version: "9.9.9".into(), about: serde_json::json!({ "moon": 1 }) };
    channel.send(&Message::Hello(hello), &[]).expect("sent");
    channel.patience(Some(Duration::from_secs(5))).expect("set");
    let Some((Message::Refused { why }, _)) = channel.receive().expect("an answer") else { panic!("not refused") };
    assert!(why.contains("version 2") && why.contains("agent 9.9.9 speaks 99"), "{why}");
}

#[test]
fn nobody_there_is_no_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("handover.sock");
    assert!(find(&path, &about()).expect("an answer").is_none());
    // What a dead agent left.
    drop(listen(&path).expect("listens"));
    assert!(find(&path, &about()).expect("an answer").is_none());
    drop(listen(&path).expect("it is replaced"));
}
