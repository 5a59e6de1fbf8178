//! Services whose requests are read by their clients' agents so that they are seen, though no rule asks for it: those
//! with a workload of which that is told. Ready or not: else the connections of its clients would end, and begin anew,
//! whenever its last pod is not ready for a moment.
//!
//! What no client dials, having no address, and what is only bytes is left out.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use mesh_common::model::{
    Mode, ServiceName,
    telemetry::Requests,
    traffic::{Protocol, Traffic},
};

use crate::{
    index::{World, draft::Draft},
    translate::traffic::Facts,
};

/// By namespace and host name.
pub type Asked<'a> = HashSet<(&'a str, &'a str)>;

/// Every service that one of these is a workload of.
pub fn asked<'a>(drafts: &'a BTreeMap<&str, Draft<'_>>, has_entries: bool) -> Asked<'a> {
    let is_seen = |draft: &&Draft<'_>| {
        draft.local.as_ref().is_some_and(|l| l.mode == Mode::Mesh && l.telemetry.requests == Requests::Seen)
    };
    let mut asked = Asked::new();
    for draft in drafts.values().filter(is_seen) {
        let belongs = draft.belongs.iter().map(|(service, _)| &*service.service);
        asked.extend(belongs.map(|service| (service.namespace.as_str(), service.hostname.as_str())));
        // Of entries it is known only whom they have as an endpoint.
        if has_entries {
            asked.extend(draft.services.keys().map(|name| (name.namespace.as_str(), name.hostname.as_str())));
        }
    }
    asked
}

/// `rules`, and for each service that is asked for that it is seen. What is as `before` stays the same in memory.
pub fn seen(
    rules: &BTreeMap<ServiceName, Arc<Traffic>>,
    names: &BTreeSet<ServiceName>,
    facts: &BTreeMap<ServiceName, Facts>,
    world: &World,
    before: &BTreeMap<ServiceName, Arc<Traffic>>,
) -> BTreeMap<ServiceName, Arc<Traffic>> {
    let mut all = rules.clone();
    for name in names {
        let is_dialled = world.services.get(name).is_some_and(|service| !service.addresses.is_empty());
        let Some(Facts { ports, .. }) = facts.get(name).filter(|_| is_dialled) else { continue };
        if ports.values().all(|protocol| matches!(protocol, Protocol::Tcp | Protocol::Tls)) {
            continue;
        }
        let said = || ports.iter().filter(|(_, p)| **p != Protocol::Auto).map(|(port, p)| (*port, *p)).collect();
        let new = match rules.get(name) {
            Some(rules) => Traffic { seen: true, ..(**rules).clone() },
            None => Traffic {
                service: name.clone(),
                protocols: said(),
                routes: Vec::new(),
                policies: Vec::new(),
                seen: true,
            },
        };
        let same = before.get(name).filter(|before| ***before == new).cloned();
        all.insert(name.clone(), same.unwrap_or_else(|| Arc::new(new)));
    }
    all
}
