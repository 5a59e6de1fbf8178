//! `Telemetry` -> what is traced, logged and counted of workloads, before it is put together with what wider objects
//! and the mesh's own settings say (`index::telemetry`, which also knows the providers that are named here).
//!
//! An entry that cannot be honoured is left out and reported, and the others of its list stay. A filter of lines that
//! is not understood takes its entry with it: no other lines are written for it than if it was not there. An object
//! whose selector or targets cannot be read holds for nobody.

pub mod annotated;
mod expression;
mod logging;
mod metrics;
mod spans;

pub use logging::Logging;
pub use metrics::Override;
pub use spans::Tracing;

use mesh_common::model::ServiceName;
use serde_json::{Map, Value};

use super::{Labels, Settings, created, fields::Fields, hosts};
use crate::{
    names,
    source::{Custom, Key},
    status::{Extent, Fault},
};

const KIND: &str = "Telemetry";
const TARGETS: usize = 16;
/// Entries of one list, and providers of one entry.
const ENTRIES: usize = 64;
const PROVIDERS: usize = 16;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    pub object: Key,
    /// Seconds since 1970.
    pub created: i64,
    /// Of the mesh's root namespace: one without selector and targets is about the whole mesh.
    pub is_root: bool,
    pub workloads: Workloads,
    /// The later ones beat the earlier ones.
    pub tracing: Vec<Tracing>,
    pub logging: Vec<Logging>,
    pub overrides: Vec<Override>,
    /// Every provider that is named.
    pub named: Vec<Named>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workloads {
    /// Of the namespace, or of the mesh.
    All,
    Labelled(Labels),
    /// Those of one of these services, ready or not; each with the field that names it.
    Of(Vec<(String, ServiceName)>),
    Nobody,
}

/// A provider, as an object names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    /// As in `spec.tracing[0].providers[0]`.
    pub field: String,
    pub purpose: Purpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Tracing,
    Logging,
    Metrics,
}

/// As which side of a request a workload is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sides {
    Client,
    Server,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

impl Sides {
    pub fn has(self, side: Side) -> bool {
        match self {
            Self::Both => true,
            Self::Client => side == Side::Client,
            Self::Server => side == Side::Server,
        }
    }
}

/// What is not honoured as written is added to `faults`.
pub fn telemetry(settings: &Settings, object: &Custom, faults: &mut Vec<Fault>) -> Telemetry {
    let metadata = &object.metadata;
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let name = metadata.name.clone().unwrap_or_default();
    let is_root = namespace == settings.root_namespace;
    // An object without a spec says nothing, and is none of the author's slips.
    let given = Custom {
        spec: if object.spec.is_null() { Value::Object(Map::new()) } else { object.spec.clone() },
        ..object.clone()
    };
    let mut fields = Fields::of_spec(&given, faults);
    let workloads = workloads(settings, &namespace, &mut fields);
    if is_root && matches!(workloads, Workloads::Labelled(_)) {
        fields.note("selector", "selects pods of this namespace only; without a selector it is about the whole mesh");
    }
    let lists = ["tracing", "accessLogging", "metrics"].map(|name| fields.list(name, ENTRIES));
    fields.end();
    let [tracing, logging, metrics] = lists;
    let mut named = Vec::new();
    let tracing = tracing.into_iter().filter_map(|(path, value)| spans::entry(path, value, &mut named, faults));
    let tracing = tracing.collect();
    let logging = logging.into_iter().filter_map(|(path, value)| logging::entry(path, value, &mut named, faults));
    let logging: Vec<_> = logging.collect();
    logging::check(&logging, faults);
    let overrides = metrics.into_iter().flat_map(|(path, value)| metrics::entry(path, value, &mut named, faults));
    let overrides = overrides.collect();
    let object = Key { kind: KIND.to_owned(), namespace, name };
    Telemetry { object, created: created(metadata), is_root, workloads, tracing, logging, overrides, named }
}

fn workloads(settings: &Settings, namespace: &str, fields: &mut Fields<'_>) -> Workloads {
    let one = fields.value("targetRef").map(|value| (fields.path("targetRef"), value));
    let has_targets = one.is_some() || fields.has("targetRefs");
    let before = fields.said();
    let mut targets = fields.list("targetRefs", TARGETS);
    let readable = fields.said() == before;
    targets.extend(one);
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
    if targets.is_empty() {
        return if readable { Workloads::All } else { Workloads::Nobody };
    }
    let mut said = Vec::new();
    let targets = targets.into_iter().filter_map(|(path, value)| target(settings, namespace, path, value, &mut said));
    let targets: Vec<_> = targets.collect();
    fields.add(said);
    if targets.is_empty() {
        return nobody(fields, "targetRefs", "has no target that agents see to");
    }
    Workloads::Of(targets)
}

fn nobody(fields: &mut Fields<'_>, name: &str, why: &str) -> Workloads {
    let fault = Fault::new(fields.path(name), format_args!("{why}; the object holds for nobody"));
    fields.add([fault.of_extent(Extent::Whole)]);
    Workloads::Nobody
}

fn target(
    settings: &Settings,
    namespace: &str,
    path: String,
    value: Value,
    faults: &mut Vec<Fault>,
) -> Option<(String, ServiceName)> {
    let mut fields = Fields::new(path.as_str(), value, faults);
    let before = fields.said();
    let (group, kind) = (fields.text("group"), fields.text("kind"));
    let (name, elsewhere) = (fields.text("name"), fields.text("namespace"));
    let kind = kind.as_deref().unwrap_or("Service");
    if matches!(kind, "Gateway" | "GatewayClass") {
        fields.report("kind", "there are no gateways here; the target is left out");
    } else if kind != "Service" || group.is_some_and(|group| group != "core") {
        fields.report("kind", "only a Service of the core group may be the target; it is left out");
    }
    if elsewhere.is_some_and(|elsewhere| elsewhere != namespace) {
        fields.report("namespace", "is another namespace than the object's; the target is left out");
    }
    let name = name.filter(|name| names::label(name).is_ok());
    if name.is_none() {
        fields.report("name", "is not the name of a Service; the target is left out");
    }
    let readable = fields.said() == before;
    fields.end();
    Some((path, hosts::service(settings, namespace, &name?))).filter(|_| readable)
}

/// `match.mode`. `None`: it cannot be read, and what it is about is left out.
fn sides(fields: &mut Fields<'_>) -> Option<Sides> {
    let Some(mut matched) = fields.within("match") else { return Some(Sides::Both) };
    let sides = mode(&mut matched);
    matched.end();
    sides
}

fn mode(matched: &mut Fields<'_>) -> Option<Sides> {
    match matched.value("mode") {
        None => Some(Sides::Both),
        Some(Value::String(mode)) if mode == "CLIENT_AND_SERVER" => Some(Sides::Both),
        Some(Value::String(mode)) if mode == "CLIENT" => Some(Sides::Client),
        Some(Value::String(mode)) if mode == "SERVER" => Some(Sides::Server),
        Some(_) => {
            matched.report("mode", "is none of CLIENT_AND_SERVER, CLIENT, SERVER; what it is about is left out");
            None
        }
    }
}

/// `providers`.
fn providers(fields: &mut Fields<'_>, purpose: Purpose, named: &mut Vec<Named>) -> Vec<Named> {
    let mut said = Vec::new();
    let list = fields.list("providers", PROVIDERS).into_iter().filter_map(|(path, value)| {
        let mut provider = Fields::new(path.as_str(), value, &mut said);
        let name = provider.text("name");
        if name.is_none() {
            provider.report("name", "is missing; the provider is left out");
        }
        provider.end();
        Some(Named { name: name?, field: path, purpose })
    });
    let list: Vec<_> = list.collect();
    fields.add(said);
    named.extend(list.iter().cloned());
    list
}

#[cfg(test)]
mod tests;
