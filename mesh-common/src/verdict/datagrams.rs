//! Which datagrams are counted, for whom, and how many one packet of the kernel stands for.

use crate::abi::{DatagramKey, DatagramSocket, Ip, SockAddr, role};

/// IPPROTO_UDP
pub const UDP: u32 = 17;

/// Which way a datagram passes a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Out,
    In,
}

/// What the headers of a datagram say.
#[derive(Clone, Copy, Debug)]
pub struct Headers {
    pub source: SockAddr,
    pub destination: SockAddr,
}

/// To whom it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It stays in its pod: nobody else speaks or hears.
    Own,
    /// Nobody by name: multicast, or everybody on the link.
    Group,
    Peer,
}

/// Where it goes.
#[inline(always)]
pub fn reach(headers: &Headers) -> Reach {
    let Headers { source, destination } = headers;
    if source.ip.is_loopback() || destination.ip.is_loopback() || source.ip == destination.ip {
        Reach::Own
    } else if is_group(destination.ip) {
        Reach::Group
    } else {
        Reach::Peer
    }
}

/// 224.0.0.0/4, 255.255.255.255 and ff00::/8. The broadcast address of a subnet is not told from a host's.
#[inline(always)]
fn is_group(ip: Ip) -> bool {
    match ip.as_v4() {
        Some(v4) => u32::from_be(v4) >> 28 == 0xe || v4 == u32::MAX,
        None => u32::from_be(ip.0[0]) >> 24 == 0xff,
    }
}

/// What is known of a socket still holds: `epoch` is the one in force of the pod's slot, `round` the one that runs.
#[inline(always)]
pub fn holds(socket: &DatagramSocket, epoch: Option<u32>, round: u32) -> bool {
    match socket.role {
        role::NOBODY => socket.round == round,
        _ => epoch == Some(socket.epoch),
    }
}

/// The role of a pod's socket by its first datagram.
#[inline(always)]
pub fn role(first: Way) -> u32 {
    match first {
        Way::Out => role::CLIENT,
        Way::In => role::SERVER,
    }
}

/// Under which key a datagram of a pod's socket counts.
#[inline(always)]
pub fn key(socket: &DatagramSocket, headers: &Headers, way: Way) -> DatagramKey {
    let (local, remote) = match way {
        Way::Out => (headers.source, headers.destination),
        Way::In => (headers.destination, headers.source),
    };
    let port = if socket.role == role::CLIENT { remote.port } else { local.port };
    DatagramKey { pod: socket.pod, epoch: socket.epoch, role: socket.role, port, remote: remote.ip }
}

/// How many datagrams are on the wire for one packet of the kernel with `payload` bytes, which the sender asked to be
/// cut (UDP_SEGMENT), or the receiver to be put together (UDP_GRO), by `segment` bytes; 0: it is one.
#[inline(always)]
pub fn datagrams(payload: u32, segment: u32) -> u64 {
    if segment == 0 || payload <= segment {
        return 1;
    }
    u64::from(payload.div_ceil(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(a: u8, b: u8, c: u8, d: u8) -> Ip {
        Ip::v4(u32::from_be_bytes([a, b, c, d]).to_be())
    }

    fn v6(first: u32) -> Ip {
        Ip([first.to_be(), 0, 0, 1_u32.to_be()])
    }

    fn between(source: Ip, destination: Ip) -> Headers {
        Headers { source: SockAddr { ip: source, port: 40_000 }, destination: SockAddr { ip: destination, port: 53 } }
    }

    #[test]
    fn what_stays_in_the_pod_and_what_goes_to_groups_is_no_peers() {
        let own = v4(10, 0, 0, 1);
        for (source, destination, is) in [
            (own, v4(10, 0, 0, 2), Reach::Peer),
            (own, own, Reach::Own),
            (own, v4(127, 0, 0, 53), Reach::Own),
            (v4(127, 0, 0, 1), own, Reach::Own),
            (own, v4(224, 0, 0, 251), Reach::Group),
            (own, v4(239, 255, 255, 250), Reach::Group),
            (own, v4(255, 255, 255, 255), Reach::Group),
            (own, v4(240, 0, 0, 1), Reach::Peer),
            (own, v4(223, 255, 255, 255), Reach::Peer),
            (v6(0xfd00_0000), v6(0xfd01_0000), Reach::Peer),
            (v6(0xfd00_0000), v6(0xff02_0000), Reach::Group),
            (v6(0xfd00_0000), v6(0xfe80_0000), Reach::Peer),
            (v6(0xfd00_0000), Ip::LOOPBACK6, Reach::Own),
            (v6(0xfd00_0000), v6(0xfd00_0000), Reach::Own),
        ] {
            assert_eq!(reach(&between(source, destination)), is, "{source:?} > {destination:?}");
        }
    }

    #[test]
    fn a_key_has_the_port_that_serves_and_both_ends_agree() {
        let (client, server) = (v4(10, 0, 0, 1), v4(10, 0, 0, 2));
        let (asks, answers) = (
            between(client, server),
            Headers { source: SockAddr { ip: server, port: 53 }, destination: SockAddr { ip: client, port: 40_000 } },
        );
        let socket = |role, pod| DatagramSocket { role, pod, epoch: 7, round: 0 };
        let of = |socket: &DatagramSocket, out: &Headers, back: &Headers| {
            let (there, here) = (key(socket, out, Way::Out), key(socket, back, Way::In));
            assert_eq!(there, here, "both ways are one exchange");
            there
        };
        let dials = of(&socket(role(Way::Out), 1), &asks, &answers);
        let serves = of(&socket(role(Way::In), 2), &answers, &asks);
        assert_eq!(dials, DatagramKey { pod: 1, epoch: 7, role: role::CLIENT, port: 53, remote: server });
        assert_eq!(serves, DatagramKey { pod: 2, epoch: 7, role: role::SERVER, port: 53, remote: client });
    }

    #[test]
    fn a_pods_socket_holds_for_its_life_and_nobodys_for_a_round() {
        let pods = DatagramSocket { role: role::CLIENT, pod: 3, epoch: 7, round: 1 };
        assert!(holds(&pods, Some(7), 99));
        assert!(!holds(&pods, Some(8), 1) && !holds(&pods, None, 1) && !holds(&pods, Some(0), 1));
        let nobodys = DatagramSocket { role: role::NOBODY, pod: 0, epoch: 0, round: 4 };
        assert!(holds(&nobodys, Some(0), 4) && holds(&nobodys, None, 4));
        assert!(!holds(&nobodys, Some(0), 5), "it may be a pod's by now");
    }

    #[test]
    fn segments_count_as_they_are_on_the_wire() {
        for (payload, segment, count) in
            [(0, 0, 1), (1, 0, 1), (65_507, 0, 1), (1000, 1000, 1), (1001, 1000, 2), (64_000, 1400, 46), (0, 1000, 1)]
        {
            assert_eq!(datagrams(payload, segment), count, "{payload} by {segment}");
        }
    }
}
