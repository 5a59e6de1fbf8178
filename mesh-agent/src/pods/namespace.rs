//! The checks that a pod's namespace must pass before it is redirected, and its listener.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::Netns;

/// As many connections may wait to be accepted as a busy application would allow.
const BACKLOG: i32 = 4096;

/// Why a pod cannot be redirected, for people.
pub fn check(netns: &Netns, ip: IpAddr) -> Result<(), String> {
    let enter = |e: io::Error| format!("cannot enter its network namespace: {e}");
    netns
        .run(|| {
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| format!("its loopback device is not up: {e}"))?;
            UdpSocket::bind((ip, 0)).map_err(|e| format!("its network namespace does not hold {ip}: {e}"))?;
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

/// The pod's one listener. Its own address does not matter: `sk_lookup` gives it what it shall serve.
pub fn listen(netns: &Netns) -> io::Result<Socket> {
    netns.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        // What it accepts inherits that: an urgent byte stays in its place of the stream instead of being lost.
        socket.set_out_of_band_inline(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    })?
}
