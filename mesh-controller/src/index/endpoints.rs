//! Which workloads serve which services: membership is what EndpointSlices say, never guessed from selectors.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mesh_common::model::ServicePort;

use super::{Objects, Read, draft::Draft};
use crate::{
    status::{Fault, Problem},
    translate::{endpoint_slice::Health, pod::Pod, service::Service},
};

/// Fills [`Draft::services`]. A service without slices has no endpoints; an endpoint that is
/// not ready is none. One that ends and still answers is one as long as the service has no ready one.
pub fn connect(drafts: &mut BTreeMap<&str, Draft<'_>>, objects: &Objects<'_>, problems: &mut Vec<Problem>) {
    let pods: BTreeMap<(&str, &str), &Pod> = objects
        .pods
        .iter()
        .map(|read| ((read.value.namespace.as_str(), read.value.name.as_str()), read.value))
        .collect();
    let services: BTreeMap<(&str, &str), &Service> = objects
        .services
        .iter()
        .map(|read| ((read.value.service.namespace.as_str(), read.value.service.name.as_str()), read.value))
        .collect();
    // Kubernetes itself names the pod of each endpoint.
    let unnamed = objects.slices.iter().any(|slice| slice.value.endpoints.iter().any(|e| e.pod.is_none()));
    let by_address: BTreeMap<IpAddr, &String> = drafts
        .values()
        .filter(|draft| unnamed && !draft.pod.host_network)
        .flat_map(|draft| draft.addresses.iter().map(|ip| (*ip, &draft.pod.name)))
        .collect();

    let ready = objects.slices.iter().filter(|read| read.value.endpoints.iter().any(|e| e.health == Health::Ready));
    let ready: BTreeSet<_> = ready.map(|read| (read.value.namespace.as_str(), read.value.service.as_str())).collect();

    for Read { object, value: slice } in &objects.slices {
        let has_ready = ready.contains(&(slice.namespace.as_str(), slice.service.as_str()));
        let is_used = |health: Health| match health {
            Health::Ready => true,
            Health::Draining => !has_ready,
            Health::Unready => false,
        };
        // The slice of an ExternalName or of a service that is gone.
        let Some(service) = services.get(&(slice.namespace.as_str(), slice.service.as_str())) else { continue };
        for (i, endpoint) in slice.endpoints.iter().enumerate().filter(|(_, endpoint)| is_used(endpoint.health)) {
            let by_address = || endpoint.addresses.iter().find_map(|ip| by_address.get(ip).copied());
            let Some(name) = endpoint.pod.as_ref().or_else(by_address) else {
                let field = format!("endpoints[{i}]");
                problems.push(object.problem(Fault::new(field, "endpoints that are no pods are not supported yet")));
                continue;
            };
            // Slices lag behind pods: what names a pod that is gone, or an address that is not the pod's, is old.
            let Some(pod) = pods.get(&(slice.namespace.as_str(), name.as_str())) else { continue };
            let Some(draft) = drafts.get_mut(pod.uid.as_str()) else { continue };
            if !endpoint.addresses.iter().any(|ip| draft.addresses.contains(ip)) {
                continue;
            }
            let ports: BTreeSet<ServicePort> = service.ports_of(&slice.ports, pod).into_iter().collect();
            if ports.len() < service.ports.len() {
                let field = format!("endpoints[{i}]");
                let why = format!("pod {name} has no port for some ports of service {}", slice.service);
                problems.push(object.problem(Fault::new(field, why)));
            }
            // What the slice says of it has reasons that the pod does not know.
            draft.healthy |= service.publish_not_ready || endpoint.health == Health::Draining;
            // A dual-stack service has a slice for each address family, with the same ports.
            draft.services.entry(service.service.service_name()).or_default().extend(ports);
        }
    }
}
