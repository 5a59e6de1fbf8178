//! Which workloads serve which services: that is what EndpointSlices say, never guessed from selectors. And which
//! belong to which, ready or not, as what holds for the workloads of a service must.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use mesh_common::model::ServicePort;

use super::{Objects, Read, draft::Draft};
use crate::{
    status::{Fault, Problem},
    translate::{endpoint_slice::Health, pod::Pod, selects, service::Service, waypoint::Waypoint},
};

/// Fills [`Draft::services`], [`Draft::belongs`] and [`Draft::waypoints`]. A service without slices has no endpoints;
/// an endpoint that is not ready is none. One that ends and still answers is one as long as the service has no ready
/// one.
pub fn connect<'a>(drafts: &mut BTreeMap<&'a str, Draft<'a>>, objects: &Objects<'a>, problems: &mut Vec<Problem>) {
    let pods: BTreeMap<(&str, &str), &Pod> = objects
        .pods
        .iter()
        .map(|read| ((read.value.namespace.as_str(), read.value.name.as_str()), read.value))
        .collect();
    let services: BTreeMap<(&str, &str), &'a Service> = objects
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
        for (i, endpoint) in slice.endpoints.iter().enumerate() {
            let is_used = is_used(endpoint.health);
            let mut report = |why: &dyn std::fmt::Display| {
                let fault = Fault::new(format!("endpoints[{i}]"), why);
                problems.extend(is_used.then(|| object.problem(fault)));
            };
            let by_address = || endpoint.addresses.iter().find_map(|ip| by_address.get(ip).copied());
            let Some(name) = endpoint.pod.as_ref().or_else(by_address) else {
                report(&"endpoints that are no pods are not supported yet");
                continue;
            };
            // Slices lag behind pods: what names a pod that is gone, or an address that is not the pod's, is old.
            let Some(pod) = pods.get(&(slice.namespace.as_str(), name.as_str())) else { continue };
            let Some(draft) = drafts.get_mut(pod.uid.as_str()) else { continue };
            if !endpoint.addresses.iter().any(|ip| draft.addresses.contains(ip)) {
                continue;
            }
            let ports: BTreeSet<ServicePort> = service.ports_of(&slice.ports, pod).into_iter().collect();
            draft.belongs_to(service, ports.iter().copied());
            if !is_used {
                continue;
            }
            if ports.len() < service.ports.len() {
                report(&format_args!("pod {name} has no port for some ports of service {}", slice.service));
            }
            // What the slice says of it has reasons that the pod does not know.
            draft.healthy |= service.publish_not_ready || endpoint.health == Health::Draining;
            // A dual-stack service has a slice for each address family, with the same ports.
            draft.services.entry(service.service.service_name()).or_default().extend(ports);
        }
    }
    select(drafts, services.into_values());
    for draft in drafts.values_mut() {
        let namespace = draft.pod.namespace.as_str();
        let all = Waypoint::of(objects.namespaces.get(namespace).copied());
        let pod = Waypoint::of(Some(&draft.pod.labels));
        let said = draft.belongs.iter().map(|(service, _)| &service.waypoint).chain([&pod]);
        let used = said.filter_map(|said| said.or(&all, namespace));
        draft.waypoints = used.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())).collect();
    }
}

/// A pod that a service selects is its workload before slices say so, and when they no longer do: connections to its
/// address reach it all the same.
fn select<'a>(drafts: &mut BTreeMap<&'a str, Draft<'a>>, services: impl Iterator<Item = &'a Service>) {
    // By namespace and one of the wanted labels: not each service is asked for each pod.
    let mut selecting: HashMap<(&str, &str, &str), Vec<&'a Service>> = HashMap::new();
    for service in services {
        if let Some((key, value)) = service.selector.iter().next() {
            selecting.entry((&service.service.namespace, key, value)).or_default().push(service);
        }
    }
    for draft in drafts.values_mut() {
        let Pod { namespace, labels, .. } = draft.pod;
        let candidates = labels.iter().filter_map(|(key, value)| selecting.get(&(&**namespace, &**key, &**value)));
        for service in candidates.flatten().filter(|service| selects(&service.selector, labels)) {
            // The ports of slices are those that kube-proxy uses.
            if !draft.belongs.iter().any(|(known, _)| std::ptr::eq(*known, *service)) {
                let ports = service.ports_of(&BTreeMap::new(), draft.pod);
                draft.belongs_to(service, ports.into_iter());
            }
        }
    }
}

impl<'a> Draft<'a> {
    fn belongs_to(&mut self, service: &'a Service, ports: impl Iterator<Item = ServicePort>) {
        match self.belongs.iter_mut().find(|(known, _)| std::ptr::eq(*known, service)) {
            Some((_, known)) => known.extend(ports),
            None => self.belongs.push((service, ports.collect())),
        }
    }
}
