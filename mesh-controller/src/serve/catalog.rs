//! The state of the mesh as wire resources, each with a version that is a hash of its content: what has not changed
//! is never sent again, not even after a restart of the controller.

mod shelf;

pub use shelf::{Entry, Shelf, With};

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::digest;
use mesh_common::{
    model::{Service, TrustBundle, Workload},
    proto::{Address, nodemesh, security, type_url, workload},
};

use super::spread::Spread;
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
    traffic: Shelf,
    accounts: Shelf,
    /// One resource, if it is known whom to trust.
    trust: Shelf,
    /// By node: an agent sees its own pods only.
    local_pods: Spread<Shelf>,
    /// One resource, while agents are told of addresses on demand.
    on_demand: Shelf,
    /// Of more workloads and services than these agents are told on demand; `None`: never.
    on_demand_above: Option<usize>,
    /// Of the policies of which all this is made; see [`digest()`].
    digest: Arc<str>,
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
            next.addresses.remove(uid);
        }
        for name in &delta.services.removed {
            next.addresses.remove(&name.to_string());
        }
        // Everything old goes before anything new comes: an address may have changed hands.
        for name in
            delta.workloads.changed.iter().cloned().chain(delta.services.changed.iter().map(ToString::to_string))
        {
            next.addresses.remove(&name);
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
            let message = security::Authorization::from(&**policy);
            next.policies.add(Entry::new(&policy.name.to_string(), type_url::AUTHORIZATION, &message));
        }
        for name in &delta.traffic.removed {
            next.traffic.remove(&name.to_string());
        }
        for (name, traffic) in delta.traffic.changed.iter().filter_map(|name| world.traffic.get_key_value(name)) {
            next.traffic.add(Entry::new(&name.to_string(), type_url::TRAFFIC, &nodemesh::Traffic::from(&**traffic)));
        }
        for namespace in &delta.accounts.removed {
            next.accounts.remove(namespace);
        }
        for accounts in delta.accounts.changed.iter().filter_map(|namespace| world.accounts.get(namespace)) {
            let message = nodemesh::Accounts::from(accounts);
            next.accounts.add(Entry::new(&accounts.namespace, type_url::ACCOUNTS, &message));
        }
        for (node, changes) in &delta.local_pods {
            let mut shelf = next.local_pods.get(node).cloned().unwrap_or_default();
            for uid in &changes.removed {
                shelf.remove(uid);
            }
            let pods = world.local_pods.get(node);
            for pod in changes.changed.iter().filter_map(|uid| pods?.get(uid)) {
                shelf.add(Entry::new(&pod.uid, type_url::LOCAL_POD, &nodemesh::LocalPod::from(&**pod)));
            }
            if shelf.is_empty() {
                next.local_pods.remove(node);
            } else {
                next.local_pods.insert(node.as_str().into(), shelf);
            }
        }
        if delta.written || self.digest.is_empty() {
            next.digest = digest(&world.written).into();
        }
        next.told_on_demand(world)
    }

    /// The same catalog of `world`, told on demand if there are more workloads and services in it than these.
    pub fn on_demand_above(&self, addresses: usize, world: &World) -> Self {
        Self { on_demand_above: Some(addresses), ..self.clone() }.told_on_demand(world)
    }

    /// A mesh about the size of the limit must not change its mind with each pod: it goes back at half of it.
    fn told_on_demand(mut self, world: &World) -> Self {
        let size = world.workloads.len() + world.services.len();
        let limit = self.on_demand_above.unwrap_or(usize::MAX);
        if self.on_demand.is_empty() && size > limit {
            tracing::info!(addresses = size, limit, "agents are told of addresses on demand");
            self.on_demand.add(Entry::new("addresses", type_url::ON_DEMAND, &nodemesh::OnDemand {}));
        } else if !self.on_demand.is_empty() && size <= limit / 2 {
            tracing::info!(addresses = size, limit, "agents are told of all addresses again");
            self.on_demand = Shelf::default();
        }
        self
    }

    /// Whether those that know of it are told of addresses on demand.
    pub fn is_on_demand(&self) -> bool {
        !self.on_demand.is_empty()
    }

    /// The same catalog with other roots.
    pub fn trusting(&self, bundle: &TrustBundle) -> Self {
        let mut trust = Shelf::default();
        let message = nodemesh::TrustBundle::from(bundle);
        trust.add(Entry::new(&bundle.trust_domain, type_url::TRUST_BUNDLE, &message));
        Self { trust, ..self.clone() }
    }

    /// Which policies whoever holds all of this has.
    pub fn digest(&self) -> &Arc<str> {
        &self.digest
    }

    /// What this node's agent may see of a type; `None` for types that are not served.
    pub fn shelf(&self, type_url: &str, node: &str) -> Option<&Shelf> {
        static EMPTY: Shelf = Shelf::EMPTY;
        match type_url {
            type_url::ADDRESS => Some(&self.addresses),
            type_url::AUTHORIZATION => Some(&self.policies),
            type_url::TRAFFIC => Some(&self.traffic),
            type_url::ACCOUNTS => Some(&self.accounts),
            type_url::TRUST_BUNDLE => Some(&self.trust),
            type_url::ON_DEMAND => Some(&self.on_demand),
            type_url::LOCAL_POD => Some(self.local_pods.get(node).unwrap_or(&EMPTY)),
            _ => None,
        }
    }

    fn add_workload(&mut self, workload: &Workload) {
        let message = workload::Address::from(&Address::Workload(workload.clone()));
        let services = workload.services.keys().map(|name| name.to_string().into()).collect();
        // The address of a pod in its node's network is the node's: it says nothing of whose traffic that is.
        let own = if workload.host_network { &[] } else { workload.addresses.as_slice() };
        let aliases = own.iter().map(|ip| format!("{}/{ip}", workload.network)).collect();
        self.addresses.add(Entry::related(&workload.uid, type_url::ADDRESS, &message, aliases, services));
    }

    fn add_service(&mut self, service: &Service) {
        let message = workload::Address::from(&Address::Service(service.clone()));
        let aliases = service.addresses.iter().map(|ip| format!("/{ip}")).collect();
        let name = service.service_name().to_string();
        self.addresses.add(Entry::related(&name, type_url::ADDRESS, &message, aliases, Vec::new()));
    }
}
