//! What all objects together say of traffic, service by service.
//!
//! Routes of the Gateway API are asked first, then VirtualServices: those of a client's own namespace that are about
//! another's service, then those that name the service before those with a wildcard (the longer first), then the oldest
//! (its time of creation, then its name). The routes of a later one count only where no earlier one matches, and its
//! faults are laid over all requests; where its conditions overlap an earlier one's it is `Conflicted`. Clients that
//! nothing sets apart are told the same.
//!
//! An object of another namespace than the service's holds for clients of its own namespace only.

mod before;
mod budget;
pub mod gateway;
mod groups;
mod limits;
mod overlap;
mod policies;
mod resolve;
mod seen;
mod services;
mod settle;
mod tell;

pub use limits::{POD, limits};
pub use policies::{only_subsets, policies};
pub use services::{Services, ruled_clients};
pub(super) use tell::{Told, tell};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_common::model::{
    ServiceName,
    traffic::{DestinationPolicy, For, Protocol, Routes, Traffic},
};

use crate::{
    source::Key,
    status::{Extent, Fault},
    translate::{
        Settings,
        traffic::{Facts, HostRef, Ruled},
    },
};
use budget::Ledger;
use overlap::Comparisons;
use resolve::Resolved;
use settle::{Candidate, Faults, Settler, add};

/// What DestinationRules and their like say of each service, merged.
pub type Policies = BTreeMap<ServiceName, Vec<For<DestinationPolicy>>>;
/// What routes of the Gateway API say of each service, merged, and with all their references resolved.
pub type GatewayRoutes = BTreeMap<ServiceName, Vec<For<Routes>>>;

/// What is told, and what could not be honoured, by the objects concerned.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Assembled {
    pub traffic: BTreeMap<ServiceName, Arc<Traffic>>,
    pub faults: Vec<(Key, Fault)>,
}

/// Merges all that is said. The order of `ruled` does not matter.
pub fn assemble(
    settings: &Settings,
    services: &Services<'_>,
    gateway: &GatewayRoutes,
    ruled: &[&Ruled],
    mut policies: Policies,
) -> Assembled {
    let mut ruled = ruled.to_vec();
    ruled.sort_by_key(|ruled| (ruled.created, &ruled.object));
    let mut faults = Faults::new();
    let resolved: Vec<Resolved<'_>> = ruled.iter().map(|ruled| Resolved::new(services, ruled, &mut faults)).collect();
    let mut about: BTreeMap<&ServiceName, Vec<Candidate<'_>>> = BTreeMap::new();
    let mut ledger = Ledger::default();
    for resolved in &resolved {
        let Ruled { object, exported, .. } = resolved.ruled;
        let hosts = hosts(services, resolved.ruled, &mut faults);
        // What is too much is left out whole, the youngest first, and not at some services.
        if let Err(bound) = ledger.pay(object, resolved.cost * hosts.len()) {
            let why = format!("{bound}: with {} services this is left out", hosts.len());
            add(&mut faults, object, Fault::new("spec.hosts", why).of_extent(Extent::Whole));
            continue;
        }
        let is_root = object.namespace == settings.root_namespace;
        for (service, wildness) in hosts {
            let clients = ruled_clients(settings, &object.namespace, service, exported);
            let is_consumer = object.namespace != service.namespace && !is_root;
            let candidate = Candidate { resolved, clients, is_consumer, is_root, wildness };
            about.entry(service).or_default().push(candidate);
        }
    }
    let named: BTreeSet<&ServiceName> = about.keys().copied().chain(gateway.keys()).collect();
    let mut settler = Settler { policies: &policies, faults, ledger, comparisons: Comparisons::default() };
    let mut routes: BTreeMap<ServiceName, Vec<For<Routes>>> = BTreeMap::new();
    for service in named {
        let candidates = about.remove(service).unwrap_or_default();
        let first = gateway.get(service).map(Vec::as_slice).unwrap_or_default();
        let settled = settler.settle(service, first, candidates);
        if !settled.is_empty() {
            routes.insert(service.clone(), settled);
        }
    }
    let faults = settler.faults.into_iter();
    let faults = faults.map(|(object, field, why, extent)| (object, Fault { field, why, extent })).collect();

    let backends: BTreeSet<ServiceName> = routes
        .values()
        .flatten()
        .flat_map(|routes| resolve::backends(&routes.value))
        .map(|to| to.service.clone())
        .collect();
    policies.retain(|service, policies| {
        !policies.is_empty() && (!only_subsets(policies) || backends.contains(service) || routes.contains_key(service))
    });
    let mut told: BTreeSet<ServiceName> = routes.keys().chain(policies.keys()).cloned().collect();
    // Whoever routes to them must know how they are spoken to.
    let speaks_http2 = |facts: &Facts| facts.ports.values().any(|p| *p == Protocol::Http2);
    told.extend(backends.into_iter().filter(|service| services.facts(service).is_some_and(speaks_http2)));
    let traffic = told.into_iter().map(|service| {
        let protocols = services.facts(&service).map(|facts| &facts.ports).into_iter().flatten();
        let protocols = protocols.filter(|(_, protocol)| **protocol != Protocol::Auto).map(|(port, p)| (*port, *p));
        let traffic = Traffic {
            protocols: protocols.collect(),
            routes: routes.remove(&service).unwrap_or_default(),
            policies: policies.remove(&service).unwrap_or_default(),
            service: service.clone(),
            seen: false,
        };
        (service, Arc::new(traffic))
    });
    Assembled { traffic: traffic.collect(), faults }
}

/// The services that an object is about, each once with the least wildness of what names it: 0 is its name itself.
fn hosts<'a>(services: &'a Services<'_>, ruled: &Ruled, faults: &mut Faults) -> BTreeMap<&'a ServiceName, usize> {
    let mut found = BTreeMap::new();
    for about in &ruled.hosts {
        let (wildness, is_one) = match &about.host {
            HostRef::Service(_) | HostRef::Named(_) => (0, true),
            // A host name has 253 characters at most.
            HostRef::Below(suffix) => (1_000_usize.saturating_sub(suffix.len()), false),
            HostRef::Every => (usize::MAX, false),
        };
        let named = services.named(&about.host, &ruled.object.namespace);
        if named.is_empty() {
            let why = if is_one { "no service has this host name" } else { "no service has such a host name" };
            add(faults, &ruled.object, Fault::new(&about.field, why));
        }
        for service in named {
            let known = found.entry(service).or_insert(wildness);
            *known = wildness.min(*known);
        }
    }
    found
}

#[cfg(test)]
pub mod tests;
