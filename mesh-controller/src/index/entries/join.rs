//! ServiceEntries into the state of the mesh: their services beside those of Kubernetes, and what pods serve besides.

use std::collections::BTreeMap;

use mesh_common::model::{ServiceName, Workload};

use super::{Entries, entries};
use crate::{
    index::{Objects, Read, World, draft::Draft, traffic::gateway::Place},
    source::Key,
    status::Problem,
    translate::{Settings, traffic::Facts},
};

/// What is told of entries once the rules of traffic are known.
#[derive(Debug, Default)]
pub struct Joined {
    pub facts: BTreeMap<ServiceName, Facts>,
    /// With all their labels, by uid.
    pub workloads: BTreeMap<String, Workload>,
    /// What routes see of each entry, in order.
    pub places: Vec<(Key, Vec<Place>)>,
}

/// Fills [`World::services`] and [`Draft::services`].
pub(in crate::index) fn join(
    settings: &Settings,
    world: &mut World,
    drafts: &mut BTreeMap<&str, Draft<'_>>,
    objects: &Objects<'_>,
    problems: &mut Vec<Problem>,
) -> Joined {
    if objects.service_entries.is_empty() {
        return Joined::default();
    }
    let all: Vec<_> = objects.service_entries.iter().map(|read| read.value).collect();
    let known: Vec<_> = objects.pods.iter().map(|read| read.value).collect();
    let nodes = objects.node_addresses.iter().map(|(ip, node)| (*ip, format!("Node {node}")));
    let outside = objects.services.iter().flat_map(|Read { object, value }| {
        let key = object.key().to_string();
        value.outside.iter().map(move |ip| (*ip, key.clone()))
    });
    let found = entries(settings, &all, &known, &world.services, nodes.chain(outside));
    let Entries { services, facts, workloads, pods, faults } = found;
    let by_key: BTreeMap<&Key, _> = objects.service_entries.iter().map(|r| (&r.value.object, r.object)).collect();
    problems.extend(faults.into_iter().filter_map(|(key, fault)| Some(by_key.get(&key)?.problem(fault))));
    let mut by_entry: BTreeMap<(&str, &str), Vec<Place>> = BTreeMap::new();
    for entry in &all {
        by_entry.insert((&entry.object.namespace, &entry.object.name), Vec::new());
    }
    for (name, service) in &services {
        let entry = (service.namespace.as_str(), service.name.as_str());
        if let (Some(places), Some(facts)) = (by_entry.get_mut(&entry), facts.get(name)) {
            places.push(Place {
                name: name.clone(),
                ports: BTreeMap::new(),
                is_dialled: !service.addresses.is_empty(),
                exported: facts.exported.clone(),
            });
        }
    }
    let places = all.iter().map(|entry| {
        let mut places = by_entry.remove(&(&entry.object.namespace, &entry.object.name)).unwrap_or_default();
        for place in &mut places {
            place.ports = entry.ports.iter().map(|port| (port.port, (port.name.clone(), port.protocol))).collect();
        }
        (entry.object.clone(), places)
    });
    let places = places.collect();
    world.services.extend(services);
    for (uid, serves) in pods {
        let Some(draft) = drafts.get_mut(uid.as_str()) else { continue };
        for (name, ports) in serves {
            draft.services.entry(name).or_default().extend(ports);
        }
    }
    Joined { facts, workloads, places }
}
