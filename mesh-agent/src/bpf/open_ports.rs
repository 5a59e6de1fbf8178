//! Which TCP ports of the calling thread's network namespace are open to others, asked of the kernel by sock_diag
//! (NETLINK_SOCK_DIAG): unlike /proc/net/tcp it does not walk through every connection.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

// include/uapi/linux/netlink.h, sock_diag.h, inet_diag.h
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `struct nlmsghdr`
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`
const REQUEST: usize = 56;
/// TCP_LISTEN of include/net/tcp_states.h, as a bit
const LISTEN: u32 = 1 << 10;
/// Messages come in bunches of 32 KiB at most (netlink_dump).
const BUFFER: usize = 1 << 16;

/// Listeners on loopback addresses are left out: nobody else reaches them.
pub fn open_ports() -> io::Result<BTreeSet<u16>> {
    let mut open = BTreeSet::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        dump(family as u8, &mut open)?;
    }
    Ok(open)
}

fn dump(family: u8, open: &mut BTreeSet<u16>) -> io::Result<()> {
    let kind = SocketType::DGRAM;
    let socket = socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    send(&socket, &request(family), SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let (length, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        if !read(&buffer[..length], open)? {
            return Ok(());
        }
    }
}

fn request(family: u8) -> [u8; HEADER + REQUEST] {
    let mut request = [0; HEADER + REQUEST];
    request[0..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request[HEADER] = family;
    request[HEADER + 1] = libc::IPPROTO_TCP as u8;
    // No extensions, one byte of padding, then the states; the socket's id stays empty.
    request[HEADER + 4..HEADER + 8].copy_from_slice(&LISTEN.to_ne_bytes());
    request
}

/// `false`: that was the last.
fn read(mut messages: &[u8], open: &mut BTreeSet<u16>) -> io::Result<bool> {
    let broken = || io::Error::other("a message of sock_diag is cut off");
    while !messages.is_empty() {
        let header: &[u8; HEADER] = messages.first_chunk().ok_or_else(broken)?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = messages.get(HEADER..length).ok_or_else(broken)?;
        match u16::from_ne_bytes([header[4], header[5]]) {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let error: &[u8; 4] = body.first_chunk().ok_or_else(broken)?;
                return Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(*error)));
            }
            SOCK_DIAG_BY_FAMILY => open.extend(port(body).ok_or_else(broken)?),
            _ => {}
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// The port in a `struct inet_diag_msg`, if others can reach it: family, state, timer, retransmissions (a byte each),
/// then source port, destination port and source address in network byte order.
fn port(message: &[u8]) -> Option<Option<u16>> {
    let family = i32::from(*message.first()?);
    let port = u16::from_be_bytes(*message.get(4..)?.first_chunk()?);
    let address = message.get(8..)?;
    let ip = if family == libc::AF_INET {
        IpAddr::V4(Ipv4Addr::from(*address.first_chunk::<4>()?))
    } else {
        IpAddr::V6(Ipv6Addr::from(*address.first_chunk::<16>()?)).to_canonical()
    };
    Some((!ip.is_loopback()).then_some(port))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listeners_are_seen_unless_they_are_on_loopback() {
        let port = |at: &str| {
            let listener = TcpListener::bind(at).unwrap();
            (listener.local_addr().unwrap().port(), listener)
        };
        let (everywhere, listener) = port("0.0.0.0:0");
        let (here, _listener) = port("127.0.0.1:0");
        let open = open_ports().unwrap();
        assert!(open.contains(&everywhere) && !open.contains(&here), "{open:?}");
        drop(listener);
        assert!(!open_ports().unwrap().contains(&everywhere));
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let mut open = BTreeSet::new();
        assert!(read(&[0; 3], &mut open).is_err());
        let mut short = [0_u8; HEADER];
        short[0..4].copy_from_slice(&100_u32.to_ne_bytes());
        assert!(read(&short, &mut open).is_err());
        assert!(read(&[], &mut open).unwrap());
    }
}
