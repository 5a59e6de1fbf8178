//! The checks that a pod's namespace must pass before it is redirected, and its listener.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Addresses, Netns};

/// As many connections may wait to be accepted as a busy application would allow.
const BACKLOG: i32 = 4096;

/// Why a pod cannot be redirected, for people.
///
/// IPv6 has nothing like `route_localnet` and `accept_local`: the kernel drops ::1 from elsewhere always, and lets the
/// own address from elsewhere through always, which `verdict::steer` expects.
pub fn check(netns: &Netns, ips: Addresses) -> Result<(), String> {
    let enter = |e: io::Error| format!("cannot enter its network namespace: {e}");
    netns
        .run(|| {
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| format!("its loopback device is not up: {e}"))?;
            if ips.v6().is_some() {
                UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))
                    .map_err(|e| format!("its loopback device has no address ::1: {e}"))?;
            }
            holds(ips.iter())?;
            // With these a neighbour could send to the pod's loopback addresses, or in the pod's own name.
            for setting in ["route_localnet", "accept_local"] {
                let on = enabled_somewhere(setting).map_err(|e| format!("cannot read sysctl {setting}: {e}"))?;
                if let Some(device) = on {
                    return Err(format!("net.ipv4.conf.{device}.{setting} is set in its network namespace"));
                }
            }
            Ok(())
        })
        .map_err(enter)?
}

/// Whether the calling thread's namespace holds all of these. The error is for people.
pub fn holds(ips: impl Iterator<Item = IpAddr>) -> Result<(), String> {
    for ip in ips {
        UdpSocket::bind((ip, 0)).map_err(|e| format!("its network namespace does not hold {ip}: {e}"))?;
    }
    Ok(())
}

/// The first device on which the sysctl is not 0. /proc/sys/net shows the calling thread's namespace.
fn enabled_somewhere(setting: &str) -> io::Result<Option<String>> {
    for entry in fs::read_dir("/proc/sys/net/ipv4/conf")? {
        let entry = entry?;
        // "default" is what new devices get, not one of them.
        if entry.file_name() == "default" {
            continue;
        }
        if fs::read_to_string(entry.path().join(setting))?.trim() != "0" {
            return Ok(Some(entry.file_name().to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// The pod's one listener, for both address families if the kernel has both. Its own address does not matter, but that
/// nobody reaches it by it: `sk_lookup` gives it what it shall serve.
pub fn listen(netns: &Netns) -> io::Result<Socket> {
    netns.run(|| listener(|domain| Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))))?
}

fn listener(open: impl Fn(Domain) -> io::Result<Socket>) -> io::Result<Socket> {
    let (socket, at) = match open(Domain::IPV6) {
        Ok(socket) => {
            // The default is a sysctl.
            socket.set_only_v6(false)?;
            // A loopback address of IPv4, which is there without IPv6 in the namespace.
            (socket, SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0)))
        }
        Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            (open(Domain::IPV4)?, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        }
        Err(e) => return Err(e),
    };
    // What it accepts inherits that: an urgent byte stays in its place of the stream instead of being lost.
    socket.set_out_of_band_inline(true)?;
    socket.bind(&at.into())?;
    // They inherit this, too, and have the ports that were dialled: an application that starts again must get its own
    // port back while they live, or rest in TIME_WAIT. After the bind, which is to share its port with nobody.
    socket.set_reuse_address(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(domain: Domain) -> io::Result<Socket> {
        Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
    }

    #[test]
    fn a_kernel_without_ipv6_gets_a_listener_of_ipv4() {
        let without = |domain| match domain {
            Domain::IPV6 => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
            other => opened(other),
        };
        let address = listener(without).unwrap().local_addr().unwrap();
        assert_eq!(address.as_socket().unwrap().ip(), Ipv4Addr::LOCALHOST);
        // Any other failure is one.
        let broken = |_| Err(io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!(listener(broken).unwrap_err().raw_os_error(), Some(libc::EMFILE));
    }

    #[test]
    fn the_listener_is_nobodys_neighbour() {
        let address = listener(opened).unwrap().local_addr().unwrap().as_socket().unwrap();
        assert!(address.ip().to_canonical().is_loopback(), "{address}");
    }
}
