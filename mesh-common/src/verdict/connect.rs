//! Where a connect of a pod goes.

#[cfg(test)]
mod tests;

use super::{Lives, TCP, first, keeps};
use crate::abi::{
    Affinity, AffinityKey, Backend, BackendKey, Counter, Ip, PodEntry, REDIRECT_NET, REDIRECT_PORTS, SPREAD_MASK,
    Service, SockAddr, Verdict, VerdictKey, action,
};

/// What the connect hook knows.
#[derive(Clone, Copy, Debug)]
pub struct Connect<'a> {
    pub protocol: u32,
    pub destination: SockAddr,
    /// The caller runs in the agent's cgroup.
    pub by_agent: bool,
    /// The redirected or observed pod of the socket's namespace.
    pub pod: Option<&'a PodEntry>,
    /// The address to which the socket is bound; [`Ip::NONE`] or 0.0.0.0: the kernel will choose.
    pub bound: Ip,
    /// SO_BINDTODEVICE; 0: none.
    pub bound_device: u32,
    /// The agent's virtual outbound port.
    pub outbound_port: u32,
    pub hbone_port: u32,
}

/// What the connect hook can look up.
pub trait Routes: Lives {
    fn service(&self, at: &SockAddr) -> Option<Service>;
    fn backend(&self, key: &BackendKey) -> Option<Backend>;
    /// The endpoint that a client keeps, if it `holds`; it is used now.
    fn kept(&self, key: &AffinityKey, holds: impl FnOnce(&Affinity) -> bool) -> Option<Affinity>;
    /// From now on the client keeps this one.
    fn keep(&self, key: &AffinityKey, kept: &Affinity);
    fn verdict(&self, key: &VerdictKey) -> Option<Verdict>;
    /// The table of direct connections has room.
    fn has_room(&self) -> bool;
    /// Nanoseconds since boot.
    fn now(&self) -> u64;
    fn random(&self) -> u32;
}

/// What becomes of a connect. Each verdict is counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Left alone; what was stored of an earlier connect must go.
    Pass(Counter),
    /// Left alone, and recorded: the pod is observed.
    Observe,
    /// To the pod itself, by this address. If it is IPv6 the socket is marked, since `sk_lookup` must see that the pod
    /// dials its own ([`crate::abi::kind::OWN`]).
    Own(SockAddr),
    /// The agent's: left alone, storage too.
    Agent,
    /// Another pod of the node: dial it.
    Direct(SockAddr, Permit),
    /// Dial the first address instead, after the original destination is stored. The second is the pod's own, which the
    /// application shall see as its local address; the third the endpoint that was chosen of a service, or port 0.
    Redirect(SockAddr, Ip, SockAddr),
    /// EPERM
    Refuse(Counter),
    /// ENETUNREACH, what a host without that address family answers: a client tries its other address at once.
    Unreachable(Counter),
    /// ECONNREFUSED, what a client gets that dials a closed port: no library takes it for a fault of its own machine.
    /// With the address at which it is refused, and the decision that denies it or 0.
    Denied(Counter, SockAddr, u32),
}

/// What of a verdict a direct connection keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    pub target: u32,
    pub target_epoch: u32,
    pub generation: u32,
    pub decision: u32,
}

/// Decides a connect. `in_enrolled_cgroup` is asked only for sockets of unknown namespaces, since it costs a walk.
#[inline(always)]
pub fn connect(facts: &Connect<'_>, routes: &impl Routes, in_enrolled_cgroup: impl FnOnce() -> bool) -> Outcome {
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
    if pod.observed != 0 {
        return Outcome::Observe;
    }
    if pod.owns(ip) {
        return Outcome::Own(facts.destination);
    }
    let is_v4 = ip.as_v4().is_some();
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
    let backend = match routes.service(&facts.destination) {
        Some(service) if service.count > 0 => chosen(&facts.destination, pod, &service, routes),
        _ => None,
    };
    if backend.is_some_and(|backend| backend.port == 0) {
        return Outcome::Denied(Counter::NoHealthyEndpoint, facts.destination, 0);
    }
    if let Some(backend) = backend
        && pod.owns(backend.ip)
    {
        return Outcome::Own(backend);
    }
    let target = backend.unwrap_or(facts.destination);
    let key = VerdictKey { source: pod.index, destination: target };
    if let Some(verdict) = routes.verdict(&key)
        && current(&key, &verdict, pod, routes)
    {
        // From any other address the kernel would attest nothing.
        let bound = facts.bound == Ip::NONE || facts.bound == Ip::v4(0) || pod.owns(facts.bound);
        match verdict.action {
            action::DIRECT if bound && routes.has_room() => {
                let Verdict { target: pod, target_epoch, generation, decision, .. } = verdict;
                return Outcome::Direct(target, Permit { target: pod, target_epoch, generation, decision });
            }
            action::DENY => return Outcome::Denied(Counter::ConnectDenied, target, verdict.decision),
            _ => {}
        }
    }
    let hint = backend.unwrap_or(SockAddr::NONE);
    let hash = hash(facts.destination);
    if is_v4 {
        let to = Ip::v4((REDIRECT_NET | (hash & !SPREAD_MASK)).to_be());
        Outcome::Redirect(SockAddr { ip: to, port: facts.outbound_port }, pod.ip4, hint)
    } else {
        let port = REDIRECT_PORTS + hash % (65_536 - REDIRECT_PORTS);
        // The tunnel's port is steered before anything else.
        let port = if port == facts.hbone_port { port ^ 1 } else { port };
        Outcome::Redirect(SockAddr { ip: Ip::LOOPBACK6, port }, pod.ip6, hint)
    }
}

/// An endpoint of the service at `dialled`; `None`: the agent chooses, since the list was exchanged just now, or since
/// the client kept an endpoint of the list before.
#[inline(always)]
fn chosen(dialled: &SockAddr, pod: &PodEntry, service: &Service, routes: &impl Routes) -> Option<SockAddr> {
    let Service { id, count, affinity } = *service;
    let key = AffinityKey { source: pod.index, service: *dialled };
    let (slot, is_new) = if affinity == 0 {
        (routes.random() % count, false)
    } else {
        match routes.kept(&key, |kept| keeps(kept, pod.epoch, affinity, routes.now())) {
            Some(kept) if kept.list != id => return None,
            Some(kept) => (kept.slot, false),
            None => {
                let client = if dialled.ip.as_v4().is_some() { pod.ip4 } else { pod.ip6 };
                (first(client, dialled, count), true)
            }
        }
    };
    let backend = routes.backend(&BackendKey { id, slot }).filter(|backend| backend.service == *dialled)?;
    if is_new {
        let used = routes.now();
        routes.keep(&key, &Affinity { used, epoch: pod.epoch, list: id, slot, endpoint: backend.address });
    }
    Some(backend.address)
}

/// The verdict is about these two lives of the pods, nothing has changed since, and its lease is not over.
#[inline(always)]
pub fn current(key: &VerdictKey, verdict: &Verdict, source: &PodEntry, routes: &impl Routes) -> bool {
    verdict.sum == verdict.sum(key)
        && verdict.source_epoch == source.epoch
        && routes.epoch(verdict.target) == Some(verdict.target_epoch)
        && routes.generation(verdict.target) == Some(verdict.generation)
        && routes.now() < verdict.expires
}

/// Spreads destinations, so that each has its own range of source ports.
#[inline(always)]
pub(super) fn hash(destination: SockAddr) -> u32 {
    let [a, b, c, d] = destination.ip.0;
    let mut hash = a ^ b.rotate_left(8) ^ c.rotate_left(16) ^ d ^ destination.port.rotate_left(20);
    // The finaliser of MurmurHash3: every bit of the input moves every bit that is kept.
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}
