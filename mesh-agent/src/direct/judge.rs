//! What the kernel may do by itself with connections of one pair of pods to one port. Pure.

use std::net::{IpAddr, SocketAddr};

use mesh_common::{
    abi::action,
    model::{Connection, Decision, Denied, Identity, Passed, Reason},
};

use crate::{pods::Pod, state::Snapshot};

/// Who dials whom, as far as decisions go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The uids of the workloads.
    pub source: String,
    pub target: String,
    /// `None`: the source left the mesh and lives on.
    pub identity: Option<Identity>,
    /// The source's published address of the destination's family.
    pub source_ip: IpAddr,
    pub destination: SocketAddr,
}

impl Pair {
    /// Two pods as they are; `None` if the source has no address of the destination's family.
    pub fn between(source: &Pod, target: &Pod, destination: SocketAddr) -> Option<Self> {
        Some(Self {
            source: source.uid.clone(),
            target: target.uid.clone(),
            identity: Some(source.identity.clone()),
            source_ip: source.ips.like(destination.ip())?,
            destination,
        })
    }
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Judged {
    /// An [`action`] for connections to come.
    pub action: u32,
    pub decision: Decision,
    /// Connections that are open must end.
    pub ends: bool,
}

/// Judges by the configuration alone. Only a decision that is complete without the agent is acted on without it: who is
/// not known, what is to be recorded by connection (AUDIT, dry runs) and what must be in TLS goes through it.
pub fn judge(snapshot: &Snapshot, pair: &Pair, hbone_port: u16) -> Judged {
    let Pair { source, target, identity, source_ip, destination } = pair;
    let unknown = || {
        let outcome = Err(Denied::without_policy(Reason::PolicyUnknown));
        let decision = Decision { outcome, observations: Vec::new(), asked: None, generation: snapshot.generation() };
        Judged { action: action::REDIRECT, decision, ends: true }
    };
    let Some(workload) = snapshot.workload(target) else { return unknown() };
    // An address that was handed on must not let one stand for the other.
    if snapshot.workload_by_address(destination.ip()).is_none_or(|owner| owner.uid != *target) {
        return unknown();
    }
    if identity.is_some() && snapshot.workload(source).is_none() {
        return unknown();
    }
    let connection = Connection { source_identity: identity.clone(), source_ip: *source_ip, destination: *destination };
    let passed = snapshot.passed_at_first(workload, destination.port());
    let reads = snapshot.reads(workload, destination.port());
    let must_read = matches!(passed, Passed::Open);
    let decision = snapshot.decide(workload, &connection, passed);
    let agent_only = destination.port() == hbone_port || reads || !decision.observations.is_empty();
    let tls = snapshot.same_node_tls(source) || snapshot.same_node_tls(target);
    let action = match &decision.outcome {
        _ if agent_only || tls => action::REDIRECT,
        Ok(_) => action::DIRECT,
        // It will be known in a moment.
        Err(denied) if denied.reason == Reason::PolicyUnknown => action::REDIRECT,
        Err(_) => action::DENY,
    };
    // What must be looked into cannot go on as bytes past the agent; what is only to be seen can.
    Judged { action, ends: decision.outcome.is_err() || tls || must_read, decision }
}

/// Whether what was judged of the pair in `earlier` holds in `now` without asking any policy.
pub fn is_alike(now: &Snapshot, earlier: &Snapshot, pair: &Pair) -> bool {
    let Pair { source, target, identity, source_ip: _, destination } = pair;
    let owner = |snapshot: &Snapshot| snapshot.workload_by_address(destination.ip()).is_some_and(|w| w.uid == *target);
    now.decides_like(earlier, target, identity.as_ref())
        && owner(now) == owner(earlier)
        && now.workload(source).is_some() == earlier.workload(source).is_some()
        && [source, target].iter().all(|uid| now.same_node_tls(uid) == earlier.same_node_tls(uid))
        && now.has_inbound_of(earlier, target)
}
