//! Sockets of the agent in the pods' namespaces: each is marked for the kernel before it dials.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use mesh_common::abi::{SOURCE_NET, SPREAD_MASK};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::{net::TcpStream, time::timeout};

use super::forward::{self, refuse};
use crate::{bpf::Datapath, pods::Pod, sockopt};

const PATIENCE: Duration = Duration::from_secs(10);

/// To an application, from inside its own pod; the application sees `client`. Over IPv6 there is one address to start
/// from: 28,000 connections to each port of the application, the range of source ports, are the limit.
pub async fn application(
    datapath: &Datapath,
    pod: &Pod,
    target: SocketAddr,
    client: SocketAddr,
) -> io::Result<forward::Socket> {
    let from = match target {
        SocketAddr::V4(_) => IpAddr::V4(spread(client)),
        // From ::1 no route leads to an address that is bound to a device: the kernel chooses the pod's own on it.
        SocketAddr::V6(to) if to.ip().is_unicast_link_local() => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let socket = socket(pod, from)?;
    datapath.carry_client(&socket, (pod.index, pod.epoch), client).map_err(io::Error::other)?;
    still_marked(datapath, connect(socket, target).await.map_err(explained)?)
}

/// To a pod of this node, from the source pod's namespace and address: the stream crosses the pods' own links.
pub async fn attested(
    datapath: &Datapath,
    source: &Pod,
    target_pod: &Pod,
    target: SocketAddr,
) -> io::Result<forward::Socket> {
    let socket = socket(source, published(source, target)?)?;
    datapath
        .attest(&socket, (source.index, source.epoch), (target_pod.index, target_pod.epoch), target)
        .map_err(io::Error::other)?;
    still_marked(datapath, connect(socket, target).await.map_err(explained)?)
}

/// The kernel lets the connect fail if it cannot act on the mark, and clears it. Were the first not so, the application
/// would take the connection for one from its own loopback, or the target's agent for one without identity.
fn still_marked(datapath: &Datapath, connected: Connected) -> io::Result<forward::Socket> {
    if datapath.is_marked(&connected.stream).map_err(io::Error::other)? {
        return Ok(connected.into());
    }
    refuse(&connected.stream);
    Err(io::Error::other("the kernel's table of connections is full; see the counters PENDING_FULL and ATTEST_FULL"))
}

/// What the kernel answers if its table was full, but not only then.
fn explained(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EHOSTUNREACH) => {
            let full = "or the kernel's table of connections is full; see the counters PENDING_FULL and ATTEST_FULL";
            io::Error::new(error.kind(), format!("{error}, {full}"))
        }
        _ => error,
    }
}

/// To anywhere, from the source pod's namespace and address.
pub async fn from_pod(source: &Pod, target: SocketAddr) -> io::Result<forward::Socket> {
    connect(socket(source, published(source, target)?)?, target).await.map(forward::Socket::from)
}

/// The same for a tunnel.
pub async fn tunnel_from_pod(source: &Pod, target: SocketAddr) -> io::Result<TcpStream> {
    let Connected { stream, fault } = connect(socket(source, published(source, target)?)?, target).await?;
    fault.map_or(Ok(stream), Err)
}

/// A socket of the source pod for a tunnel, whose port is known before it dials.
pub struct Bound {
    socket: Socket,
    pub local: SocketAddr,
}

/// The same as [`tunnel_from_pod`] in two steps.
pub fn bound_for_tunnel(source: &Pod, target: SocketAddr) -> io::Result<Bound> {
    let local = SocketAddr::new(published(source, target)?, 0);
    let (domain, kind) = (Domain::for_address(local), Type::STREAM.nonblocking().cloexec());
    let socket = source.netns.run(|| Socket::new(domain, kind, Some(Protocol::TCP)))??;
    socket.bind(&local.into())?;
    socket.set_tcp_nodelay(true)?;
    let local = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("a socket without an address"))?;
    Ok(Bound { socket, local })
}

impl Bound {
    pub async fn dial(self, target: SocketAddr) -> io::Result<TcpStream> {
        let Connected { stream, fault } = connect(self.socket, target).await?;
        fault.map_or(Ok(stream), Err)
    }
}

/// The source's address of the target's family.
fn published(source: &Pod, target: SocketAddr) -> io::Result<IpAddr> {
    let missing = || io::Error::new(io::ErrorKind::NetworkUnreachable, "the source pod has no address of that family");
    source.ips.like(target.ip()).ok_or_else(missing)
}

fn socket(pod: &Pod, local: IpAddr) -> io::Result<Socket> {
    let local = SocketAddr::new(local, 0);
    let domain = Domain::for_address(local);
    let socket = pod.netns.run(|| Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP)))??;
    sockopt::set_bind_address_no_port(&socket)?;
    socket.bind(&local.into())?;
    socket.set_tcp_nodelay(true)?;
    // An urgent byte (MSG_OOB) would be taken out of the stream and lost.
    socket.set_out_of_band_inline(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    Ok(socket)
}

/// A peer that vanished without a word must not hold a connection, and with it a namespace, for ever.
pub fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(6)
}

/// A socket whose peer has accepted.
struct Connected {
    stream: TcpStream,
    /// It was reset already. What the peer wrote before that can still be read.
    fault: Option<io::Error>,
}

impl From<Connected> for forward::Socket {
    fn from(Connected { stream, fault }: Connected) -> Self {
        forward::socket(stream).with_fault(fault)
    }
}

/// A server that answers and resets at once may have done both before we look: that is no failure to connect.
async fn connect(socket: Socket, target: SocketAddr) -> io::Result<Connected> {
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    timeout(PATIENCE, stream.writable())
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", PATIENCE.as_secs())))??;
    match stream.take_error()? {
        // Before it was connected, a reset is ECONNREFUSED (tcp_reset in net/ipv4/tcp_input.c).
        Some(error) if !matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            Err(error)
        }
        fault => Ok(Connected { stream, fault }),
    }
}

/// One address of 127.128.0.0/10 for a client, so that the ports of one address are no limit.
fn spread(client: SocketAddr) -> Ipv4Addr {
    let mut hasher = DefaultHasher::new();
    client.hash(&mut hasher);
    Ipv4Addr::from(SOURCE_NET | (hasher.finish() as u32 & !SPREAD_MASK))
}
