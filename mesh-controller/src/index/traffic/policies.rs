//! Which DestinationRule holds for which clients of a service. A client is ruled by those of its own namespace;
//! without one by those of the service's namespace, at last by those of the root namespace, if they are exported to it.
//! There the most exact host counts. Rules about the same host of one namespace are put together, the oldest first:
//! their subsets add up, and the oldest `trafficPolicy` holds. Nobody rules clients of others on their way to a service
//! that is not his.
//!
//! Over them lies what BackendTLSPolicies say of TLS: it is the word of who owns the service, to all clients.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::model::{
    ServiceName,
    traffic::{Clients, DestinationPolicy, For, Origin, TrafficPolicy, UpstreamTls},
};

use super::{Policies, Services};
use crate::{
    source::Key,
    status::{Extent, Fault},
    translate::{
        Settings,
        backend_tls_policy::BackendTlsPolicy,
        destination_rule::{DestinationRule, SUBSETS},
        traffic::HostRef,
    },
};

/// A rule, and how exactly it names the service: more is more exact.
type Ruling<'a> = (&'a DestinationRule, usize);

/// By service, what is said of it; a service of which nothing is said that agents must do has none. `port` gives the
/// number of a service's port by its name.
pub fn policies(
    settings: &Settings,
    services: &Services<'_>,
    rules: &[&DestinationRule],
    tls: &[&BackendTlsPolicy],
    port: impl Fn(&ServiceName, &str) -> Option<u16>,
) -> (Policies, Vec<(Key, Fault)>) {
    let mut faults = Faults::default();
    let mut rulings: BTreeMap<&ServiceName, Vec<Ruling<'_>>> = BTreeMap::new();
    for rule in rules {
        let named = services.named(&rule.host, &rule.object.namespace);
        if named.is_empty() && !matches!(rule.host, HostRef::Below(_) | HostRef::Every) {
            faults.add(&rule.object, Fault::new("spec.host", "no service has this name, or none that may be named"));
        }
        for service in named {
            rulings.entry(service).or_default().push((rule, exactness(&rule.host)));
        }
    }
    let mut found = Policies::new();
    for (service, mut rulings) in rulings {
        rulings.sort_by_key(|(rule, _)| (rule.created, &rule.object));
        let policies = of_service(settings, service, &rulings, &mut faults);
        if !policies.is_empty() {
            found.insert(service.clone(), policies);
        }
    }
    let mut tls: Vec<_> = tls.to_vec();
    tls.sort_by_key(|policy| (policy.created, &policy.object));
    lay_over(&mut found, services, &tls, port, &mut faults);
    (found, faults.all)
}

/// Whether all that is said are subsets that treat their endpoints as every service's: agents need nothing of it as
/// long as no route names the service.
pub fn only_subsets(policies: &[For<DestinationPolicy>]) -> bool {
    let usual = |all: &TrafficPolicy, ports: &BTreeMap<u16, TrafficPolicy>| {
        *all == TrafficPolicy::default() && ports.is_empty()
    };
    let mut values = policies.iter().map(|policy| &policy.value);
    values.clone().any(|policy| !policy.subsets.is_empty())
        && values.all(|policy| {
            let mut subsets = policy.subsets.values();
            usual(&policy.all, &policy.ports) && subsets.all(|subset| usual(&subset.all, &subset.ports))
        })
}

fn exactness(host: &HostRef) -> usize {
    match host {
        HostRef::Service(_) | HostRef::Named(_) => usize::MAX,
        HostRef::Below(suffix) => suffix.len(),
        HostRef::Every => 0,
    }
}

/// `rulings` are sorted by age. Namespaces for which something special holds come first, everybody last.
fn of_service(
    settings: &Settings,
    service: &ServiceName,
    rulings: &[Ruling<'_>],
    faults: &mut Faults,
) -> Vec<For<DestinationPolicy>> {
    let mut special = BTreeSet::new();
    for (rule, _) in rulings {
        special.insert(rule.object.namespace.as_str());
        if let Clients::Namespaces(namespaces) = &rule.clients {
            special.extend(namespaces.iter().map(String::as_str));
        }
    }
    // No namespace has an empty name: what holds there holds for all that nobody names.
    let others = holding(settings, service, rulings, "");
    let mut groups: BTreeMap<Vec<usize>, BTreeSet<String>> = BTreeMap::new();
    for namespace in special {
        let own = holding(settings, service, rulings, namespace);
        if own != others {
            groups.entry(own).or_default().insert(namespace.to_owned());
        }
    }
    let groups = groups.into_iter().map(|(own, namespaces)| (own, Clients::Namespaces(namespaces)));
    let everybody = (!others.is_empty()).then_some((others, Clients::Everybody));
    let mut asked = false;
    let found = groups.chain(everybody).map(|(own, clients)| {
        let rules: Vec<&DestinationRule> = own.into_iter().map(|i| rulings[i].0).collect();
        asked |= rules.iter().any(|rule| !rule.subsets.is_empty());
        asked |= rules.iter().find_map(|rule| rule.policy.as_ref()).is_some_and(|parts| parts.asks());
        For { clients, value: merged(&rules, faults) }
    });
    let found: Vec<_> = found.collect();
    if asked { found } else { Vec::new() }
}

/// The places of the rules that hold for clients of this namespace, the oldest first.
fn holding(settings: &Settings, service: &ServiceName, rulings: &[Ruling<'_>], namespace: &str) -> Vec<usize> {
    for tier in [namespace, &service.namespace, &settings.root_namespace] {
        let candidates = rulings
            .iter()
            .enumerate()
            .filter(|(_, (rule, _))| rule.object.namespace == tier && rule.clients.has(namespace));
        let best = candidates.clone().map(|(_, (_, exactness))| *exactness).max();
        if let Some(best) = best {
            return candidates.filter(|(_, (_, exactness))| *exactness == best).map(|(i, _)| i).collect();
        }
    }
    Vec::new()
}

/// Rules about one host, the oldest first, as one.
fn merged(rules: &[&DestinationRule], faults: &mut Faults) -> DestinationPolicy {
    let mut policy = DestinationPolicy {
        origins: rules.iter().map(|rule| origin(&rule.object)).collect(),
        ..DestinationPolicy::default()
    };
    let mut ruling = rules.iter().filter_map(|rule| Some((rule, rule.policy.as_ref()?)));
    let first = ruling.next();
    let parts = first.map(|(_, parts)| parts.clone()).unwrap_or_default();
    for (rule, _) in ruling {
        if let Some((older, _)) = first {
            faults.conflict(&rule.object, "spec.trafficPolicy", &older.object);
        }
    }
    let settled = parts.settled();
    policy.all = settled.all;
    policy.ports = settled.ports;
    let mut owners: BTreeMap<&str, &Key> = BTreeMap::new();
    for rule in rules {
        for subset in &rule.subsets {
            let field = format!("spec.subsets[{}]", subset.name);
            if let Some(older) = owners.get(subset.name.as_str()) {
                faults.conflict(&rule.object, &field, older);
            } else if owners.len() == SUBSETS {
                let why = format!("the host has {SUBSETS} subsets already; this one is left out");
                faults.add(&rule.object, Fault::new(field, why));
            } else {
                owners.insert(&subset.name, &rule.object);
                policy.subsets.insert(subset.name.clone(), parts.of_subset(subset));
            }
        }
    }
    policy
}

/// The oldest policy about a port counts, before the oldest about the service.
fn lay_over(
    found: &mut Policies,
    services: &Services<'_>,
    tls: &[&BackendTlsPolicy],
    port: impl Fn(&ServiceName, &str) -> Option<u16>,
    faults: &mut Faults,
) {
    let mut owners: BTreeMap<(&ServiceName, Option<u16>), &BackendTlsPolicy> = BTreeMap::new();
    for policy in tls {
        for target in &policy.targets {
            if services.facts(&target.service).is_none() {
                faults.add(&policy.object, Fault::new(target.field.as_str(), "no such Service"));
                continue;
            }
            let number = target.port.as_deref().map(|name| port(&target.service, name));
            if number == Some(None) {
                let field = format!("{}.sectionName", target.field);
                faults.add(&policy.object, Fault::new(field, "the Service has no port of this name"));
                continue;
            }
            let about = (&target.service, number.flatten());
            match owners.get(&about) {
                Some(older) => faults.conflict(&policy.object, &target.field, &older.object),
                None => {
                    owners.insert(about, policy);
                }
            }
        }
    }
    // None before every number: what is about a port lies over what is about all.
    for ((service, number), owner) in owners {
        let policies = found.entry(service.clone()).or_default();
        if !policies.iter().any(|policy| policy.clients == Clients::Everybody) {
            policies.push(For::everybody(DestinationPolicy::default()));
        }
        for DestinationPolicy { origins, all, ports, subsets } in policies.iter_mut().map(|policy| &mut policy.value) {
            let mut replaced = set(all, ports, number, &owner.tls);
            for subset in subsets.values_mut() {
                replaced |= set(&mut subset.all, &mut subset.ports, number, &owner.tls);
            }
            let rules = origins.iter().filter(|origin| origin.object.starts_with("DestinationRule "));
            if replaced {
                let what: Vec<_> = rules.map(|origin| origin.object.as_str()).collect();
                let why = format!("holds in place of what {} says of TLS", what.join(" and "));
                faults.add(&owner.object, Fault::new("spec.validation", why));
            }
            origins.push(origin(&owner.object));
        }
    }
}

/// Whether other TLS was there, of a DestinationRule's.
fn set(
    all: &mut TrafficPolicy,
    ports: &mut BTreeMap<u16, TrafficPolicy>,
    number: Option<u16>,
    tls: &UpstreamTls,
) -> bool {
    let mut replaced = false;
    let mut put = |policy: &mut TrafficPolicy| {
        replaced |= number.is_none() && policy.tls.as_ref().is_some_and(|known| known != tls);
        policy.tls = Some(tls.clone());
    };
    match number {
        Some(number) => put(ports.entry(number).or_insert_with(|| all.clone())),
        None => {
            put(all);
            ports.values_mut().for_each(put);
        }
    }
    replaced
}

fn origin(object: &Key) -> Origin {
    Origin { object: object.to_string(), field: String::new() }
}

/// Each is told once, for however many services it is true.
#[derive(Default)]
struct Faults {
    all: Vec<(Key, Fault)>,
    known: BTreeSet<(Key, String)>,
}

impl Faults {
    fn add(&mut self, object: &Key, fault: Fault) {
        if self.known.insert((object.clone(), fault.field.clone())) {
            self.all.push((object.clone(), fault));
        }
    }

    fn conflict(&mut self, object: &Key, field: &str, older: &Key) {
        let why = format!("is not applied: {older} is older and says it for the same");
        self.add(object, Fault::new(field, why).of_extent(Extent::Conflict));
    }
}

#[cfg(test)]
mod tests;
