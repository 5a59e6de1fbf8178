//! What the programs count.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What the programs count, one slot each in a per-CPU array.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $($(#[$doc])* $name,)*
        }

        impl Counter {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable name in metrics, flows and `meshctl status`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            pub fn from_index(index: u32) -> Option<Self> {
                Self::ALL.get(index as usize).copied()
            }
        }
    };
}

counters! {
    /// connect: the agent's own socket
    ConnectAgent = "CONNECT_AGENT",
    /// connect: not a redirected pod
    ConnectNotEnrolled = "CONNECT_NOT_ENROLLED",
    /// connect: a loopback address or the pod's own
    ConnectOwnPod = "CONNECT_OWN_POD",
    /// connect: not TCP
    ConnectNotTcp = "CONNECT_NOT_TCP",
    /// connect refused: IPv4 from a pod that has no published IPv4 address; the caller gets ENETUNREACH
    ConnectIpv4 = "CONNECT_IPV4",
    /// connect refused: IPv6 from a pod that has no published IPv6 address; the caller gets ENETUNREACH
    ConnectIpv6 = "CONNECT_IPV6",
    /// connect refused: an IPv6 link-local address, which names no workload
    ConnectLinkLocal = "CONNECT_LINK_LOCAL",
    /// connect: sent to the agent
    ConnectRedirected = "CONNECT_REDIRECTED",
    /// connect: straight to another pod of the node, as a decision permits
    ConnectDirect = "CONNECT_DIRECT",
    /// connect refused: a decision denies it; the caller gets ECONNREFUSED
    ConnectDenied = "CONNECT_DENIED",
    /// connect refused: the service has no healthy endpoint; the caller gets ECONNREFUSED
    NoHealthyEndpoint = "NO_HEALTHY_ENDPOINT",
    /// connect: the table of endpoints that clients keep took this one not; the next connect chooses again
    AffinityLost = "AFFINITY_LOST",
    /// connect: an observed pod's, left alone
    ConnectObserved = "CONNECT_OBSERVED",
    /// connect refused: the socket is bound to a device, its SYN would leave the pod
    BoundDevice = "BOUND_DEVICE",
    /// connect refused: a process of a redirected pod in a namespace that nobody enrolled
    UnknownNamespace = "UNKNOWN_NAMESPACE",
    /// connect refused: no socket storage
    StorageFull = "STORAGE_FULL",
    /// sockops: the original destination was handed to the agent
    PendingPublished = "PENDING_PUBLISHED",
    /// sockops: the table of pending connections is full; the connect fails with EHOSTUNREACH
    PendingFull = "PENDING_FULL",
    /// sockops: an accepted socket got what its dialler left for it
    PendingTaken = "PENDING_TAKEN",
    /// sockops: an accepted socket could not keep it. The agent refuses its own; an application's is cut off: what
    /// accept() answers shows a loopback address as the client's, and no data passes that the client sent after the
    /// handshake
    TakenStorageFull = "TAKEN_STORAGE_FULL",
    /// sockops: a same-node connection was attested
    Attested = "ATTESTED",
    /// sockops: not attested, since the local address is not the pod's; here and below the agent's connect fails
    /// likewise; a kubelet's goes on and is one without identity
    AttestForeignAddress = "ATTEST_FOREIGN_ADDRESS",
    /// sockops: not attested, since the entry is another pod's
    AttestTaken = "ATTEST_TAKEN",
    /// sockops: not attested, since the table is full
    AttestFull = "ATTEST_FULL",
    /// sockops: a direct connection was dialled
    DirectOpened = "DIRECT_OPENED",
    /// sockops: the table of direct connections is full; the connect fails with EHOSTUNREACH, and until there is room
    /// the agent carries what follows
    DirectFull = "DIRECT_FULL",
    /// sockops: the table of direct connections is full; a connection of an observed pod is not recorded
    ObservedFull = "OBSERVED_FULL",
    /// sockops: a connection that an observed pod dials is recorded
    ObservedOpened = "OBSERVED_OPENED",
    /// sockops: a connection that an observed pod accepted is recorded
    ObservedAccepted = "OBSERVED_ACCEPTED",
    /// a direct or observed connection ended, and its record did not fit into the ring
    ClosedLost = "CLOSED_LOST",
    /// sk_lookup: the decision on a direct connection changed while it was dialled; steered to the agent
    SteeredLate = "STEERED_LATE",
    /// sk_lookup: steered to the agent
    SteeredAgent = "STEERED_AGENT",
    /// sk_lookup: from the pod itself
    SteeredOwnPod = "STEERED_OWN_POD",
    /// sk_lookup: attested, straight to the application
    SteeredAttested = "STEERED_ATTESTED",
    /// sk_lookup: not TCP
    SteeredNotTcp = "STEERED_NOT_TCP",
    /// sk_lookup: a kubelet's probe of a declared port, straight to the application
    SteeredProbe = "STEERED_PROBE",
    /// sk_lookup dropped: nobody in the pod listens on that port
    SteeredClosed = "STEERED_CLOSED",
    /// sk_lookup dropped: a connection of a pod of this node that was decided for another pod, or another life of this
    /// one
    SteeredElsewhere = "STEERED_ELSEWHERE",
    /// the table of listening ports is full: from now on closed ports are steered to the agent like open ones
    ListeningFull = "LISTENING_FULL",
    /// sockops: a listener of a redirected pod closed; the agent looks which are left
    ListenerClosed = "LISTENER_CLOSED",
    /// sk_lookup dropped: the agent does not listen
    AgentDown = "AGENT_DOWN",
    /// an event did not fit into the ring
    EventsLost = "EVENTS_LOST",
    /// datagrams of redirected pods that are counted by nobody's name, since the table or the memory was full
    UdpUnnamed = "UDP_UNNAMED",
    /// their payload bytes
    UdpUnnamedBytes = "UDP_UNNAMED_BYTES",
    /// datagrams of redirected pods to multicast and broadcast addresses: they have no other end
    UdpGroup = "UDP_GROUP",
    /// packets of redirected pods' sockets of UDP whose headers are not read: extension headers of IPv6
    UdpUnread = "UDP_UNREAD",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_their_own_names() {
        for (i, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, i);
            assert!(Counter::ALL.iter().skip(i + 1).all(|other| other.name() != counter.name()));
        }
    }
}
