//! Routes of the Gateway API, together: which of them hold for a service, in which order, and where they lead.
//!
//! - Clients of a namespace that has routes for another namespace's service have those, at the ports that they are
//!   about, in place of the service's own routes (GEP-1426).
//! - Routes of one kind are mixed at a port by the precedence of their conditions. If routes of several kinds are about
//!   a port, one kind holds there: GRPCRoute or HTTPRoute, whichever kind has the oldest route, then TLSRoute, then
//!   TCPRoute. Of several TCPRoutes the oldest holds. What does not hold anywhere is `Conflicted`.
//! - Nothing that speaks HTTP is routed at a port that is said to be TCP or TLS, and so on: such a route is not
//!   attached to it.
//! - A backend in another namespace needs a ReferenceGrant there; but for a service that is the route's parent as well:
//!   for clients of that
//!   parent it is where the request goes anyway. The route's other parents need the grant.

mod known;
mod resolve;
mod settle;

pub use known::{Known, Place};

use std::collections::BTreeMap;

use mesh_common::model::{
    ServiceName,
    traffic::{Clients, For, Routes},
};

use super::budget::{PATTERNS, RULES};
use crate::{
    source::Key,
    status::{Extent, Fault, conditions::Condition, parents::ParentStatus},
    translate::gateway::{Parent, Route},
};
use resolve::{Followed, Resolved};
use settle::Attachment;

/// What routes make of all services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Of every service that a route is about; those for some namespaces first.
    pub routes: BTreeMap<ServiceName, Vec<For<Routes>>>,
    /// What could not be honoured, by the objects concerned.
    pub faults: Vec<(Key, Fault)>,
    /// For `status.parents`.
    pub parents: BTreeMap<Key, Vec<ParentStatus>>,
}

/// How a parent takes a route.
#[derive(Debug)]
struct Outcome<'a> {
    parent: &'a Parent,
    /// Services where it is attached, and where none of its ports is another's.
    places: usize,
    /// Why it does not.
    refused: Option<(&'static str, String)>,
}

/// Merges all routes. Their order does not matter.
pub fn gather(known: &Known<'_>, routes: &[&Route]) -> Gathered {
    let mut routes: Vec<&Route> = routes.iter().copied().filter(|route| !route.parents.is_empty()).collect();
    routes.sort_by(|a, b| (a.age(), a.kind).cmp(&(b.age(), b.kind)));
    let mut gathered = Gathered::default();
    let resolved: Vec<Followed<'_>> = routes.iter().map(|route| Followed::new(known, route)).collect();
    let mut outcomes: Vec<Vec<Outcome<'_>>> = Vec::new();
    let mut attached: BTreeMap<&ServiceName, Vec<Attachment<'_>>> = BTreeMap::new();
    for (number, route) in routes.iter().enumerate() {
        let mut of_route = Vec::new();
        for parent in &route.parents {
            let mut outcome = Outcome { parent, places: 0, refused: None };
            match known.attach(route, parent) {
                Ok(places) => {
                    outcome.places = places.len();
                    for (place, ports) in places {
                        let Resolved { rules, cost, .. } = resolved[number].at(of_route.len());
                        let attachment =
                            Attachment { number, parent: of_route.len(), place, ports, rules, cost: *cost };
                        attached.entry(&place.name).or_default().push(attachment);
                    }
                }
                Err(why) => outcome.refused = Some(("NoMatchingParent", why)),
            }
            of_route.push(outcome);
        }
        outcomes.push(of_route);
    }
    for (name, attachments) in attached {
        let (told, lost, beyond) = settle::settle(&routes, &attachments);
        gathered.routes.insert(name.clone(), told);
        for (attachment, ports) in lost {
            let Attachment { number, parent, .. } = *attachment;
            let is_all = ports.keys().eq(&attachment.ports);
            let said: Vec<_> = ports.into_iter().map(|(port, winner)| conflict(port, routes[winner])).collect();
            let why = said.join("; ");
            let outcome = &mut outcomes[number][parent];
            let extent = if is_all { Extent::Conflict } else { Extent::Part };
            let fault = Fault::new(&outcome.parent.field, format_args!("{name}: {why}")).of_extent(extent);
            gathered.faults.push((key(routes[number]), fault));
            outcome.places -= usize::from(is_all);
            if outcome.places == 0 {
                outcome.refused = Some(("Conflicted", why));
            }
        }
        for (attachment, is_own) in beyond {
            let Attachment { number, parent, .. } = *attachment;
            let outcome = &mut outcomes[number][parent];
            let why = format!(
                "all routes of {name} have more than {RULES} conditions or {PATTERNS} regular expressions: this one is left \
                 out"
            );
            // Clients who have routes of their own hear of it from those alone.
            let whose = if is_own { "" } else { " for clients with routes of their own" };
            let extent = if is_own { Extent::Whole } else { Extent::Part };
            let fault = Fault::new(&outcome.parent.field, format_args!("{why}{whose}")).of_extent(extent);
            gathered.faults.push((key(routes[number]), fault));
            outcome.places -= usize::from(is_own);
            if outcome.places == 0 {
                outcome.refused = Some(("UnsupportedValue", why));
            }
        }
    }
    for ((route, resolved), outcomes) in routes.iter().zip(&resolved).zip(&outcomes) {
        let key = key(route);
        gathered.faults.extend(resolved.faults().map(|fault| (key.clone(), fault)));
        for outcome in outcomes {
            if let Some(("NoMatchingParent", why)) = &outcome.refused {
                gathered.faults.push((key.clone(), Fault::new(&outcome.parent.field, why)));
            }
        }
        if !outcomes.is_empty() {
            let parents =
                outcomes.iter().enumerate().map(|(i, outcome)| status(route, resolved.at(i), outcome)).collect();
            gathered.parents.insert(key, parents);
        }
    }
    gathered
}

fn key(route: &Route) -> Key {
    Key { kind: route.kind.name().to_owned(), namespace: route.namespace.clone(), name: route.name.clone() }
}

fn conflict(port: Option<u16>, winner: &Route) -> String {
    let at = port.map(|port| format!(" at port {port}")).unwrap_or_default();
    format!("{} {}/{} holds{at}", winner.kind.name(), winner.namespace, winner.name)
}

fn status(route: &Route, resolved: &Resolved<'_>, outcome: &Outcome<'_>) -> ParentStatus {
    let condition = |type_, status, reason, message| Condition { type_, status, reason, message };
    let refused: Vec<_> = route.rules.iter().filter_map(|rule| rule.refused.as_ref()).collect();
    let whys = || refused.iter().map(|why| why.as_str()).collect::<Vec<_>>().join("\n");
    let accepted = match &outcome.refused {
        Some((reason, why)) => condition("Accepted", false, reason, why.clone()),
        None if !refused.is_empty() && refused.len() == route.rules.len() => {
            condition("Accepted", false, "UnsupportedValue", whys())
        }
        None => condition("Accepted", true, "Accepted", String::new()),
    };
    let said = resolved.unresolved.iter().map(|(field, unresolved)| format!("{field}: {}", unresolved.why));
    let refs = match resolved.unresolved.iter().map(|(_, unresolved)| unresolved.reason).min() {
        Some(reason) => condition("ResolvedRefs", false, reason.name(), said.collect::<Vec<_>>().join("\n")),
        None => condition("ResolvedRefs", true, "ResolvedRefs", String::new()),
    };
    let mut conditions = vec![accepted, refs];
    if conditions[0].status && !refused.is_empty() {
        let message = format!("Dropped Rule: it answers with an error\n{}", whys());
        conditions.push(condition("PartiallyInvalid", true, "UnsupportedValue", message));
    }
    for condition in &mut conditions {
        condition.shorten();
    }
    ParentStatus { parent: outcome.parent.written.clone(), conditions }
}

/// Clients of one namespace, or all whom the service may serve.
fn clients(group: Option<&str>, place: &Place) -> Clients {
    match group {
        Some(namespace) => Clients::Namespaces([namespace.to_owned()].into()),
        None => place.exported.clone(),
    }
}

#[cfg(test)]
mod tests;
