//! Rules of traffic, from the objects into the state of the mesh.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Assembled, Policies, Services, assemble,
    gateway::{Gathered, Known, gather},
};
use crate::{
    index::{Objects, World, draft::Draft},
    status::Problem,
    translate::Settings,
};

/// Fills [`World::traffic`], and gives workloads the labels that rules ask for.
pub(in crate::index) fn tell(
    settings: &Settings,
    world: &mut World,
    drafts: &mut BTreeMap<&str, Draft<'_>>,
    objects: &Objects<'_>,
    problems: &mut Vec<Problem>,
) {
    let facts = objects.services.iter().map(|read| (read.value.service.service_name(), read.value.facts()));
    let services = Services::new(settings, facts.collect());
    // Hosts of ServiceEntries are services as soon as they are in the state themselves.
    let known =
        Known::new(objects.services.iter().map(|read| read.value), objects.grants.iter().map(|read| read.value));
    let routes: Vec<_> = objects.routes.iter().map(|read| read.value).collect();
    let Gathered { routes, faults: route_faults, parents } = gather(&known, &routes);
    world.route_parents = parents;
    let ruled: Vec<_> = objects.virtual_services.iter().filter_map(|read| read.value.ruled.as_ref()).collect();
    let Assembled { traffic, faults } = assemble(settings, &services, &routes, &ruled, Policies::new());
    let objects_of = objects.virtual_services.iter().map(|read| read.object);
    let objects_of = objects_of.chain(objects.routes.iter().map(|read| read.object));
    let by_key: BTreeMap<_, _> = objects_of.map(|object| (object.key(), object)).collect();
    let faults = faults.into_iter().chain(route_faults);
    problems.extend(faults.filter_map(|(key, fault)| Some(by_key.get(&key)?.problem(fault))));
    let keys: BTreeSet<&str> = traffic.values().flat_map(|traffic| traffic.label_keys()).collect();
    if !keys.is_empty() {
        for draft in drafts.values_mut() {
            let labels = draft.pod.labels.iter().filter(|(key, _)| keys.contains(key.as_str()));
            draft.labels = labels.map(|(key, value)| (key.clone(), value.clone())).collect();
        }
    }
    world.traffic = traffic;
}
