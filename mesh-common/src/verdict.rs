//! The decisions of the hooks as pure functions: facts in, verdict out. `no_std`, no maps; tested on the host.

use crate::abi::{Attestation, Counter, Ip, PodEntry, REDIRECT_NET, SPREAD_MASK, SockAddr, Tuple};

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
}

/// What becomes of a connect. Each verdict is counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Left alone; what was stored of an earlier connect must go.
    Pass(Counter),
    /// The agent's: left alone, storage too.
    Agent,
    /// Dial this instead, after the original destination is stored.
    Redirect(SockAddr, PodEntry),
    /// EPERM
    Refuse(Counter),
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
    if ip.is_loopback() || ip == pod.ip || ip == Ip::v4(0) || ip == Ip([0; 4]) {
        return Outcome::Pass(Counter::ConnectOwnPod);
    }
    // Passed, it would leave the pod in plaintext and past every policy.
    if ip.as_v4().is_none() {
        return Outcome::Refuse(Counter::ConnectIpv6);
    }
    if facts.bound_device != 0 {
        return Outcome::Refuse(Counter::BoundDevice);
    }
    Outcome::Redirect(SockAddr { ip: spread(facts.destination), port: facts.outbound_port }, pod)
}

/// One address of 127.64.0.0/10 for a destination, so that each has the full range of source ports.
#[inline(always)]
fn spread(destination: SockAddr) -> Ip {
    let [a, b, c, d] = destination.ip.0;
    let mut hash = a ^ b.rotate_left(8) ^ c.rotate_left(16) ^ d ^ destination.port.rotate_left(20);
    // The finaliser of MurmurHash3: every bit of the input moves every bit that is kept.
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^= hash >> 16;
    Ip::v4((REDIRECT_NET | (hash & !SPREAD_MASK)).to_be())
}

/// What a pod's `sk_lookup` knows of a connection that arrives.
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    pub protocol: u32,
    /// `source` is the remote end, `destination` what it dialled.
    pub tuple: Tuple,
    pub pod: PodEntry,
    pub outbound_port: u32,
    pub hbone_port: u32,
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

/// Steers a connection. `attested` looks the tuple up; `current` tells the epoch in force of a pod index.
#[inline(always)]
pub fn steer(
    facts: &Lookup,
    attested: impl FnOnce(&Tuple) -> Option<Attestation>,
    current: impl Fn(u32) -> Option<u32>,
) -> Steer {
    if facts.protocol != TCP {
        return Steer::Pass(Counter::SteeredNotTcp);
    }
    let (local, remote) = (facts.tuple.destination, facts.tuple.source);
    // The agent's listener is of IPv4.
    if local.port == facts.hbone_port && local.ip.as_v4().is_none() {
        return Steer::Drop(Counter::SteeredIpv6);
    }
    if local.port == facts.hbone_port || (local.port == facts.outbound_port && local.ip.is_redirect()) {
        return Steer::Agent;
    }
    if remote.ip.is_loopback() || remote.ip == facts.pod.ip {
        return Steer::Pass(Counter::SteeredOwnPod);
    }
    // Passed, a neighbour would reach the application past STRICT and every policy by its link-local address.
    if local.ip.as_v4().is_none() {
        return Steer::Drop(Counter::SteeredIpv6);
    }
    match attested(&facts.tuple) {
        Some(entry)
            if entry.target == facts.pod.index
                && entry.target_epoch == facts.pod.epoch
                && current(entry.source) == Some(entry.source_epoch) =>
        {
            Steer::Pass(Counter::SteeredAttested)
        }
        _ => Steer::Agent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(a: u8, b: u8, c: u8, d: u8) -> Ip {
        Ip::v4(u32::from_be_bytes([a, b, c, d]).to_be())
    }

    const PORT: u32 = 15001;

    fn pod() -> PodEntry {
        PodEntry { ip: v4(10, 0, 0, 2), index: 3, epoch: 7 }
    }

    fn dial(ip: Ip) -> Connect {
        Connect {
            protocol: TCP,
            destination: SockAddr { ip, port: 80 },
            by_agent: false,
            pod: Some(pod()),
            bound_device: 0,
            outbound_port: PORT,
        }
    }

    #[test]
    fn a_pod_is_redirected_and_only_it() {
        let outcome = connect(&dial(v4(10, 96, 0, 1)), || panic!("known namespace"));
        let Outcome::Redirect(to, who) = outcome else { panic!("{outcome:?}") };
        assert!(to.ip.is_redirect() && to.port == PORT && who == pod());
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
        for ip in [v4(127, 0, 0, 1), v4(127, 64, 0, 1), v4(10, 0, 0, 2), v4(0, 0, 0, 0), Ip([0; 4])] {
            assert_eq!(connect(&dial(ip), || true), Outcome::Pass(Counter::ConnectOwnPod), "{ip:?}");
        }
    }

    #[test]
    fn a_bound_device_is_refused() {
        let facts = Connect { bound_device: 2, ..dial(v4(10, 96, 0, 1)) };
        assert_eq!(connect(&facts, || true), Outcome::Refuse(Counter::BoundDevice));
    }

    #[test]
    fn native_ipv6_is_refused_but_for_the_pod_itself() {
        let v6 = |last: u32| Ip([0x2001_u32.to_be(), 0, 0, last.to_be()]);
        assert_eq!(connect(&dial(v6(1)), || true), Outcome::Refuse(Counter::ConnectIpv6));
        let loopback = Ip([0, 0, 0, 1_u32.to_be()]);
        assert_eq!(connect(&dial(loopback), || true), Outcome::Pass(Counter::ConnectOwnPod));
        let arrives = |remote, local| steer(&arrive(remote, local, 80), |_| None, |_| None);
        assert_eq!(arrives(v6(1), v6(2)), Steer::Drop(Counter::SteeredIpv6));
        assert_eq!(arrives(loopback, loopback), Steer::Pass(Counter::SteeredOwnPod));
        let tunnel = steer(&arrive(loopback, loopback, 15008), |_| None, |_| None);
        assert_eq!(tunnel, Steer::Drop(Counter::SteeredIpv6), "no listener of IPv6 takes it");
    }

    #[test]
    fn destinations_spread() {
        let mut seen = [0_u32; 64];
        for i in 0..4096_u32 {
            let ip = spread(SockAddr { ip: v4(10, 96, (i >> 8) as u8, i as u8), port: 80 });
            let Some(v4) = ip.as_v4() else { panic!("not v4") };
            seen[(u32::from_be(v4) & !SPREAD_MASK) as usize >> 16] += 1;
        }
        assert!(seen.iter().all(|n| *n > 20), "{seen:?}");
    }

    fn arrive(remote: Ip, local: Ip, port: u32) -> Lookup {
        Lookup {
            protocol: TCP,
            tuple: Tuple { source: SockAddr { ip: remote, port: 40000 }, destination: SockAddr { ip: local, port } },
            pod: pod(),
            outbound_port: PORT,
            hbone_port: 15008,
        }
    }

    #[test]
    fn strangers_meet_the_agent() {
        let nobody = |_: &Tuple| None;
        let epochs = |_: u32| Some(1);
        let (own, other) = (v4(10, 0, 0, 2), v4(10, 0, 0, 9));
        assert_eq!(steer(&arrive(other, own, 80), nobody, epochs), Steer::Agent);
        assert_eq!(steer(&arrive(own, own, 80), nobody, epochs), Steer::Pass(Counter::SteeredOwnPod));
        assert_eq!(steer(&arrive(v4(127, 128, 0, 1), own, 80), nobody, epochs), Steer::Pass(Counter::SteeredOwnPod));
        assert_eq!(steer(&arrive(own, own, 15008), nobody, epochs), Steer::Agent);
        assert_eq!(steer(&arrive(v4(127, 0, 0, 1), v4(127, 64, 1, 1), PORT), nobody, epochs), Steer::Agent);
        // The same port elsewhere may be the application's own.
        assert_eq!(
            steer(&arrive(v4(127, 0, 0, 1), v4(127, 0, 0, 1), PORT), nobody, epochs),
            Steer::Pass(Counter::SteeredOwnPod)
        );
    }

    #[test]
    fn only_a_current_attestation_passes() {
        let facts = arrive(v4(10, 0, 0, 9), v4(10, 0, 0, 2), 80);
        let good = Attestation { source: 1, source_epoch: 5, target: 3, target_epoch: 7 };
        let epochs = |index: u32| (index == 1).then_some(5);
        assert_eq!(steer(&facts, |_| Some(good), epochs), Steer::Pass(Counter::SteeredAttested));
        for bad in [
            Attestation { source_epoch: 4, ..good },
            Attestation { source: 2, ..good },
            Attestation { target: 2, ..good },
            Attestation { target_epoch: 6, ..good },
        ] {
            assert_eq!(steer(&facts, |_| Some(bad), epochs), Steer::Agent, "{bad:?}");
        }
    }
}
