//! UDP as the kernel counts it: who spoke to whom, without ports that change with each socket.

use super::Ip;

/// What a table of datagrams holds: pairs of a pod and a peer that spoke in one round.
pub const MAX_DATAGRAMS: u32 = 32_768;

/// Between whom, and who serves.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    /// The redirected pod whose socket it is: index and epoch.
    pub pod: u32,
    pub epoch: u32,
    /// What that socket is: [`role::CLIENT`] or [`role::SERVER`].
    pub role: u32,
    /// Of the end that serves.
    pub port: u32,
    /// The other end.
    pub remote: Ip,
}

/// What passed between them in one round.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagrams {
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`) at the first datagram, and about at the last.
    pub first: u64,
    pub last: u64,
    /// By the pod.
    pub sent: u64,
    /// Payload: neither the headers of IP nor those of UDP.
    pub sent_bytes: u64,
    pub received: u64,
    pub received_bytes: u64,
}

/// Whose a socket is, in its storage, so that its cgroup is asked once.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramSocket {
    /// A [`role`].
    pub role: u32,
    pub pod: u32,
    pub epoch: u32,
    /// In which round it was nobody's.
    pub round: u32,
}

impl Datagrams {
    /// Nothing passed.
    pub const NONE: Self = Self { first: 0, last: 0, sent: 0, sent_bytes: 0, received: 0, received_bytes: 0 };
}

/// The roles of sockets.
pub mod role {
    /// No redirected pod's, or no socket of UDP; asked again in the next round.
    pub const NOBODY: u32 = 0;
    /// Its first datagram went out: others serve it.
    pub const CLIENT: u32 = 1;
    /// Its first datagram came in: it serves.
    pub const SERVER: u32 = 2;
}

const _: () = {
    assert!(size_of::<DatagramKey>() == 32);
    assert!(size_of::<Datagrams>() == 48);
    assert!(size_of::<DatagramSocket>() == 16);
};
