//! Which endpoints belong together, and how near they are to the client (as Istio has it).

use std::borrow::Cow;

use mesh_common::model::{
    Locality,
    traffic::{LocalityPolicy, TrafficPolicy},
};

use super::{Client, Endpoint};

/// How the endpoints of a service are put into groups.
#[derive(Clone, Debug)]
pub enum Spread<'a> {
    /// All are one.
    Whole,
    /// Parts of the traffic for localities, the narrowest first; who is in none gets nothing.
    Parts(Vec<(&'a str, u32)>),
    /// From near to far.
    Levels { client: &'a Client, policy: &'a LocalityPolicy },
}

impl<'a> Spread<'a> {
    /// Levels need somebody who finds out that endpoints are not well: otherwise the nearest would get everything,
    /// however few they are and however ill.
    pub fn new(policy: &'a TrafficPolicy, client: &'a Client) -> Self {
        let Some(locality) = policy.balancing.locality.as_ref().filter(|locality| locality.enabled) else {
            return Self::Whole;
        };
        if !locality.distribute.is_empty() {
            let own = locality.distribute.iter().find(|weights| has(&weights.from, &client.locality));
            let Some(own) = own else { return Self::Whole };
            let mut parts = own.to.iter().map(|(to, weight)| (to.as_str(), *weight)).collect::<Vec<_>>();
            parts.sort_by_key(|(to, _)| std::cmp::Reverse(named(to)));
            return Self::Parts(parts);
        }
        if policy.outlier.is_none() && policy.check.is_none() {
            return Self::Whole;
        }
        Self::Levels { client, policy: locality }
    }

    /// Number of an endpoint's group; lower is nearer. `None`: it gets nothing.
    pub fn group(&self, endpoint: &Endpoint) -> Option<usize> {
        match self {
            Self::Whole => Some(0),
            Self::Parts(parts) => parts.iter().position(|(to, _)| has(to, &endpoint.locality)),
            Self::Levels { client, policy } => {
                let LocalityPolicy { enabled: _, distribute: _, failover, failover_priority } = policy;
                let by_labels = distance(failover_priority, client, endpoint);
                let by_region = if failover_priority.is_empty() || !failover.is_empty() {
                    let far = shared(&client.locality, &endpoint.locality);
                    let to = failover.iter().find(|rule| rule.from == client.locality.region);
                    let elsewhere = to.is_some_and(|rule| rule.to != endpoint.locality.region);
                    if far == 3 && elsewhere { 4 } else { far }
                } else {
                    0
                };
                Some(by_labels * 5 + by_region)
            }
        }
    }
}

/// 0: same subzone, 1: zone, 2: region, 3: none of them.
fn shared(client: &Locality, endpoint: &Locality) -> usize {
    if client.region != endpoint.region {
        3
    } else if client.zone != endpoint.zone {
        2
    } else {
        usize::from(client.subzone != endpoint.subzone)
    }
}

/// How many labels of the list are left from the first that client and endpoint do not share.
fn distance(list: &[String], client: &Client, endpoint: &Endpoint) -> usize {
    let differs = |wanted: &String| {
        let (key, wanted) = match wanted.split_once('=') {
            Some((key, value)) => (key, Some(Cow::Borrowed(value))),
            None => (wanted.as_str(), label(&client.labels, &client.locality, wanted)),
        };
        label(&endpoint.labels, &endpoint.locality, key).unwrap_or_default() != wanted.unwrap_or_default()
    };
    list.iter().position(differs).map_or(0, |first| list.len() - first)
}

/// A label; where somebody runs is one too.
fn label<'a>(
    labels: &'a mesh_common::model::traffic::Labels,
    locality: &'a Locality,
    key: &str,
) -> Option<Cow<'a, str>> {
    let of_node = match key {
        "topology.kubernetes.io/region" => Some(&locality.region),
        "topology.kubernetes.io/zone" => Some(&locality.zone),
        "topology.istio.io/subzone" => Some(&locality.subzone),
        _ => None,
    };
    labels.get(key).or(of_node).map(|value| Cow::Borrowed(value.as_str()))
}

/// Whether a locality is one of those that `region/zone/subzone` means; `*`, or nothing at the end, is any.
fn has(pattern: &str, Locality { region, zone, subzone }: &Locality) -> bool {
    let mut wanted = pattern.splitn(3, '/');
    [region, zone, subzone].into_iter().all(|part| match wanted.next() {
        None | Some("*" | "") => true,
        Some(wanted) => wanted == part,
    })
}

/// How many parts a pattern names.
fn named(pattern: &str) -> usize {
    pattern.split('/').filter(|part| !["*", ""].contains(part)).count()
}
