//! The endpoints of services among which the kernel chooses. What it does not find there the agent resolves, so every
//! doubt is left out.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use mesh_common::{
    abi::{self, SockAddr},
    model::{Affinity, Service, Workload},
};

use crate::{
    bpf::{Datapath, DatapathError},
    state::{Snapshot, Store, backends},
};

/// What stands in the kernel's tables.
pub struct Services {
    written: HashMap<SockAddr, List>,
    next: u32,
    /// As of which configuration; `None`: nothing was written yet.
    applied: Option<Arc<Snapshot>>,
}

#[derive(Debug)]
struct List {
    id: u32,
    affinity: u32,
    endpoints: Vec<SockAddr>,
}

impl Services {
    /// Beside what an earlier agent wrote, which is replaced bit by bit.
    pub fn new(datapath: &Datapath) -> Self {
        let (places, counts) = (datapath.backend_ids(), datapath.services());
        let next = after(places.iter().map(|key| key.id).max().unwrap_or(abi::NO_LIST));
        // Lists that an agent wrote and did not live to name.
        let named: HashSet<u32> = counts.iter().map(|(_, service)| service.id).collect();
        for key in places.into_iter().filter(|key| !named.contains(&key.id)) {
            if let Err(e) = datapath.remove_backend(key) {
                tracing::warn!(error = %anyhow::Error::from(e), "cannot remove a list of endpoints that nobody names");
            }
        }
        let unknown = |(at, service): (SockAddr, abi::Service)| {
            // Of another length than any that is written: it is exchanged at the first look.
            let abi::Service { id, count, affinity } = service;
            (at, List { id, affinity, endpoints: vec![at; count as usize] })
        };
        Self { written: counts.into_iter().map(unknown).collect(), next, applied: None }
    }

    /// Follows the configuration until there is none any more.
    pub async fn follow(mut self, store: &Store, datapath: &Datapath) {
        let mut changes = store.subscribe();
        loop {
            let snapshot = changes.borrow_and_update().clone();
            // Nothing is known yet: what an earlier agent wrote is better.
            if snapshot.generation() > 0
                && let Err(e) = tokio::task::block_in_place(|| self.apply(&snapshot, datapath))
            {
                tracing::error!(error = %anyhow::Error::from(e), "cannot tell the kernel the endpoints of services");
                // Everything is compared again at the next change.
                self.applied = None;
            }
            // A lone change is followed at once.
            tokio::time::sleep(super::SETTLE).await;
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn apply(&mut self, snapshot: &Arc<Snapshot>, datapath: &Datapath) -> Result<(), DatapathError> {
        // Without a pod of this node nobody dials.
        let Some(from) = place(snapshot) else { return Ok(()) };
        // Which service an address belongs to, and how near an endpoint is, is asked anew for all of them.
        let before = self.applied.clone().filter(|before| {
            snapshot.has_services_of(before) && place(before).is_some_and(|then| is_same_place(then, from))
        });
        for service in snapshot.services() {
            let name = service.service_name();
            // Both snapshots are alive, so that equal pointers are equal lists.
            let alike = |before: &Arc<Snapshot>| {
                std::ptr::eq(snapshot.endpoints(&name), before.endpoints(&name))
                    && snapshot.ruled(&name).is_some() == before.ruled(&name).is_some()
            };
            if !before.as_ref().is_some_and(alike) {
                for at in addresses(service) {
                    self.write(datapath, at, service, endpoints(snapshot, service, at, from))?;
                }
            }
        }
        if before.is_none() {
            let all: HashSet<SockAddr> = snapshot.services().flat_map(|service| addresses(service)).collect();
            let gone: Vec<SockAddr> = self.written.keys().filter(|at| !all.contains(at)).copied().collect();
            gone.into_iter().try_for_each(|at| self.take_out(datapath, at))?;
        }
        self.applied = Some(Arc::clone(snapshot));
        Ok(())
    }

    /// `None`: the agent resolves it.
    fn write(
        &mut self,
        datapath: &Datapath,
        at: SockAddr,
        service: &Service,
        endpoints: Option<Vec<SockAddr>>,
    ) -> Result<(), DatapathError> {
        let Some(endpoints) = endpoints else { return self.take_out(datapath, at) };
        // Nobody is kept by whoever finds nobody: that is refused without asking the agent.
        let affinity = service.affinity.filter(|_| endpoints != [SockAddr::NONE]).map_or(0, Affinity::seconds);
        let is_written = |list: &List| (list.affinity, &list.endpoints) == (affinity, &endpoints);
        if self.written.get(&at).is_some_and(is_written) && self.applied.is_some() {
            return Ok(());
        }
        let id = self.next;
        self.next = after(self.next);
        let count = endpoints.len() as u32;
        let before = self.written.get(&at).map(|list| (list.id, list.endpoints.len() as u32));
        // The new list is complete before anybody is led to it; who was led to the old one and finds it gone asks the
        // agent.
        if !datapath.add_backends(id, at, &endpoints)? {
            tracing::warn!(map = "BACKENDS", "full; the agent chooses the endpoints of what finds no room");
            return self.take_out(datapath, at);
        }
        match datapath.set_service(at, abi::Service { id, count, affinity }) {
            Ok(true) => {}
            not_named => {
                datapath.remove_backends(id, count)?;
                not_named?;
                tracing::warn!(map = "SERVICES", "full; the agent chooses the endpoints of what finds no room");
                return self.take_out(datapath, at);
            }
        }
        self.written.insert(at, List { id, affinity, endpoints });
        before.map_or(Ok(()), |(id, count)| datapath.remove_backends(id, count))
    }

    fn take_out(&mut self, datapath: &Datapath, at: SockAddr) -> Result<(), DatapathError> {
        let Some(list) = self.written.get(&at) else { return Ok(()) };
        // What cannot be taken out is still written.
        datapath.remove_service(at)?;
        let (id, count) = (list.id, list.endpoints.len() as u32);
        self.written.remove(&at);
        datapath.remove_backends(id, count)
    }
}

/// The id of the next list.
fn after(id: u32) -> u32 {
    id.wrapping_add(1).max(abi::NO_LIST + 1)
}

/// Any workload of this node: they all have the place of their node.
fn place(snapshot: &Snapshot) -> Option<&Arc<Workload>> {
    snapshot.local_pods().find_map(|pod| snapshot.workload(&pod.uid))
}

fn is_same_place(one: &Workload, other: &Workload) -> bool {
    (&one.network, &one.cluster, &one.node, &one.locality)
        == (&other.network, &other.cluster, &other.node, &other.locality)
}

fn addresses(service: &Service) -> impl Iterator<Item = SockAddr> {
    let ports = service.ports.iter().map(|port| port.port);
    service.addresses.iter().flat_map(move |ip| ports.clone().map(move |port| SocketAddr::new(*ip, port).into()))
}

/// The endpoints at an address and port of a service, all of the address's own family; `None`: the agent shall find
/// them, since that is not so, the address is another service's, or rules of traffic say more than which endpoints
/// there are.
fn endpoints(snapshot: &Snapshot, service: &Arc<Service>, at: SockAddr, from: &Workload) -> Option<Vec<SockAddr>> {
    let dialled: SocketAddr = at.into();
    let owner = snapshot.service_by_address(dialled.ip())?;
    if !Arc::ptr_eq(owner, service) || snapshot.ruled(&service.service_name()).is_some() {
        return None;
    }
    let chosen = backends(snapshot, service, dialled, from, |_| true);
    if chosen.is_empty() {
        // It names its service like any other, so that no connect is refused for a value that was exchanged while it
        // was read.
        return Some(vec![SockAddr::NONE]);
    }
    let same_family = chosen.iter().all(|(_, address)| address.is_ipv4() == dialled.is_ipv4());
    same_family.then(|| chosen.into_iter().map(|(_, address)| address.into()).collect())
}
