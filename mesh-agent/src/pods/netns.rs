//! Network namespaces by descriptor. A thread enters one for the length of a closure, which cannot await.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    os::unix::fs::MetadataExt as _,
    process,
    sync::OnceLock,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::older::Older;
use crate::sockopt;

/// The namespace in which the agent started.
static OWN: OnceLock<OwnedFd> = OnceLock::new();

/// A pod's network namespace. Holding it keeps the namespace alive.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    cookie: u64,
    /// What it had open before its pod was enrolled.
    pub older: Older,
}

/// To be called once, before anything enters a namespace.
pub fn remember_own_namespace() -> io::Result<()> {
    let own = File::open("/proc/self/ns/net")?.into();
    OWN.set(own).map_err(|_| io::Error::other("the agent's own namespace is known already"))
}

impl Netns {
    /// Takes a descriptor of a network namespace other than the agent's own.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let (theirs, ours) = (identity(fd.as_fd())?, identity(own().as_fd())?);
        if theirs == ours {
            return Err(io::Error::other("it is the node's own network namespace, not a pod's"));
        }
        let socket = run(fd.as_fd(), || std::net::UdpSocket::bind(("0.0.0.0", 0)))??;
        let cookie = sockopt::netns_cookie(&socket)?;
        Ok(Self { fd, cookie, older: Older::default() })
    }

    /// SO_NETNS_COOKIE of its sockets: unique while the node is up.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Device and inode of its file: what stat(2) tells, and what the kernel tells of a link to it.
    pub fn device_and_inode(&self) -> io::Result<(u64, u64)> {
        identity(self.fd.as_fd())
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Runs `work` with the calling thread in this namespace.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        run(self.fd.as_fd(), work)
    }
}

fn own() -> &'static OwnedFd {
    OWN.get().expect("remember_own_namespace runs first thing in main")
}

fn run<T>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T) -> io::Result<T> {
    /// Brings the thread back, also when `work` panics.
    struct Return;
    impl Drop for Return {
        fn drop(&mut self) {
            if move_into_link_name_space(own().as_fd(), Some(LinkNameSpaceType::Network)).is_err() {
                // A thread of the runtime left in a pod's namespace would open sockets for others there.
                process::abort();
            }
        }
    }
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
    let _return = Return;
    Ok(work())
}

fn identity(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let metadata = File::from(fd.try_clone_to_owned()?).metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}
