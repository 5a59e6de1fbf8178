//! `RateLimitPolicy` (`nodemesh.io/v1alpha1`, a kind of the mesh's own) -> how many requests workloads take.
//!
//! ```yaml
//! spec:
//!   selector: {matchLabels: {app: cart}}   # or targetRefs: [{kind: Service, name: cart}]; neither: all of the
//!   namespace ports: [8080]                          # of the workload; none: all
//!   local:                                 # counted by the agent of each workload's node
//!     total: {requests: 100, interval: 1s, burst: 200}
//!     identity: {requests: 10}
//!     overrides:
//!     - {requests: 50, clientRefs: [{kind: ServiceAccount, name: web}], identities: [cluster.local/ns/a/sa/b]}
//!   rules:                                 # the same for some requests, beside `local`
//!   - {name: search, ports: [8080], matches: [{path: {prefix: /search}, methods: [GET]}], local: {total: {requests:
//!     5}}}
//! ```
//!
//! A policy of the root namespace selects in every namespace. Without an interval it is a second, without a burst what
//! an interval has. A limit that cannot be read is left out and reported, and so is the whole rule whose condition
//! cannot be: it would refuse requests that nobody wanted limited. A policy whose selector cannot be read limits
//! nobody.

mod limits;
mod requests;

use mesh_common::model::{ServiceName, traffic::RateLimit};
use serde_json::Value;

use super::{Labels, Settings, created, fields::Fields, hosts, selects};
use crate::{
    names,
    source::{Custom, Key},
    status::{Extent, Fault},
};

const KIND: &str = "RateLimitPolicy";
pub const TARGETS: usize = 16;
pub const RULES: usize = 64;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitPolicy {
    pub object: Key,
    /// Seconds since 1970.
    pub created: i64,
    /// Of the mesh's root namespace: it selects in every namespace.
    pub is_root: bool,
    pub workloads: Workloads,
    pub limits: Vec<RateLimit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workloads {
    All,
    Labelled(Labels),
    /// Those that serve one of these.
    Serving(Vec<ServiceName>),
    Nobody,
}

/// What is not honoured as written is added to `faults`.
pub fn rate_limit_policy(settings: &Settings, object: &Custom, faults: &mut Vec<Fault>) -> RateLimitPolicy {
    let metadata = &object.metadata;
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let name = metadata.name.clone().unwrap_or_default();
    let object_key = Key { kind: KIND.to_owned(), namespace: namespace.clone(), name };
    let mut fields = Fields::of_spec(object, faults);
    let workloads = workloads(settings, &namespace, &mut fields);
    let mut limits = limits::of_all(settings, &object_key, &mut fields);
    let rules = fields.list("rules", RULES);
    if limits.is_none() && rules.is_empty() {
        fields.report("local", "is missing, and there are no rules; nothing is limited");
    }
    fields.end();
    let rules =
        rules.into_iter().filter_map(|(path, value)| limits::of_rule(settings, &object_key, path, value, faults));
    let limits = limits.take().into_iter().chain(rules).collect();
    let is_root = namespace == settings.root_namespace;
    RateLimitPolicy { object: object_key, created: created(metadata), is_root, workloads, limits }
}

fn workloads(settings: &Settings, namespace: &str, fields: &mut Fields<'_>) -> Workloads {
    let has_targets = fields.has("targetRefs");
    let targets = fields.list("targetRefs", TARGETS);
    let before = fields.said();
    if let Some(mut selector) = fields.within("selector") {
        let labels = selector.labels("matchLabels");
        let known = selector.is_known(&[]) && selector.said() == before;
        selector.end();
        return match labels {
            _ if has_targets => nobody(fields, "targetRefs", "stands beside `selector`, only one of them may"),
            Ok(labels) if known && labels.is_empty() => Workloads::All,
            Ok(labels) if known => Workloads::Labelled(labels),
            _ => nobody(fields, "selector", "cannot be read"),
        };
    }
    if !has_targets {
        return Workloads::All;
    }
    let mut services = Vec::new();
    let mut said = Vec::new();
    for (path, value) in targets {
        services.extend(target(settings, namespace, path, value, &mut said));
    }
    fields.add(said);
    if services.is_empty() {
        return nobody(fields, "targetRefs", "has no target that can be read");
    }
    Workloads::Serving(services)
}

fn nobody(fields: &mut Fields<'_>, name: &str, why: &str) -> Workloads {
    let field = fields.path(name);
    let fault = Fault::new(field, format_args!("{why}; the policy limits nobody"));
    fields.add([fault.of_extent(Extent::Whole)]);
    Workloads::Nobody
}

fn target(
    settings: &Settings,
    namespace: &str,
    path: String,
    value: Value,
    faults: &mut Vec<Fault>,
) -> Option<ServiceName> {
    let mut fields = Fields::new(path, value, faults);
    let (group, kind) = (fields.text("group"), fields.text("kind"));
    let name = fields.text("name").filter(|name| names::label(name).is_ok());
    if group.is_some() || kind.is_some_and(|kind| kind != "Service") {
        fields.report("kind", "only a Service of the core group may be the target; it is left out");
        fields.end();
        return None;
    }
    if name.is_none() {
        fields.report("name", "is not the name of a Service; it is left out");
    }
    fields.end();
    Some(hosts::service(settings, namespace, &name?))
}

impl RateLimitPolicy {
    /// Whether it limits a pod with these labels, which serves these services.
    pub fn selects<'s>(
        &self,
        namespace: &str,
        pod: &Labels,
        mut serves: impl Iterator<Item = &'s ServiceName>,
    ) -> bool {
        if !self.is_root && namespace != self.object.namespace {
            return false;
        }
        match &self.workloads {
            Workloads::All => true,
            Workloads::Labelled(labels) => selects(labels, pod),
            Workloads::Serving(services) => serves.any(|service| services.contains(service)),
            Workloads::Nobody => false,
        }
    }
}

#[cfg(test)]
mod tests;
