//! How one connection was decided: from what its record kept, not from what the configuration says now.

use mesh_common::{
    model::{Action, Considered, Known, Nearest, Observation, ObservedAs, PolicyName, advice, nearest},
    proto::nodemesh::{
        ConsideredClause, ConsideredCondition, ConsideredMatch, ConsideredPolicy, ConsideredRule, ExplainQuery,
        Explanation, NearestRule,
    },
};

use super::{Admin, flows};
use crate::{
    state::Snapshot,
    telemetry::{Direction, Flow, Party, Path, Verdict},
};

/// Nothing for a record that this node does not have (any more): another node may have it.
pub fn answer(admin: &Admin, query: &ExplainQuery) -> Option<Explanation> {
    let flow = admin.flows.find(query.flow)?;
    let considered = flow.asked.as_ref().map(|asked| asked.explain()).unwrap_or_default();
    let snapshot = admin.store.snapshot();
    Some(Explanation {
        flow: Some(flows::wire::message(&admin.node, &flow)),
        summary: summary(&flow, &considered, &snapshot),
        // Where another rule than a policy's decided, none of these would have helped.
        nearest: nearest(&considered).filter(|_| flow.policy.is_some()).map(nearest_rule),
        policies: considered.into_iter().map(policy).collect(),
    })
}

fn summary(flow: &Flow, considered: &[Considered], snapshot: &Snapshot) -> String {
    let mut said = vec![decision(flow)];
    if flow.verdict.is_bad() || flow.reason.is_some() {
        said.extend(flow.reason.as_deref().and_then(advice).map(str::to_owned));
    }
    said.extend(flow.observations.iter().map(observed));
    said.extend(elsewhere(flow, snapshot));
    said.extend(since(flow, considered, snapshot));
    said.join(" ")
}

/// The first sentence.
fn decision(flow: &Flow) -> String {
    let because = flow.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
    match (flow.verdict, &flow.policy, flow.rule) {
        (Verdict::Dropped, ..) => format!("Refused{because}."),
        (Verdict::Error, ..) => format!("Failed{because}."),
        (_, Some(policy), Some(rule)) => format!("Permitted by rule {rule} of {policy}."),
        (_, Some(policy), None) => format!("Permitted by {policy}."),
        (..) if flow.udp.is_some() => {
            "Only counted: datagrams are neither redirected nor encrypted, and no policy is asked about them."
                .to_owned()
        }
        (..) if !flow.source.pod.is_empty() && is_same(&flow.source, &flow.destination) => {
            "Permitted: what a pod says to itself is outside policy.".to_owned()
        }
        // The kernel's own record, and not of a direct connection.
        (..) if flow.path == Some(Path::Passthrough) && flow.tcp.is_some() => {
            "Only recorded: the pod is observed, and no policy is asked about what it dials or accepts.".to_owned()
        }
        (..) if flow.direction == Direction::Outbound && flow.path == Some(Path::Tunnel) => {
            "Permitted; the destination's agent decided.".to_owned()
        }
        (..) if flow.direction == Direction::Outbound && flow.path == Some(Path::Passthrough) => {
            "Passed on as dialled: no policy is asked about destinations outside the mesh.".to_owned()
        }
        _ => "Permitted: no ALLOW policy applies and no DENY policy matches.".to_owned(),
    }
}

fn is_same(one: &Party, other: &Party) -> bool {
    (&one.namespace, &one.pod) == (&other.namespace, &other.pod)
}

/// What a policy that is not enforced said.
fn observed(seen: &Observation) -> String {
    let Observation { policy, observed_as, rule: _, would_refuse } = seen;
    match (observed_as, would_refuse) {
        (ObservedAs::Audited, _) => format!("AUDIT policy {policy} matched."),
        (ObservedAs::DryRun, true) => format!("The dry run of {policy} would have refused it."),
        (ObservedAs::DryRun, false) => format!("The dry run of {policy} would have permitted it."),
    }
}

/// The record that has the detail, where the destination's agent decided.
fn elsewhere(flow: &Flow, snapshot: &Snapshot) -> Option<String> {
    if flow.direction != Direction::Outbound || flow.path != Some(Path::Tunnel) || flow.asked.is_some() {
        return None;
    }
    let (source, destination) = (&flow.source, &flow.destination);
    let node = &snapshot.workload_by_name(&destination.namespace, &destination.pod)?.node;
    Some(format!(
        "The record of node {node} has the detail: `meshctl flows --node {node} --from {}/{} --to {}/{}`, then `meshctl \
         explain ID --node {node}`.",
        source.namespace, source.pod, destination.namespace, destination.pod
    ))
}

/// What is not any more as it was when the connection was decided.
fn since(flow: &Flow, considered: &[Considered], snapshot: &Snapshot) -> Option<String> {
    let asked = flow.asked.as_ref()?;
    let changed = asked.policies.iter().filter_map(|then| {
        // Under the name that is shown for it.
        let strict = then.is_strict_mtls();
        let shown = match &asked.strict_by {
            Some(name) if strict => name,
            _ => &then.name,
        };
        match snapshot.policy(&then.name) {
            None => Some(format!("{shown} is gone")),
            Some(now) if now != then => Some(format!("{shown} is different")),
            Some(_) => None,
        }
    });
    let known = |name: &PolicyName| snapshot.policy(name).map(|_| format!("{name} is known"));
    let unknown = considered.iter().filter(|c| c.known.is_none()).filter_map(|c| known(&c.name));
    let all: Vec<_> = changed.chain(unknown).collect();
    (!all.is_empty()).then(|| {
        let now = snapshot.generation();
        format!("Since then the configuration changed (it is at {now} now): {}.", all.join(", "))
    })
}

/// In the words of the wire.
pub fn policy(considered: Considered) -> ConsideredPolicy {
    let Considered { name, known, decided, rules } = considered;
    let (action, scope, dry_run) = match known {
        Some(Known { action: Action::Deny, scope, dry_run, strict: true }) => ("STRICT", scope.name(), dry_run),
        Some(Known { action, scope, dry_run, strict: _ }) => (action.name(), scope.name(), dry_run),
        None => ("", "", false),
    };
    let rules = rules.into_iter().enumerate().map(|(number, rule)| ConsideredRule {
        rule: u32::try_from(number).unwrap_or(u32::MAX),
        matched: rule.matched,
        clauses: rule.clauses.into_iter().map(clause).collect(),
    });
    ConsideredPolicy {
        policy: name.to_string(),
        action: action.to_owned(),
        scope: scope.to_owned(),
        dry_run,
        decided,
        unknown: known.is_none(),
        rules: rules.collect(),
    }
}

/// In the words of the wire.
pub fn nearest_rule(nearest: Nearest) -> NearestRule {
    let Nearest { policy, rule, missing } = nearest;
    NearestRule {
        policy: policy.to_string(),
        rule: u32::try_from(rule).unwrap_or(u32::MAX),
        missing: missing.into_iter().map(condition).collect(),
    }
}

fn clause(clause: mesh_common::model::ConsideredClause) -> ConsideredClause {
    let matches = clause
        .matches
        .into_iter()
        .map(|m| ConsideredMatch { matched: m.matched, conditions: m.conditions.into_iter().map(condition).collect() });
    ConsideredClause { matched: clause.matched, matches: matches.collect() }
}

fn condition(condition: mesh_common::model::ConsideredCondition) -> ConsideredCondition {
    let mesh_common::model::ConsideredCondition { field, values, actual, holds } = condition;
    ConsideredCondition { field, values, actual, holds }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::telemetry::{Facts, FlowLog};

    fn party(pod: &str) -> Party {
        let address = Some(SocketAddr::from(([10, 0, 0, 1], 80)));
        let facts = Facts { namespace: "shop".into(), pod: pod.into(), ..Facts::default() };
        Party { facts: facts.into(), address, ..Party::default() }
    }

    #[test]
    fn what_no_policy_decided_is_said_in_words() {
        let said = |change: &dyn Fn(&mut Flow)| {
            let mut flow = FlowLog::new(Default::default()).begin(Direction::Outbound, party("cart"), party("web"));
            change(&mut flow);
            summary(&flow, &[], &Snapshot::default())
        };
        let text = said(&|flow| flow.dropped("AGENT_DOWN", "refused in the kernel"));
        assert!(text.starts_with("Refused: refused in the kernel. The agent of the node did not listen"), "{text}");
        let text = said(&|flow| flow.failed("TLS_FAILURE", "expired"));
        assert!(text.starts_with("Failed: expired. The TLS handshake between the agents failed."), "{text}");
        assert_eq!(said(&|flow| flow.path = Some(Path::Tunnel)), "Permitted; the destination's agent decided.");
        let text = said(&|flow| flow.destination = flow.source.clone());
        assert_eq!(text, "Permitted: what a pod says to itself is outside policy.");
        let text = said(&|flow| {
            let policy = PolicyName { namespace: "shop".into(), name: "audit".into() };
            let seen = Observation { policy, observed_as: ObservedAs::Audited, rule: Some(0), would_refuse: false };
            flow.observations = vec![seen];
        });
        assert!(text.ends_with("AUDIT policy shop/audit matched."), "{text}");
    }
}
