//! Client sockets as applications make them that care about the address family.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use clap::Args;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect as dial, ipproto, socket_with, sockopt};
use socket2::SockRef;

#[derive(Args)]
pub struct Options {
    /// Dial from this address
    #[arg(long)]
    from: Option<IpAddr>,
    /// With --from: and from this port, even if an earlier connection had it
    #[arg(long, default_value_t = 0, requires = "from")]
    from_port: u16,
    /// A socket that can do IPv6 only
    #[arg(long)]
    v6only: bool,
    /// A socket of Multipath TCP
    #[arg(long)]
    mptcp: bool,
    /// SO_MARK; needs root in the namespace
    #[arg(long)]
    mark: Option<u32>,
}

/// Without options it is std's connect.
pub fn connect(to: &SocketAddr, limit: Duration, options: &Options) -> io::Result<TcpStream> {
    let Options { from, from_port, v6only, mptcp, mark } = options;
    if from.is_none() && !v6only && !mptcp && mark.is_none() {
        return TcpStream::connect_timeout(to, limit);
    }
    let family = if to.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        Some(if *mptcp { ipproto::MPTCP } else { ipproto::TCP }),
    )?;
    if *v6only {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if let Some(mark) = mark {
        SockRef::from(&socket).set_mark(*mark)?;
    }
    if let Some(from) = from {
        sockopt::set_socket_reuseaddr(&socket, *from_port != 0)?;
        bind(&socket, &SocketAddr::new(*from, *from_port))?;
    }
    // A connect that the send timeout ends answers EINPROGRESS (socket(7)).
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(limit))?;
    match dial(&socket, to) {
        Err(rustix::io::Errno::INPROGRESS) => Err(io::ErrorKind::TimedOut.into()),
        other => other.map(|()| TcpStream::from(socket)).map_err(Into::into),
    }
}
