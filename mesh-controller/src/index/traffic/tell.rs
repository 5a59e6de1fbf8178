//! Rules of traffic, from the objects into the state of the mesh. They are the same as before as long as nothing has
//! changed of which they are made: a pod that comes or goes costs nothing here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_common::model::{
    ServiceName, Workload,
    traffic::{Labels, Traffic},
};

use super::{
    Assembled, Services, assemble,
    gateway::{Gathered, Known, Place, gather},
    policies,
    seen::{asked as asked_to_see, seen},
};
use crate::{
    index::{Objects, World, cache::Translated, draft::Draft, entries::Joined},
    source::Key,
    status::{Problem, parents::ParentStatus},
    translate::{Settings, traffic::Facts},
};

/// What was told last, and of what it was made: of one [`Settings`].
#[derive(Debug, Default)]
pub struct Told {
    /// `None`: nothing was told yet.
    made_of: Option<Parts>,
    /// As rules say it.
    rules: BTreeMap<ServiceName, Arc<Traffic>>,
    /// Services that are seen, and the rules with that.
    seen: BTreeSet<ServiceName>,
    traffic: BTreeMap<ServiceName, Arc<Traffic>>,
    parents: BTreeMap<Key, Vec<ParentStatus>>,
    problems: Vec<Problem>,
    /// Labels that it asks for.
    keys: BTreeSet<String>,
    /// Workloads of entries.
    outside: BTreeMap<String, Arc<Workload>>,
}

/// All that rules are made of.
#[derive(Debug)]
struct Parts {
    /// In the order of their objects, of which each is another one after a change.
    translated: Vec<Arc<Translated>>,
    /// Of entries.
    facts: BTreeMap<ServiceName, Facts>,
    places: Vec<(Key, Vec<Place>)>,
}

/// Fills [`World::traffic`], and gives workloads the labels that rules ask for: also those of entries, which are
/// returned.
pub(in crate::index) fn tell(
    settings: &Settings,
    world: &mut World,
    drafts: &mut BTreeMap<&str, Draft<'_>>,
    objects: &Objects<'_>,
    entries: Joined,
    told: &mut Told,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Arc<Workload>> {
    let Joined { facts, workloads, places } = entries;
    let is_same = told.made_of.as_ref().is_some_and(|parts| parts.are(objects, &facts, &places));
    if !is_same {
        let translated = objects.traffic.iter().copied().cloned().collect();
        told.make(settings, objects, Parts { translated, facts, places });
    }
    let asked_for = asked_to_see(drafts, !objects.service_entries.is_empty());
    let is_known = |name: &ServiceName| asked_for.contains(&(name.namespace.as_str(), name.hostname.as_str()));
    if !(is_same && told.seen.len() == asked_for.len() && told.seen.iter().all(is_known)) {
        let name = |(namespace, hostname): (&str, &str)| ServiceName {
            namespace: namespace.to_owned(),
            hostname: hostname.to_owned(),
        };
        told.see(world, objects, asked_for.into_iter().map(name).collect());
    }
    let Told { made_of: _, rules: _, seen: _, traffic, parents, problems: said, keys, outside } = told;
    problems.extend_from_slice(said);
    if !keys.is_empty() {
        for draft in drafts.values_mut() {
            draft.labels = asked(keys, &draft.pod.labels);
        }
    }
    world.traffic.clone_from(traffic);
    world.route_parents.clone_from(parents);
    let workloads = workloads.into_iter().map(|(uid, workload)| {
        let labels = asked(keys, &workload.labels);
        let new = Workload { labels, ..workload };
        let before = outside.get(&uid).filter(|before| ***before == new).cloned();
        (uid, before.unwrap_or_else(|| Arc::new(new)))
    });
    *outside = workloads.collect();
    outside.clone()
}

fn asked(keys: &BTreeSet<String>, labels: &Labels) -> Labels {
    let labels = labels.iter().filter(|(key, _)| keys.contains(*key));
    labels.map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Parts {
    fn are(&self, objects: &Objects<'_>, facts: &BTreeMap<ServiceName, Facts>, places: &[(Key, Vec<Place>)]) -> bool {
        let Self { translated, facts: own, places: known } = self;
        translated.len() == objects.traffic.len()
            && translated.iter().zip(&objects.traffic).all(|(own, new)| Arc::ptr_eq(own, new))
            && own == facts
            && known == places
    }
}

impl Told {
    /// What is the same as before stays the same in memory: it is cheap to compare.
    fn make(&mut self, settings: &Settings, objects: &Objects<'_>, parts: Parts) {
        let facts = objects.services.iter().map(|read| (read.value.service.service_name(), read.value.facts()));
        let of_entries = parts.facts.iter().map(|(name, facts)| (name.clone(), facts.clone()));
        let services = Services::new(settings, facts.chain(of_entries).collect());
        let mut known = Known::new(
            objects.services.iter().map(|read| read.value),
            objects.reference_grants.iter().map(|read| read.value),
        );
        for (entry, places) in &parts.places {
            known.add_entry(&entry.namespace, &entry.name, places.clone());
        }
        let routes: Vec<_> = objects.routes.iter().map(|read| read.value).collect();
        let Gathered { routes: gateway, faults: of_routes, parents } = gather(&known, &routes);
        let rules: Vec<_> = objects.destination_rules.iter().map(|read| read.value).collect();
        let tls: Vec<_> = objects.backend_tls_policies.iter().map(|read| read.value).collect();
        let ports = if tls.is_empty() { BTreeMap::new() } else { ports(objects, &parts) };
        let port = |service: &ServiceName, name: &str| ports.get(service)?.get(name).copied();
        let (policies, of_policies) = policies(settings, &services, &rules, &tls, port);
        let ruled: Vec<_> = objects.virtual_services.iter().filter_map(|read| read.value.ruled.as_ref()).collect();
        let Assembled { mut traffic, faults } = assemble(settings, &services, &gateway, &ruled, policies);
        for (name, new) in &mut traffic {
            if let Some(before) = self.rules.get(name).filter(|before| **before == *new) {
                *new = before.clone();
            }
        }
        let written = objects.virtual_services.iter().map(|read| read.object);
        let written = written.chain(objects.destination_rules.iter().map(|read| read.object));
        let written = written.chain(objects.routes.iter().map(|read| read.object));
        let written = written.chain(objects.backend_tls_policies.iter().map(|read| read.object));
        let by_key: BTreeMap<_, _> = written.map(|object| (object.key(), object)).collect();
        let faults = faults.into_iter().chain(of_routes).chain(of_policies);
        let problems = faults.filter_map(|(key, fault)| Some(by_key.get(&key)?.problem(fault))).collect();
        let keys = traffic.values().flat_map(|traffic| traffic.label_keys()).map(ToOwned::to_owned).collect();
        let before = std::mem::take(self);
        *self = Self { made_of: Some(parts), rules: traffic, parents, problems, keys, ..before };
    }

    /// To be called when the rules are made.
    fn see(&mut self, world: &World, objects: &Objects<'_>, names: BTreeSet<ServiceName>) {
        let named = |name: &ServiceName| names.contains(name);
        let own = objects.services.iter().map(|read| (read.value.service.service_name(), read.value));
        let own = own.filter(|(name, _)| named(name)).map(|(name, service)| (name, service.facts()));
        let entries = self.made_of.iter().flat_map(|parts| &parts.facts).filter(|(name, _)| named(name));
        let facts = own.chain(entries.map(|(name, facts)| (name.clone(), facts.clone()))).collect();
        self.traffic = seen(&self.rules, &names, &facts, world, &self.traffic);
        self.seen = names;
    }
}

/// Numbers of ports by their names.
fn ports<'a>(objects: &'a Objects<'_>, parts: &'a Parts) -> BTreeMap<ServiceName, BTreeMap<&'a str, u16>> {
    let services = objects.services.iter().map(|read| {
        let ports = read.value.ports.iter().map(|port| (port.name.as_str(), port.port));
        (read.value.service.service_name(), ports.collect())
    });
    let entries = parts.places.iter().flat_map(|(_, places)| places).map(|place| {
        let ports = place.ports.iter().map(|(port, (name, _))| (name.as_str(), *port));
        (place.name.clone(), ports.collect())
    });
    services.chain(entries).collect()
}
