//! Which services there are, to those who name them.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::model::{ServiceName, traffic::Clients};

use crate::translate::{
    Settings, hosts,
    traffic::{Facts, HostRef},
};

/// Every service, also by its host name.
#[derive(Debug)]
pub struct Services<'a> {
    settings: &'a Settings,
    facts: BTreeMap<ServiceName, Facts>,
    /// Namespaces by host name.
    by_hostname: BTreeMap<String, BTreeSet<String>>,
}

impl<'a> Services<'a> {
    pub fn new(settings: &'a Settings, facts: BTreeMap<ServiceName, Facts>) -> Self {
        let mut by_hostname: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for name in facts.keys() {
            by_hostname.entry(name.hostname.clone()).or_default().insert(name.namespace.clone());
        }
        Self { settings, facts, by_hostname }
    }

    pub fn facts(&self, name: &ServiceName) -> Option<&Facts> {
        self.facts.get(name)
    }

    /// All services that an object of this namespace names so, in order.
    pub fn named(&self, host: &HostRef, namespace: &str) -> Vec<&ServiceName> {
        let visible = |(_, facts): &(&ServiceName, &Facts)| facts.exported.has(namespace);
        match host {
            HostRef::Service(name) => self.resolve(name, namespace).into_iter().collect(),
            HostRef::Named(hostname) => {
                let name = ServiceName { namespace: String::new(), hostname: hostname.clone() };
                self.resolve(&name, namespace).into_iter().collect()
            }
            HostRef::Below(suffix) => {
                let below = self.facts.iter().filter(|(name, _)| name.hostname.ends_with(suffix));
                below.filter(visible).map(|(name, _)| name).collect()
            }
            HostRef::Every => self.facts.iter().filter(visible).map(|(name, _)| name).collect(),
        }
    }

    /// The one service that an object of this namespace means by a name. Where it says no namespace: that of its own
    /// namespace, then the first that may be named from there, at last a service of Kubernetes by two labels.
    pub fn resolve(&self, name: &ServiceName, namespace: &str) -> Option<&ServiceName> {
        let visible = |name: &ServiceName| {
            self.facts.get_key_value(name).filter(|(_, facts)| facts.exported.has(namespace)).map(|(name, _)| name)
        };
        if !name.namespace.is_empty() {
            return visible(name);
        }
        let hostname = &name.hostname;
        let of = |namespace: &str| ServiceName { namespace: namespace.to_owned(), hostname: hostname.clone() };
        let others = self.by_hostname.get(hostname).into_iter().flatten();
        let found = visible(&of(namespace)).or_else(|| others.into_iter().find_map(|other| visible(&of(other))));
        found.or_else(|| visible(&hosts::service_of_two_labels(self.settings, hostname)?))
    }
}

/// Whose requests an object of this namespace rules on their way to a service: its own namespace's alone, unless it is
/// the service's too, or the mesh's root. Nobody may bend what others send to a service that is not his.
pub fn ruled_clients(settings: &Settings, namespace: &str, service: &ServiceName, exported: &Clients) -> Clients {
    if namespace == service.namespace || namespace == settings.root_namespace {
        exported.clone()
    } else {
        let own = exported.has(namespace).then(|| namespace.to_owned());
        Clients::Namespaces(own.into_iter().collect())
    }
}
