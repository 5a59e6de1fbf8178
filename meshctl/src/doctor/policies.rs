//! Policies that are not in force as they are written: by their conditions on a cluster, and by what the controller
//! could not honour.

use kube::api::DynamicObject;
use serde_json::Value;

use super::{or_well, said::Said};
use crate::check::{Finding, facts::Facts};

pub fn judge(facts: Option<&Facts>, said: &Said) -> Vec<Finding> {
    let rules = facts.map(|facts| facts.rules.as_slice()).unwrap_or_default();
    let mut findings: Vec<Finding> = rules.iter().flat_map(one).collect();
    let problems = said.controller.iter().flat_map(|controller| &controller.problems);
    // Those of a policy are among its conditions.
    let told = |problem: &str| rules.iter().any(|rule| problem.contains(&name(rule)));
    findings.extend(problems.filter(|problem| !told(problem)).map(|problem| {
        let hint = "mend the object; until then it counts as what refuses more";
        Finding::error("policies", problem.clone(), hint)
    }));
    or_well(findings, "policies", "what is written is in force")
}

/// As in `AuthorizationPolicy shop/web`.
fn name(rule: &DynamicObject) -> String {
    let kind = rule.types.as_ref().map(|types| types.kind.as_str()).unwrap_or_default();
    let (namespace, name) = (rule.metadata.namespace.as_deref(), rule.metadata.name.as_deref());
    format!("{kind} {}/{}", namespace.unwrap_or_default(), name.unwrap_or_default())
}

fn one(rule: &DynamicObject) -> Vec<Finding> {
    let name = name(rule);
    let conditions = rule.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let told = |wanted: &str| conditions.iter().find(|condition| condition["type"] == wanted);
    let seen = |condition: &Value| condition["observedGeneration"].as_i64() == rule.metadata.generation;
    let Some(accepted) = told("Accepted").filter(|accepted| seen(accepted)) else {
        let hint = "no controller has judged this version yet: does one lead, and may it patch the status?";
        return vec![Finding::warning("policies", format!("{name} has no verdict"), hint)];
    };
    let text = |condition: &Value| condition["message"].as_str().unwrap_or_default().to_owned();
    let of = |wanted: &str, status: &str| told(wanted).filter(|one| seen(one) && one["status"] == status);
    let mut findings = Vec::new();
    if accepted["status"] == "False" {
        let hint = "it cannot be honoured and counts as what refuses: mend what the message names";
        findings.push(Finding::error("policies", format!("{name} is not accepted: {}", text(accepted)), hint));
    }
    if let Some(part) = of("PartiallyInvalid", "True") {
        let hint = "what is named counts as what refuses more; the rest is in force";
        findings.push(Finding::warning("policies", format!("{name} is partially invalid: {}", text(part)), hint));
    }
    if let Some(conflict) = of("Conflicted", "True") {
        let hint = "delete one of the two, or give one a selector";
        findings.push(Finding::warning("policies", format!("{name} {}", text(conflict)), hint));
    }
    if let Some(programmed) = of("Programmed", "False") {
        let hint = "on other nodes the version before is in force: see what is said of their agents";
        findings.push(Finding::warning("policies", format!("{name} is in force {} only", text(programmed)), hint));
    }
    findings
}
