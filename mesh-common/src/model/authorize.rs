//! The decision: may this connection reach this workload? Istio's order: any DENY that matches denies; then, if no
//! ALLOW policy applies, it is permitted; then some ALLOW must match. A policy that is named but not known denies.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::{Action, Identity, Passing, Policy, PolicyName};

/// What is known of a connection when it must be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Proven by mTLS or attested by the kernel, never claimed; `None`: a client without identity.
    pub source_identity: Option<Identity>,
    pub source_ip: IpAddr,
    /// The workload's address and the port at which it listens.
    pub destination: SocketAddr,
}

/// The proof that a connection was decided and may go on. Only [`authorize`] and
/// [`Rules`](crate::authz::Rules) make one of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    policy: Option<PolicyName>,
    rule: Option<usize>,
}

/// Why a connection may not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub reason: Reason,
    /// The policy that decided, or the first ALLOW policy that did not match.
    pub policy: Option<PolicyName>,
    /// Its rule that matched, from 0; `None` if no rule matched.
    pub rule: Option<usize>,
    /// For [`Reason::IdentityRevoked`]: the identity. Boxed, since nearly every denial has none.
    pub revoked: Option<Box<Identity>>,
}

/// Stable codes of a policy decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A DENY policy's rule matched.
    PolicyDeny,
    /// ALLOW policies apply and none of their rules matched.
    PolicyNoAllow,
    /// STRICT: the client proved no identity.
    PlaintextStrict,
    /// The workload names a policy that is not known yet.
    PolicyUnknown,
    /// The client proved an identity whose ServiceAccount does not exist (any more).
    IdentityRevoked,
}

impl Permit {
    /// For connections whose destination this node does not decide about: outside the mesh, decided by its own
    /// node's agent, or the caller itself. Never for a connection that reaches a mesh workload of this node from
    /// another one.
    pub fn outside_policy() -> Self {
        Self { policy: None, rule: None }
    }

    /// By this rule of an ALLOW policy.
    pub(crate) fn by(policy: &Policy, rule: usize) -> Self {
        Self { policy: Some(policy.name.clone()), rule: Some(rule) }
    }

    /// No ALLOW policy applies.
    pub(crate) fn without_policy() -> Self {
        Self { policy: None, rule: None }
    }

    /// The ALLOW policy that matched; `None` if no ALLOW policy applies.
    pub fn policy(&self) -> Option<&PolicyName> {
        self.policy.as_ref()
    }

    /// The rule of [`Permit::policy`] that matched, from 0.
    pub fn rule(&self) -> Option<usize> {
        self.rule
    }
}

impl Denied {
    /// No policy is to blame.
    pub fn without_policy(reason: Reason) -> Self {
        Self { reason, policy: None, rule: None, revoked: None }
    }

    /// By this rule of a DENY policy.
    pub(crate) fn by(policy: &Policy, rule: usize) -> Self {
        let strict = policy.is_strict_mtls();
        Self {
            policy: Some(policy.name.clone()),
            rule: (!strict).then_some(rule),
            ..Self::without_policy(if strict { Reason::PlaintextStrict } else { Reason::PolicyDeny })
        }
    }

    /// The policy applies, and what it says is not known.
    pub(crate) fn unknown(name: &PolicyName) -> Self {
        Self { policy: Some(name.clone()), ..Self::without_policy(Reason::PolicyUnknown) }
    }

    /// No ALLOW rule matched; `first` is the first of their policies.
    pub(crate) fn no_allow(first: &PolicyName) -> Self {
        Self { policy: Some(first.clone()), ..Self::without_policy(Reason::PolicyNoAllow) }
    }

    /// The ServiceAccount of the client's identity is gone.
    pub fn revoked(identity: &Identity) -> Self {
        Self { revoked: Some(Box::new(identity.clone())), ..Self::without_policy(Reason::IdentityRevoked) }
    }
}

impl Reason {
    pub const ALL: [Self; 5] =
        [Self::PolicyDeny, Self::PolicyNoAllow, Self::PlaintextStrict, Self::PolicyUnknown, Self::IdentityRevoked];

    pub fn code(self) -> &'static str {
        match self {
            Self::PolicyDeny => "POLICY_DENY",
            Self::PolicyNoAllow => "POLICY_NO_ALLOW",
            Self::PlaintextStrict => "PLAINTEXT_STRICT",
            Self::PolicyUnknown => "POLICY_UNKNOWN",
            Self::IdentityRevoked => "IDENTITY_REVOKED",
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(identity) = &self.revoked {
            let (namespace, account) = (identity.namespace(), identity.service_account());
            return write!(f, "the client is {identity}, and ServiceAccount {namespace}/{account} does not exist");
        }
        match (self.reason, &self.policy, self.rule) {
            (Reason::PolicyDeny, Some(policy), Some(rule)) => write!(f, "denied by policy {policy}, rule {rule}"),
            (Reason::PolicyNoAllow, Some(policy), _) => {
                write!(f, "no ALLOW rule matches, first of them in policy {policy}")
            }
            (Reason::PlaintextStrict, Some(policy), _) => {
                write!(f, "the client has no mesh identity and PeerAuthentication {policy} is STRICT")
            }
            (Reason::PolicyUnknown, Some(policy), _) => write!(f, "policy {policy} is named but not known yet"),
            (Reason::PolicyUnknown, None, _) => f.write_str("it is not known yet what policies apply"),
            (reason, _, _) => f.write_str(reason.code()),
        }
    }
}

impl std::error::Error for Denied {}

/// Decides one connection, or one request on it. `policies` are those that apply to the destination workload, in a
/// stable order; `unknown` is the first that it names and nobody has. [`Rules`](crate::authz::Rules) answers the same
/// in less time.
///
/// STRICT travels as a DENY policy on clients without identity, under the names of [`Policy::is_strict_mtls`].
pub fn authorize<'a>(
    policies: impl Iterator<Item = &'a Policy> + Clone,
    unknown: Option<&PolicyName>,
    connection: &Connection,
    passing: &Passing<'_>,
) -> Result<Permit, Denied> {
    if let Some(name) = unknown {
        return Err(Denied::unknown(name));
    }
    let enforced = policies.filter(|p| p.is_enforced());

    for policy in enforced.clone().filter(|p| p.action == Action::Deny) {
        if let Some(rule) = policy.matching_rule(connection, passing) {
            return Err(Denied::by(policy, rule));
        }
    }
    let mut first_allow = None;
    for policy in enforced.filter(|p| p.action == Action::Allow) {
        if let Some(rule) = policy.matching_rule(connection, passing) {
            return Ok(Permit::by(policy, rule));
        }
        first_allow.get_or_insert(&policy.name);
    }
    match first_allow {
        None => Ok(Permit::without_policy()),
        Some(name) => Err(Denied::no_allow(name)),
    }
}

impl Policy {
    /// The names under which PeerAuthentication travels in the ambient ecosystem. Kubernetes object names cannot
    /// contain `_`, so no AuthorizationPolicy can take one.
    pub const STRICT_STATIC: &'static str = "istio_converted_static_strict";
    pub const STRICT_PREFIX: &'static str = "converted_peer_authentication_";

    /// It carries a PeerAuthentication, not an AuthorizationPolicy.
    pub fn is_strict_mtls(&self) -> bool {
        self.name.name == Self::STRICT_STATIC || self.name.name.starts_with(Self::STRICT_PREFIX)
    }
}
