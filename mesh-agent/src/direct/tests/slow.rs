//! A second, slow reading of a configuration: plain lists that are searched from end to end, and the rules as
//! mesh-common's own tests read them.

use std::collections::BTreeMap;

use mesh_common::model::{
    Accounts, Action, Connection, LocalPod, Passed, Policy, PolicyName, SameNode, Scope, Tunnel, Workload,
};

use super::{
    super::judge::Pair,
    HBONE,
    reference::{self, Outcome},
};
use crate::state::{Delta, Kind, Object, Reach, Unreadable};

#[derive(Default)]
pub struct Mesh {
    pub workloads: BTreeMap<String, Workload>,
    pub policies: BTreeMap<PolicyName, Policy>,
    pub unreadable: BTreeMap<PolicyName, Reach>,
    pub pods: BTreeMap<String, LocalPod>,
    pub accounts: BTreeMap<String, Accounts>,
    pub policies_known: bool,
}

/// What the kernel may do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Direct,
    Deny,
    /// Nothing: the agent carries it.
    Redirect,
}

#[derive(Debug)]
pub struct Answer {
    pub act: Act,
    /// `None`: it is not known who speaks to whom.
    pub outcome: Option<Outcome>,
    /// Open connections must end.
    pub ends: bool,
}

impl Mesh {
    /// As the store does, in its order: removals, objects, what cannot be read.
    pub fn apply(&mut self, delta: &Delta) {
        for (kind, name) in &delta.removals {
            match kind {
                Kind::Address => drop(self.workloads.remove(name)),
                Kind::Policy => {
                    self.policies.retain(|policy, _| policy.to_string() != *name);
                    self.unreadable.retain(|policy, _| policy.to_string() != *name);
                }
                Kind::LocalPod => drop(self.pods.remove(name)),
                Kind::Accounts => drop(self.accounts.remove(name)),
                Kind::TrustBundle | Kind::OnDemand | Kind::Traffic => {
                    panic!("neither roots nor questions here: {name}")
                }
            }
        }
        for (name, object) in &delta.upserts {
            match object.clone() {
                Object::Workload(workload) => drop(self.workloads.insert(name.clone(), workload)),
                Object::Policy(policy) => {
                    self.unreadable.remove(&policy.name);
                    self.policies.insert(policy.name.clone(), policy);
                }
                Object::LocalPod(pod) => drop(self.pods.insert(name.clone(), pod)),
                Object::Accounts(accounts) => drop(self.accounts.insert(name.clone(), accounts)),
                Object::Service(service) => panic!("no services here: {service:?}"),
                Object::TrustBundle(_) | Object::OnDemand | Object::Traffic(_) => {
                    panic!("neither roots nor questions here: {name}")
                }
            }
        }
        for Unreadable { name, reach } in &delta.unreadable {
            if !self.policies.contains_key(name) {
                self.unreadable.insert(name.clone(), reach.clone());
            }
        }
        self.policies_known |= delta.policies_answered;
    }

    pub fn answer(&self, pair: &Pair) -> Answer {
        let Pair { source, target, identity, source_ip, destination } = pair;
        let nobody = Answer { act: Act::Redirect, outcome: None, ends: true };
        let mut owners: Vec<&Workload> = self.workloads.values().filter(|w| !w.host_network).collect();
        owners.retain(|w| w.addresses.contains(&destination.ip()));
        // Who is reached by mTLS first, then the first by uid.
        owners.sort_by_key(|w| (w.tunnel != Tunnel::Hbone, w.uid.clone()));
        let Some(workload) = owners.first().filter(|owner| owner.uid == *target) else { return nobody };
        if identity.is_some() && !self.workloads.contains_key(source) {
            return nobody;
        }
        let connection =
            Connection { source_identity: identity.clone(), source_ip: *source_ip, destination: *destination };
        let (policies, unknown) = self.policies_of(workload);
        let mut outcome = reference::decide(&policies, unknown.as_ref(), &connection, &Passed::BYTES);
        let refused = |code| Outcome::Denied { code, policy: None, rule: None };
        let strict_by = self.pods.get(target).and_then(|pod| pod.strict_by.as_ref());
        if let (Outcome::Denied { code: "PLAINTEXT_STRICT", policy, .. }, Some(by)) = (&mut outcome, strict_by) {
            *policy = Some(by.to_string());
        }
        let mut observed = observed(&policies, &outcome, &connection);
        if self.is_revoked(workload, &connection) {
            (outcome, observed) = (refused("IDENTITY_REVOKED"), false);
        }
        if !self.policies_known {
            (outcome, observed) = (refused("POLICY_UNKNOWN"), false);
        }
        let tls = [source, target].iter().any(|uid| self.pods.get(*uid).is_some_and(|p| p.same_node == SameNode::Tls));
        let agent_only = tls || observed || destination.port() == HBONE;
        let (act, refused) = match &outcome {
            Outcome::Permitted(_) => (Act::Direct, false),
            Outcome::Denied { code: "POLICY_UNKNOWN", .. } => (Act::Redirect, true),
            Outcome::Denied { .. } => (Act::Deny, true),
        };
        Answer { act: if agent_only { Act::Redirect } else { act }, outcome: Some(outcome), ends: refused || tls }
    }

    /// Mesh-wide ones by name, those of the namespace by name, those that are named; and the first that is not known.
    fn policies_of(&self, workload: &Workload) -> (Vec<Policy>, Option<PolicyName>) {
        let all = || self.policies.values();
        let mut found: Vec<&Policy> = all().filter(|p| p.scope == Scope::Global).collect();
        found.extend(all().filter(|p| p.scope == Scope::Namespace && p.name.namespace == workload.namespace));
        let mut unknown = workload.policies.iter().find(|name| !self.policies.contains_key(*name));
        for name in &workload.policies {
            if let Some(policy) = self.policies.get(name).filter(|policy| !found.contains(policy)) {
                found.push(policy);
            }
        }
        if unknown.is_none() {
            unknown = self.unreadable.iter().find_map(|(name, reach)| match reach {
                Reach::Everybody => Some(name),
                Reach::Namespace(namespace) => (*namespace == workload.namespace).then_some(name),
                Reach::Named => None,
            });
        }
        (found.into_iter().cloned().collect(), unknown.cloned())
    }

    /// The client's ServiceAccount is not among those that exist, of the server's own trust domain.
    fn is_revoked(&self, workload: &Workload, connection: &Connection) -> bool {
        let Some(source) = &connection.source_identity else { return false };
        let exists = self
            .accounts
            .values()
            .flat_map(|a| a.names.iter().map(move |name| (a.namespace.as_str(), name.as_str())))
            .any(|account| account == (source.namespace(), source.service_account()));
        source.trust_domain() == workload.identity.trust_domain() && !self.accounts.is_empty() && !exists
    }
}

/// An AUDIT matches, or a dry run would have turned the answer.
fn observed(policies: &[Policy], outcome: &Outcome, connection: &Connection) -> bool {
    let matches = |policy: &&Policy| {
        let enforced = Policy { action: Action::Allow, dry_run: false, ..(*policy).clone() };
        matches!(reference::decide(&[enforced], None, connection, &Passed::BYTES), Outcome::Permitted(Some(_)))
    };
    let idle = |action| policies.iter().filter(move |p| p.dry_run && p.action == action);
    let audited = policies.iter().filter(|p| p.action == Action::Audit).any(|p| matches(&p));
    let allowing = idle(Action::Allow).any(|p| matches(&p));
    audited
        || match outcome {
            Outcome::Permitted(by) => {
                let left_out = by.is_none() && idle(Action::Allow).count() > 0 && !allowing;
                left_out || idle(Action::Deny).any(|p| matches(&p))
            }
            Outcome::Denied { code, .. } => *code == "POLICY_NO_ALLOW" && allowing,
        }
}
