//! Which routes hold for one service, at which ports and for whom, and in which order.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use mesh_common::model::traffic::{
    Action, ConnectionMatch, For, HttpRoute, RequestMatch, Routes, TcpRoute, TlsRoute, WeightedBackend,
};

use super::{
    super::budget::{Bound, Cost},
    Place, clients,
    known::Ports,
};
use crate::translate::gateway::{Kind, Rank, Route};

/// A route at one service.
#[derive(Debug)]
pub struct Attachment<'a> {
    /// Of the route: the older, the lower.
    pub number: usize,
    /// Of the route's parents.
    pub parent: usize,
    pub place: &'a Place,
    pub ports: Ports,
    /// The route's, as they are for clients of this parent.
    pub rules: &'a [HttpRoute],
    /// Likewise.
    pub cost: Cost,
}

/// Ports that an attachment does not get, and the route that has them.
pub type Lost<'s, 'a> = Vec<(&'s Attachment<'a>, BTreeMap<Option<u16>, usize>)>;

/// Attachments for which a list has no room, and whether it is the list of those whom the route is for first of all.
pub type Beyond<'s, 'a> = Vec<(&'s Attachment<'a>, bool)>;

/// What says more of a server's name goes first: all of it, then the longer.
type Names = Reverse<(bool, usize)>;

/// One condition of a rule, at the ports at which it holds.
struct Entry<'a> {
    rank: Rank,
    number: usize,
    rule: usize,
    matched: &'a RequestMatch,
    target: &'a HttpRoute,
    ports: Vec<Option<u16>>,
}

/// What holds for whom, and what does not hold although it is attached: since others do, or since it is too much. All
/// attachments are at one service.
pub fn settle<'s, 'a>(
    routes: &[&Route],
    attachments: &'s [Attachment<'a>],
) -> (Vec<For<Routes>>, Lost<'s, 'a>, Beyond<'s, 'a>) {
    let consumer = |attachment: &Attachment<'_>| {
        let route = routes[attachment.number];
        route.is_consumer_of(&route.parents[attachment.parent]).then_some(route.namespace.as_str())
    };
    let Some(place) = attachments.first().map(|attachment| attachment.place) else { return Default::default() };
    let of = |group: Option<&str>| -> Vec<&'s Attachment<'a>> {
        attachments.iter().filter(|attachment| consumer(attachment) == group).collect()
    };
    let groups: BTreeSet<Option<&str>> = attachments.iter().map(consumer).collect();
    let mut told = Vec::new();
    let mut lost: Lost<'s, 'a> = Vec::new();
    let mut beyond: Beyond<'s, 'a> = Vec::new();
    // Those for some namespaces first: the first that is for a client counts.
    for group in groups.into_iter().rev() {
        let (own, producers) = (of(group), of(None));
        let mut won: Vec<(&Attachment<'_>, Ports)> = Vec::new();
        let every: Ports = attachments.iter().flat_map(|attachment| attachment.ports.iter().copied()).collect();
        for port in every {
            let at = |list: &[&'s Attachment<'a>]| -> Vec<&'s Attachment<'a>> {
                list.iter().copied().filter(|attachment| attachment.ports.contains(&port)).collect()
            };
            let (mut candidates, is_own) = match at(&own) {
                list if list.is_empty() => (at(&producers), false),
                list => (list, true),
            };
            candidates.sort_by_key(|attachment| attachment.number);
            let Some(winner) = winner(routes, &candidates) else { continue };
            for attachment in candidates {
                if holds(routes, winner, attachment.number) {
                    match won.iter_mut().find(|(other, _)| std::ptr::eq(*other, attachment)) {
                        Some((_, ports)) => drop(ports.insert(port)),
                        None => won.push((attachment, [port].into())),
                    }
                } else if is_own {
                    match lost.iter_mut().find(|(other, _)| std::ptr::eq(*other, attachment)) {
                        Some((_, ports)) => drop(ports.insert(port, winner)),
                        None => lost.push((attachment, [(port, winner)].into())),
                    }
                }
            }
        }
        for attachment in cut(&mut won) {
            beyond.push((attachment, consumer(attachment) == group));
        }
        told.push(For { clients: clients(group, place), value: ordered(routes, place, &won) });
    }
    (told, lost, beyond)
}

/// Takes out whole routes for which an agent's list has no room, the youngest first: a half of one might send requests
/// elsewhere that its other half would have taken.
fn cut<'s, 'a>(won: &mut Vec<(&'s Attachment<'a>, Ports)>) -> Vec<&'s Attachment<'a>> {
    let mut sum = Cost::default();
    let mut beyond = Vec::new();
    won.sort_by_key(|(attachment, _)| (attachment.number, attachment.parent));
    won.retain(|(attachment, ports)| {
        let own = attachment.cost;
        // Conditions are counted once, whatever their ports are.
        let with = (sum + Cost { rules: own.rules, ..own * ports.len() }).within(Bound::List);
        match with {
            Ok(with) => sum = with,
            Err(_) => beyond.push(*attachment),
        }
        with.is_ok()
    });
    beyond
}

/// The route whose kind holds at a port; of candidates in the order of their age.
fn winner(routes: &[&Route], candidates: &[&Attachment<'_>]) -> Option<usize> {
    let mut numbers = candidates.iter().map(|attachment| attachment.number);
    let oldest_http = numbers.clone().find(|number| routes[*number].kind.is_http());
    oldest_http.or_else(|| numbers.clone().find(|number| routes[*number].kind == Kind::Tls)).or_else(|| numbers.next())
}

fn holds(routes: &[&Route], winner: usize, number: usize) -> bool {
    let kind = routes[winner].kind;
    // One TCPRoute takes every connection.
    routes[number].kind == kind && (kind != Kind::Tcp || number == winner)
}

fn ordered(routes: &[&Route], place: &Place, won: &[(&Attachment<'_>, Ports)]) -> Routes {
    let mut told = Routes::default();
    let mut requests = Vec::new();
    let mut names: Vec<(Names, usize, TlsRoute)> = Vec::new();
    let all = place.all_ports();
    for (attachment, ports) in won {
        let number = attachment.number;
        let route = routes[number];
        let ports: Vec<_> = if *ports == all { vec![None] } else { ports.iter().copied().collect() };
        let connections = || -> Vec<ConnectionMatch> {
            let some = ports.iter().filter(|port| port.is_some());
            some.map(|port| ConnectionMatch { port: *port, ..ConnectionMatch::default() }).collect()
        };
        for (rule, (written, target)) in route.rules.iter().zip(attachment.rules).enumerate() {
            let (name, origin) = (target.name.clone(), target.origin.clone());
            match route.kind {
                Kind::Grpc | Kind::Http => requests.extend(written.matches.iter().map(|matched| Entry {
                    rank: matched.rank,
                    number,
                    rule,
                    matched: &matched.request,
                    target,
                    ports: ports.clone(),
                })),
                Kind::Tcp => {
                    let (matches, backends) = (connections(), backends(target));
                    told.tcp.push(TcpRoute { name, origin, matches, backends });
                }
                Kind::Tls => names.extend(route.server_names.iter().map(|server_name| {
                    let is_exact = !server_name.starts_with('*');
                    let (matches, backends) = (connections(), backends(target));
                    let (name, origin) = (name.clone(), origin.clone());
                    let server_names = vec![server_name.clone()];
                    let route = TlsRoute { name, origin, server_names, matches, backends };
                    (Reverse((is_exact, server_name.len())), number, route)
                })),
            }
        }
    }
    // The sorts are stable: what is left is the order in the route.
    requests.sort_by_key(|entry| (Reverse(entry.rank), entry.number, entry.rule));
    for entry in requests {
        let target = entry.target;
        let matches = entry.ports.iter().map(|port| RequestMatch { port: *port, ..entry.matched.clone() });
        // Neighbours of one rule are one route.
        match told.http.last_mut().filter(|last| last.origin == target.origin) {
            Some(last) => last.matches.extend(matches),
            None => told.http.push(HttpRoute { matches: matches.collect(), ..target.clone() }),
        }
    }
    names.sort_by_key(|(rank, number, _)| (*rank, *number));
    for (.., route) in names {
        match told.tls.last_mut().filter(|last| last.origin == route.origin && last.matches == route.matches) {
            Some(last) => last.server_names.extend(route.server_names),
            None => told.tls.push(route),
        }
    }
    told
}

fn backends(target: &HttpRoute) -> Vec<WeightedBackend> {
    match &target.action {
        Action::Forward(list) => list.clone(),
        Action::Redirect(_) | Action::Respond(_) => Vec::new(),
    }
}
