//! All that is said of one service, for one group of clients after the other.

use std::collections::BTreeSet;

use mesh_common::model::{
    ServiceName,
    traffic::{Clients, DestinationPolicy, Fault as Injected, For, HttpRoute, OverlaidFault, Routes},
};

use super::{
    Policies,
    budget::{Bound, Cost, Ledger},
    groups::{Group, Groups, Offered},
    overlap::{Comparisons, Earlier},
    resolve::Resolved,
};
use crate::{
    source::Key,
    status::{Extent, Fault},
};

/// Object, field, what is wrong: each is said once.
pub type Faults = BTreeSet<(Key, String, String, Extent)>;

/// What an object says of the service at hand.
#[derive(Debug)]
pub struct Candidate<'a> {
    pub resolved: &'a Resolved<'a>,
    pub clients: Clients,
    /// It is another namespace's service: what it says comes first for clients of its own.
    pub is_consumer: bool,
    /// It is the mesh's root namespace that says it.
    pub is_root: bool,
    /// How little it names just this service.
    pub wildness: usize,
}

#[derive(Debug)]
pub struct Settler<'a> {
    pub policies: &'a Policies,
    pub faults: Faults,
    pub ledger: Ledger,
    pub comparisons: Comparisons,
}

pub fn add(faults: &mut Faults, object: &Key, Fault { field, why, extent }: Fault) {
    faults.insert((object.clone(), field, why, extent));
}

impl Settler<'_> {
    /// The groups of clients that something sets apart come first, everybody last.
    pub fn settle(
        &mut self,
        service: &ServiceName,
        gateway: &[For<Routes>],
        mut candidates: Vec<Candidate<'_>>,
    ) -> Vec<For<Routes>> {
        candidates.sort_by_key(|candidate| {
            let Candidate { resolved, clients: _, is_consumer, is_root: _, wildness } = candidate;
            (!is_consumer, *wildness, resolved.ruled.created, &resolved.ruled.object)
        });
        let groups = self.admit(service, gateway, &candidates);
        for Group { namespaces, own, .. } in &groups {
            let own = || own.iter().map(|i| candidates[*i].resolved);
            match namespaces {
                Some(named) => named.iter().for_each(|namespace| self.find_subsets(own(), Some(namespace))),
                None => self.find_subsets(own(), None),
            }
        }
        let mut told = Vec::new();
        for Group { namespaces, first, own, .. } in groups {
            let clients = match namespaces {
                // Others have taken them all.
                Some(named) if named.is_empty() => continue,
                Some(named) => Clients::Namespaces(named.into_iter().map(ToOwned::to_owned).collect()),
                None => Clients::Everybody,
            };
            let own: Vec<&Candidate<'_>> = own.into_iter().map(|i| &candidates[i]).collect();
            let value = self.merge(service, first.map(|i| &gateway[i].value), &own);
            told.push(For { clients, value });
        }
        // Who is set apart from others has rules of its own, even if they are none; of everybody that goes without
        // saying.
        let says_nothing = |routes: &For<Routes>| routes.value == Routes::default();
        if told.last().is_some_and(says_nothing) {
            told.pop();
        }
        if told.iter().all(says_nothing) {
            told.clear();
        }
        told
    }

    /// Whom which candidates are for, as far as there is room: first for those of the root namespace, then for those of
    /// the service's own, then for those of others, at last for others' routes of the Gateway API. Whoever comes later
    /// pays for the copies that he makes of what was there.
    fn admit<'c>(
        &mut self,
        service: &ServiceName,
        gateway: &'c [For<Routes>],
        candidates: &'c [Candidate<'_>],
    ) -> Vec<Group<'c>> {
        let mut groups = Groups::new(gateway, !candidates.is_empty() || gateway.len() > 1);
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by_key(|i| (candidates[*i].is_consumer, !candidates[*i].is_root));
        for number in order {
            let Candidate { resolved, clients, .. } = &candidates[number];
            let object = &resolved.ruled.object;
            let offer = groups.offer(clients, resolved.cost).and_then(|offer| {
                // For one copy at each service it has paid already.
                self.ledger.pay(object, offer.more.beyond(resolved.cost)).map(|()| offer)
            });
            match offer {
                Ok(offer) => groups.take(Offered::Candidate(number), offer),
                Err(bound) => {
                    let fault = Fault::new("spec.http", left_out(bound, &service.hostname));
                    add(&mut self.faults, object, fault.of_extent(Extent::Whole));
                }
            }
        }
        // The first that is for a client counts.
        for (number, routes) in gateway.iter().enumerate().rev().skip(1) {
            match groups.offer(&routes.clients, Cost::of(&routes.value)) {
                Ok(offer) => groups.take(Offered::First(number), offer),
                Err(bound) => {
                    let why = left_out(bound, &service.hostname);
                    for object in own_routes(routes) {
                        let fault = Fault::new("spec.parentRefs", &why).of_extent(Extent::Whole);
                        add(&mut self.faults, &object, fault);
                    }
                }
            }
        }
        groups.settled()
    }

    /// `own` in the order in which they are asked. An agent takes the list: each rule was compiled when it was
    /// translated, and the regular expressions are as many as [`super::budget::LIST`] has.
    fn merge(&mut self, service: &ServiceName, first: Option<&Routes>, own: &[&Candidate<'_>]) -> Routes {
        let mut merged = first.cloned().unwrap_or_default();
        self.find_overlaps(service, first, own);
        for candidate in own {
            let routes = &candidate.resolved.routes;
            if merged.http.is_empty() {
                merged.http.clone_from(&routes.http);
            } else {
                merged.faults.extend(laid_over(&routes.http));
                // They are among those that are laid over all: nobody is delayed twice.
                merged.http.extend(routes.http.iter().map(|route| HttpRoute { fault: None, ..route.clone() }));
            }
            merged.tls.extend(routes.tls.iter().cloned());
            merged.tcp.extend(routes.tcp.iter().cloned());
        }
        merged
    }

    /// Reports rules that come after others that take the same; but for one's own rules about others' services.
    fn find_overlaps(&mut self, service: &ServiceName, first: Option<&Routes>, own: &[&Candidate<'_>]) {
        for is_consumer in [true, false] {
            let mut earlier = Earlier::default();
            let of_kind: Vec<_> = own.iter().filter(|candidate| candidate.is_consumer == is_consumer).collect();
            // With nobody else nothing overlaps.
            if of_kind.len() + usize::from(first.is_some()) < 2 {
                continue;
            }
            first.into_iter().for_each(|first| earlier.add(first));
            for candidate in of_kind {
                let Resolved { ruled, routes, .. } = candidate.resolved;
                let found = earlier.overlap(routes, self.comparisons.next());
                earlier.add(routes);
                let fault = match found {
                    Ok(None) => continue,
                    Ok(Some(overlap)) => {
                        let why = format!(
                            "{} comes first for {}, and takes some or all of the same: this rule is for what is left \
                             (its faults are for all)",
                            overlap.earlier, service.hostname
                        );
                        Fault::new(overlap.later, why).of_extent(Extent::Conflict)
                    }
                    Err(unknown) => Fault::new("spec", unknown).of_extent(Extent::Note),
                };
                add(&mut self.faults, &ruled.object, fault);
            }
        }
    }

    /// Reports subsets that these rules lead to, and that nothing defines for these clients.
    fn find_subsets<'a>(&mut self, rules: impl Iterator<Item = &'a Resolved<'a>>, namespace: Option<&str>) {
        for Resolved { ruled, subsets, .. } in rules {
            for (field, backend) in subsets {
                let policies = self.policies.get(&backend.service).map(Vec::as_slice).unwrap_or_default();
                let defines = |policy: &DestinationPolicy| {
                    backend.subset.as_ref().is_some_and(|subset| policy.subsets.contains_key(subset))
                };
                // Whom nobody names are all others too, as far as rules of destinations set them apart.
                let mut holding =
                    policies.iter().filter(|policy| namespace.is_none() || is_for(&policy.clients, namespace));
                let defined = match namespace {
                    Some(_) => holding.next().is_some_and(|policy| defines(&policy.value)),
                    None => {
                        policies.iter().any(|policy| policy.clients == Clients::Everybody)
                            && holding.all(|policy| defines(&policy.value))
                    }
                };
                if defined {
                    continue;
                }
                let elsewhere = policies.iter().any(|policy| defines(&policy.value));
                let whose = if elsewhere { " that holds for all of these clients" } else { "" };
                let subset = backend.subset.as_deref().unwrap_or_default();
                let why = format!(
                    "subset `{subset}` of host `{}` is not defined by any DestinationRule{whose}; what is sent there is \
                     answered 503",
                    backend.service.hostname
                );
                add(&mut self.faults, &ruled.object, Fault::new(field, why));
            }
        }
    }
}

pub fn left_out(bound: Bound, host: &str) -> String {
    format!("{bound}: of {host} this is left out")
}

/// The objects of a group of clients' own namespaces of which its routes are.
fn own_routes(routes: &For<Routes>) -> BTreeSet<Key> {
    let Routes { http, faults: _, tls, tcp } = &routes.value;
    let origins = http.iter().map(|route| &route.origin).chain(tls.iter().map(|route| &route.origin));
    let origins = origins.chain(tcp.iter().map(|route| &route.origin));
    let keys = origins.filter_map(|origin| {
        let (kind, name) = origin.object.split_once(' ')?;
        let (namespace, name) = name.split_once('/')?;
        Some(Key { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() })
    });
    keys.filter(|key| matches!(&routes.clients, Clients::Namespaces(named) if named.contains(&key.namespace))).collect()
}

/// Faults of rules that come after others. Rules without one stand before them, so that what they would have taken is
/// spared here too.
pub fn laid_over(routes: &[HttpRoute]) -> impl Iterator<Item = OverlaidFault> {
    let last = routes.iter().rposition(|route| route.fault.is_some());
    routes[..last.map_or(0, |last| last + 1)].iter().map(|route| OverlaidFault {
        origin: route.origin.clone(),
        matches: route.matches.clone(),
        fault: route.fault.clone().unwrap_or_else(Injected::default),
    })
}

/// `None`: clients of a namespace that nobody names.
fn is_for(clients: &Clients, namespace: Option<&str>) -> bool {
    match namespace {
        Some(namespace) => clients.has(namespace),
        None => *clients == Clients::Everybody,
    }
}
