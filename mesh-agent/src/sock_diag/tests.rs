//! With the kernel's own answers about real sockets on loopback.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use rustix::net::sockopt::socket_cookie;
use socket2::SockRef;

use super::*;

/// Both ends of a connection to a listener there.
fn pair(listener: &TcpListener, to: SocketAddr) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(to).unwrap();
    let (server, _) = listener.accept().unwrap();
    (client, server)
}

fn listener(at: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn target(stream: &TcpStream) -> Target {
    Target {
        local: stream.local_addr().unwrap(),
        remote: stream.peer_addr().unwrap(),
        cookie: socket_cookie(stream).unwrap(),
    }
}

fn found(stream: &TcpStream) -> Option<Connection> {
    let cookie = socket_cookie(stream).unwrap();
    connections().unwrap().into_iter().find(|connection| connection.cookie == cookie)
}

fn destroyed(Target { local, remote, cookie }: Target) -> bool {
    destroy_all(&[Target { local, remote, cookie }]).unwrap() == 1
}

fn lives(one: &mut TcpStream, other: &mut TcpStream) -> bool {
    one.write_all(&[7]).is_ok() && other.read_exact(&mut [0]).is_ok()
}

/// Of the one that was destroyed, and of its peer.
fn is_aborted(stream: &mut TcpStream, peer: &mut TcpStream) -> bool {
    let ended = |stream: &mut TcpStream| stream.read(&mut [0]).unwrap_err().kind();
    ended(stream) == ErrorKind::ConnectionAborted && ended(peer) == ErrorKind::ConnectionReset
}

/// Without it the kernel refuses to end sockets, and the test sees just that.
fn may_destroy(refused: &Target) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        let error = destroy_all(&[*refused]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
    is_root
}

#[test]
fn listeners_are_seen_unless_they_are_on_loopback() {
    let (everywhere, here) = (listener("0.0.0.0:0"), listener("127.0.0.1:0"));
    let open = open_ports().unwrap();
    assert!(open.contains(&everywhere.1.port()) && !open.contains(&here.1.port()), "{open:?}");
    drop(everywhere.0);
    assert!(!open_ports().unwrap().contains(&everywhere.1.port()));
}

#[test]
fn connections_are_seen_with_what_they_moved() {
    let (listener, to) = listener("127.0.0.1:0");
    let (mut client, mut server) = pair(&listener, to);
    client.write_all(&[7; 1000]).unwrap();
    server.read_exact(&mut [0; 1000]).unwrap();
    server.write_all(&[7; 10]).unwrap();
    client.read_exact(&mut [0; 10]).unwrap();
    let Target { local, remote, cookie } = target(&client);
    let connection = found(&client).unwrap();
    let info = connection.info.unwrap();
    assert_eq!(connection, Connection { cookie, local, remote, state: 1, cgroup: connection.cgroup, info: Some(info) });
    assert!(connection.cgroup.is_some_and(|cgroup| cgroup != 0));
    // One more was acknowledged than was sent: the SYN.
    assert_eq!((info.bytes_acked, info.bytes_received, info.retransmits), (1001, 10, 0));
    assert!(!info.rtt.is_zero(), "{info:?}");
    let other_end = found(&server).unwrap();
    assert_eq!((other_end.local, other_end.remote), (remote, local));
    assert_eq!(other_end.info.unwrap().bytes_received, 1000);
}

#[test]
fn neither_listeners_nor_what_is_left_of_closed_connections_are_connections() {
    let (listener, to) = listener("127.0.0.1:0");
    let (client, server) = pair(&listener, to);
    let local = client.local_addr().unwrap();
    let of = |local| connections().unwrap().into_iter().filter(|c| c.local == local).collect::<Vec<_>>();
    // The server's end of it alone: its listener has the same address.
    assert_eq!(of(to).len(), 1);
    // Its peer is still there: FIN_WAIT2, and no application has it.
    drop(client);
    let patience = Instant::now() + Duration::from_secs(5);
    while !of(local).is_empty() {
        // The acknowledgement of its FIN may take a while.
        assert!(Instant::now() < patience, "{:?}", of(local));
        thread::sleep(Duration::from_millis(5));
    }
    // CLOSE_WAIT.
    assert_eq!(of(to).iter().map(|connection| connection.state).collect::<Vec<_>>(), [8]);
    drop(server);
    assert_eq!((of(local), of(to)), (vec![], vec![]));
}

#[test]
fn exactly_one_connection_ends() {
    let (listener, to) = listener("127.0.0.1:0");
    let (mut client, mut server) = pair(&listener, to);
    let (mut neighbour, mut its_server) = pair(&listener, to);
    let target = target(&client);
    if !may_destroy(&target) {
        assert!(lives(&mut client, &mut server));
        return;
    }
    assert!(destroyed(target));
    assert!(is_aborted(&mut client, &mut server));
    assert!(lives(&mut neighbour, &mut its_server) && lives(&mut its_server, &mut neighbour));
    assert!(!destroyed(target), "it was gone already");
}

#[test]
fn another_cookie_ends_nothing() {
    let (listener, to) = listener("127.0.0.1:0");
    let (mut client, mut server) = pair(&listener, to);
    let right = target(&client);
    if !may_destroy(&right) {
        return;
    }
    for cookie in [right.cookie + 1, right.cookie | 1 << 40, 0] {
        assert!(!destroyed(Target { cookie, ..right }), "{cookie}");
    }
    // The kernel would take it for any.
    assert!(destroy_all(&[Target { cookie: u64::MAX, ..right }]).is_err());
    // Its cookie, and a neighbour's addresses.
    let (mut neighbour, mut its_server) = pair(&listener, to);
    assert!(!destroyed(Target { cookie: right.cookie, ..target(&neighbour) }));
    assert!(lives(&mut client, &mut server) && lives(&mut neighbour, &mut its_server));
}

#[test]
fn an_ipv6_socket_ends_by_either_name_of_its_mapped_addresses() {
    let (listener, to) = listener("[::]:0");
    let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), to.port()));
    let named = [canonical as fn(SocketAddr) -> SocketAddr, |address| address];
    for name in named {
        let (mut client, mut server) = pair(&listener, mapped);
        let seen = found(&client).unwrap();
        assert!(seen.remote.is_ipv4() && seen.local.is_ipv4(), "{seen:?}");
        let Target { local, remote, cookie } = target(&client);
        assert!(local.is_ipv6() && remote.is_ipv6());
        let target = Target { local: name(local), remote: name(remote), cookie };
        if may_destroy(&target) {
            assert!(destroyed(target), "{target:?}");
            assert!(is_aborted(&mut client, &mut server));
        }
    }
}

#[test]
fn many_end_at_once_over_both_families_and_those_that_are_gone_do_not_count() {
    let (four, to_four) = listener("127.0.0.1:0");
    let (six, to_six) = listener("[::1]:0");
    let mut pairs: Vec<_> = (0..20).map(|_| pair(&four, to_four)).chain((0..20).map(|_| pair(&six, to_six))).collect();
    let mut targets: Vec<_> = pairs.iter().map(|(client, _)| target(client)).collect();
    if !may_destroy(&targets[0]) {
        return;
    }
    // Closed by the server first, so that nothing of the client's is left.
    let (client, server) = pair(&four, to_four);
    targets.insert(7, target(&client));
    drop((server, client));
    assert_eq!(destroy_all(&targets).unwrap(), pairs.len());
    assert!(pairs.iter_mut().all(|(client, server)| is_aborted(client, server)));
    assert_eq!(destroy_all(&[]).unwrap(), 0);
}

#[test]
fn a_socket_that_is_bound_to_a_device_ends_too() {
    let (listener, to) = listener("127.0.0.1:0");
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // What is accepted inherits it.
    SockRef::from(&listener).bind_device(Some(b"lo")).unwrap();
    let (mut client, mut server) = pair(&listener, to);
    assert!(destroyed(target(&server)));
    assert!(is_aborted(&mut server, &mut client));
}
