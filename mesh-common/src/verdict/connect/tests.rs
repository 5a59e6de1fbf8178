//! Every way that a connect can go.

use core::cell::Cell;

use super::*;

const fn v4(a: u8, b: u8, c: u8, d: u8) -> Ip {
    Ip::v4(u32::from_be_bytes([a, b, c, d]).to_be())
}

const fn v6(last: u32) -> Ip {
    Ip([0x2001_0db8_u32.to_be(), 0, 0, last.to_be()])
}

fn link_local(last: u32) -> Ip {
    Ip([0xfe80_0000_u32.to_be(), 0, 0, last.to_be()])
}

const PORT: u32 = 15001;
const HBONE: u32 = 15008;

const POD: PodEntry = PodEntry { ip4: v4(10, 0, 0, 2), ip6: v6(2), index: 3, epoch: 7, observed: 0 };

const fn pod() -> PodEntry {
    POD
}

fn dial(ip: Ip) -> Connect<'static> {
    Connect {
        protocol: TCP,
        destination: SockAddr { ip, port: 80 },
        by_agent: false,
        pod: Some(&POD),
        bound: Ip::NONE,
        bound_device: 0,
        outbound_port: PORT,
        hbone_port: HBONE,
    }
}

/// The tables of a node on which `pod` may dial 10.0.0.3:80, slot 4, and a service 10.96.0.1:80.
struct Node {
    service: Option<Service>,
    backend: Option<Backend>,
    verdict: Option<Verdict>,
    kept: Cell<Option<Affinity>>,
    full: bool,
    now: u64,
}

fn nobody() -> Node {
    Node { service: None, backend: None, verdict: None, kept: Cell::new(None), full: false, now: 100 }
}

impl Lives for Node {
    fn epoch(&self, pod: u32) -> Option<u32> {
        (pod == 4).then_some(11)
    }
    fn generation(&self, pod: u32) -> Option<u32> {
        (pod == 4).then_some(6)
    }
}

impl Routes for Node {
    fn service(&self, at: &SockAddr) -> Option<Service> {
        self.service.filter(|_| at.ip == v4(10, 96, 0, 1))
    }
    fn backend(&self, key: &BackendKey) -> Option<Backend> {
        self.backend.filter(|_| key.slot == 1)
    }
    fn kept(&self, key: &AffinityKey, holds: impl FnOnce(&Affinity) -> bool) -> Option<Affinity> {
        assert_eq!((key.source, key.service.ip), (3, v4(10, 96, 0, 1)));
        let kept = self.kept.get().filter(holds)?;
        self.kept.set(Some(Affinity { used: self.now, ..kept }));
        Some(kept)
    }
    fn keep(&self, _: &AffinityKey, kept: &Affinity) {
        self.kept.set(Some(*kept));
    }
    fn verdict(&self, key: &VerdictKey) -> Option<Verdict> {
        self.verdict.filter(|_| *key == permitted_key())
    }
    fn has_room(&self) -> bool {
        !self.full
    }
    fn now(&self) -> u64 {
        self.now
    }
    fn random(&self) -> u32 {
        5
    }
}

fn decide(facts: &Connect<'_>, in_enrolled_cgroup: impl FnOnce() -> bool) -> Outcome {
    connect(facts, &nobody(), in_enrolled_cgroup)
}

const fn neighbour() -> SockAddr {
    SockAddr { ip: Ip::v4(u32::from_be_bytes([10, 0, 0, 3]).to_be()), port: 80 }
}

fn permitted_key() -> VerdictKey {
    VerdictKey { source: 3, destination: neighbour() }
}

fn permitted() -> Verdict {
    Verdict {
        expires: 101,
        used: 0,
        action: action::DIRECT,
        source_epoch: 7,
        target: 4,
        target_epoch: 11,
        generation: 6,
        decision: 77,
        sum: 0,
        zero: 0,
    }
}

const PERMITTED: Permit = Permit { target: 4, target_epoch: 11, generation: 6, decision: 77 };

fn with(verdict: Verdict) -> Node {
    Node { verdict: Some(verdict.sealed(&permitted_key())), ..nobody() }
}

fn redirected(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Redirect(to, _, SockAddr::NONE) if to.ip.is_redirect())
}

#[test]
fn a_current_verdict_is_acted_on_and_no_other() {
    let dialled = dial(neighbour().ip);
    let after = |node: &Node| connect(&dialled, node, || true);
    let direct = Outcome::Direct(neighbour(), PERMITTED);
    assert_eq!(after(&with(permitted())), direct);
    let deny = Verdict { action: action::DENY, ..permitted() };
    assert_eq!(after(&with(deny)), Outcome::Denied(Counter::ConnectDenied, neighbour(), 77));
    assert!(redirected(after(&with(Verdict { action: action::REDIRECT, ..permitted() }))));
    assert!(redirected(after(&nobody())));
    for base in [permitted(), deny] {
        for stale in [
            Verdict { expires: 100, ..base },
            Verdict { source_epoch: 6, ..base },
            Verdict { target_epoch: 10, ..base },
            Verdict { target: 5, ..base },
            Verdict { generation: 5, ..base },
        ] {
            assert!(redirected(after(&with(stale))), "{stale:?}");
        }
        // Another's value, read while it was exchanged
        let other = VerdictKey { source: 2, ..permitted_key() };
        assert!(redirected(after(&Node { verdict: Some(base.sealed(&other)), ..nobody() })));
    }
    assert!(redirected(after(&Node { full: true, ..with(permitted()) })));
    let bound = |bound| connect(&Connect { bound, ..dialled }, &with(permitted()), || true);
    assert_eq!(bound(pod().ip4), direct);
    assert_eq!(bound(Ip::v4(0)), direct);
    assert!(redirected(bound(v4(10, 0, 0, 9))));
}

#[test]
fn a_service_is_one_of_its_endpoints() {
    let service = SockAddr { ip: v4(10, 96, 0, 1), port: 80 };
    let node = |address, count| Node {
        service: Some(Service { id: 8, count, affinity: 0 }),
        backend: Some(Backend { address, service }),
        ..with(permitted())
    };
    let after = |node: &Node| connect(&dial(service.ip), node, || true);
    assert_eq!(after(&node(neighbour(), 2)), Outcome::Direct(neighbour(), PERMITTED));
    let own = SockAddr { ip: pod().ip4, port: 8080 };
    assert_eq!(after(&node(own, 2)), Outcome::Own(own));
    let far = SockAddr { ip: v4(10, 1, 0, 3), port: 80 };
    assert!(matches!(after(&node(far, 2)), Outcome::Redirect(_, _, hint) if hint == far));
    assert_eq!(after(&node(SockAddr::NONE, 2)), Outcome::Denied(Counter::NoHealthyEndpoint, service, 0));
    assert!(redirected(after(&node(far, 0))));
    // The list is gone, or another service's: 5 % 3 is a slot that the table has not.
    assert!(redirected(after(&node(far, 3))));
    let other = Backend { address: far, service: SockAddr { port: 81, ..service } };
    assert!(redirected(after(&Node { backend: Some(other), ..node(far, 2) })));
}

#[test]
fn a_client_keeps_its_endpoint_while_the_list_stays() {
    let service = SockAddr { ip: v4(10, 96, 0, 1), port: 80 };
    // The one place of the list that there is, 1, as in [`Routes::backend`].
    let count = (2..50).find(|count| first(pod().ip4, &service, *count) == 1).expect("a length");
    let far = SockAddr { ip: v4(10, 1, 0, 3), port: 80 };
    let second = 1_000_000_000;
    let node = |kept, id, now| Node {
        service: Some(Service { id, count, affinity: 10 }),
        backend: Some(Backend { address: far, service }),
        kept: Cell::new(kept),
        now,
        ..nobody()
    };
    let after = |node: &Node| match connect(&dial(service.ip), node, || true) {
        Outcome::Redirect(_, _, hint) => hint,
        other => panic!("{other:?}"),
    };
    let now = 100 * second;
    let fresh = node(None, 8, now);
    assert_eq!(after(&fresh), far);
    let kept = Affinity { used: now, epoch: 7, list: 8, slot: 1, endpoint: far };
    assert_eq!(fresh.kept.get(), Some(kept));
    // A use is noted.
    let later = node(Some(kept), 8, now + 9 * second);
    assert_eq!(after(&later), far);
    assert_eq!(later.kept.get(), Some(Affinity { used: now + 9 * second, ..kept }));
    // Whatever would be chosen now.
    assert_eq!(after(&node(Some(Affinity { slot: 0, ..kept }), 8, now)), SockAddr::NONE);
    // Of another list the agent knows whether it is in this one, and nothing is forgotten.
    let exchanged = node(Some(kept), 9, now);
    assert_eq!((after(&exchanged), exchanged.kept.get()), (SockAddr::NONE, Some(kept)));
    // Too old, or another pod's in that slot.
    for none in [Affinity { used: now - 10 * second, ..kept }, Affinity { epoch: 6, ..kept }] {
        let node = node(Some(Affinity { slot: 0, list: 5, ..none }), 8, now);
        assert_eq!((after(&node), node.kept.get()), (far, Some(kept)));
    }
    // Nothing is kept of a list that is gone.
    let gone = Node { backend: None, ..node(None, 8, now) };
    assert_eq!((after(&gone), gone.kept.get()), (SockAddr::NONE, None));
}

#[test]
fn an_observed_pod_is_left_alone() {
    let observed = PodEntry { observed: PodEntry::OBSERVED, ..pod() };
    let after =
        |ip| connect(&Connect { pod: Some(&observed), bound_device: 2, ..dial(ip) }, &with(permitted()), || true);
    for ip in [neighbour().ip, v4(10, 96, 0, 1), v6(9), link_local(1), pod().ip4] {
        assert_eq!(after(ip), Outcome::Observe, "{ip:?}");
    }
    assert_eq!(after(v4(127, 0, 0, 1)), Outcome::Pass(Counter::ConnectOwnPod));
}

#[test]
fn a_pod_is_redirected_and_only_it() {
    let outcome = decide(&dial(v4(10, 96, 0, 1)), || panic!("known namespace"));
    let Outcome::Redirect(to, own, hint) = outcome else { panic!("{outcome:?}") };
    assert!(to.ip.is_redirect() && to.port == PORT && own == pod().ip4 && hint == SockAddr::NONE);
    let stranger = Connect { pod: None, ..dial(v4(10, 96, 0, 1)) };
    assert_eq!(decide(&stranger, || false), Outcome::Pass(Counter::ConnectNotEnrolled));
    assert_eq!(decide(&stranger, || true), Outcome::Refuse(Counter::UnknownNamespace));
    let agent = Connect { by_agent: true, ..dial(v4(10, 96, 0, 1)) };
    assert_eq!(decide(&agent, || true), Outcome::Agent);
    let udp = Connect { protocol: 17, ..dial(v4(10, 96, 0, 1)) };
    assert_eq!(decide(&udp, || true), Outcome::Pass(Counter::ConnectNotTcp));
}

#[test]
fn the_pod_itself_is_left_alone() {
    for ip in [v4(127, 0, 0, 1), v4(127, 64, 0, 1), v4(0, 0, 0, 0), Ip::NONE, Ip::LOOPBACK6] {
        assert_eq!(decide(&dial(ip), || true), Outcome::Pass(Counter::ConnectOwnPod), "{ip:?}");
    }
    for ip in [v4(10, 0, 0, 2), v6(2)] {
        assert_eq!(decide(&dial(ip), || true), Outcome::Own(SockAddr { ip, port: 80 }));
    }
}

#[test]
fn a_bound_device_is_refused() {
    for ip in [v4(10, 96, 0, 1), v6(1)] {
        let facts = Connect { bound_device: 2, ..dial(ip) };
        assert_eq!(decide(&facts, || true), Outcome::Refuse(Counter::BoundDevice));
    }
}

#[test]
fn ipv6_goes_to_a_port_of_the_loopback_address() {
    let outcome = decide(&dial(v6(1)), || true);
    let Outcome::Redirect(to, own, hint) = outcome else { panic!("{outcome:?}") };
    assert!(to.ip == Ip::LOOPBACK6 && own == pod().ip6 && hint == SockAddr::NONE);
    for i in 0..200_000 {
        let outcome = decide(&dial(v6(i + 100)), || true);
        let Outcome::Redirect(to, ..) = outcome else { panic!("{outcome:?}") };
        assert!((REDIRECT_PORTS..65_536).contains(&to.port), "{to:?}");
    }
    // The tunnel's port is another one's.
    let hbone_port = to.port;
    let Outcome::Redirect(beside, ..) = decide(&Connect { hbone_port, ..dial(v6(1)) }, || true) else { panic!() };
    assert_ne!(beside.port, hbone_port);
}

#[test]
fn an_address_family_that_the_pod_has_not_is_unreachable() {
    let only = |ip4, ip6| PodEntry { ip4, ip6, ..pod() };
    let (only4, only6) = (only(pod().ip4, Ip::NONE), only(Ip::NONE, pod().ip6));
    let facts = Connect { pod: Some(&only4), ..dial(v6(1)) };
    assert_eq!(decide(&facts, || true), Outcome::Unreachable(Counter::ConnectIpv6));
    let facts = Connect { pod: Some(&only6), ..dial(v4(10, 96, 0, 1)) };
    assert_eq!(decide(&facts, || true), Outcome::Unreachable(Counter::ConnectIpv4));
    // Whatever the pod has: nothing says whom it would reach.
    for pod in [Some(&only4), Some(&POD)] {
        let facts = Connect { pod, ..dial(link_local(1)) };
        assert_eq!(decide(&facts, || true), Outcome::Refuse(Counter::ConnectLinkLocal));
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
