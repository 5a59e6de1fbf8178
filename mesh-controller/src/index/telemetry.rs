//! How pods are seen: for each the mesh's own settings, then the Telemetry of the root namespace, of the pod's own
//! namespace, and the one that selects it. Of two as wide as each other the older one holds. `compose` says how they
//! are put together.
//!
//! Each pod is asked for by one of its labels and its services, never each object for each pod: it is done at every
//! publication. What pods have in common is put together once, and shared.

mod compose;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use mesh_common::model::{Mode, telemetry};

use super::{Objects, Read, World, draft::Draft};
use crate::{
    source::{Key, Object},
    status::{Extent, Fault, Problem},
    translate::{
        Labels,
        mesh_config::{MeshConfig, Provider, Providers},
        selects,
        telemetry::{Named, Purpose, Telemetry, Workloads, annotated::Said},
    },
};
use compose::compose;

/// Objects of one namespace that are looked at, the oldest ones: each is asked for each pod whose label it wants.
const MOST: usize = 500;

/// By one of the labels that are wanted, with all of them.
type Labelled<'a> = HashMap<(&'a str, &'a str), Vec<(&'a Labels, usize)>>;

/// What may be about pods of one namespace.
#[derive(Default)]
struct Scope<'a> {
    /// The one without selector and targets.
    wide: Option<usize>,
    labelled: Labelled<'a>,
    /// By namespace and host name of a service.
    serving: HashMap<(&'a str, &'a str), Vec<usize>>,
    count: usize,
}

/// Everything that is said, in an order: the oldest first.
struct All<'a> {
    sorted: Vec<&'a Read<'a, Telemetry>>,
    scopes: HashMap<&'a str, Scope<'a>>,
    /// Of the root namespace.
    root: Option<usize>,
    mesh: Option<&'a MeshConfig>,
    mesh_object: Option<&'a Object>,
}

/// What all pods are told the same of for which these are the same.
type Alike<'a> = (&'a str, Option<usize>, Said);

/// Fills what is told of the pods that have an agent. To be called when the pods' services are known.
pub fn settle(
    drafts: &mut BTreeMap<&str, Draft<'_>>,
    objects: &Objects<'_>,
    world: &World,
    problems: &mut Vec<Problem>,
) {
    let mesh = mesh(&objects.mesh_configs, problems);
    let all = All::new(&objects.telemetries, mesh, problems);
    all.check_names(problems);
    all.check_targets(world, problems);
    let mut settled: HashMap<Alike<'_>, Arc<telemetry::Telemetry>> = HashMap::new();
    // By the place of the object that does not hold: how often, and the one that does.
    let mut beaten: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for draft in drafts.values_mut() {
        let pod = draft.pod;
        let said = pod.said.or(objects.said.get(pod.namespace.as_str()).copied().unwrap_or_default());
        let (own, others) = all.selecting(draft);
        for other in others {
            beaten.entry(other).or_insert((0, own.unwrap_or_default())).0 += 1;
        }
        let is_unsaid = own.is_none() && said == Said::default() && all.is_silent(&pod.namespace);
        let Some(local) = draft.local.as_mut().filter(|local| local.mode != Mode::None && !is_unsaid) else { continue };
        let told = settled.entry((pod.namespace.as_str(), own, said)).or_insert_with(|| {
            let layers: Vec<&Telemetry> = all.layers(&pod.namespace, own).collect();
            Arc::new(compose(all.mesh, &layers, said))
        });
        local.telemetry = Arc::clone(told);
    }
    problems.extend(beaten.into_iter().map(|(place, (pods, winner))| {
        let (object, winner) = (all.sorted[place].object, &all.sorted[winner].value.object);
        let (namespace, name) = (&winner.namespace, &winner.name);
        let why = format!("does not hold for {pods} of the pods that it selects: {namespace}/{name} is older");
        object.problem(Fault::new("", why).of_extent(Extent::Conflict))
    }));
}

/// The one that holds: the ConfigMap, or the oldest of the others.
fn mesh<'a>(configs: &'a [Read<'a, MeshConfig>], problems: &mut Vec<Problem>) -> Option<&'a Read<'a, MeshConfig>> {
    let holds = configs.iter().min_by_key(|read| (!read.value.is_map, read.value.created, &read.value.object))?;
    let others = configs.iter().filter(|other| !std::ptr::eq(*other, holds));
    problems.extend(others.map(|other| {
        let why = format!("is not applied: {} holds for the mesh", holds.value.object);
        other.object.problem(Fault::new("", why).of_extent(Extent::Conflict))
    }));
    Some(holds)
}

impl<'a> All<'a> {
    fn new(
        reads: &'a [Read<'a, Telemetry>],
        mesh: Option<&'a Read<'a, MeshConfig>>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut sorted: Vec<_> = reads.iter().collect();
        sorted.sort_by_key(|read| (read.value.created, &read.value.object));
        let mut scopes: HashMap<&'a str, Scope<'a>> = HashMap::new();
        let mut root = None;
        for (place, Read { object, value }) in sorted.iter().enumerate() {
            let value: &'a Telemetry = value;
            let scope = scopes.entry(&value.object.namespace).or_default();
            if scope.count == MOST {
                let why = format!("its namespace has {MOST} older ones, which are the most: this one holds for nobody");
                let fault = Fault::new("metadata.namespace", why).of_extent(Extent::Whole);
                problems.push(object.problem(fault));
                continue;
            }
            scope.count += 1;
            match &value.workloads {
                Workloads::Nobody => {}
                Workloads::All => {
                    if let Some(older) = scope.wide {
                        let Key { namespace, name, .. } = &sorted[older].value.object;
                        let why = format!("is not applied: {namespace}/{name} is older and holds for the same");
                        problems.push(object.problem(Fault::new("", why).of_extent(Extent::Conflict)));
                    } else {
                        scope.wide = Some(place);
                        root = root.or(value.is_root.then_some(place));
                    }
                }
                Workloads::Labelled(labels) => {
                    if let Some((key, value)) = labels.iter().next() {
                        scope.labelled.entry((key, value)).or_default().push((labels, place));
                    }
                }
                Workloads::Of(services) => {
                    for (_, name) in services {
                        scope.serving.entry((&name.namespace, &name.hostname)).or_default().push(place);
                    }
                }
            }
        }
        let (mesh, mesh_object) = mesh.map(|read| (read.value, read.object)).unzip();
        Self { sorted, scopes, root, mesh, mesh_object }
    }

    /// The object that selects this pod, and younger ones that do.
    fn selecting(&self, draft: &Draft<'_>) -> (Option<usize>, Vec<usize>) {
        let Some(scope) = self.scopes.get(draft.pod.namespace.as_str()) else { return (None, Vec::new()) };
        let labels = &draft.pod.labels;
        let mut found = Vec::new();
        if !scope.labelled.is_empty() {
            let candidates =
                labels.iter().filter_map(|(key, value)| scope.labelled.get(&(key.as_str(), value.as_str())));
            found.extend(candidates.flatten().filter(|(wanted, _)| selects(wanted, labels)).map(|(_, place)| *place));
        }
        if !scope.serving.is_empty() {
            // Ready or not: connections to its address reach it all the same.
            let services = draft.belongs.iter().map(|(service, _)| &service.service);
            let names = services.map(|service| (service.namespace.as_str(), service.hostname.as_str()));
            found.extend(names.filter_map(|name| scope.serving.get(&name)).flatten());
        }
        found.sort_unstable();
        found.dedup();
        let mut found = found.into_iter();
        (found.next(), found.collect())
    }

    /// Nobody says anything of the pods of this namespace that nothing selects.
    fn is_silent(&self, namespace: &str) -> bool {
        self.mesh.is_none()
            && self.root.is_none()
            && self.scopes.get(namespace).is_none_or(|scope| scope.wide.is_none())
    }

    /// What holds for a pod, the widest first.
    fn layers(&self, namespace: &str, own: Option<usize>) -> impl Iterator<Item = &'a Telemetry> {
        let wide = self.scopes.get(namespace).and_then(|scope| scope.wide).filter(|wide| Some(*wide) != self.root);
        [self.root, wide, own].into_iter().flatten().map(|place| self.sorted[place].value)
    }

    /// Providers that nobody defines, or that take something else.
    fn check_names(&self, problems: &mut Vec<Problem>) {
        let known = Providers::default();
        let known = self.mesh.map_or(&known, |mesh| &mesh.providers);
        for Read { object, value } in &self.sorted {
            let faults = value.named.iter().filter_map(|named| fault(known, named));
            problems.extend(faults.map(|fault| object.problem(fault)));
        }
        let Some(mesh) = self.mesh else { return };
        let lists =
            [(&mesh.tracing, Purpose::Tracing), (&mesh.logging, Purpose::Logging), (&mesh.metrics, Purpose::Metrics)];
        let named = lists.into_iter().flat_map(|(list, purpose)| {
            list.iter().map(move |(name, field)| Named { name: name.clone(), field: field.clone(), purpose })
        });
        let faults: Vec<_> = named.filter_map(|named| fault(known, &named)).collect();
        if let Some(object) = self.mesh_object {
            problems.extend(faults.into_iter().map(|fault| object.problem(fault)));
        }
    }

    fn check_targets(&self, world: &World, problems: &mut Vec<Problem>) {
        for Read { object, value } in &self.sorted {
            let Workloads::Of(services) = &value.workloads else { continue };
            let missing = services.iter().filter(|(_, name)| !world.services.contains_key(name));
            let extent = if missing.clone().count() == services.len() { Extent::Whole } else { Extent::Part };
            problems.extend(missing.map(|(field, name)| {
                let why = format!("no such Service ({}); the object holds for nobody of it", name.hostname);
                object.problem(Fault::new(field.as_str(), why).of_extent(extent))
            }));
        }
    }
}

/// What is wrong with a provider's name.
fn fault(known: &Providers, Named { name, field, purpose }: &Named) -> Option<Fault> {
    let name: String = name.chars().take(64).collect();
    let takes = match (known.get(&name), purpose) {
        (None, _) => {
            let why = format!("no provider `{name}` is defined (meshConfig.extensionProviders); it is not honoured");
            return Some(Fault::new(format!("{field}.name"), why));
        }
        (Some(Provider::Refused(_)), _) => "nothing: its definition is refused",
        (Some(Provider::Own), Purpose::Tracing | Purpose::Logging) => return None,
        (Some(Provider::Spans(_)), Purpose::Tracing) => return None,
        (Some(Provider::Lines(_) | Provider::File), Purpose::Logging) => return None,
        (Some(Provider::Prometheus), Purpose::Metrics) => return None,
        (Some(Provider::Spans(_)), _) => "spans only",
        (Some(Provider::Lines(_) | Provider::File), _) => "access logs only",
        (Some(Provider::Prometheus), _) => "metrics only",
        (Some(Provider::Own), Purpose::Metrics) => "spans and access logs only; metrics are read by Prometheus",
    };
    Some(Fault::new(field.as_str(), format!("provider `{name}` takes {takes}; it is not honoured")))
}

#[cfg(test)]
mod tests;
