//! Packets and TLS as they should be, and as somebody hostile writes them.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::{
    packet::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6},
    *,
};

const MARKER: &[u8] = b"0123456789abcdef0123456789abcdef";

fn ends() -> Ends {
    Ends { client: "10.1.0.7:40000".parse().unwrap(), server: "10.2.0.9:15008".parse().unwrap() }
}

fn tcp(from: SocketAddr, to: SocketAddr, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    bytes.extend(sequence.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 6 << 4, flags, 0, 0, 0, 0, 0, 0]);
    // One option of four bytes.
    bytes.extend([1, 1, 1, 0]);
    bytes.extend(payload);
    bytes
}

/// With what links add behind a short packet.
fn ipv4(from: SocketAddr, to: SocketAddr, tcp: &[u8]) -> Vec<u8> {
    let octets = |end: SocketAddr| match end.ip() {
        std::net::IpAddr::V4(ip) => ip.octets(),
        std::net::IpAddr::V6(_) => unreachable!("an IPv4 address"),
    };
    let length = (20 + tcp.len()) as u16;
    let mut bytes = vec![0x45, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    bytes.extend([octets(from), octets(to)].concat());
    bytes.extend(tcp);
    bytes.extend([0xff; 6]);
    bytes
}

fn ipv6(from: SocketAddr, to: SocketAddr, extension: bool, tcp: &[u8]) -> Vec<u8> {
    let octets = |end: SocketAddr| match end.ip() {
        std::net::IpAddr::V6(ip) => ip.octets(),
        std::net::IpAddr::V4(_) => unreachable!("an IPv6 address"),
    };
    let options: &[u8] = if extension { &[6, 0, 1, 4, 0, 0, 0, 0] } else { &[] };
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(((options.len() + tcp.len()) as u16).to_be_bytes());
    bytes.extend([if extension { 60 } else { 6 }, 64]);
    bytes.extend([octets(from), octets(to)].concat());
    bytes.extend(options);
    bytes.extend(tcp);
    bytes
}

/// On a link towards the peer.
fn packet(from_client: bool, sequence: u32, syn: bool, payload: &[u8]) -> Packet {
    let Ends { client, server } = ends();
    let (from, to) = if from_client { (client, server) } else { (server, client) };
    let bytes = ipv4(from, to, &tcp(from, to, sequence, if syn { 2 } else { 16 }, payload));
    Packet { link: 2, is_outgoing: from_client, protocol: ETH_P_IP, bytes }
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 3, 3];
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

fn client_hello(versions: &[u16]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x02, 1, 0]);
    let list: Vec<u8> = versions.iter().flat_map(|version| version.to_be_bytes()).collect();
    let extension = [&[0, 43][..], &(list.len() as u16 + 1).to_be_bytes(), &[list.len() as u8], &list].concat();
    body.extend((extension.len() as u16).to_be_bytes());
    body.extend(extension);
    handshake(1, &body)
}

fn server_hello(version: Option<u16>, cipher: u16) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.push(0);
    body.extend(cipher.to_be_bytes());
    body.push(0);
    if let Some(version) = version {
        body.extend([0, 6, 0, 43, 0, 2]);
        body.extend(version.to_be_bytes());
    }
    handshake(2, &body)
}

/// What both sides write in a connection as it should be.
fn written() -> (Vec<u8>, Vec<u8>) {
    let client = [record(22, &client_hello(&[0x0304])), record(20, &[1]), record(23, &[1; 300])].concat();
    let server = [record(22, &server_hello(Some(0x0304), 0x1302)), record(20, &[1]), record(23, &[2; 900])].concat();
    (client, server)
}

fn conversation(client: &[u8], server: &[u8]) -> Vec<Packet> {
    let mut packets = vec![packet(true, u32::MAX - 3, true, &[]), packet(false, 99, true, &[])];
    let cut = client.len() / 2;
    packets.push(packet(true, u32::MAX - 2, false, &client[..cut]));
    packets.push(packet(true, (u32::MAX - 2).wrapping_add(cut as u32), false, &client[cut..]));
    packets.push(packet(false, 100, false, server));
    packets
}

fn seen(client: &[u8], server: &[u8]) -> Seen {
    read(&conversation(client, server), ends(), MARKER)
}

#[test]
fn tls_1_3_is_read_from_the_wire() {
    let (client, server) = written();
    let found = seen(&client, &server);
    assert_eq!((found.fault.as_deref(), found.offered.as_slice(), found.encrypted), (None, &[0x0304][..], 2));
    assert_eq!(found.chosen, Some(Chosen { version: 0x0304, cipher: 0x1302 }));
    let names = found.chosen.map(Chosen::names).unwrap();
    assert_eq!((names.0.as_str(), names.1.as_str()), ("TLSv1_3", "TLS13_AES_256_GCM_SHA384"));
    assert!(found.links[&2].is_towards_peer() && found.links[&2].packets == 5 && !found.marker_in_clear);

    // In whatever order, twice, and on a link that only passes it on.
    let mut packets = conversation(&client, &server);
    packets[1..].reverse();
    packets.extend(packets.clone());
    let of_pod = packets.iter().map(|packet| Packet { link: 7, is_outgoing: !packet.is_outgoing, ..packet.clone() });
    let all: Vec<_> = packets.iter().cloned().chain(of_pod).collect();
    let found = read(&all, ends(), MARKER);
    assert_eq!((found.fault, found.encrypted), (None, 2));
    assert!(!found.links[&7].is_towards_peer());
}

#[test]
fn what_is_no_tls_1_3_is_named() {
    let (client, server) = written();
    let hello = |version, cipher| record(22, &server_hello(version, cipher));
    let follow = |first: Vec<u8>| [first, record(23, &[2; 9])].concat();
    for (client, server, why) in [
        (
            client.clone(),
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            "the server wrote, some bytes are no TLS record",
        ),
        (b"PRI * HTTP/2.0\r\n\r\nSM".to_vec(), server.clone(), "the client wrote, some bytes are no TLS record"),
        (client.clone(), follow(hello(None, 0xc02f)), "older than TLS 1.3"),
        (client.clone(), follow(hello(Some(0x0303), 0x1302)), "older than TLS 1.3"),
        (client.clone(), [hello(Some(0x0304), 0x1302), record(22, &[11, 0, 0, 0])].concat(), "older than TLS 1.3"),
        (client.clone(), [server.clone(), b"plain".to_vec()].concat(), "no TLS record"),
        (client.clone(), [server.clone(), record(21, &[2, 40])].concat(), "an alert is not encrypted"),
        (client.clone(), record(21, &[2, 40]), "an alert is not encrypted"),
        (client.clone(), hello(Some(0x0304), 0x1302), "nothing follows the hello"),
        (client.clone(), record(23, &[1; 30]), "data comes before a hello"),
        (client.clone(), record(22, &[2, 0xff, 0xff, 0xff]), "there is no whole hello"),
        (client.clone(), record(22, &[1, 0, 0, 0]), "the first message is no hello"),
        (client.clone(), [&[22, 3, 3, 0xff, 0xff][..], &[0; 70_000]].concat(), "longer than one may be"),
        (client.clone(), record(20, &[2]), "no TLS record"),
        (client.clone(), Vec::new(), "there is no whole hello"),
        (follow(record(22, &client_hello(&[0x0303]))), server.clone(), "offers no TLS 1.3"),
        (follow(record(22, &handshake(1, &[3, 3, 0]))), server.clone(), "the ClientHello cannot be read"),
    ] {
        let fault = seen(&client, &server).fault.unwrap_or_default();
        assert!(fault.contains(why), "{why}: {fault:?}");
    }
    // A hello in two records, as one that is long comes.
    let hello = client_hello(&[0x0a0a, 0x0304, 0x0303]);
    let halves = [record(22, &hello[..20]), record(22, &hello[20..]), record(23, &[1; 9])].concat();
    let found = seen(&halves, &server);
    assert_eq!((found.fault, found.offered), (None, vec![0x0304, 0x0303]));
}

#[test]
fn gaps_and_contradictions_are_no_proof() {
    let (client, server) = written();
    let all = conversation(&client, &server);
    let without = |index: usize| {
        let mut some = all.clone();
        some.remove(index);
        read(&some, ends(), MARKER).fault.unwrap_or_default()
    };
    assert!(without(0).contains("the beginning was not captured"), "{}", without(0));
    assert!(without(2).contains("a part was not captured"));
    let mut twice = all.clone();
    let mut other = server.clone();
    *other.last_mut().unwrap() ^= 1;
    twice.push(packet(false, 100, false, &other));
    assert!(read(&twice, ends(), MARKER).fault.unwrap().contains("seen twice, and differ"));
    // Far away in the sequence: nothing is allocated for it.
    let mut far = all.clone();
    far.push(packet(false, 100 + (1 << 30), false, &[1; 10]));
    assert!(read(&far, ends(), MARKER).fault.unwrap().contains("more than is looked at"));
    assert_eq!(read(&[], ends(), MARKER), Seen::default());
}

#[test]
fn a_marker_in_the_clear_is_found_wherever_it_stands() {
    let (client, server) = written();
    let says = |client: &[u8], server: &[u8]| seen(client, server).marker_in_clear;
    assert!(!says(&client, &server));
    let with = |bytes: &[u8]| [bytes, &record(23, MARKER)].concat();
    assert!(says(&with(&client), &server) && says(&client, &with(&server)));
    // Across two packets.
    let marked = with(&client);
    let mut packets = vec![packet(true, 9, true, &[]), packet(false, 99, true, &[])];
    let cut = marked.len() - 5;
    packets.push(packet(true, 10, false, &marked[..cut]));
    packets.push(packet(true, 10 + cut as u32, false, &marked[cut..]));
    assert!(read(&packets, ends(), MARKER).marker_in_clear);
    // Of another connection it says nothing.
    let other = Ends { client: "10.1.0.7:40001".parse().unwrap(), ..ends() };
    assert!(!read(&packets, other, MARKER).marker_in_clear);
}

#[test]
fn segments_are_found_behind_tags_and_extensions() {
    let Ends { client, server } = ends();
    let segment = tcp(client, server, 5, 16, b"hello");
    let plain = ipv4(client, server, &segment);
    let tag = |kind: u16, rest: &[u8]| [&[0, 42][..], &kind.to_be_bytes(), rest].concat();
    let once = tag(ETH_P_IP, &plain);
    let twice = tag(ETH_P_8021Q, &once);
    for (protocol, bytes) in [(ETH_P_IP, &plain), (ETH_P_8021Q, &once), (ETH_P_8021AD, &twice)] {
        let found = Segment::read(protocol, bytes).expect("a segment");
        assert_eq!((found.source, found.destination, found.payload), (client, server, &b"hello"[..]), "{protocol:#x}");
    }
    assert_eq!(Segment::read(ETH_P_8021AD, &tag(ETH_P_8021Q, &twice)), None, "nobody stacks three");
    let (client, server): (SocketAddr, SocketAddr) =
        ("[fd00::7]:40000".parse().unwrap(), "[fd00::9]:15008".parse().unwrap());
    for extension in [false, true] {
        let bytes = ipv6(client, server, extension, &segment);
        let found = Segment::read(ETH_P_IPV6, &bytes).expect("a segment");
        assert_eq!((found.source, found.destination, found.payload), (client, server, &b"hello"[..]), "{extension}");
    }
    assert_eq!(Segment::read(ETH_P_IPV6, &plain), None);
    assert_eq!(Segment::read(0x0806, &plain), None);
}

#[test]
fn what_does_not_fit_is_no_segment() {
    let Ends { client, server } = ends();
    let good = ipv4(client, server, &tcp(client, server, 5, 16, b"hello"));
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Segment::read(ETH_P_IP, &bytes).map(|segment| segment.payload.len())
    };
    assert_eq!(changed(0, 0x45), Some(5));
    // Header too short, or beyond the packet; another protocol; fragments; lengths that are too long or too short.
    for (at, value) in
        [(0, 0x44), (0, 0x4f), (0, 0x65), (9, 17), (6, 0x20), (7, 1), (2, 0xff), (3, 19), (32, 0x40), (32, 0xf0)]
    {
        assert_eq!(changed(at, value), None, "byte {at} is {value:#x}");
    }
    let end = good.len() - 6;
    for length in 0..end {
        assert_eq!(Segment::read(ETH_P_IP, &good[..length]), None, "{length} bytes");
    }
    // BIG TCP has no length: to the end of what there is.
    let mut big = good.clone();
    big[2..4].fill(0);
    assert_eq!(Segment::read(ETH_P_IP, &big).map(|segment| segment.payload.len()), Some(11));
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..400, value: u8) {
        for protocol in [ETH_P_IP, ETH_P_IPV6, ETH_P_8021Q] {
            let _ = Segment::read(protocol, &bytes);
        }
        for role in [Role::Client, Role::Server] {
            let _ = Spoken::read(role, &bytes);
            let _ = Spoken::read(role, &record(22, &bytes));
            let kind = if role == Role::Client { 1 } else { 2 };
            let _ = Spoken::read(role, &record(22, &handshake(kind, &bytes)));
        }
        let (mut client, server) = written();
        if let Some(byte) = client.get_mut(at) {
            *byte = value;
        }
        let _ = seen(&client, &[server, bytes].concat());
    }
}
