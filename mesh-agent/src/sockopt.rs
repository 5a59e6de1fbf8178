//! The socket options that no library offers. The only unsafe code outside `bpf`.
#![expect(unsafe_code, reason = "setsockopt, getsockopt and ioctl with options that socket2 and rustix do not know")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

/// include/uapi/asm-generic/socket.h
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the network namespace in which the socket was made (Linux 5.14).
pub fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie: u64 = 0;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// A bind to port 0 shall leave the choice of the port to connect, where the 4-tuple is known (ip(7)). Without it the
/// agent would run out of ports at 28,000 connections from one address.
pub fn set_bind_address_no_port(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads the given length from `on`
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// include/uapi/linux/sockios.h
const SIOCOUTQNSD: libc::Ioctl = 0x894B;

/// Bytes that a TCP socket took and has not sent yet, because its peer has no room or the path is full.
pub fn unsent(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int to `bytes`
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCOUTQNSD, &raw mut bytes) };
    if result == 0 { Ok(usize::try_from(bytes).unwrap_or_default()) } else { Err(io::Error::last_os_error()) }
}

/// What recvfrom says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The whole one, also if there was room for a part only.
    pub length: usize,
    /// Index of the link.
    pub link: u32,
    pub is_outgoing: bool,
    /// EtherType.
    pub protocol: u16,
}

/// The next packet of an AF_PACKET socket (packet(7)); waits for none.
pub fn receive_packet(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    // SAFETY: all bits zero are an address of its type
    let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`, and at most `size` to `from`
    let length = unsafe {
        libc::recvfrom(
            socket.as_fd().as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT | libc::MSG_TRUNC,
            (&raw mut from).cast(),
            &raw mut size,
        )
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok(Received {
        length,
        link: u32::try_from(from.sll_ifindex).unwrap_or_default(),
        is_outgoing: from.sll_pkttype == libc::PACKET_OUTGOING,
        protocol: u16::from_be(from.sll_protocol),
    })
}

/// Packets that an AF_PACKET socket had no room for since the last time this was asked.
pub fn packets_lost(socket: impl AsFd) -> io::Result<u32> {
    let mut counts = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `counts`
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut counts).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(counts.tp_drops) } else { Err(io::Error::last_os_error()) }
}
