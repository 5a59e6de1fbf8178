//! TCP sockets of the calling thread's network namespace, asked of the kernel by sock_diag (sock_diag(7),
//! net/ipv4/inet_diag.c): which ports are open, which connections there are, and the end of chosen ones. Unlike
//! /proc/net/tcp it filters in the kernel and knows cookies. Waits for nothing but the kernel.
//!
//! The protocol is written out here because no library fits: netlink-packet-sock-diag (0.5, with netlink-packet-core)
//! knows `struct tcp_info` in one length only, fails a whole answer that is shorter, and allocates for each socket.

mod info;
mod message;
mod netlink;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use rustix::net::sockopt::socket_cookie;

pub use info::Info;
use message::{Id, LISTEN, LIVE, Socket};
use netlink::Netlink;

/// A TCP socket that has, or is about to get, a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// SO_COOKIE: unique while the node is up.
    pub cookie: u64,
    /// v4-mapped addresses are IPv4 here, and so is `remote`.
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// include/net/tcp_states.h, as 1 for ESTABLISHED.
    pub state: u8,
    /// The cgroup v2 of who made it, or of who listened for it.
    pub cgroup: Option<u64>,
    /// `None` while the handshake of an accepted connection lasts: the kernel counts nothing yet.
    pub info: Option<Info>,
}

/// The socket that shall end. Its addresses may be v4-mapped or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// SO_COOKIE.
    pub cookie: u64,
}

/// The ports on which somebody listens. Listeners on loopback addresses are left out: nobody else reaches them.
///
/// # Errors
/// The kernel refuses to answer, or its answer cannot be read.
pub fn open_ports() -> io::Result<BTreeSet<u16>> {
    let mut open = BTreeSet::new();
    dump(LISTEN, false, |socket| {
        if !socket.id.local.ip().to_canonical().is_loopback() {
            open.insert(socket.id.local.port());
        }
    })?;
    Ok(open)
}

/// Every TCP socket of both families that neither listens nor is in TIME_WAIT, sorted by cookie. What the kernel keeps
/// of a connection that its application closed and its peer did not (FIN_WAIT2 without a socket) counts as TIME_WAIT:
/// it takes no data any more. What others open or end meanwhile may be there or not.
///
/// # Errors
/// As of [`open_ports`].
pub fn connections() -> io::Result<Vec<Connection>> {
    // By cookie: the kernel tells of a socket twice if others come before it between two of its answers.
    let mut found = BTreeMap::new();
    dump(LIVE, true, |socket| {
        let Id { local, remote, device: _, cookie } = socket.id;
        let info = socket.info().map(Info::read);
        let (local, remote) = (canonical(local), canonical(remote));
        found.insert(cookie, Connection { cookie, local, remote, state: socket.state, cgroup: socket.cgroup(), info });
    })?;
    Ok(found.into_values().collect())
}

/// Tries whether the kernel ends sockets: it was built for it, and this process may. On a connection of its own, within
/// the loopback device.
pub fn can_destroy() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let target = Target { local: stream.local_addr()?, remote: stream.peer_addr()?, cookie: socket_cookie(&stream)? };
    match destroy_all(&[target])? {
        1 => Ok(()),
        _ => Err(io::Error::other("its own connection was not found")),
    }
}

/// Ends exactly these sockets (SOCK_DESTROY): their applications see ECONNABORTED, their peers a reset. Gives how many
/// were there. Needs CAP_NET_ADMIN in the user namespace that owns the network namespace.
///
/// # Errors
/// The first of them that could not be ended; the others are ended all the same.
pub fn destroy_all(targets: &[Target]) -> io::Result<usize> {
    let mut netlink = Netlink::open()?;
    let (mut ended, mut failed, mut missed) = (0, None, BTreeMap::new());
    for target in targets {
        match netlink.destroy(&target.id()) {
            Ok(true) => ended += 1,
            Ok(false) => drop(missed.insert(target.cookie, target)),
            // Linux 6.1 says this of a socket in TIME_WAIT too.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => drop(missed.insert(target.cookie, target)),
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    if !missed.is_empty() {
        // One that is bound to a device is found only with that device, which its addresses do not tell.
        let mut there = Vec::new();
        dump(LIVE, false, |socket| {
            let Socket { id, .. } = socket;
            if missed.get(&id.cookie).is_some_and(|target| target.is(id)) {
                missed.remove(&id.cookie);
                there.push(id.clone());
            }
        })?;
        for id in there {
            match netlink.destroy(&id) {
                Ok(true) => ended += 1,
                Ok(false) => {}
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
    }
    failed.map_or(Ok(ended), Err)
}

impl Target {
    fn id(&self) -> Id {
        let Self { local, remote, cookie } = *self;
        // A link-local address has its device with it.
        let scope = |address| if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 };
        Id { local, remote, device: scope(local).max(scope(remote)), cookie }
    }

    fn is(&self, id: &Id) -> bool {
        let same = |one: SocketAddr, other: SocketAddr| {
            (one.ip().to_canonical(), one.port()) == (other.ip().to_canonical(), other.port())
        };
        same(self.local, id.local) && same(self.remote, id.remote)
    }
}

/// Shows `each` every TCP socket of both families that is in one of `states`.
fn dump(states: u32, info: bool, mut each: impl FnMut(&Socket<'_>)) -> io::Result<()> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        Netlink::open()?.dump(family, states, info, &mut each)?;
    }
    Ok(())
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, address.port())),
        IpAddr::V6(_) => address,
    }
}
