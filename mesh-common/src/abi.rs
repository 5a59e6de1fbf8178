//! Keys and values of the eBPF maps: what the kernel programs and the agent must agree on, byte for byte. Addresses
//! are in network byte order, ports in host byte order. A change here is a new [`LAYOUT_VERSION`].
#![allow(unsafe_code, reason = "`Pod` promises that any bytes are a value; every type here is plain integers")]

mod counters;
mod datagrams;
mod direct;

pub use counters::Counter;
pub use datagrams::{DatagramKey, DatagramSocket, Datagrams, MAX_DATAGRAMS, role};
pub use direct::{
    AGENT_WATCHES, Affinity, AffinityKey, Backend, BackendKey, Closed, Direct, NO_LIST, Service, Verdict, VerdictKey,
    action, direction, ending,
};

/// Part of the folder in which maps and links are pinned, so that two layouts never meet.
pub const LAYOUT_VERSION: u32 = 5;

/// Redirected pods of one node; a full table refuses the pod.
pub const MAX_PODS: u32 = 1024;
/// Connections between SYN and accept, both directions, unless the agent is told otherwise.
pub const MAX_PENDING: u32 = 65_536;
/// Attested same-node connections between SYN and accept, likewise.
pub const MAX_ATTESTED: u32 = 65_536;
/// Ports on which redirected pods listen, over all pods of a node.
pub const MAX_LISTENING: u32 = 32_768;
/// Ports that the kubelet probes, over all pods and addresses of a node.
pub const MAX_PROBES: u32 = 16_384;
/// Decisions about a pod, another pod of the node and a port.
pub const MAX_VERDICTS: u32 = 65_536;
/// Ports of services, over all their addresses.
pub const MAX_SERVICES: u32 = 32_768;
/// Endpoints of them.
pub const MAX_BACKENDS: u32 = 262_144;
/// Endpoints that clients keep; the one that was used longest ago makes room.
pub const MAX_AFFINITIES: u32 = 32_768;
/// Open direct connections, and those of observed pods, unless the agent is told otherwise.
pub const MAX_DIRECT: u32 = 65_536;
/// Bytes of the event ring.
pub const EVENT_RING: u32 = 1 << 18;
/// Bytes of the ring of direct connections that ended: some 25,000 of them.
pub const CLOSED_RING: u32 = 1 << 22;

/// 127.64.0.0/10: where redirected connections go, spread by their original destination.
pub const REDIRECT_NET: u32 = 0x7f40_0000;
/// 127.128.0.0/10: where the agent's connections to an application come from.
pub const SOURCE_NET: u32 = 0x7f80_0000;
/// Network bits of both.
pub const SPREAD_MASK: u32 = 0xffc0_0000;

/// ::1 at one of the ports from here to 65535: where redirected IPv6 connections go, spread by their original
/// destination. None of these ports is reserved: only a connection that `PENDING` holds is taken.
pub const REDIRECT_PORTS: u32 = 16_384;

/// Stands in `LISTENING` for every port of a namespace: it is not known which of them are open.
pub const ANY_PORT: u32 = 0;

/// Tables that say in `OVERFLOWED` that they were full.
pub mod table {
    /// A port that is not in it may be open.
    pub const LISTENING: u32 = 0;
    /// What could be direct goes through the agent.
    pub const DIRECT: u32 = 1;
    pub const COUNT: u32 = 2;
}

/// An IP address as four words in network byte order; IPv4 is mapped (`::ffff:a.b.c.d`, RFC 4291 2.5.5.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ip(pub [u32; 4]);

/// An address with its port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SockAddr {
    pub ip: Ip,
    /// Host byte order. 32 bits wide, so that nothing is padding.
    pub port: u32,
}

/// A connection inside one network namespace, as its dialler sees it. Two pods can have equal 4-tuples; their
/// namespaces' cookies differ.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub netns: u64,
    pub local: SockAddr,
    pub remote: SockAddr,
}

/// A connection between two pods as `sk_lookup` sees it, which has no namespace cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub source: SockAddr,
    pub destination: SockAddr,
}

/// A redirected pod, by its namespace's cookie. Written by the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodEntry {
    /// Its published address of each family, or [`Ip::NONE`].
    pub ip4: Ip,
    pub ip6: Ip,
    /// Slot of the pod's listener and epoch, below [`MAX_PODS`].
    pub index: u32,
    /// Which life of the slot: a connection of an earlier life proves nothing.
    pub epoch: u32,
    /// Not 0: it is looked at and left alone ([`PodEntry::OBSERVED`]).
    pub observed: u32,
}

/// A port on which somebody in a redirected pod's namespace listens, on an address that others can reach.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenKey {
    pub netns: u64,
    pub port: u32,
    /// Always 0: a key must have no padding.
    pub zero: u32,
}

/// The pod behind an address and port that the kubelet probes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    pub index: u32,
    pub epoch: u32,
}

/// What the kernel knows of a socket, in its socket storage. It lives and dies with the socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketState {
    /// A [`kind`].
    pub kind: u32,
    /// The pod that dialled: index and epoch.
    pub pod: u32,
    pub epoch: u32,
    /// For [`kind::ATTEST`] and [`kind::PROBE`]: the pod that is dialled.
    pub target: u32,
    pub target_epoch: u32,
    /// By kind: the original destination, the real client, or the attested destination.
    pub address: SockAddr,
    /// For [`kind::REDIRECTED`]: the pod's own address, which the application sees as its local one.
    pub local: Ip,
    /// For [`kind::DIRECT`]: whom it dials. For [`kind::REDIRECTED`] the endpoint that the kernel chose of the service
    /// at `address`, or port 0. For [`kind::OWN`] the pod's own address and port.
    pub backend: SockAddr,
    /// For [`kind::DIRECT`]: which decision permits it, and the target's generation then.
    pub decision: u32,
    pub generation: u32,
    /// Not 0: the peer said that nothing more comes (FIN).
    pub ended: u32,
    /// Segments without payload that had come when the peer had acknowledged the own FIN.
    pub controls: u32,
}

/// The kinds of [`SocketState`].
pub mod kind {
    /// An application's socket that was redirected; `address` is what it dialled.
    pub const REDIRECTED: u32 = 1;
    /// The agent's end of it; `address` is what the application dialled, `pod` who it is.
    pub const ACCEPTED: u32 = 2;
    /// The agent's socket towards an application; `address` is the real client.
    pub const UPSTREAM: u32 = 3;
    /// The application's end of it.
    pub const SERVED: u32 = 4;
    /// The agent's socket in a source pod's namespace; `address` is the destination that was decided.
    pub const ATTEST: u32 = 5;
    /// An application's socket that dials its own pod's IPv6 address; `address` is that.
    pub const OWN: u32 = 6;
    /// A kubelet's socket that dials a port that the pod declares in a probe; `address` is that.
    pub const PROBE: u32 = 7;
    /// An application's socket that dials another pod of the node directly; `address` is what it dialled.
    pub const DIRECT: u32 = 8;
    /// The agent's end of one that was to be direct, and is not, since the decision changed while it was dialled;
    /// `pod` is who dialled.
    pub const LATE: u32 = 9;
    /// A dialling socket of an observed pod; `address` is what it dialled.
    pub const OBSERVED: u32 = 10;
    /// An accepting socket of an observed pod.
    pub const OBSERVED_SERVED: u32 = 11;
}

/// [`Attestation::source`] of a probe: no pod, the node.
pub const NODE: u32 = u32::MAX;

/// The kernel saw a socket of `source` dial `target` after a decision that permits it. `source` is a pod's index, or
/// [`NODE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attestation {
    pub source: u32,
    pub source_epoch: u32,
    pub target: u32,
    pub target_epoch: u32,
    /// Of the target; [`AGENT_WATCHES`]: whatever it is.
    pub generation: u32,
}

/// Something that the agent should know of, through the event ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`).
    pub time: u64,
    /// Namespace of the socket; 0 where the hook cannot know it.
    pub netns: u64,
    /// The [`Counter`] that was counted.
    pub counter: u32,
    /// The pod's index, or [`MAX_PODS`] if unknown.
    pub pod: u32,
    pub local: SockAddr,
    pub remote: SockAddr,
    /// The decision that refused it; 0: none.
    pub decision: u32,
    /// Always 0: a record must have no padding.
    pub zero: u32,
}

impl Ip {
    /// No address; as a destination, `::`.
    pub const NONE: Self = Self([0; 4]);
    /// ::1
    pub const LOOPBACK6: Self = Self([0, 0, 0, 1_u32.to_be()]);

    pub const fn v4(be: u32) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), be])
    }

    /// The IPv4 address in network byte order, if it is one.
    pub const fn as_v4(self) -> Option<u32> {
        if self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0xffff_u32.to_be() { Some(self.0[3]) } else { None }
    }

    /// 127.0.0.0/8 or ::1
    pub const fn is_loopback(self) -> bool {
        match self.as_v4() {
            Some(v4) => u32::from_be(v4) >> 24 == 127,
            None => self.is(Self::LOOPBACK6),
        }
    }

    /// fe80::/10
    pub const fn is_link_local6(self) -> bool {
        u32::from_be(self.0[0]) & 0xffc0_0000 == 0xfe80_0000
    }

    /// `==` for constants.
    const fn is(self, other: Self) -> bool {
        self.0[0] == other.0[0] && self.0[1] == other.0[1] && self.0[2] == other.0[2] && self.0[3] == other.0[3]
    }

    /// In [`REDIRECT_NET`].
    pub const fn is_redirect(self) -> bool {
        match self.as_v4() {
            Some(v4) => u32::from_be(v4) & SPREAD_MASK == REDIRECT_NET,
            None => false,
        }
    }
}

impl SockAddr {
    /// Nowhere.
    pub const NONE: Self = Self { ip: Ip::NONE, port: 0 };
}

impl SocketState {
    /// Of no [`kind`], about nobody.
    pub const EMPTY: Self = Self {
        kind: 0,
        pod: MAX_PODS,
        epoch: 0,
        target: MAX_PODS,
        target_epoch: 0,
        address: SockAddr::NONE,
        local: Ip::NONE,
        backend: SockAddr::NONE,
        decision: 0,
        generation: AGENT_WATCHES,
        ended: 0,
        controls: 0,
    };
}

impl PodEntry {
    /// [`PodEntry::observed`] of a pod whose connections are recorded and neither redirected nor refused.
    pub const OBSERVED: u32 = 1;

    /// The address is one of its published ones.
    #[inline(always)]
    pub fn owns(&self, ip: Ip) -> bool {
        !ip.is(Ip::NONE) && (ip.is(self.ip4) || ip.is(self.ip6))
    }
}

const _: () = {
    assert!(size_of::<Ip>() == 16);
    assert!(size_of::<SockAddr>() == 20);
    assert!(size_of::<FlowKey>() == 48);
    assert!(size_of::<Tuple>() == 40);
    assert!(size_of::<PodEntry>() == 44);
    assert!(size_of::<ListenKey>() == 16);
    assert!(size_of::<ProbeTarget>() == 8);
    assert!(size_of::<SocketState>() == 92);
    assert!(size_of::<Attestation>() == 20);
    assert!(size_of::<Event>() == 72);
};

#[cfg(all(feature = "user", target_os = "linux"))]
mod user {
    use core::net::{IpAddr, SocketAddr};

    use super::{
        Affinity, AffinityKey, Attestation, Backend, BackendKey, Closed, DatagramKey, DatagramSocket, Datagrams,
        Direct, Event, FlowKey, Ip, ListenKey, PodEntry, ProbeTarget, Service, SockAddr, SocketState, Tuple, Verdict,
        VerdictKey,
    };

    // SAFETY: repr(C) structs of integers without padding (the sizes are asserted above).
    unsafe impl aya::Pod for Ip {}
    // SAFETY: as above
    unsafe impl aya::Pod for SockAddr {}
    // SAFETY: as above
    unsafe impl aya::Pod for FlowKey {}
    // SAFETY: as above
    unsafe impl aya::Pod for Tuple {}
    // SAFETY: as above
    unsafe impl aya::Pod for PodEntry {}
    // SAFETY: as above
    unsafe impl aya::Pod for ListenKey {}
    // SAFETY: as above
    unsafe impl aya::Pod for ProbeTarget {}
    // SAFETY: as above
    unsafe impl aya::Pod for SocketState {}
    // SAFETY: as above
    unsafe impl aya::Pod for Attestation {}
    // SAFETY: as above
    unsafe impl aya::Pod for Event {}
    // SAFETY: as above
    unsafe impl aya::Pod for Closed {}
    // SAFETY: as above
    unsafe impl aya::Pod for Direct {}
    // SAFETY: as above
    unsafe impl aya::Pod for Affinity {}
    // SAFETY: as above
    unsafe impl aya::Pod for AffinityKey {}
    // SAFETY: as above
    unsafe impl aya::Pod for Backend {}
    // SAFETY: as above
    unsafe impl aya::Pod for BackendKey {}
    // SAFETY: as above
    unsafe impl aya::Pod for Service {}
    // SAFETY: as above
    unsafe impl aya::Pod for Verdict {}
    // SAFETY: as above
    unsafe impl aya::Pod for VerdictKey {}
    // SAFETY: as above
    unsafe impl aya::Pod for DatagramKey {}
    // SAFETY: as above
    unsafe impl aya::Pod for Datagrams {}
    // SAFETY: as above
    unsafe impl aya::Pod for DatagramSocket {}

    impl From<IpAddr> for Ip {
        fn from(ip: IpAddr) -> Self {
            let octets = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            let word = |i: usize| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
            Self([word(0), word(4), word(8), word(12)])
        }
    }

    impl From<Ip> for IpAddr {
        fn from(ip: Ip) -> Self {
            let mut octets = [0; 16];
            for (bytes, word) in octets.chunks_exact_mut(4).zip(ip.0) {
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
            Self::from(octets).to_canonical()
        }
    }

    impl From<SocketAddr> for SockAddr {
        fn from(address: SocketAddr) -> Self {
            Self { ip: address.ip().into(), port: address.port().into() }
        }
    }

    impl From<SockAddr> for SocketAddr {
        fn from(address: SockAddr) -> Self {
            // Only the kernel and this crate write ports, from 16 bits each.
            Self::new(address.ip.into(), address.port as u16)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_address() {
        let v4 = |a: u8, b, c, d| Ip::v4(u32::from_be_bytes([a, b, c, d]).to_be());
        assert!(v4(127, 0, 0, 1).is_loopback() && !v4(127, 0, 0, 1).is_redirect());
        assert!(v4(127, 64, 0, 0).is_redirect() && v4(127, 127, 255, 255).is_redirect());
        assert!(!v4(127, 128, 0, 0).is_redirect() && !v4(10, 0, 0, 1).is_loopback());
        assert!(Ip::LOOPBACK6.is_loopback() && !Ip::NONE.is_loopback());
        assert_eq!(Ip::LOOPBACK6.as_v4(), None);
        let v6 = |first: u32| Ip([first.to_be(), 0, 0, 1_u32.to_be()]);
        assert!(v6(0xfe80_0000).is_link_local6() && v6(0xfebf_0000).is_link_local6());
        assert!(!v6(0xfec0_0000).is_link_local6() && !v6(0xfd00_0000).is_link_local6());
        assert!(!v4(254, 128, 0, 1).is_link_local6());
    }

    #[test]
    fn a_pod_owns_what_is_published_and_no_address_is_nobodys() {
        let (ip4, ip6) = (Ip::v4(1), Ip([0x2001_u32.to_be(), 0, 0, 1]));
        let only4 = PodEntry { ip4, ip6: Ip::NONE, index: 0, epoch: 1, observed: 0 };
        assert!(only4.owns(ip4) && !only4.owns(ip6) && !only4.owns(Ip::NONE));
        assert!(PodEntry { ip6, ..only4 }.owns(ip6));
    }
}
