//! Rules of traffic, from the objects into the state of the mesh.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::model::ServiceName;

use super::{
    Assembled, Services, assemble,
    gateway::{Gathered, Known, gather},
    policies,
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
    let known = Known::new(
        objects.services.iter().map(|read| read.value),
        objects.reference_grants.iter().map(|read| read.value),
    );
    let routes: Vec<_> = objects.routes.iter().map(|read| read.value).collect();
    let Gathered { routes: gateway, faults: of_routes, parents } = gather(&known, &routes);
    let rules: Vec<_> = objects.destination_rules.iter().map(|read| read.value).collect();
    let tls: Vec<_> = objects.backend_tls_policies.iter().map(|read| read.value).collect();
    let port = |service: &ServiceName, name: &str| {
        let read = objects.services.iter().find(|read| read.value.service.service_name() == *service)?;
        read.value.ports.iter().find(|port| port.name == name).map(|port| port.port)
    };
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
    world.traffic = traffic;
    world.route_parents = parents;
}
