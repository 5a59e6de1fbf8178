//! Rules of traffic, from the objects into the state of the mesh.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_common::model::{ServiceName, Workload};

use super::{
    Assembled, Services, assemble,
    gateway::{Gathered, Known, gather},
    policies,
};
use crate::{
    index::{Objects, World, draft::Draft, entries::Joined},
    status::Problem,
    translate::Settings,
};

/// Fills [`World::traffic`], and gives workloads the labels that rules ask for: also those of entries, which are
/// returned.
pub(in crate::index) fn tell(
    settings: &Settings,
    world: &mut World,
    drafts: &mut BTreeMap<&str, Draft<'_>>,
    objects: &Objects<'_>,
    entries: Joined<'_>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Arc<Workload>> {
    let facts = objects.services.iter().map(|read| (read.value.service.service_name(), read.value.facts()));
    let Joined { facts: of_entries, workloads, places } = entries;
    let services = Services::new(settings, facts.chain(of_entries).collect());
    let mut known = Known::new(
        objects.services.iter().map(|read| read.value),
        objects.reference_grants.iter().map(|read| read.value),
    );
    let mut ports: BTreeMap<(ServiceName, String), u16> = BTreeMap::new();
    if !objects.backend_tls_policies.is_empty() {
        for read in &objects.services {
            let name = read.value.service.service_name();
            ports.extend(read.value.ports.iter().map(|port| ((name.clone(), port.name.clone()), port.port)));
        }
        for place in places.iter().flat_map(|(_, places)| places) {
            ports.extend(place.ports.iter().map(|(port, (name, _))| ((place.name.clone(), name.clone()), *port)));
        }
    }
    for (entry, places) in places {
        known.add_entry(&entry.namespace, &entry.name, places);
    }
    let routes: Vec<_> = objects.routes.iter().map(|read| read.value).collect();
    let Gathered { routes: gateway, faults: of_routes, parents } = gather(&known, &routes);
    let rules: Vec<_> = objects.destination_rules.iter().map(|read| read.value).collect();
    let tls: Vec<_> = objects.backend_tls_policies.iter().map(|read| read.value).collect();
    let port = |service: &ServiceName, name: &str| ports.get(&(service.clone(), name.to_owned())).copied();
    let (policies, of_policies) = policies(settings, &services, &rules, &tls, port);
    let ruled: Vec<_> = objects.virtual_services.iter().filter_map(|read| read.value.ruled.as_ref()).collect();
    let Assembled { traffic, faults } = assemble(settings, &services, &gateway, &ruled, policies);
    let written = objects.virtual_services.iter().map(|read| read.object);
    let written = written.chain(objects.destination_rules.iter().map(|read| read.object));
    let written = written.chain(objects.routes.iter().map(|read| read.object));
    let written = written.chain(objects.backend_tls_policies.iter().map(|read| read.object));
    let by_key: BTreeMap<_, _> = written.map(|object| (object.key(), object)).collect();
    let faults = faults.into_iter().chain(of_routes).chain(of_policies);
    problems.extend(faults.filter_map(|(key, fault)| Some(by_key.get(&key)?.problem(fault))));
    let keys: BTreeSet<&str> = traffic.values().flat_map(|traffic| traffic.label_keys()).collect();
    if !keys.is_empty() {
        for draft in drafts.values_mut() {
            let labels = draft.pod.labels.iter().filter(|(key, _)| keys.contains(key.as_str()));
            draft.labels = labels.map(|(key, value)| (key.clone(), value.clone())).collect();
        }
    }
    let outside = workloads.into_iter().map(|(uid, mut workload)| {
        workload.labels.retain(|key, _| keys.contains(key.as_str()));
        (uid, Arc::new(workload))
    });
    let outside = outside.collect();
    world.traffic = traffic;
    world.route_parents = parents;
    outside
}
