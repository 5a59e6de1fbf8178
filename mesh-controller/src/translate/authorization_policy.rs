//! `AuthorizationPolicy` -> an L4 policy. Nothing here may widen access:
//!
//! - A policy that cannot be honoured (a field that is unknown or has no meaning, CUSTOM, `targetRefs`) is
//!   served in a form that refuses: ALLOW without rules, or DENY for everybody. An action that is not known counts as
//!   DENY, a selector that cannot be read as none.
//! - AUDIT refuses nobody, as in Istio.
//! - An ALLOW rule with HTTP conditions never matches. It keeps its place, so that a rule's number is that of the YAML.
//! - A DENY rule loses its HTTP conditions; one with nothing left refuses everybody.
//!
//! Each of these is reported with its field.

mod conditions;
mod rules;
mod spec;

use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mesh_common::model::{Action, Clause, Match, Policy, PolicyName, Rule, Scope};

use super::{Labels, Selector, Settings};
use crate::{
    source::Custom,
    status::{Extent, Fault, read},
};
use rules::Context;
use spec::Spec;

const DRY_RUN: &str = "istio.io/dry-run";

/// A policy, and whom it selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    pub policy: Arc<Policy>,
    /// `None`: all of its namespace, or of the mesh in the root namespace. With labels it selects in its own
    /// namespace, or in every namespace from the root namespace.
    pub selector: Option<Labels>,
}

/// Translates one object; what is not honoured as written is added to `faults`.
pub fn authorization_policy(settings: &Settings, object: &Custom, faults: &mut Vec<Fault>) -> AuthorizationPolicy {
    let Custom { metadata, spec, fault } = object;
    let name = PolicyName {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    };
    let dry_run = match metadata.annotations.as_ref().and_then(|a| a.get(DRY_RUN)).map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let field = format!("metadata.annotations[{DRY_RUN}]");
            faults.push(Fault::new(field, format_args!("`{other}` is neither true nor false; the policy is enforced")));
            false
        }
    };

    let mut errors: Vec<Fault> = fault.iter().cloned().collect();
    let parsed: Spec = match spec {
        serde_json::Value::Null => Spec::default(),
        spec => read(spec.clone()).unwrap_or_else(|fault: Fault| {
            errors.push(fault.within("spec"));
            Spec { selector: lenient(spec, "selector"), action: lenient(spec, "action"), ..Spec::default() }
        }),
    };
    let Spec { selector, target_ref, target_refs, action, provider, rules } = parsed;
    for (field, given) in [
        ("targetRef", target_ref.is_some()),
        ("targetRefs", target_refs.is_some_and(|list| !list.is_empty())),
        ("provider", provider.is_some()),
    ] {
        if given {
            errors.push(Fault::new(format!("spec.{field}"), "is not supported yet"));
        }
    }
    let action = match action.as_deref() {
        None | Some("ALLOW") => Action::Allow,
        Some("DENY") => Action::Deny,
        Some("AUDIT") => Action::Audit,
        Some("CUSTOM") => {
            errors.push(Fault::new("spec.action", "CUSTOM is not supported yet"));
            Action::Deny
        }
        Some(other) => {
            errors.push(Fault::new("spec.action", format_args!("`{other}` is none of ALLOW, DENY, AUDIT")));
            Action::Deny
        }
    };
    let mut context = Context { settings, namespace: &name.namespace, action, errors, notes: Vec::new() };
    let mut rules: Vec<Rule> =
        rules.unwrap_or_default().into_iter().enumerate().map(|(i, rule)| context.rule(i, rule)).collect();
    let Context { errors, notes, .. } = context;
    if errors.is_empty() {
        faults.extend(notes);
    } else {
        let (form, refuse) = match action {
            Action::Allow => ("it allows nothing", Vec::new()),
            Action::Deny => ("it denies everybody", vec![only(everybody())]),
            Action::Audit => ("it audits nothing", Vec::new()),
        };
        rules = refuse;
        faults.extend(errors.into_iter().map(|Fault { field, why, extent: _ }| Fault {
            field,
            extent: Extent::Whole,
            why: format!("{why}; the policy cannot be honoured, until that is mended {form}"),
        }));
    }
    let selector = selector.and_then(Selector::labels);
    let scope = match &selector {
        Some(_) => Scope::WorkloadSelector,
        None if name.namespace == settings.root_namespace => Scope::Global,
        None => Scope::Namespace,
    };
    // An AUDIT policy is none to begin with.
    let dry_run = dry_run && action != Action::Audit;
    AuthorizationPolicy { policy: Arc::new(Policy { name, scope, action, rules, dry_run }), selector }
}

/// What can still be read of a spec that as a whole cannot.
fn lenient<T: serde::de::DeserializeOwned>(spec: &serde_json::Value, field: &str) -> Option<T> {
    spec.get(field).cloned().and_then(|value| read(value).ok())
}

fn anywhere() -> Vec<IpNet> {
    vec![Ipv4Net::default().into(), Ipv6Net::default().into()]
}

/// Matches every connection, also for readers that skip a match without conditions.
fn everybody() -> Match {
    Match { source_ips: anywhere(), ..Match::default() }
}

fn only(m: Match) -> Rule {
    Rule { clauses: vec![Clause { matches: vec![m] }] }
}

#[cfg(test)]
mod tests;
