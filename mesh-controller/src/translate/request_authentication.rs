//! `RequestAuthentication` -> which tokens requests to workloads may bear. Nothing here may widen access:
//!
//! - Of a rule that cannot be read as written, nothing counts but whose tokens it is about and where they are: they are
//!   all refused. If its issuer cannot be read, so is every token in its places that no other rule is about.
//! - A selector that cannot be read counts as none: the rules hold for the whole namespace.
//! - `targetRefs` name Services. There are no gateways yet: the rules for a waypoint hold for the workloads that say
//!   that they use it, as those of an AuthorizationPolicy.
//!
//! `jwksUri` is fetched elsewhere (`jwks`). Of `jwks` and `jwksUri` the first counts, as in Istio. Where the keys are
//! is not asked of the issuer itself (OpenID Connect Discovery): one of the two must be there.

mod rule;

pub use rule::{is_uri, refusing};

use std::collections::BTreeSet;

use mesh_common::model::{
    Service, ServiceName,
    traffic::{MAX_TOKEN_RULES, Millis, TokenRule},
};
use serde_json::Value;

use super::{Labels, Selector, Settings, fields::Fields, hosts, pod::Pod, selects, waypoint};
use crate::{
    names,
    source::{Custom, Key},
    status::{Extent, Fault, read},
};

const KIND: &str = "RequestAuthentication";
const TARGETS: usize = 16;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestAuthentication {
    pub object: Key,
    /// Of the mesh's root namespace: it selects in every namespace.
    pub is_root: bool,
    pub workloads: Workloads,
    pub rules: Vec<Issued>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workloads {
    All,
    Labelled(Labels),
    /// Those of one of these; none: it is about something else.
    Targets(Vec<Target>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Service(ServiceName),
    /// A gateway of the object's namespace.
    Waypoint(String),
    EveryWaypoint,
}

/// A rule, and where its keys are if it does not have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Without keys if they are to be fetched, or if they cannot be read.
    pub rule: TokenRule,
    pub remote: Option<Remote>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// http or https.
    pub uri: String,
    /// How long fetching may take.
    pub timeout: Millis,
}

/// What is not honoured as written is added to `faults`.
pub fn request_authentication(settings: &Settings, object: &Custom, faults: &mut Vec<Fault>) -> RequestAuthentication {
    let metadata = &object.metadata;
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let name = metadata.name.clone().unwrap_or_default();
    let key = Key { kind: KIND.to_owned(), namespace: namespace.clone(), name };
    // An object without rules says nothing, and is none of the author's slips.
    let given = Custom {
        spec: if object.spec.is_null() { Value::Object(serde_json::Map::new()) } else { object.spec.clone() },
        ..object.clone()
    };
    let mut fields = Fields::of_spec(&given, faults);
    let workloads = workloads(settings, &namespace, &mut fields);
    let before = fields.said();
    let rules = fields.list("jwtRules", MAX_TOKEN_RULES);
    let unread = fields.said() > before;
    fields.end();
    let mut rules: Vec<_> = rules
        .into_iter()
        .enumerate()
        .map(|(number, (path, value))| rule::issued(&key, number, path, value, faults))
        .collect();
    if unread && rules.is_empty() {
        rules.push(rule::refusing(&key, "spec.jwtRules"));
    }
    let is_root = namespace == settings.root_namespace;
    RequestAuthentication { object: key, is_root, workloads, rules }
}

fn workloads(settings: &Settings, namespace: &str, fields: &mut Fields<'_>) -> Workloads {
    let selector = fields.value("selector");
    let (one, several) = (fields.value("targetRef"), fields.value("targetRefs"));
    let everywhere = |fields: &mut Fields<'_>, name: &str, why: String| {
        let fault = Fault::new(fields.path(name), format_args!("{why}; the rules hold for the whole namespace"));
        fields.add([fault]);
        Workloads::All
    };
    if let Some(selector) = selector {
        if one.is_some() || several.is_some() {
            return everywhere(fields, "targetRefs", "stands beside `selector`, only one of them may".into());
        }
        return match read::<Selector>(selector) {
            Ok(selector) => selector.labels().map_or(Workloads::All, Workloads::Labelled),
            Err(fault) => everywhere(fields, "selector", format!("cannot be read: {}", fault.why)),
        };
    }
    let targets = match (one, several) {
        (None, None) => return Workloads::All,
        (Some(one), None) => vec![(fields.path("targetRef"), one)],
        (None, Some(Value::Array(several))) if several.len() <= TARGETS => {
            let path = fields.path("targetRefs");
            several.into_iter().enumerate().map(|(i, value)| (format!("{path}[{i}]"), value)).collect()
        }
        _ => return everywhere(fields, "targetRefs", format!("is no list of at most {TARGETS} targets")),
    };
    if targets.is_empty() {
        return Workloads::All;
    }
    let mut said = Vec::new();
    let targets = targets.into_iter().map(|(path, value)| target(settings, namespace, path, value, &mut said));
    let targets: Result<Vec<_>, ()> = targets.collect();
    fields.add(said);
    match targets {
        Ok(targets) => Workloads::Targets(targets.into_iter().flatten().collect()),
        Err(()) => everywhere(fields, "targetRefs", "has a target that cannot be read".into()),
    }
}

/// `None`: a target that no agent sees to.
fn target(
    settings: &Settings,
    namespace: &str,
    path: String,
    value: Value,
    faults: &mut Vec<Fault>,
) -> Result<Option<Target>, ()> {
    let before = faults.len();
    let mut fields = Fields::new(path, value, faults);
    let (group, kind) = (fields.text("group"), fields.text("kind"));
    let (name, elsewhere) = (fields.text("name"), fields.text("namespace"));
    let kind = kind.as_deref().unwrap_or("Service");
    let is_gateway = group.as_deref() == Some(waypoint::GROUP) && matches!(kind, "Gateway" | "GatewayClass");
    if is_gateway && elsewhere.as_ref().is_none_or(|elsewhere| elsewhere == namespace) {
        let is_root = namespace == settings.root_namespace;
        let found = match (kind, name) {
            ("Gateway", Some(name)) => Some(Target::Waypoint(name)),
            ("GatewayClass", Some(name)) if is_root && name == waypoint::CLASS => Some(Target::EveryWaypoint),
            _ => None,
        };
        let whom = if found.is_some() { "those that use it as their waypoint" } else { "nobody" };
        let why = format!("there are no gateways here; the rules hold for {whom} (label {})", waypoint::USE);
        fields.report("kind", why);
        fields.end();
        return Ok(found);
    }
    let is_service = group.as_deref().is_none_or(|group| group == "core") && kind == "Service";
    if !is_service {
        fields.report("kind", "only a Service of the core group may be the target; agents see to no other");
        fields.end();
        return Ok(None);
    }
    if elsewhere.is_some_and(|elsewhere| elsewhere != namespace) {
        fields.report("namespace", "is another namespace than the object's");
    }
    let name = name.filter(|name| names::label(name).is_ok());
    if name.is_none() {
        fields.report("name", "is not the name of a Service");
    }
    fields.end();
    match name {
        Some(name) if faults.len() == before => Ok(Some(Target::Service(hosts::service(settings, namespace, &name)))),
        _ => Err(()),
    }
}

impl RequestAuthentication {
    /// Whether its rules hold for a pod, which is a workload of these services, and behind these waypoints.
    pub fn selects<'s>(
        &self,
        pod: &Pod,
        belongs: impl Iterator<Item = &'s Service> + Clone,
        waypoints: &BTreeSet<(String, String)>,
    ) -> bool {
        let own = &self.object.namespace;
        let is = |name: &ServiceName, service: &Service| {
            name.hostname == service.hostname && name.namespace == service.namespace
        };
        let is_target = |target: &Target| match target {
            // Of the object's own namespace.
            Target::Service(name) => belongs.clone().any(|service| is(name, service)),
            Target::Waypoint(name) => waypoints.iter().any(|(namespace, known)| namespace == own && known == name),
            Target::EveryWaypoint => !waypoints.is_empty(),
        };
        match &self.workloads {
            Workloads::Targets(targets) => targets.iter().any(is_target),
            _ if !self.is_root && pod.namespace != *own => false,
            Workloads::All => true,
            Workloads::Labelled(labels) => selects(labels, &pod.labels),
        }
    }
}

/// Says of a whole rule that its tokens are refused.
fn refused(field: &str, why: impl std::fmt::Display) -> Fault {
    Fault::new(field, format_args!("{why}; tokens of this issuer are refused")).of_extent(Extent::Part)
}

#[cfg(test)]
mod tests;
