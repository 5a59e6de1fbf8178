//! What policies that are not enforced say of a connection that was decided without them.

use super::{Action, Connection, Denied, Passing, Permit, Policy, PolicyName, Reason};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub policy: PolicyName,
    pub observed_as: ObservedAs,
    /// Its rule that matched, from 0; `None`: no rule of it matched.
    pub rule: Option<usize>,
    /// Enforced, it would have refused the connection. Of a dry run without that: it would have permitted it.
    pub would_refuse: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObservedAs {
    DryRun,
    Audited,
}

/// Every AUDIT policy that matches, and every dry run that would have turned the decision. While it is open what passes
/// ([`Passing::Open`]), policies that ask for requests say nothing yet.
///
/// As in Istio a DENY is tried alone, and the ALLOW policies are tried together: a dry-run ALLOW that does not match
/// refuses nobody whom another one permits. Nothing is allocated where every policy is enforced.
pub fn observe<'a>(
    policies: impl Iterator<Item = &'a Policy> + Clone,
    outcome: &Result<Permit, Denied>,
    connection: &Connection,
    passing: &Passing<'_>,
) -> Vec<Observation> {
    let open = matches!(passing, Passing::Open);
    let observing = policies.filter(move |policy| !(policy.is_enforced() || open && policy.asks_requests()));
    let mut allows = observing.clone().filter(|policy| policy.action == Action::Allow);
    let allowed = allows.any(|policy| policy.matching_rule(connection, passing).is_some());
    let says = |policy: &Policy| {
        let rule = policy.matching_rule(connection, passing);
        let (observed_as, would_refuse) = match (policy.action, outcome, rule) {
            (Action::Audit, _, Some(_)) => (ObservedAs::Audited, false),
            (Action::Deny, Ok(_), Some(_)) => (ObservedAs::DryRun, true),
            // It would be the first ALLOW policy, and so exclude whom it does not match.
            (Action::Allow, Ok(permit), None) if permit.policy().is_none() && !allowed => (ObservedAs::DryRun, true),
            (Action::Allow, Err(Denied { reason: Reason::PolicyNoAllow, .. }), Some(_)) => (ObservedAs::DryRun, false),
            _ => return None,
        };
        Some(Observation { policy: policy.name.clone(), observed_as, rule, would_refuse })
    };
    observing.filter_map(says).collect()
}
