//! Who gets a connection that arrives at a pod.

use super::{Lives, TCP};
use crate::abi::{AGENT_WATCHES, Attestation, Counter, FlowKey, NODE, PodEntry, Tuple, kind};

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
pub trait Tables: Lives {
    /// The [`kind`] of the socket of that namespace that is dialling just so.
    fn pending(&self, key: &FlowKey) -> Option<u32>;
    fn attested(&self, tuple: &Tuple) -> Option<Attestation>;
    /// Somebody in the pod listens on the port, or it is not known.
    fn may_listen(&self, port: u32) -> bool;
}

/// Where an arriving connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// To whoever listens in the pod.
    Pass(Counter),
    /// To the agent's listener, or nowhere.
    Agent(Counter),
    /// To nobody: the dialler is refused.
    Drop(Counter),
}

const AGENT: Steer = Steer::Agent(Counter::SteeredAgent);

/// Steers a connection.
#[inline(always)]
pub fn steer(facts: &Lookup, tables: &impl Tables) -> Steer {
    if facts.protocol != TCP {
        return Steer::Pass(Counter::SteeredNotTcp);
    }
    let (local, remote) = (facts.tuple.destination, facts.tuple.source);
    if local.port == facts.hbone_port || (local.port == facts.outbound_port && local.ip.is_redirect()) {
        return AGENT;
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
                Some(kind::REDIRECTED) => AGENT,
                _ => Steer::Pass(Counter::SteeredOwnPod),
            };
        }
        // ::1 is dropped if it arrives from elsewhere (ip6_rcv_core), the pod's own address is not: only what a
        // socket of the pod dials is the pod's.
        if remote.ip.is_loopback() || matches!(pending(), Some(kind::OWN | kind::UPSTREAM)) {
            return Steer::Pass(Counter::SteeredOwnPod);
        }
    }
    if let Some(entry) = tables.attested(&facts.tuple) {
        let here = entry.target == facts.pod.index && entry.target_epoch == facts.pod.epoch;
        if entry.source == NODE {
            return if here { Steer::Pass(Counter::SteeredProbe) } else { AGENT };
        }
        // Its dialler wants another pod, and does not know that this one has the address: since a moment ago, or since
        // it says so to its neighbours (ARP, NDP).
        if !here {
            return Steer::Drop(Counter::SteeredElsewhere);
        }
        if tables.epoch(entry.source) == Some(entry.source_epoch) {
            if entry.generation == AGENT_WATCHES || tables.generation(entry.target) == Some(entry.generation) {
                return Steer::Pass(Counter::SteeredAttested);
            }
            // Decided anew, by the agent: the dialler is proven still.
            return Steer::Agent(Counter::SteeredLate);
        }
    }
    // The agent would accept first and then find that the application refuses.
    if !tables.may_listen(local.port) {
        return Steer::Drop(Counter::SteeredClosed);
    }
    AGENT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{Ip, SockAddr};

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
        PodEntry { ip4: v4(10, 0, 0, 2), ip6: v6(2), index: 3, epoch: 7, observed: 0 }
    }

    /// Tables with one entry each, at most.
    #[derive(Default)]
    struct Few {
        pending: Option<(FlowKey, u32)>,
        attested: Option<Attestation>,
        epoch: Option<(u32, u32)>,
        closed: bool,
    }

    impl Lives for Few {
        fn epoch(&self, pod: u32) -> Option<u32> {
            self.epoch.filter(|(index, _)| *index == pod).map(|(_, epoch)| epoch)
        }

        fn generation(&self, pod: u32) -> Option<u32> {
            (pod == 3).then_some(9)
        }
    }

    impl Tables for Few {
        fn pending(&self, key: &FlowKey) -> Option<u32> {
            self.pending.filter(|(flow, _)| flow == key).map(|(_, kind)| kind)
        }

        fn attested(&self, _: &Tuple) -> Option<Attestation> {
            self.attested
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
        assert_eq!(steered(other, own, 80), AGENT);
        assert_eq!(steered(own, own, 80), OWN);
        assert_eq!(steered(v4(127, 128, 0, 1), own, 80), OWN);
        assert_eq!(steered(own, own, HBONE), AGENT);
        assert_eq!(steered(v4(127, 0, 0, 1), v4(127, 64, 1, 1), PORT), AGENT);
        // The same port elsewhere may be the application's own.
        assert_eq!(steered(v4(127, 0, 0, 1), v4(127, 0, 0, 1), PORT), OWN);
        // IPv6 by the published address and by any other one.
        for local in [v6(2), v6(99), link_local(2)] {
            assert_eq!(steered(v6(9), local, 80), AGENT);
            assert_eq!(steered(link_local(9), local, 80), AGENT);
            assert_eq!(steered(v6(9), local, HBONE), AGENT);
        }
    }

    #[test]
    fn the_loopback_address_is_the_agents_only_for_what_was_redirected() {
        for source in [Ip::LOOPBACK6, v6(2), link_local(2)] {
            let facts = arrive(source, Ip::LOOPBACK6, 20_000);
            assert_eq!(steer(&facts, &Few::default()), OWN);
            assert_eq!(steer(&facts, &dialling(&facts, kind::REDIRECTED)), AGENT);
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
        assert_eq!(steer(&facts, &Few::default()), AGENT);
        assert_eq!(steer(&facts, &dialling(&facts, kind::OWN)), OWN);
        assert_eq!(steer(&facts, &dialling(&facts, kind::UPSTREAM)), OWN);
        assert_eq!(steer(&facts, &dialling(&facts, kind::REDIRECTED)), AGENT);
    }

    #[test]
    fn only_a_current_attestation_passes() {
        for facts in [arrive(v4(10, 0, 0, 9), v4(10, 0, 0, 2), 80), arrive(v6(9), v6(2), 80)] {
            let good = Attestation { source: 1, source_epoch: 5, target: 3, target_epoch: 7, generation: 9 };
            let tables = |entry| Few { attested: Some(entry), epoch: Some((1, 5)), ..Few::default() };
            assert_eq!(steer(&facts, &tables(good)), Steer::Pass(Counter::SteeredAttested));
            let by_agent = Attestation { generation: AGENT_WATCHES, ..good };
            assert_eq!(steer(&facts, &tables(by_agent)), Steer::Pass(Counter::SteeredAttested));
            let late = Attestation { generation: 8, ..good };
            assert_eq!(steer(&facts, &tables(late)), Steer::Agent(Counter::SteeredLate));
            for bad in [Attestation { source_epoch: 4, ..good }, Attestation { source: 2, ..good }] {
                assert_eq!(steer(&facts, &tables(bad)), AGENT, "{bad:?}");
            }
            // Whoever dialled wants somebody else.
            let elsewhere = Steer::Drop(Counter::SteeredElsewhere);
            for bad in [Attestation { target: 2, ..good }, Attestation { target_epoch: 6, ..good }] {
                assert_eq!(steer(&facts, &tables(bad)), elsewhere, "{bad:?}");
            }
        }
    }

    #[test]
    fn a_probe_passes_into_the_life_of_the_pod_that_it_was_for() {
        let facts = arrive(v4(10, 0, 0, 1), v4(10, 0, 0, 2), 80);
        let probe = Attestation { source: NODE, source_epoch: 0, target: 3, target_epoch: 7, generation: 9 };
        let tables = |entry| Few { attested: Some(entry), ..Few::default() };
        assert_eq!(steer(&facts, &tables(probe)), Steer::Pass(Counter::SteeredProbe));
        assert_eq!(steer(&facts, &tables(Attestation { target_epoch: 6, ..probe })), AGENT);
        assert_eq!(steer(&facts, &tables(Attestation { target: 4, ..probe })), AGENT);
    }

    #[test]
    fn a_closed_port_is_closed_to_strangers() {
        let tables = Few { closed: true, ..Few::default() };
        for (remote, local) in [(v4(10, 0, 0, 9), v4(10, 0, 0, 2)), (v6(9), v6(2))] {
            assert_eq!(steer(&arrive(remote, local, 80), &tables), Steer::Drop(Counter::SteeredClosed));
            // The tunnel's port is open though no application listens there.
            assert_eq!(steer(&arrive(remote, local, HBONE), &tables), AGENT);
        }
        let redirected = arrive(v4(127, 0, 0, 1), v4(127, 64, 1, 1), PORT);
        assert_eq!(steer(&redirected, &tables), AGENT);
    }
}
