//! What one agent has asked for, what it has been told, and what it must be told next. No I/O.
//!
//! What an agent holds must make sense at every moment: no workload names a policy that is not there or has an account
//! that does not exist, and no pod is redirected before its workload is known. So a state of the mesh is told in a
//! round of [`STEPS`]; each waits until what was said before it has been taken or refused. A newer state begins with
//! the next round: states that change faster than agents answer would else keep the later steps waiting for ever.

mod subscription;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_common::proto::{discovery::DeltaDiscoveryRequest, refused, type_url};

use super::{answer::Answer, catalog::Catalog};
use crate::monitoring::figures;
use subscription::{Content, Part, Subscription};

/// What is told of a state, in this order: a policy comes before whoever names it, and goes after. So do the accounts
/// of a namespace; one that is deleted is told first of all, since that is a change of its namespace's list. Before all
/// that it is said whose signatures count. That an address may be somebody's of whom nothing is said comes before it is
/// so, and goes after. Rules of traffic come when the services are known to which they lead.
const STEPS: [(&str, Part); 10] = [
    (type_url::TRUST_BUNDLE, Part::All),
    (type_url::ACCOUNTS, Part::Changed),
    (type_url::AUTHORIZATION, Part::Changed),
    (type_url::ON_DEMAND, Part::Changed),
    (type_url::ADDRESS, Part::All),
    (type_url::TRAFFIC, Part::All),
    (type_url::ON_DEMAND, Part::Removed),
    (type_url::AUTHORIZATION, Part::Removed),
    (type_url::ACCOUNTS, Part::Removed),
    (type_url::LOCAL_POD, Part::All),
];

/// Who has been told all of these enforces the policies and rules of which they are made.
const ENFORCED: [&str; 4] = [type_url::AUTHORIZATION, type_url::ADDRESS, type_url::TRAFFIC, type_url::LOCAL_POD];
/// In [`Acknowledged::refused`] before the name of what is no policy, but rules of traffic.
pub const TRAFFIC_REFUSED: &str = "traffic/";
/// So many rules are named as refused: a Lease must hold the names.
const MOST_TRAFFIC: usize = 256;
/// Bytes of rules in one answer, unless a single service's are more: an agent takes messages of 128 MiB at most, reads
/// one at once, and keeps its stream alive meanwhile. The rest comes in further answers.
const LARGEST_TRAFFIC: usize = 16 << 20;
/// Likewise of pods. An agent that was told of some takes them for all that its node has, so that they are told at once
/// as long as they are not very many.
const LARGEST_PODS: usize = 32 << 20;

#[derive(Debug)]
pub struct Session {
    node: String,
    types: BTreeMap<String, Subscription>,
    /// What the agent is being told now.
    round: Option<Round>,
    /// Counts responses.
    nonce: u64,
    acknowledged: Acknowledged,
    /// Policies, and rules of traffic, in the responses that are neither taken nor refused, by type.
    told: BTreeMap<String, BTreeSet<String>>,
}

/// What an agent has taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Of the policies of the last state that it was told to its end, see [`Catalog::digest`]; empty: none yet.
    pub policies: Arc<str>,
    /// Policies that it has refused since it took them last, by their resources' names, and rules of traffic, see
    /// [`TRAFFIC_REFUSED`].
    pub refused: BTreeSet<String>,
}

#[derive(Debug)]
struct Round {
    catalog: Arc<Catalog>,
    /// Index in [`STEPS`]; those before it are done.
    step: usize,
}

impl Acknowledged {
    /// Notes which resources of an answer were refused, and that the others were not.
    fn settle(&mut self, type_url: &str, told: &BTreeSet<String>, is_refused: impl Fn(&str) -> bool) {
        let Some(prefix) = refused_prefix(type_url) else { return };
        let rules = self.refused.iter().filter(|name| name.starts_with(TRAFFIC_REFUSED)).count();
        let most = if type_url == type_url::TRAFFIC { MOST_TRAFFIC.saturating_sub(rules) } else { usize::MAX };
        let (refused, taken): (Vec<&String>, Vec<&String>) = told.iter().partition(|name| is_refused(name));
        for name in taken {
            self.refused.remove(&format!("{prefix}{name}"));
        }
        self.refused.extend(refused.into_iter().take(most).map(|name| format!("{prefix}{name}")));
    }
}

/// Before a resource's name in [`Acknowledged::refused`]; `None` for types of which that has none.
fn refused_prefix(type_url: &str) -> Option<&'static str> {
    match type_url {
        type_url::AUTHORIZATION => Some(""),
        type_url::TRAFFIC => Some(TRAFFIC_REFUSED),
        _ => None,
    }
}

impl Session {
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            types: BTreeMap::new(),
            round: None,
            nonce: 0,
            acknowledged: Acknowledged::default(),
            told: BTreeMap::new(),
        }
    }

    /// The agent has answered to all of the state that it was last told of.
    pub fn is_current(&self) -> bool {
        self.round.is_none() && !self.types.is_empty()
    }

    /// What the agent has taken by now.
    pub fn acknowledged(&self) -> &Acknowledged {
        &self.acknowledged
    }

    /// Takes in a request, and what must be sent next. A question is answered even if there is nothing to say, and
    /// even while another answer of its type is on its way: the agent waits for it.
    pub fn request(&mut self, catalog: &Arc<Catalog>, request: DeltaDiscoveryRequest) -> Option<Answer> {
        let type_url = request.type_url.clone();
        // Names are resolved as the agent has been told of them.
        let current = self.round.as_ref().map_or(catalog, |round| &round.catalog).clone();
        let Some(shelf) = current.shelf(&type_url, &self.node) else {
            tracing::warn!(node = self.node, type_url, "subscribed to a type that is not served");
            let nothing = Content { removed: request.resource_names_subscribe, ..Content::default() };
            return request.response_nonce.is_empty().then(|| self.answer(&type_url, nothing));
        };
        let known = self.types.contains_key(&type_url);
        let subscription = self.types.entry(type_url.clone()).or_default();
        if subscription.settle(&request.response_nonce) {
            let told = self.told.remove(&type_url).unwrap_or_default();
            match &request.error_detail {
                Some(error) => {
                    figures::refused(&type_url);
                    tracing::error!(
                        node = self.node,
                        type_url,
                        error = error.message,
                        "the agent refused configuration"
                    );
                    let names = refused::names(error).into_iter().filter(|name| told.contains(name));
                    let refused: BTreeSet<String> = names.collect();
                    // Who does not say which were refused has taken none.
                    let is_refused = |name: &str| refused.is_empty() || refused.contains(name);
                    self.acknowledged.settle(&type_url, &told, is_refused);
                }
                None => self.acknowledged.settle(&type_url, &told, |_| false),
            }
        }
        if subscription.turn(shelf, request, !known)
            && let Some(round) = &mut self.round
        {
            // Its turn comes again in this round.
            round.step = STEPS.iter().position(|(of, _)| *of == type_url).unwrap_or_default().min(round.step);
        }
        self.refresh(catalog)
    }

    /// What must be sent now, given the newest state; `None` while an answer is awaited, or if there is nothing.
    pub fn refresh(&mut self, catalog: &Arc<Catalog>) -> Option<Answer> {
        loop {
            let round = self.round.get_or_insert_with(|| Round { catalog: catalog.clone(), step: 0 });
            let told = round.catalog.clone();
            let knows = told.is_on_demand() && self.types.contains_key(type_url::ON_DEMAND);
            let on_demand = told.shelf(type_url::LOCAL_POD, &self.node).filter(|_| knows);
            while let Some((type_url, part)) = STEPS.get(round.step) {
                if let Some(subscription) = self.types.get_mut(*type_url) {
                    if subscription.is_waiting() {
                        return None;
                    }
                    let own = on_demand.filter(|_| *type_url == type_url::ADDRESS);
                    let most = match *type_url {
                        type_url::TRAFFIC => LARGEST_TRAFFIC,
                        type_url::LOCAL_POD => LARGEST_PODS,
                        _ => usize::MAX,
                    };
                    let shelf = told.shelf(type_url, &self.node);
                    let content = shelf.and_then(|shelf| subscription.next(shelf, *part, own, most));
                    if let Some(content) = content {
                        return Some(self.answer(type_url, content));
                    }
                }
                round.step += 1;
            }
            self.round = None;
            if ENFORCED.iter().all(|type_url| self.types.contains_key(*type_url)) {
                self.acknowledged.policies = told.digest().clone();
            }
            if Arc::ptr_eq(&told, catalog) {
                return None;
            }
        }
    }

    fn answer(&mut self, type_url: &str, content: Content) -> Answer {
        let Content { resources, removed } = content;
        if refused_prefix(type_url).is_some() {
            let changed = resources.iter().map(|entry| entry.name().to_string()).chain(removed.iter().cloned());
            self.told.insert(type_url.to_owned(), changed.collect());
        }
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        if let Some(subscription) = self.types.get_mut(type_url) {
            subscription.sent_as(nonce.clone());
        }
        Answer { type_url: type_url.to_owned(), nonce, resources, removed }
    }
}
