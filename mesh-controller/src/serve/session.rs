//! What one agent has asked for, what it has been told, and what it must be told next. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::proto::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    type_url,
};

use super::catalog::Catalog;

/// Pushed in this order: a workload that names a policy should find it.
const ORDER: [&str; 3] = [type_url::AUTHORIZATION, type_url::ADDRESS, type_url::LOCAL_POD];

#[derive(Debug)]
pub struct Session {
    node: String,
    types: BTreeMap<String, Subscription>,
    /// Counts responses.
    nonce: u64,
}

#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    /// Names and aliases that were asked for one by one.
    names: BTreeSet<String>,
    /// Those of them of which the agent knows that there is nothing.
    missing: BTreeSet<String>,
    /// What the agent holds, or has refused: name -> version.
    sent: BTreeMap<String, String>,
    /// The last response, as long as it is neither taken nor refused. Until then changes gather.
    outstanding: Option<String>,
}

impl Session {
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), types: BTreeMap::new(), nonce: 0 }
    }

    /// Takes in a request, and what must be answered to it.
    pub fn request(&mut self, catalog: &Catalog, request: DeltaDiscoveryRequest) -> Option<DeltaDiscoveryResponse> {
        let DeltaDiscoveryRequest {
            node: _,
            type_url,
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions,
            response_nonce,
            error_detail,
        } = request;
        let Some(shelf) = catalog.shelf(&type_url, &self.node) else {
            tracing::warn!(node = self.node, type_url, "subscribed to a type that is not served");
            return response_nonce.is_empty().then(|| self.response(&type_url, Vec::new(), subscribe));
        };
        let first = !self.types.contains_key(&type_url);
        let subscription = self.types.entry(type_url.clone()).or_default();
        if !response_nonce.is_empty() && subscription.outstanding.as_deref() == Some(response_nonce.as_str()) {
            subscription.outstanding = None;
            if let Some(error) = error_detail {
                tracing::error!(node = self.node, type_url, error = error.message, "the agent refused configuration");
            }
        }
        if first {
            subscription.sent = initial_resource_versions;
            subscription.wildcard = subscribe.is_empty();
        }
        let asked = first || !subscribe.is_empty();
        let turned = asked || !unsubscribe.is_empty();
        for name in subscribe {
            if name == "*" {
                subscription.wildcard = true;
                continue;
            }
            // Who asks again wants to be told again.
            if !first {
                for entry in catalog.resolve(shelf, &name) {
                    subscription.sent.remove(entry.name());
                }
                subscription.missing.remove(&name);
            }
            subscription.names.insert(name);
        }
        for name in unsubscribe {
            if name == "*" {
                subscription.wildcard = false;
            } else {
                subscription.names.remove(&name);
                subscription.missing.remove(&name);
            }
        }
        // A question is answered even while another answer is on its way, and even if there is nothing to say: the
        // agent waits for it.
        if turned || subscription.outstanding.is_none() { self.push(catalog, &type_url, asked) } else { None }
    }

    /// What must be sent since the catalog changed.
    pub fn refresh(&mut self, catalog: &Catalog) -> Vec<DeltaDiscoveryResponse> {
        let ready = |session: &Self, type_url: &str| {
            session.types.get(type_url).is_some_and(|subscription| subscription.outstanding.is_none())
        };
        ORDER
            .into_iter()
            .filter_map(|type_url| if ready(self, type_url) { self.push(catalog, type_url, false) } else { None })
            .collect()
    }

    /// The difference between what the agent holds and what it should hold; `None` if there is none, unless an answer
    /// is due.
    fn push(&mut self, catalog: &Catalog, type_url: &str, due: bool) -> Option<DeltaDiscoveryResponse> {
        let shelf = catalog.shelf(type_url, &self.node)?;
        let subscription = self.types.get_mut(type_url)?;
        let mut wanted = BTreeMap::new();
        let mut removed = Vec::new();
        if subscription.wildcard {
            wanted.extend(shelf.all().map(|entry| (entry.name(), entry)));
        }
        for name in &subscription.names {
            let found = catalog.resolve(shelf, name);
            if !found.is_empty() {
                subscription.missing.remove(name);
                wanted.extend(found.into_iter().map(|entry| (entry.name(), entry)));
            } else if subscription.missing.insert(name.clone()) && !subscription.sent.contains_key(name) {
                removed.push(name.clone());
            }
        }
        removed.extend(subscription.sent.keys().filter(|name| !wanted.contains_key(name.as_str())).cloned());
        let resources: Vec<_> = wanted
            .into_values()
            .filter(|entry| subscription.sent.get(entry.name()).map(String::as_str) != Some(entry.version()))
            .map(|entry| entry.resource.clone())
            .collect();
        if resources.is_empty() && removed.is_empty() && !due {
            return None;
        }
        for name in &removed {
            subscription.sent.remove(name);
        }
        for resource in &resources {
            subscription.sent.insert(resource.name.clone(), resource.version.clone());
        }
        let response = self.response(type_url, resources, removed);
        if let Some(subscription) = self.types.get_mut(type_url) {
            subscription.outstanding = Some(response.nonce.clone());
        }
        Some(response)
    }

    fn response(
        &mut self,
        type_url: &str,
        resources: Vec<mesh_common::proto::discovery::Resource>,
        removed_resources: Vec<String>,
    ) -> DeltaDiscoveryResponse {
        self.nonce += 1;
        DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources,
            type_url: type_url.to_owned(),
            nonce: self.nonce.to_string(),
            removed_resources,
        }
    }
}
