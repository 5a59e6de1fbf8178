//! What the kernel decides by itself: endpoints of services, decisions on connections between two pods of the node,
//! and the record of such a connection.

use super::{Ip, SockAddr};

/// [`super::Attestation::generation`] of what the agent dials: it ends that itself if a decision changes.
pub const AGENT_WATCHES: u32 = 0;

/// A port of a service, by its virtual address: which list of endpoints, and how long it is. A list never changes:
/// another one is another id, and one that is gone is looked for in vain.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    pub id: u32,
    /// Places of the list, never 0.
    pub count: u32,
    /// Seconds for which a client keeps its endpoint after its last connect; 0: each connect may go to another one.
    pub affinity: u32,
}

/// Who keeps an endpoint of what: a pod's slot, and the virtual address and port of a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    pub source: u32,
    pub service: SockAddr,
}

/// The endpoint that a client keeps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// When a connect asked last: nanoseconds since boot (`CLOCK_MONOTONIC`).
    pub used: u64,
    /// Of the client: another life of its slot is another client.
    pub epoch: u32,
    /// Where the endpoint stands: [`Service::id`], or [`NO_LIST`], and the place in that list.
    pub list: u32,
    pub slot: u32,
    /// By which the agent finds it in another list.
    pub endpoint: SockAddr,
}

/// [`Affinity::list`] of an endpoint that stands in no list of the kernel's.
pub const NO_LIST: u32 = 0;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendKey {
    /// [`Service::id`]
    pub id: u32,
    /// Below [`Service::count`].
    pub slot: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Port 0: the service has no healthy endpoint.
    pub address: SockAddr,
    /// The virtual address and port that it answers.
    pub service: SockAddr,
}

/// Who dials whom: a pod's slot, and the address and port of another pod of the node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VerdictKey {
    pub source: u32,
    pub destination: SockAddr,
}

/// What the agent decided on all connections of a [`VerdictKey`]. The agent alone writes it, but for `used`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`): from then on nothing is known.
    pub expires: u64,
    /// About when a connect asked last, likewise; the hook writes it.
    pub used: u64,
    /// An [`action`].
    pub action: u32,
    pub source_epoch: u32,
    pub target: u32,
    pub target_epoch: u32,
    /// The target's generation for which it was decided.
    pub generation: u32,
    /// The agent's name for the decision.
    pub decision: u32,
    /// [`Verdict::sum`] of all that is before, without `used`.
    pub sum: u32,
    /// Always 0: a value must have no padding.
    pub zero: u32,
}

/// The actions of [`Verdict`].
pub mod action {
    /// The pod is dialled as if there were no mesh, attested.
    pub const DIRECT: u32 = 1;
    /// ECONNREFUSED
    pub const DENY: u32 = 2;
    /// The agent carries it.
    pub const REDIRECT: u32 = 3;
}

/// A connection that the kernel records: a direct one, or one of an observed pod. By the socket's cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direct {
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`).
    pub started: u64,
    /// The pod whose socket it is: slot and epoch.
    pub pod: u32,
    pub epoch: u32,
    /// The pod that it dials; [`super::MAX_PODS`] for an observed connection.
    pub target: u32,
    pub target_epoch: u32,
    /// 0 for an observed connection.
    pub decision: u32,
    pub local: SockAddr,
    pub remote: SockAddr,
    /// What the application dialled: a service's address, or `remote`.
    pub dialled: SockAddr,
    /// A [`direction`].
    pub direction: u32,
    /// Always 0: a value must have no padding.
    pub zero: u32,
}

/// The directions of [`Direct`].
pub mod direction {
    /// The pod dials, and a decision permits it.
    pub const DIRECT: u32 = 0;
    /// An observed pod dials.
    pub const OUTBOUND: u32 = 1;
    /// An observed pod accepted.
    pub const INBOUND: u32 = 2;
}

/// The last word of a [`Direct`] connection, through the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    pub cookie: u64,
    /// Nanoseconds since boot.
    pub ended: u64,
    /// Payload bytes that the peer acknowledged, and that came from it.
    pub sent: u64,
    pub received: u64,
    pub connection: Direct,
    /// Smoothed round-trip time, microseconds.
    pub rtt: u32,
    /// Segments that were sent again.
    pub retransmits: u32,
    /// An [`ending`].
    pub ending: u32,
}

/// The endings of [`Closed`].
pub mod ending {
    pub const IN_ORDER: u32 = 0;
    /// One end reset it, or gave it up.
    pub const RESET: u32 = 1;
    /// It was never established.
    pub const FAILED: u32 = 2;
}

impl Verdict {
    /// Tells the value that was written for this key from one that was exchanged while it was read: the kernel uses
    /// the room of a replaced element again at once (`extra_elems` in kernel/bpf/hashtab.c).
    #[inline(always)]
    pub fn sum(&self, key: &VerdictKey) -> u32 {
        let Ip([a, b, c, d]) = key.destination.ip;
        let mut sum = 0x811c_9dc5_u32;
        // FNV-1a over words.
        let mut add = |word: u32| sum = (sum ^ word).wrapping_mul(0x0100_0193).rotate_left(5);
        add(key.source);
        add(a);
        add(b);
        add(c);
        add(d);
        add(key.destination.port);
        add(self.expires as u32);
        add((self.expires >> 32) as u32);
        add(self.action);
        add(self.source_epoch);
        add(self.target);
        add(self.target_epoch);
        add(self.generation);
        add(self.decision);
        sum
    }

    /// With its sum.
    pub fn sealed(self, key: &VerdictKey) -> Self {
        Self { sum: self.sum(key), ..self }
    }
}

const _: () = {
    assert!(size_of::<Service>() == 12);
    assert!(size_of::<AffinityKey>() == 24);
    assert!(size_of::<Affinity>() == 40);
    assert!(size_of::<BackendKey>() == 8);
    assert!(size_of::<Backend>() == 40);
    assert!(size_of::<VerdictKey>() == 24);
    assert!(size_of::<Verdict>() == 48);
    assert!(size_of::<Direct>() == 96);
    assert!(size_of::<Closed>() == 144);
};
