//! A SYN with a source address that is not the sender's: what a neighbour with NET_RAW can put on the wire.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};

const TCP: u8 = 6;
const SYN: u8 = 2;

/// One SYN from `from` to `to` (RFC 9293, 3.1), of one address family.
pub fn syn(from: SocketAddr, to: SocketAddr) -> Result<()> {
    let mut segment = Vec::with_capacity(20);
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    // Sequence number, acknowledgement, five words of header, flags, window, checksum, no urgent data
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    let (family, header, route) = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            // RFC 791, 3.1: five words, no options; the kernel fills in length, identification and checksum (raw(7)).
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, TCP, 0, 0];
            header.extend(from.ip().octets());
            header.extend(to.ip().octets());
            (AddressFamily::INET, header, SocketAddr::from((*to.ip(), 0)))
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            // RFC 8200, 3
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((segment.len() as u16).to_be_bytes());
            header.extend([TCP, 64]);
            header.extend(from.ip().octets());
            header.extend(to.ip().octets());
            (AddressFamily::INET6, header, SocketAddrV6::new(*to.ip(), 0, 0, to.scope_id()).into())
        }
        _ => bail!("--from {from} and --to {to} are of two address families"),
    };
    let sum = checksum(from.ip(), to.ip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    // IPPROTO_RAW: the header is in the packet.
    let socket =
        socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW)).context("open a raw socket")?;
    let packet = [header, segment].concat();
    sendto(&socket, &packet, SendFlags::empty(), &route).context("send the packet").map(drop)
}

/// RFC 1071 over the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1) and the segment, which has an even length.
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let octets = |ip| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let all = [octets(from), octets(to), (segment.len() as u16).to_be_bytes().to_vec(), vec![0, TCP]].concat();
    let words = all.chunks_exact(2).chain(segment.chunks_exact(2));
    let mut sum: u32 = words.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
