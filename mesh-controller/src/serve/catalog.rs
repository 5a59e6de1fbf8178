//! The state of the mesh as wire resources, each with a version that is a hash of its content: what has not changed
//! is never sent again, not even after a restart of the controller.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aws_lc_rs::digest;
use mesh_common::{
    model::{Service, TrustBundle, Workload},
    proto::{Address, discovery, nodemesh, security, type_url, workload},
};
use prost::Message;

use crate::{
    index::{Delta, World, Written},
    source::Key,
    tokens::hex,
};

/// Resources by type, then by name.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    addresses: Shelf,
    policies: Shelf,
    accounts: Shelf,
    /// One resource, if it is known whom to trust.
    trust: Shelf,
    /// By node: an agent sees its own pods only.
    local_pods: BTreeMap<String, Shelf>,
    /// Of the policies of which all this is made; see [`digest()`].
    digest: Arc<str>,
    /// Workloads that serve a service, by its resource name.
    members: BTreeMap<String, BTreeSet<String>>,
}

/// The resources of one type.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    resources: BTreeMap<String, Arc<Entry>>,
    by_alias: BTreeMap<String, String>,
}

#[derive(Debug)]
pub struct Entry {
    pub resource: discovery::Resource,
    /// Names of the services that this workload serves.
    services: Vec<String>,
}

/// A name for these policies in these versions: the same in every replica.
pub fn digest(written: &BTreeMap<Key, Written>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for (key, Written { uid, generation }) in written {
        context.update(format!("{key}\n{uid}\n{generation}\n").as_bytes());
    }
    hex(&context.finish().as_ref()[..16])
}

impl Catalog {
    /// The catalog of `world`, given that of the state before and what changed since.
    pub fn next(&self, world: &World, delta: &Delta) -> Self {
        let mut next = self.clone();
        for uid in &delta.workloads.removed {
            next.remove_address(uid);
        }
        for name in &delta.services.removed {
            next.remove_address(&name.to_string());
        }
        // Everything old goes before anything new comes: an address may have changed hands.
        for name in
            delta.workloads.changed.iter().cloned().chain(delta.services.changed.iter().map(ToString::to_string))
        {
            next.remove_address(&name);
        }
        for workload in delta.workloads.changed.iter().filter_map(|uid| world.workloads.get(uid)) {
            next.add_workload(workload);
        }
        for service in delta.services.changed.iter().filter_map(|name| world.services.get(name)) {
            next.add_service(service);
        }
        for name in &delta.policies.removed {
            next.policies.remove(&name.to_string());
        }
        for policy in delta.policies.changed.iter().filter_map(|name| world.policies.get(name)) {
            let message = security::Authorization::from(policy);
            next.policies.add(Entry::new(policy.name.to_string(), type_url::AUTHORIZATION, &message));
        }
        for namespace in &delta.accounts.removed {
            next.accounts.remove(namespace);
        }
        for accounts in delta.accounts.changed.iter().filter_map(|namespace| world.accounts.get(namespace)) {
            let message = nodemesh::Accounts::from(accounts);
            next.accounts.add(Entry::new(accounts.namespace.clone(), type_url::ACCOUNTS, &message));
        }
        for (node, changes) in &delta.local_pods {
            let shelf = next.local_pods.entry(node.clone()).or_default();
            for uid in &changes.removed {
                shelf.remove(uid);
            }
            let pods = world.local_pods.get(node);
            for pod in changes.changed.iter().filter_map(|uid| pods?.get(uid)) {
                shelf.add(Entry::new(pod.uid.clone(), type_url::LOCAL_POD, &nodemesh::LocalPod::from(pod)));
            }
        }
        next.local_pods.retain(|_, shelf| !shelf.resources.is_empty());
        next.digest = digest(&world.written).into();
        next
    }

    /// The same catalog with other roots.
    pub fn trusting(&self, bundle: &TrustBundle) -> Self {
        let mut trust = Shelf::default();
        let message = nodemesh::TrustBundle::from(bundle);
        trust.add(Entry::new(bundle.trust_domain.clone(), type_url::TRUST_BUNDLE, &message));
        Self { trust, ..self.clone() }
    }

    /// Which policies whoever holds all of this has.
    pub fn digest(&self) -> &Arc<str> {
        &self.digest
    }

    /// What this node's agent may see of a type; `None` for types that are not served.
    pub fn shelf(&self, type_url: &str, node: &str) -> Option<&Shelf> {
        static EMPTY: Shelf = Shelf { resources: BTreeMap::new(), by_alias: BTreeMap::new() };
        match type_url {
            type_url::ADDRESS => Some(&self.addresses),
            type_url::AUTHORIZATION => Some(&self.policies),
            type_url::ACCOUNTS => Some(&self.accounts),
            type_url::TRUST_BUNDLE => Some(&self.trust),
            type_url::LOCAL_POD => Some(self.local_pods.get(node).unwrap_or(&EMPTY)),
            _ => None,
        }
    }

    /// A resource by its name or alias, and those that are of no use without it or it without them: the workloads of
    /// a service, the services of a workload.
    pub fn resolve<'a>(&'a self, shelf: &'a Shelf, name: &str) -> Vec<&'a Arc<Entry>> {
        let name = shelf.by_alias.get(name).map_or(name, String::as_str);
        let Some(entry) = shelf.resources.get(name) else { return Vec::new() };
        let members = self.members.get(name).into_iter().flatten();
        let related = entry.services.iter().chain(members).filter_map(|name| shelf.resources.get(name));
        std::iter::once(entry).chain(related).collect()
    }

    fn add_workload(&mut self, workload: &Workload) {
        let message = workload::Address::from(&Address::Workload(workload.clone()));
        let mut entry = Entry::new(workload.uid.clone(), type_url::ADDRESS, &message);
        entry.services = workload.services.keys().map(ToString::to_string).collect();
        // The address of a pod in its node's network is the node's: it says nothing of whose traffic that is.
        if !workload.host_network {
            let aliases = workload.addresses.iter().map(|ip| format!("{}/{ip}", workload.network));
            entry.resource.aliases = aliases.collect();
        }
        for service in &entry.services {
            self.members.entry(service.clone()).or_default().insert(workload.uid.clone());
        }
        self.addresses.add(entry);
    }

    fn add_service(&mut self, service: &Service) {
        let message = workload::Address::from(&Address::Service(service.clone()));
        let mut entry = Entry::new(service.service_name().to_string(), type_url::ADDRESS, &message);
        entry.resource.aliases = service.addresses.iter().map(|ip| format!("/{ip}")).collect();
        self.addresses.add(entry);
    }

    fn remove_address(&mut self, name: &str) {
        let Some(entry) = self.addresses.remove(name) else { return };
        for service in &entry.services {
            if let Some(members) = self.members.get_mut(service) {
                members.remove(name);
                if members.is_empty() {
                    self.members.remove(service);
                }
            }
        }
    }
}

impl Shelf {
    pub fn all(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.resources.values()
    }

    fn add(&mut self, entry: Entry) {
        let name = entry.resource.name.clone();
        for alias in &entry.resource.aliases {
            self.by_alias.insert(alias.clone(), name.clone());
        }
        self.resources.insert(name, Arc::new(entry));
    }

    fn remove(&mut self, name: &str) -> Option<Arc<Entry>> {
        let entry = self.resources.remove(name)?;
        for alias in &entry.resource.aliases {
            if self.by_alias.get(alias).is_some_and(|owner| owner == name) {
                self.by_alias.remove(alias);
            }
        }
        Some(entry)
    }
}

impl Entry {
    fn new(name: String, type_url: &str, message: &impl Message) -> Self {
        let value = message.encode_to_vec();
        let version = hex(&digest::digest(&digest::SHA256, &value).as_ref()[..8]);
        let resource = Some(prost_types::Any { type_url: type_url.to_owned(), value });
        Self { resource: discovery::Resource { version, resource, name, aliases: Vec::new() }, services: Vec::new() }
    }

    pub fn name(&self) -> &str {
        &self.resource.name
    }

    pub fn version(&self) -> &str {
        &self.resource.version
    }
}
