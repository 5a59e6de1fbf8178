//! One captured packet, from its network header on: IPv4 or IPv6, TCP. Reads what anybody may have sent: every length
//! is checked, and what does not fit is no packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// include/uapi/linux/if_ether.h
pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_IPV6: u16 = 0x86dd;
pub const ETH_P_8021Q: u16 = 0x8100;
pub const ETH_P_8021AD: u16 = 0x88a8;

/// Tags of VLANs before the IP header; more than these nobody stacks.
const TAGS: usize = 2;
/// Extension headers of IPv6 before TCP's.
const EXTENSIONS: usize = 8;
const TCP: u8 = 6;

/// As it was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Of the network namespace of the capture.
    pub link: u32,
    /// The node sent it, or passed it on to this link; otherwise it came in.
    pub is_outgoing: bool,
    /// EtherType of what `bytes` begin with.
    pub protocol: u16,
    pub bytes: Vec<u8>,
}

/// A segment of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub sequence: u32,
    /// The first of its direction.
    pub is_syn: bool,
    pub payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// `None`: no whole TCP segment. Fragments are none.
    pub fn read(protocol: u16, bytes: &'a [u8]) -> Option<Self> {
        let (mut protocol, mut bytes) = (protocol, bytes);
        for _ in 0..TAGS {
            if !matches!(protocol, ETH_P_8021Q | ETH_P_8021AD) {
                break;
            }
            // Priority and number, then what follows (IEEE 802.1Q).
            protocol = word(bytes, 2)?;
            bytes = bytes.get(4..)?;
        }
        match protocol {
            ETH_P_IP => Self::in_ipv4(bytes),
            ETH_P_IPV6 => Self::in_ipv6(bytes),
            _ => None,
        }
    }

    /// RFC 791, section 3.1.
    fn in_ipv4(bytes: &'a [u8]) -> Option<Self> {
        let first = *bytes.first()?;
        let header = usize::from(first & 0xf) * 4;
        // The whole payload, from its first byte: neither "more fragments" nor an offset.
        let whole = word(bytes, 6)? & 0x3fff == 0;
        if first >> 4 != 4 || header < 20 || !whole || *bytes.get(9)? != TCP {
            return None;
        }
        let address = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        };
        // Beyond 64 KiB, which a link may hand over at once, there is no length.
        let end = match usize::from(word(bytes, 2)?) {
            0 => bytes.len(),
            length => length,
        };
        Self::in_ip(address(12)?, address(16)?, bytes.get(header..end)?)
    }

    /// RFC 8200, sections 3 and 4.
    fn in_ipv6(bytes: &'a [u8]) -> Option<Self> {
        if *bytes.first()? >> 4 != 6 {
            return None;
        }
        let address = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        };
        let (source, destination) = (address(8)?, address(24)?);
        let end = match usize::from(word(bytes, 4)?) {
            0 => bytes.len(),
            length => 40 + length,
        };
        let mut rest = bytes.get(40..end)?;
        let mut next = *bytes.get(6)?;
        for _ in 0..EXTENSIONS {
            match next {
                TCP => return Self::in_ip(source, destination, rest),
                // Hop-by-hop options, routing, destination options: length in units of 8 bytes after the first 8.
                0 | 43 | 60 => {
                    let length = (usize::from(*rest.get(1)?) + 1) * 8;
                    (next, rest) = (*rest.first()?, rest.get(length..)?);
                }
                _ => return None,
            }
        }
        None
    }

    /// RFC 9293, section 3.1.
    fn in_ip(source: IpAddr, destination: IpAddr, tcp: &'a [u8]) -> Option<Self> {
        let header = usize::from(*tcp.get(12)? >> 4) * 4;
        if header < 20 {
            return None;
        }
        Some(Self {
            source: SocketAddr::new(source, word(tcp, 0)?),
            destination: SocketAddr::new(destination, word(tcp, 2)?),
            sequence: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
            is_syn: *tcp.get(13)? & 0x02 != 0,
            payload: tcp.get(header..)?,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}
