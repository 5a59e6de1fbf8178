//! How one connection or request was decided.

use mesh_common::proto::nodemesh::{
    ConsideredCondition, ConsideredMatch, ConsideredPolicy, ExplainQuery, Explanation, item, query,
};
use serde_json::{Value, json};

use super::{api::Refused, asked::Asking, flows};

pub async fn answer(asked: &Asking<'_>, node: &str, flow: u64) -> Result<Value, Refused> {
    if node.is_empty() {
        return Err(Refused::wrong("node", "is empty"));
    }
    let said = asked.ask(node, query::Kind::Explain(ExplainQuery { flow })).await;
    let known = said.items.iter().find_map(|(node, kind)| match kind {
        item::Kind::Explanation(explanation) => Some((node, explanation)),
        _ => None,
    });
    match known {
        Some((node, explanation)) => Ok(record(node, explanation)),
        None if said.errors.is_empty() => Err(Refused::unknown(format!(
            "node {node} has no record of flow {flow}: agents keep the newest, and none over a restart"
        ))),
        None => Err(Refused::unknown(said.errors.join("; "))),
    }
}

fn record(node: &str, explanation: &Explanation) -> Value {
    let nearest = explanation.nearest.as_ref().map(|nearest| {
        let missing = nearest.missing.iter().map(condition).collect::<Vec<_>>();
        json!({ "policy": nearest.policy, "rule": nearest.rule, "missing": missing })
    });
    json!({
        "flow": explanation.flow.as_ref().map(|flow| flows::record(node, flow)),
        "summary": explanation.summary,
        "policies": explanation.policies.iter().map(policy).collect::<Vec<_>>(),
        "nearest": nearest,
    })
}

fn policy(policy: &ConsideredPolicy) -> Value {
    let rules = policy.rules.iter().map(|rule| {
        let clauses = rule.clauses.iter().map(|clause| {
            let matches = clause.matches.iter().map(alternative).collect::<Vec<_>>();
            json!({ "matched": clause.matched, "matches": matches })
        });
        json!({ "rule": rule.rule, "matched": rule.matched, "clauses": clauses.collect::<Vec<_>>() })
    });
    json!({
        "policy": policy.policy,
        "action": policy.action,
        "scope": policy.scope,
        "dry_run": policy.dry_run,
        "decided": policy.decided,
        "unknown": policy.unknown,
        "rules": rules.collect::<Vec<_>>(),
    })
}

fn alternative(one: &ConsideredMatch) -> Value {
    json!({ "matched": one.matched, "conditions": one.conditions.iter().map(condition).collect::<Vec<_>>() })
}

fn condition(condition: &ConsideredCondition) -> Value {
    let ConsideredCondition { field, values, actual, holds } = condition;
    json!({ "field": field, "values": values, "actual": actual, "holds": holds })
}
