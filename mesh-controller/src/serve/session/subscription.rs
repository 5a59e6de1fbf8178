//! One resource type of one agent: what it wants, what it holds, and the difference. What it wants and what it holds
//! share their memory with the shelves of which they are made, so that the difference is found without looking at what
//! has not changed; what names resolve to is looked up again for those that a change touches.

mod named;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_common::proto::discovery::DeltaDiscoveryRequest;

use crate::serve::{
    catalog::{Entry, Shelf, With},
    spread::Spread,
};
use named::Named;

#[derive(Debug, Default)]
pub struct Subscription {
    wildcard: bool,
    /// What was asked for one by one.
    named: Named,
    /// What the agent holds, or has refused.
    sent: Spread<Arc<Entry>>,
    /// The nonce of the last response, as long as it is neither taken nor refused. Until then changes gather.
    outstanding: Option<String>,
    /// A question, which has no answer yet.
    asked: bool,
    /// What is wanted has changed.
    turned: bool,
}

/// Which part of the difference is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What is new or different, and what was asked for and is not there.
    Changed,
    /// What the agent holds and should not.
    Removed,
    All,
}

/// What a response says.
#[derive(Debug, Default)]
pub struct Content {
    /// By name.
    pub resources: Vec<Arc<Entry>>,
    pub removed: Vec<String>,
}

impl Subscription {
    /// Whether this is the nonce of the response that is awaited. It is settled then, taken or refused: what was
    /// refused is sent again once it changes.
    pub fn settle(&mut self, nonce: &str) -> bool {
        let settled = self.outstanding.as_deref() == Some(nonce);
        if settled {
            self.outstanding = None;
        }
        settled
    }

    /// The last content has gone out with this nonce.
    pub fn sent_as(&mut self, nonce: String) {
        self.outstanding = Some(nonce);
    }

    /// Nothing may be said yet.
    pub fn is_waiting(&self) -> bool {
        self.outstanding.is_some() && !self.asked && !self.turned
    }

    /// Notes what the agent wants from now on; whether that is something else than before, or a question.
    pub fn turn(&mut self, shelf: &Shelf, request: DeltaDiscoveryRequest, first: bool) -> bool {
        let DeltaDiscoveryRequest {
            node: _,
            type_url: _,
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions,
            response_nonce: _,
            error_detail: _,
        } = request;
        if first {
            self.sent = held(shelf, initial_resource_versions);
            self.wildcard = subscribe.is_empty();
        }
        self.asked |= first || !subscribe.is_empty();
        self.turned |= !unsubscribe.is_empty();
        for name in subscribe {
            if name == "*" {
                self.wildcard = true;
                continue;
            }
            // Who asks again wants to be told again.
            if !first {
                for entry in shelf.resolve(&name, self.named.with()) {
                    self.sent.remove(entry.name());
                }
            }
            self.named.subscribe(name);
        }
        for name in unsubscribe {
            if name == "*" {
                self.wildcard = false;
            } else {
                self.named.unsubscribe(&name);
            }
        }
        self.asked || self.turned
    }

    /// That part of the difference between what the agent holds and what it should hold, which counts as sent from
    /// now on; `None` if there is none, unless a question awaits its answer. Who is told `on_demand` gets, for the
    /// wildcard, what bears the names of these alone. Of resources it has `most` bytes, or a single one: the others are
    /// said when it is asked for more.
    pub fn next(&mut self, shelf: &Shelf, part: Part, on_demand: Option<&Shelf>, most: usize) -> Option<Content> {
        match on_demand {
            Some(own) if self.wildcard => self.named.imply(own.resources(), With::Members),
            Some(_) => self.named.imply(&Spread::EMPTY, With::Members),
            None => self.named.imply(&Spread::EMPTY, With::Related),
        }
        self.named.follow(shelf);
        let absent = if part == Part::Removed { BTreeSet::new() } else { self.named.absent() };
        let absent = absent.into_iter().filter(|name| self.sent.get(name).is_none());
        let mut content = Content { resources: Vec::new(), removed: absent.collect() };
        let wanted = if self.wildcard && on_demand.is_none() { shelf.resources() } else { self.named.wanted() };
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        // What is not said yet, and as what the agent holds it.
        let mut unsaid = Vec::new();
        for (name, held, entry) in self.sent.beside(wanted) {
            match (held, entry) {
                (Some(held), Some(entry)) if held.version() == entry.version() => {}
                (_, Some(entry)) if part != Part::Removed => new.push((entry.clone(), held.cloned())),
                (Some(_), None) if part != Part::Changed => gone.push(name.to_string()),
                _ => unsaid.push((name.clone(), held.cloned())),
            }
        }
        new.sort_unstable_by(|(one, _), (other, _)| one.name().cmp(other.name()));
        let mut bytes = 0_usize;
        for (entry, held) in new {
            bytes = bytes.saturating_add(entry.wire().len());
            if bytes > most && !content.resources.is_empty() {
                // Neither are those behind it, so that the order stays.
                bytes = usize::MAX;
                unsaid.push((entry.name().clone(), held));
            } else {
                content.resources.push(entry);
            }
        }
        self.sent = wanted.clone();
        for (name, held) in unsaid {
            match held {
                Some(held) => self.sent.insert(name, held),
                None => drop(self.sent.remove(&name)),
            }
        }
        self.turned = false;
        let asked = part != Part::Removed && std::mem::take(&mut self.asked);
        gone.sort_unstable();
        content.removed.extend(gone);
        (asked || !content.resources.is_empty() || !content.removed.is_empty()).then_some(content)
    }
}

/// What an agent says that it holds.
fn held(shelf: &Shelf, versions: BTreeMap<String, String>) -> Spread<Arc<Entry>> {
    let all = versions.into_iter().map(|(name, version)| {
        let known = shelf.resources().get(&name).filter(|entry| entry.version() == version);
        let entry = known.cloned().unwrap_or_else(|| Arc::new(Entry::held(&name, version)));
        (entry.name().clone(), entry)
    });
    all.collect()
}

#[cfg(test)]
mod tests;
