//! One resource type of one agent: what it wants, what it holds, and the difference.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::proto::discovery::{DeltaDiscoveryRequest, Resource};

use crate::serve::catalog::{Catalog, Shelf};

#[derive(Debug, Default)]
pub struct Subscription {
    wildcard: bool,
    /// Names and aliases that were asked for one by one.
    names: BTreeSet<String>,
    /// Those of them of which the agent knows that there is nothing.
    missing: BTreeSet<String>,
    /// What the agent holds, or has refused: name -> version.
    sent: BTreeMap<String, String>,
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
#[derive(Debug)]
pub struct Content {
    pub resources: Vec<Resource>,
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
    pub fn turn(&mut self, catalog: &Catalog, shelf: &Shelf, request: DeltaDiscoveryRequest, first: bool) -> bool {
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
            self.sent = initial_resource_versions;
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
                for entry in catalog.resolve(shelf, &name) {
                    self.sent.remove(entry.name());
                }
                self.missing.remove(&name);
            }
            self.names.insert(name);
        }
        for name in unsubscribe {
            if name == "*" {
                self.wildcard = false;
            } else {
                self.names.remove(&name);
                self.missing.remove(&name);
            }
        }
        self.asked || self.turned
    }

    /// That part of the difference between what the agent holds and what it should hold, which counts as sent from
    /// now on; `None` if there is none, unless a question awaits its answer.
    pub fn next(&mut self, catalog: &Catalog, shelf: &Shelf, part: Part) -> Option<Content> {
        let mut wanted = BTreeMap::new();
        let mut removed = Vec::new();
        if self.wildcard {
            wanted.extend(shelf.all().map(|entry| (entry.name(), entry)));
        }
        for name in &self.names {
            let found = catalog.resolve(shelf, name);
            if !found.is_empty() {
                self.missing.remove(name);
                wanted.extend(found.into_iter().map(|entry| (entry.name(), entry)));
            } else if part != Part::Removed && self.missing.insert(name.clone()) && !self.sent.contains_key(name) {
                removed.push(name.clone());
            }
        }
        if part != Part::Changed {
            removed.extend(self.sent.keys().filter(|name| !wanted.contains_key(name.as_str())).cloned());
        }
        let resources: Vec<_> = wanted
            .into_values()
            .filter(|entry| {
                part != Part::Removed && self.sent.get(entry.name()).map(String::as_str) != Some(entry.version())
            })
            .map(|entry| entry.resource.clone())
            .collect();
        self.turned = false;
        let asked = part != Part::Removed && std::mem::take(&mut self.asked);
        if resources.is_empty() && removed.is_empty() && !asked {
            return None;
        }
        for name in &removed {
            self.sent.remove(name);
        }
        for resource in &resources {
            self.sent.insert(resource.name.clone(), resource.version.clone());
        }
        Some(Content { resources, removed })
    }
}
