//! What recorded flows come to under a change, added up by pairs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;
use mesh_common::proto::nodemesh::{Endpoint, Flow, FlowsWindow};
use mesh_controller::analyze::{Change, Compiled, Effect, Judged, Said, Target, judge};

use super::{
    record::{Skipped, recorded},
    shown,
};

/// A source and a destination, with what differs for them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    pub effect: Effect,
    pub source: End,
    pub destination: End,
    pub port: u16,
    /// Method and path, of requests.
    pub request: Option<(String, String)>,
    pub before: Option<Said>,
    pub after: Option<Said>,
    /// What was not recorded and decides.
    pub needs: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    pub namespace: String,
    /// Of a pod without one: the pod. Empty outside the mesh's pods.
    pub workload: String,
    pub identity: String,
    /// Without port, of whom nothing else is known.
    pub address: String,
}

/// How far back the records of a node reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    pub records: u64,
    /// `None`: its agent did not say.
    pub told: Option<FlowsWindow>,
    /// Pods of it for which something changes.
    pub pods: u64,
}

/// All that came out.
#[derive(Debug, Default)]
pub struct Tested {
    /// With how many records each.
    pub pairs: BTreeMap<Pair, u64>,
    pub windows: BTreeMap<String, Window>,
    pub skipped: BTreeMap<Skipped, u64>,
    pub records: u64,
    pub judged: u64,
    /// Pods for which something changes.
    pub affected: u64,
}

impl Tested {
    /// Of the nodes where something changes.
    pub fn new(change: &Change) -> Self {
        let mut tested = Self::default();
        for (node, _) in affected(&change.before, &change.after) {
            tested.affected += 1;
            tested.windows.entry(node).or_default().pods += 1;
        }
        tested
    }

    pub fn window(&mut self, node: &str, told: FlowsWindow) {
        self.windows.entry(node.to_owned()).or_default().told = Some(told);
    }

    pub fn flow(&mut self, change: &Change, flow: &Flow) {
        self.records += 1;
        self.windows.entry(flow.node.clone()).or_default().records += 1;
        match judged(change, flow) {
            Ok((_, Judged { effect: Effect::Unchanged, .. })) => self.judged += 1,
            Ok((pair, _)) => {
                self.judged += 1;
                *self.pairs.entry(pair).or_default() += 1;
            }
            Err(why) => *self.skipped.entry(why).or_default() += 1,
        }
    }

    /// Records with this effect.
    pub fn count(&self, effect: Effect) -> u64 {
        self.pairs.iter().filter(|(pair, _)| pair.effect == effect).map(|(_, count)| count).sum()
    }

    /// What is missing, for people; nodes where nothing changes need not be known.
    pub fn missing(&self, since: Timestamp) -> Vec<String> {
        let of_node = |(node, window): (&String, &Window)| {
            let pods = window.pods;
            let from = window.told.as_ref().map(from);
            match from {
                _ if pods == 0 => None,
                None => Some(format!("node {node} has told no records, and the change is about {pods} of its pods")),
                Some(None) => Some(format!("node {node} does not say how far back its records reach")),
                Some(Some(from)) if from > since => {
                    Some(format!("the records of node {node} reach back to {from:.0} only"))
                }
                Some(Some(_)) => None,
            }
        };
        self.windows.iter().filter_map(of_node).collect()
    }
}

/// From when on a node's records are complete.
pub fn from(window: &FlowsWindow) -> Option<Timestamp> {
    let from = window.from?;
    Timestamp::new(from.seconds, from.nanos).ok()
}

/// Pods about which something else is decided, with their nodes.
pub fn affected(before: &Compiled, after: &Compiled) -> BTreeSet<(String, String)> {
    let differs = |(namespace, name): &(String, String)| match (before.pod(namespace, name), after.pod(namespace, name))
    {
        (Some(then), Some(now)) => (then.is_in_mesh() || now.is_in_mesh()) && !then.decides_like(&now),
        _ => false,
    };
    let all = after.workloads().map(|w| ((w.namespace.clone(), w.name.clone()), w.node.clone()));
    let changed = all.filter(|(name, _)| differs(name));
    changed.map(|((namespace, name), node)| (node, format!("{namespace}/{name}"))).collect()
}

fn judged(change: &Change, flow: &Flow) -> Result<(Pair, Judged), Skipped> {
    let recorded = recorded(flow)?;
    let (source, destination) = (flow.source.clone().unwrap_or_default(), flow.destination.clone().unwrap_or_default());
    let (before, after) = targets(change, &destination).ok_or(Skipped::Gone)?;
    // The address was another pod's when this was recorded.
    if !before.workload.addresses.contains(&recorded.connection.destination.ip().to_canonical()) {
        return Err(Skipped::Gone);
    }
    if !before.is_in_mesh() || !after.is_in_mesh() {
        return Err(Skipped::OutsidePolicies);
    }
    let judged = judge(&before, &after, &recorded);
    let end = |end: &Endpoint, ip: IpAddr| End {
        namespace: end.namespace.clone(),
        workload: if end.workload.is_empty() { end.pod.clone() } else { end.workload.clone() },
        identity: end.identity.clone(),
        address: if end.pod.is_empty() { ip.to_canonical().to_string() } else { String::new() },
    };
    let pair = Pair {
        effect: judged.effect,
        source: end(&source, recorded.connection.source_ip),
        destination: end(&destination, recorded.connection.destination.ip()),
        port: recorded.connection.destination.port(),
        request: recorded.request.as_ref().map(|request| (request.method.clone(), request.path.clone())),
        before: judged.before.clone(),
        after: judged.after.clone(),
        needs: judged.needs.clone(),
    };
    Ok((pair, judged))
}

/// The destination as it is and as it would be.
fn targets<'a>(change: &'a Change, destination: &Endpoint) -> Option<(Target<'a>, Target<'a>)> {
    let of = |compiled: &'a Compiled| compiled.pod(&destination.namespace, &destination.pod);
    of(&change.before).zip(of(&change.after))
}

/// What becomes of a connection that is open now, and why; `None`: the policies are not asked about it.
pub fn of_connection(change: &Change, flow: &Flow) -> Option<(Effect, String)> {
    let (pair, judged) = judged(change, flow).ok()?;
    let (before, after) = targets(change, &flow.destination.clone().unwrap_or_default())?;
    // Whoever dials again is read.
    if !before.reads(pair.port) && after.reads(pair.port) {
        return Some((Effect::NewlyDenied, "what it carries must be read from now on; who dials again is".to_owned()));
    }
    let why = match (judged.effect, &judged.after) {
        (Effect::Unknown, _) => judged.needs.join(", "),
        (_, Some(said)) => shown::said(Some(said)),
        (_, None) => String::new(),
    };
    Some((judged.effect, why))
}
