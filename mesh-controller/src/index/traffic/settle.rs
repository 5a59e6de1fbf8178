//! All that is said of one service, for one group of clients after the other.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::model::{
    ServiceName,
    traffic::{
        Clients, DestinationPolicy, Fault as Injected, For, HttpRoute, OverlaidFault, PathMatch, RequestMatch, Routes,
        TextMatch,
    },
};

use super::{Policies, overlap::overlap, resolve::Resolved};
use crate::{
    source::Key,
    status::{Extent, Fault},
};

/// Rules for one service's requests: an agent finds its way through so many.
pub(super) const RULES: usize = 10_000;
/// Regular expressions among their conditions: an agent takes no more than 4096 in one list.
pub(super) const PATTERNS: usize = 4_000;

/// Object, field, what is wrong: each is said once.
pub type Faults = BTreeSet<(Key, String, String, Extent)>;

/// What an object says of the service at hand.
#[derive(Debug)]
pub struct Candidate<'a> {
    pub resolved: &'a Resolved<'a>,
    pub clients: Clients,
    /// It is another namespace's service: what it says comes first for clients of its own.
    pub is_consumer: bool,
    /// How little it names just this service.
    pub wildness: usize,
}

#[derive(Debug)]
pub struct Settler<'a> {
    pub policies: &'a Policies,
    pub faults: Faults,
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
            let Candidate { resolved, clients: _, is_consumer, wildness } = candidate;
            (!is_consumer, *wildness, resolved.ruled.created, &resolved.ruled.object)
        });
        let candidates: Vec<&Candidate<'_>> = candidates.iter().collect();
        let all = gateway.iter().map(|routes| &routes.clients).chain(candidates.iter().map(|c| &c.clients));
        let special: BTreeSet<&str> = all.flat_map(namespaces).collect();
        // Which of the Gateway's routes, and which candidates.
        let holding = |namespace: Option<&str>| -> (Option<usize>, Vec<usize>) {
            let first = gateway.iter().position(|routes| is_for(&routes.clients, namespace));
            let own = (0..candidates.len()).filter(|i| is_for(&candidates[*i].clients, namespace));
            (first, own.collect())
        };
        let mut groups: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
        let others = holding(None);
        for namespace in special {
            let own = holding(Some(namespace));
            self.find_subsets(own.1.iter().map(|i| candidates[*i].resolved), Some(namespace));
            if own != others {
                groups.entry(own).or_default().insert(namespace);
            }
        }
        self.find_subsets(others.1.iter().map(|i| candidates[*i].resolved), None);
        let groups = groups.into_iter().map(|(own, namespaces)| {
            (own, Clients::Namespaces(namespaces.into_iter().map(ToOwned::to_owned).collect()))
        });
        let mut told = Vec::new();
        for ((first, own), clients) in groups.chain([(others, Clients::Everybody)]) {
            let first = first.map(|i| &gateway[i].value);
            let own: Vec<&Candidate<'_>> = own.into_iter().map(|i| candidates[i]).collect();
            let value = self.merge(service, first, &own);
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

    /// `own` in the order in which they are asked.
    fn merge(&mut self, service: &ServiceName, first: Option<&Routes>, own: &[&Candidate<'_>]) -> Routes {
        let mut merged = first.cloned().unwrap_or_default();
        let mut patterns: usize = merged.http.iter().map(self::patterns).sum();
        for (number, candidate) in own.iter().enumerate() {
            let Resolved { ruled, routes, .. } = candidate.resolved;
            let before = own[..number].iter().filter(|other| other.is_consumer == candidate.is_consumer);
            let before = first.into_iter().chain(before.map(|other| &other.resolved.routes));
            if let Some(overlap) = before.into_iter().find_map(|before| overlap(before, routes)) {
                let why = format!(
                    "{} comes first for {}, and takes some or all of the same: this rule is for what is left (its faults \
                     are for all)",
                    overlap.earlier, service.hostname
                );
                add(&mut self.faults, &ruled.object, Fault::new(overlap.later, why).of_extent(Extent::Conflict));
            }
            patterns += routes.http.iter().map(self::patterns).sum::<usize>();
            if merged.http.len() + routes.http.len() > RULES || patterns > PATTERNS {
                let why = format!(
                    "all that is said of {} has more than {RULES} rules or {PATTERNS} regular expressions: this is left \
                     out",
                    service.hostname
                );
                add(&mut self.faults, &ruled.object, Fault::new("spec.http", why).of_extent(Extent::Whole));
                continue;
            }
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

/// Faults of rules that come after others. Rules without one stand before them, so that what they would have taken is
/// spared here too.
fn laid_over(routes: &[HttpRoute]) -> impl Iterator<Item = OverlaidFault> {
    let last = routes.iter().rposition(|route| route.fault.is_some());
    routes[..last.map_or(0, |last| last + 1)].iter().map(|route| OverlaidFault {
        origin: route.origin.clone(),
        matches: route.matches.clone(),
        fault: route.fault.clone().unwrap_or_else(Injected::default),
    })
}

fn namespaces(clients: &Clients) -> impl Iterator<Item = &str> {
    let named = match clients {
        Clients::Everybody => None,
        Clients::Namespaces(namespaces) => Some(namespaces),
    };
    named.into_iter().flatten().map(String::as_str)
}

/// `None`: clients of a namespace that nobody names.
fn is_for(clients: &Clients, namespace: Option<&str>) -> bool {
    match namespace {
        Some(namespace) => clients.has(namespace),
        None => *clients == Clients::Everybody,
    }
}

fn patterns(route: &HttpRoute) -> usize {
    route.matches.iter().map(expressions).sum()
}

/// How many regular expressions there are in a condition.
pub(super) fn expressions(matched: &RequestMatch) -> usize {
    let is_regex = |text: &TextMatch| usize::from(matches!(text, TextMatch::Regex(_)));
    let path = usize::from(matches!(matched.path, Some(PathMatch::Regex(_))));
    let texts = [&matched.method, &matched.scheme, &matched.authority].into_iter().flatten();
    let headers = matched.headers.iter().map(|header| &header.value);
    let texts = texts.chain(headers).chain(matched.query.iter().map(|query| &query.value));
    path + texts.map(is_regex).sum::<usize>()
}
