//! The decisions of the hooks as pure functions: facts in, verdict out. `no_std`, no maps; tested on the host.

use crate::abi::{
    Attestation, Counter, FlowKey, Ip, NODE, PodEntry, REDIRECT_NET, REDIRECT_PORTS, SPREAD_MASK, SockAddr, Tuple, kind,
};

/// IPPROTO_TCP
pub const TCP: u32 = 6;

/// What the connect hook knows.
#[derive(Clone, Copy, Debug)]
pub struct Connect {
    pub protocol: u32,
    pub destination: SockAddr,
    /// The caller runs in the agent's cgroup.
    pub by_agent: bool,
    /// The redirected pod of the socket's namespace.
    pub pod: Option<PodEntry>,
    /// SO_BINDTODEVICE; 0: none.
    pub bound_device: u32,
    /// The agent's virtual outbound port.
    pub outbound_port: u32,
    pub hbone_port: u32,
}

/// What becomes of a connect. Each verdict is counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Left alone; what was stored of an earlier connect must go.
    Pass(Counter),
    /// Left alone, but marked: `sk_lookup` must see that the pod dials its own IPv6 address ([`kind::OWN`]).
    Own(PodEntry),
    /// The agent's: left alone, storage too.
    Agent,
    /// Dial the address instead, after the original destination is stored. The other one is the pod's own, which the
    /// application shall see as its local address.
    Redirect(SockAddr, Ip, PodEntry),
    /// EPERM
    Refuse(Counter),
    /// ENETUNREACH, what a host without that address family answers: a client tries its other address at once.
    Unreachable(Counter),
}

/// Decides a connect. `in_enrolled_cgroup` is asked only for sockets of unknown namespaces, since it costs a walk.
#[inline(always)]
pub fn connect(facts: &Connect, in_enrolled_cgroup: impl FnOnce() -> bool) -> Outcome {
    if facts.protocol != TCP {
        return Outcome::Pass(Counter::ConnectNotTcp);
    }
    if facts.by_agent {
        return Outcome::Agent;
    }
    let Some(pod) = facts.pod else {
        if in_enrolled_cgroup() {
            return Outcome::Refuse(Counter::UnknownNamespace);
        }
        return Outcome::Pass(Counter::ConnectNotEnrolled);
    };
    let ip = facts.destination.ip;
    // 0.0.0.0 and :: dial the own host (ip(7)); tcp_v4_connect turns them into loopback after this hook.
    if ip.is_loopback() || ip == Ip::v4(0) || ip == Ip::NONE {
        return Outcome::Pass(Counter::ConnectOwnPod);
    }
    let is_v4 = ip.as_v4().is_some();
    if pod.owns(ip) {
        return if is_v4 { Outcome::Pass(Counter::ConnectOwnPod) } else { Outcome::Own(pod) };
    }
    if is_v4 {
        // A pod without an IPv4 address can still have a route for IPv4.
        if pod.ip4 == Ip::NONE {
            return Outcome::Unreachable(Counter::ConnectIpv4);
        }
    } else if ip.is_link_local6() {
        return Outcome::Refuse(Counter::ConnectLinkLocal);
    } else if pod.ip6 == Ip::NONE {
        // Passed, it would leave the pod in plaintext and past every policy.
        return Outcome::Unreachable(Counter::ConnectIpv6);
    }
    // A socket bound to a device sends its SYN there, not to the loopback device.
    if facts.bound_device != 0 {
        return Outcome::Refuse(Counter::BoundDevice);
    }
    let hash = hash(facts.destination);
    if is_v4 {
        let to = Ip::v4((REDIRECT_NET | (hash & !SPREAD_MASK)).to_be());
        Outcome::Redirect(SockAddr { ip: to, port: facts.outbound_port }, pod.ip4, pod)
    } else {
        let port = REDIRECT_PORTS + hash % (65_536 - REDIRECT_PORTS);
        // The tunnel's port is steered before anything else.
        let port = if port == facts.hbone_port { port ^ 1 } else { port };
        Outcome::Redirect(SockAddr { ip: Ip::LOOPBACK6, port }, pod.ip6, pod)
    }
}

/// Spreads destinations, so that each has its own range of source ports.
#[inline(always)]
fn hash(destination: SockAddr) -> u32 {
    let [a, b, c, d] = destination.ip.0;
    let mut hash = a ^ b.rotate_left(8) ^ c.rotate_left(16) ^ d ^ destination.port.rotate_left(20);
    // The finaliser of MurmurHash3: every bit of the input moves every bit that is kept.
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// What a pod's `sk_lookup` knows of a connection that arrives.
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    pub protocol: u32,
    /// `source` is the remote end, `destination` what it dialled.
    pub tuple: Tuple,
    pub pod: PodEntry,
    /// Cookie of the pod's namespace.
    pub netns: u64,
    pub outbound_port: u32,
    pub hbone_port: u32,
}

/// What a pod's `sk_lookup` can look up.
pub trait Tables {
    /// The [`kind`] of the socket of that namespace that is dialling just so.
    fn pending(&self, key: &FlowKey) -> Option<u32>;
    fn attested(&self, tuple: &Tuple) -> Option<Attestation>;
    /// The epoch in force of a pod index.
    fn epoch(&self, pod: u32) -> Option<u32>;
    /// Somebody in the pod listens on the port, or it is not known.
    fn may_listen(&self, port: u32) -> bool;
}

/// Where an arriving connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// To whoever listens in the pod.
    Pass(Counter),
    /// To the agent's listener, or nowhere.
    Agent,
    /// To nobody: the dialler is refused.
    Drop(Counter),
}

/// Steers a connection.
#[inline(always)]
pub fn steer(facts: &Lookup, tables: &impl Tables) -> Steer {
    if facts.protocol != TCP {
        return Steer::Pass(Counter::SteeredNotTcp);
    }
    let (local, remote) = (facts.tuple.destination, facts.tuple.source);
    if local.port == facts.hbone_port || (local.port == facts.outbound_port && local.ip.is_redirect()) {
        return Steer::Agent;
    }
    if local.ip.as_v4().is_some() {
        // The kernel drops both if they arrive from elsewhere (`namespace::check` in mesh-agent).
        if remote.ip.is_loopback() || remote.ip == facts.pod.ip4 {
            return Steer::Pass(Counter::SteeredOwnPod);
        }
    } else {
        let pending = || tables.pending(&FlowKey { netns: facts.netns, local: remote, remote: local });
        if local.ip.is_loopback() {
            return match pending() {
                Some(kind::REDIRECTED) => Steer::Agent,
                _ => Steer::Pass(Counter::SteeredOwnPod),
            };
        }
        // ::1 is dropped if it arrives from elsewhere (ip6_rcv_core), the pod's own address is not: only what a
        // socket of the pod dials is the pod's.
        if remote.ip.is_loopback() || matches!(pending(), Some(kind::OWN | kind::UPSTREAM)) {
            return Steer::Pass(Counter::SteeredOwnPod);
        }
    }
    if let Some(entry) = tables.attested(&facts.tuple)
        && entry.target == facts.pod.index
        && entry.target_epoch == facts.pod.epoch
    {
        if entry.source == NODE {
            return Steer::Pass(Counter::SteeredProbe);
        }
        if tables.epoch(entry.source) == Some(entry.source_epoch) {
            return Steer::Pass(Counter::SteeredAttested);
        }
    }
    // The agent would accept first and then find that the application refuses.
    if !tables.may_listen(local.port) {
        return Steer::Drop(Counter::SteeredClosed);
    }
    Steer::Agent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(a: u8, b: u8, c: u8, d: u8) -> Ip {
        Ip::v4(u32::from_be_bytes([a, b, c, d]).to_be())
    }

    fn v6(last: u32) -> Ip {
        Ip([0x2001_0db8_u32.to_be(), 0, 0, last.to_be()])
    }

    fn link_local(last: u32) -> Ip {
        Ip([0xfe80_0000_u32.to_be(), 0, 0, last.to_be()])
    }

    const PORT: u32 = 15001;
    const HBONE: u32 = 15008;

    fn pod() -> PodEntry {
        PodEntry { ip4: v4(10, 0, 0, 2), ip6: v6(2), index: 3, epoch: 7 }
    }

    fn dial(ip: Ip) -> Connect {
        Connect {
            protocol: TCP,
            destination: SockAddr { ip, port: 80 },
            by_agent: false,
            pod: Some(pod()),
            bound_device: 0,
            outbound_port: PORT,
            hbone_port: HBONE,
        }
    }

    #[test]
    fn a_pod_is_redirected_and_only_it() {
        let outcome = connect(&dial(v4(10, 96, 0, 1)), || panic!("known namespace"));
        let Outcome::Redirect(to, own, who) = outcome else { panic!("{outcome:?}") };
        assert!(to.ip.is_redirect() && to.port == PORT && own == pod().ip4 && who == pod());
        let stranger = Connect { pod: None, ..dial(v4(10, 96, 0, 1)) };
        assert_eq!(connect(&stranger, || false), Outcome::Pass(Counter::ConnectNotEnrolled));
        assert_eq!(connect(&stranger, || true), Outcome::Refuse(Counter::UnknownNamespace));
        let agent = Connect { by_agent: true, ..dial(v4(10, 96, 0, 1)) };
        assert_eq!(connect(&agent, || true), Outcome::Agent);
        let udp = Connect { protocol: 17, ..dial(v4(10, 96, 0, 1)) };
        assert_eq!(connect(&udp, || true), Outcome::Pass(Counter::ConnectNotTcp));
    }

    #[test]
    fn the_pod_itself_is_left_alone() {
        for ip in [v4(127, 0, 0, 1), v4(127, 64, 0, 1), v4(10, 0, 0, 2), v4(0, 0, 0, 0), Ip::NONE, Ip::LOOPBACK6] {
            assert_eq!(connect(&dial(ip), || true), Outcome::Pass(Counter::ConnectOwnPod), "{ip:?}");
        }
        // Marked, since its SYN looks like one that a neighbour could forge.
        assert_eq!(connect(&dial(v6(2)), || true), Outcome::Own(pod()));
    }

    #[test]
    fn a_bound_device_is_refused() {
        for ip in [v4(10, 96, 0, 1), v6(1)] {
            let facts = Connect { bound_device: 2, ..dial(ip) };
            assert_eq!(connect(&facts, || true), Outcome::Refuse(Counter::BoundDevice));
        }
    }

    #[test]
    fn ipv6_goes_to_a_port_of_the_loopback_address() {
        let outcome = connect(&dial(v6(1)), || true);
        let Outcome::Redirect(to, own, who) = outcome else { panic!("{outcome:?}") };
        assert!(to.ip == Ip::LOOPBACK6 && own == pod().ip6 && who == pod());
        for i in 0..200_000 {
            let outcome = connect(&dial(v6(i + 100)), || true);
            let Outcome::Redirect(to, ..) = outcome else { panic!("{outcome:?}") };
            assert!((REDIRECT_PORTS..65_536).contains(&to.port), "{to:?}");
        }
        // The tunnel's port is another one's.
        let hbone_port = to.port;
        let Outcome::Redirect(beside, ..) = connect(&Connect { hbone_port, ..dial(v6(1)) }, || true) else { panic!() };
        assert_ne!(beside.port, hbone_port);
    }

    #[test]
    fn an_address_family_that_the_pod_has_not_is_unreachable() {
        let only = |ip4, ip6| Some(PodEntry { ip4, ip6, ..pod() });
        let facts = Connect { pod: only(pod().ip4, Ip::NONE), ..dial(v6(1)) };
        assert_eq!(connect(&facts, || true), Outcome::Unreachable(Counter::ConnectIpv6));
        let facts = Connect { pod: only(Ip::NONE, pod().ip6), ..dial(v4(10, 96, 0, 1)) };
        assert_eq!(connect(&facts, || true), Outcome::Unreachable(Counter::ConnectIpv4));
        // Whatever the pod has: nothing says whom it would reach.
        for pod in [only(pod().ip4, Ip::NONE), Some(pod())] {
            let facts = Connect { pod, ..dial(link_local(1)) };
            assert_eq!(connect(&facts, || true), Outcome::Refuse(Counter::ConnectLinkLocal));
        }
    }

    #[test]
    fn destinations_spread() {
        let mut seen = [0_u32; 64];
        for i in 0..4096_u32 {
            let hash = hash(SockAddr { ip: v4(10, 96, (i >> 8) as u8, i as u8), port: 80 });
            seen[(hash & !SPREAD_MASK) as usize >> 16] += 1;
        }
        assert!(seen.iter().all(|n| *n > 20), "{seen:?}");
    }

    /// Tables with one entry each, at most.
    #[derive(Default)]
    struct Few {
        pending: Option<(FlowKey, u32)>,
        attested: Option<Attestation>,
        epoch: Option<(u32, u32)>,
        closed: bool,
    }

    impl Tables for Few {
        fn pending(&self, key: &FlowKey) -> Option<u32> {
            self.pending.filter(|(flow, _)| flow == key).map(|(_, kind)| kind)
        }

        fn attested(&self, _: &Tuple) -> Option<Attestation> {
            self.attested
        }

        fn epoch(&self, pod: u32) -> Option<u32> {
            self.epoch.filter(|(index, _)| *index == pod).map(|(_, epoch)| epoch)
        }

        fn may_listen(&self, _: u32) -> bool {
            !self.closed
        }
    }

    fn arrive(remote: Ip, local: Ip, port: u32) -> Lookup {
        Lookup {
            protocol: TCP,
            tuple: Tuple { source: SockAddr { ip: remote, port: 40000 }, destination: SockAddr { ip: local, port } },
            pod: pod(),
            netns: 5,
            outbound_port: PORT,
            hbone_port: HBONE,
        }
    }

    /// The tables while a socket of the pod's namespace dials so.
    fn dialling(facts: &Lookup, kind: u32) -> Few {
        let key = FlowKey { netns: facts.netns, local: facts.tuple.source, remote: facts.tuple.destination };
        Few { pending: Some((key, kind)), ..Few::default() }
    }

    const OWN: Steer = Steer::Pass(Counter::SteeredOwnPod);

    #[test]
    fn strangers_meet_the_agent() {
        let steered = |remote, local, port| steer(&arrive(remote, local, port), &Few::default());
        let (own, other) = (v4(10, 0, 0, 2), v4(10, 0, 0, 9));
        assert_eq!(steered(other, own, 80), Steer::Agent);
        assert_eq!(steered(own, own, 80), OWN);
        assert_eq!(steered(v4(127, 128, 0, 1), own, 80), OWN);
        assert_eq!(steered(own, own, HBONE), Steer::Agent);
        assert_eq!(steered(v4(127, 0, 0, 1), v4(127, 64, 1, 1), PORT), Steer::Agent);
        // The same port elsewhere may be the application's own.
        assert_eq!(steered(v4(127, 0, 0, 1), v4(127, 0, 0, 1), PORT), OWN);
        // IPv6 by the published address and by any other one.
        for local in [v6(2), v6(99), link_local(2)] {
            assert_eq!(steered(v6(9), local, 80), Steer::Agent);
            assert_eq!(steered(link_local(9), local, 80), Steer::Agent);
            assert_eq!(steered(v6(9), local, HBONE), Steer::Agent);
        }
    }

    #[test]
    fn the_loopback_address_is_the_agents_only_for_what_was_redirected() {
        for source in [Ip::LOOPBACK6, v6(2), link_local(2)] {
            let facts = arrive(source, Ip::LOOPBACK6, 20_000);
            assert_eq!(steer(&facts, &Few::default()), OWN);
            assert_eq!(steer(&facts, &dialling(&facts, kind::REDIRECTED)), Steer::Agent);
            assert_eq!(steer(&facts, &dialling(&facts, kind::UPSTREAM)), OWN);
            // The same addresses and ports in another pod's namespace
            let elsewhere = Lookup { netns: 6, ..facts };
            assert_eq!(steer(&elsewhere, &dialling(&facts, kind::REDIRECTED)), OWN);
        }
        assert_eq!(steer(&arrive(Ip::LOOPBACK6, v6(2), 80), &Few::default()), OWN);
    }

    #[test]
    fn a_forged_own_address_is_a_stranger() {
        let facts = arrive(v6(2), v6(2), 80);
        assert_eq!(steer(&facts, &Few::default()), Steer::Agent);
        assert_eq!(steer(&facts, &dialling(&facts, kind::OWN)), OWN);
        assert_eq!(steer(&facts, &dialling(&facts, kind::UPSTREAM)), OWN);
        assert_eq!(steer(&facts, &dialling(&facts, kind::REDIRECTED)), Steer::Agent);
    }

    #[test]
    fn only_a_current_attestation_passes() {
        for facts in [arrive(v4(10, 0, 0, 9), v4(10, 0, 0, 2), 80), arrive(v6(9), v6(2), 80)] {
            let good = Attestation { source: 1, source_epoch: 5, target: 3, target_epoch: 7 };
            let tables = |entry| Few { attested: Some(entry), epoch: Some((1, 5)), ..Few::default() };
            assert_eq!(steer(&facts, &tables(good)), Steer::Pass(Counter::SteeredAttested));
            for bad in [
                Attestation { source_epoch: 4, ..good },
                Attestation { source: 2, ..good },
                Attestation { target: 2, ..good },
                Attestation { target_epoch: 6, ..good },
            ] {
                assert_eq!(steer(&facts, &tables(bad)), Steer::Agent, "{bad:?}");
            }
        }
    }

    #[test]
    fn a_probe_passes_into_the_life_of_the_pod_that_it_was_for() {
        let facts = arrive(v4(10, 0, 0, 1), v4(10, 0, 0, 2), 80);
        let probe = Attestation { source: NODE, source_epoch: 0, target: 3, target_epoch: 7 };
        let tables = |entry| Few { attested: Some(entry), ..Few::default() };
        assert_eq!(steer(&facts, &tables(probe)), Steer::Pass(Counter::SteeredProbe));
        assert_eq!(steer(&facts, &tables(Attestation { target_epoch: 6, ..probe })), Steer::Agent);
        assert_eq!(steer(&facts, &tables(Attestation { target: 4, ..probe })), Steer::Agent);
    }

    #[test]
    fn a_closed_port_is_closed_to_strangers() {
        let tables = Few { closed: true, ..Few::default() };
        for (remote, local) in [(v4(10, 0, 0, 9), v4(10, 0, 0, 2)), (v6(9), v6(2))] {
            assert_eq!(steer(&arrive(remote, local, 80), &tables), Steer::Drop(Counter::SteeredClosed));
            // The tunnel's port is open though no application listens there.
            assert_eq!(steer(&arrive(remote, local, HBONE), &tables), Steer::Agent);
        }
        let redirected = arrive(v4(127, 0, 0, 1), v4(127, 64, 1, 1), PORT);
        assert_eq!(steer(&redirected, &tables), Steer::Agent);
    }
}
