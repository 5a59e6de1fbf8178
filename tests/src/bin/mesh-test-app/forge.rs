//! A SYN with a source address that is not the sender's: what a neighbour with NET_RAW can put on the wire.

use std::net::{Ipv6Addr, SocketAddrV6};

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};

const TCP: u8 = 6;
const SYN: u8 = 2;

/// One SYN from `from` to `to` (RFC 8200, 3; RFC 9293, 3.1).
pub fn syn(from: SocketAddrV6, to: SocketAddrV6) -> Result<()> {
    let mut segment = Vec::with_capacity(20);
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    // Sequence number, acknowledgement, five words of header, flags, window, checksum, no urgent data
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = checksum(*from.ip(), *to.ip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());

    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((segment.len() as u16).to_be_bytes());
    packet.extend([TCP, 64]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(&segment);
    // IPPROTO_RAW: the header is in the packet.
    let socket = socket_with(AddressFamily::INET6, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))
        .context("open a raw socket")?;
    let route = SocketAddrV6::new(*to.ip(), 0, 0, to.scope_id());
    sendto(&socket, &packet, SendFlags::empty(), &route).context("send the packet").map(drop)
}

/// RFC 1071 over the pseudo header of RFC 8200, 8.1, and the segment, which has an even length.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, segment: &[u8]) -> u16 {
    let words = from.segments().into_iter().chain(to.segments()).chain([segment.len() as u16, u16::from(TCP)]);
    let of_segment = segment.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let mut sum: u32 = words.chain(of_segment).map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
