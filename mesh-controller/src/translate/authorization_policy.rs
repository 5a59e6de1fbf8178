//! `AuthorizationPolicy` -> a policy of the model, with all of its conditions. Nothing here may widen access:
//!
//! - A policy that cannot be honoured (a field that is unknown or has no meaning, CUSTOM) is served in a form that
//!   refuses: ALLOW without rules, or DENY for everybody. An action that is not known counts as DENY; where it is not
//!   clear whom it selects, it is its whole namespace.
//! - AUDIT refuses nobody, as in Istio.
//! - A rule keeps its place, so that its number is that of the YAML.
//! - Of a target that is not there, or in another namespace, nobody can say who its workloads are: it is left out.
//! - There are no gateways yet. What a waypoint would have refused, the agents of the workloads do that say that they
//!   use it; a policy for another gateway holds for nobody, and says so.
//!
//! Each of these is reported with its field. What can fit no request (a path that does not begin with `/`) is honoured
//! and noted.
//!
//! What conditions mean, where Istio leaves a choice:
//!
//! - Host names, names of headers and server names are compared in lower case, hosts and server names without the dot
//!   at their end. Methods, paths and values of headers are compared as they are.
//! - `*` alone asks for presence; one `*` at an end stands for anything. Elsewhere it is refused.
//! - `request.headers[host]` and `[:authority]` are the request's host, `[:method]` is its method: what HTTP/1 calls a
//!   header is none in HTTP/2.

mod conditions;
mod never;
mod rules;
mod spec;
mod targets;
mod when;

use std::sync::Arc;

use mesh_common::model::{Action, Clause, Match, Policy, PolicyName, Rule, Scope};

use super::{Labels, Selector, Settings};
use crate::{
    source::Custom,
    status::{Extent, Fault, read},
};
use rules::Context;
use spec::Spec;
pub use targets::{Kind as TargetKind, Target};

const DRY_RUN: &str = "istio.io/dry-run";
/// What is told of one policy: whoever mends so much looks again.
const TOLD: usize = 64;

/// A policy, and whom it selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    pub policy: Arc<Policy>,
    pub workloads: Workloads,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workloads {
    /// All of its namespace, or of the mesh in the root namespace: the policy's scope says it.
    All,
    /// Those of its own namespace, or of every namespace from the root namespace.
    Labelled(Labels),
    /// Those of its own namespace that one of these selects.
    Targets(Vec<Target>),
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
            let other = conditions::quoted(other);
            faults.push(Fault::new(field, format_args!("{other} is neither true nor false; the policy is enforced")));
            false
        }
    };

    let mut errors: Vec<Fault> = fault.iter().cloned().collect();
    let parsed: Spec = match spec {
        serde_json::Value::Null => Spec::default(),
        spec => read(spec.clone()).unwrap_or_else(|fault: Fault| {
            errors.push(fault.within("spec"));
            Spec {
                selector: lenient(spec, "selector"),
                target_ref: lenient(spec, "targetRef"),
                target_refs: lenient(spec, "targetRefs"),
                action: lenient(spec, "action"),
                ..Spec::default()
            }
        }),
    };
    let Spec { selector, target_ref, target_refs, action, provider, rules } = parsed;
    if provider.is_some() {
        errors.push(Fault::new("spec.provider", "is not supported yet"));
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
            let other = conditions::quoted(other);
            errors.push(Fault::new("spec.action", format_args!("{other} is none of ALLOW, DENY, AUDIT")));
            Action::Deny
        }
    };
    let workloads = match targets::targets(&name.namespace, selector.is_some(), target_ref, target_refs, faults) {
        Ok(Some(targets)) => Workloads::Targets(targets),
        Ok(None) => selector.and_then(Selector::labels).map_or(Workloads::All, Workloads::Labelled),
        Err(fault) => {
            errors.push(fault);
            Workloads::All
        }
    };
    let mut context = Context { settings, namespace: &name.namespace, action, errors, notes: Vec::new() };
    let mut rules: Vec<Rule> = context.rules(rules.unwrap_or_default());
    let Context { errors, notes, .. } = context;
    if errors.is_empty() {
        tell(faults, notes.into_iter().map(|note| note.of_extent(Extent::Note)).collect());
    } else {
        let (form, refuse) = match action {
            Action::Allow => ("it allows nothing", Vec::new()),
            Action::Deny => ("it denies everybody", vec![everybody()]),
            Action::Audit => ("it audits nothing", Vec::new()),
        };
        rules = refuse;
        let errors = errors.into_iter().map(|Fault { field, why, extent: _ }| Fault {
            field,
            extent: Extent::Whole,
            why: format!("{why}; the policy cannot be honoured, until that is mended {form}"),
        });
        tell(faults, errors.collect());
    }
    let scope = match &workloads {
        Workloads::Labelled(_) | Workloads::Targets(_) => Scope::WorkloadSelector,
        Workloads::All if name.namespace == settings.root_namespace => Scope::Global,
        Workloads::All => Scope::Namespace,
    };
    // An AUDIT policy is none to begin with.
    let dry_run = dry_run && action != Action::Audit;
    let policy = Policy { name, scope, action, rules, dry_run };
    AuthorizationPolicy { policy: Arc::new(policy), workloads }
}

fn tell(faults: &mut Vec<Fault>, mut found: Vec<Fault>) {
    let more = found.split_off(found.len().min(TOLD)).len();
    let rest = (more > 0).then(|| found.last().map(|last| last.extent)).flatten();
    faults.append(&mut found);
    faults.extend(rest.map(|extent| Fault::new("spec", format_args!("{more} more are not told")).of_extent(extent)));
}

/// What can still be read of a spec that as a whole cannot.
fn lenient<T: serde::de::DeserializeOwned>(spec: &serde_json::Value, field: &str) -> Option<T> {
    spec.get(field).cloned().filter(|value| !value.is_null()).and_then(|value| read(value).ok())
}

/// A rule that readers who skip a match without conditions understand too.
fn everybody() -> Rule {
    Rule { clauses: vec![Clause { matches: vec![Match::everybody()] }] }
}

#[cfg(test)]
mod tests;
