//! One pod's view of the services that it dials: who may be chosen, how much is under way, and the connections there
//! are.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use mesh_common::model::{
    Service, ServiceName, Workload,
    traffic::{Backend, Labels, Protocol, TrafficPolicy},
};

use super::{Endpoint, pool::Pool, tls::Secure};
use crate::{
    balance::{self, Client, Cluster},
    state::{Group, Rules, Snapshot, backends},
};

/// Of one pod.
#[derive(Debug, Default)]
pub struct Destinations(Mutex<HashMap<ServiceName, Vec<Known>>>);

/// A destination of a service. There are few of each: a request looks through them without making a key.
#[derive(Debug)]
struct Known {
    port: u16,
    subset: Option<String>,
    /// A client that dialled in one address family gets endpoints of it first.
    ipv4: bool,
    destination: Arc<Destination>,
}

/// A port of a service, or of a subset of it.
#[derive(Debug)]
pub struct Destination {
    pub service: ServiceName,
    pub cluster: Arc<Cluster>,
    pub pool: Arc<Pool>,
    policy: ArcSwap<TrafficPolicy>,
    made: ArcSwap<Made>,
    /// By the policy; `Err`: no connection can be had, and why.
    secure: ArcSwap<Option<Result<Arc<Secure>, String>>>,
    /// Endpoints are asked whether they are well.
    pub(super) checked: AtomicBool,
    /// Somebody asked for it since the last sweep.
    used: AtomicBool,
}

/// Of which configuration the destination was made.
#[derive(Debug)]
struct Made {
    generation: u64,
    service: Arc<Service>,
    rules: Option<Arc<Rules>>,
    endpoints: Option<Group<Workload>>,
    source: Arc<Workload>,
    by_address: Arc<HashMap<SocketAddr, Arc<Endpoint>>>,
    protocol: Protocol,
}

/// There is no such destination: Envoy's flag NC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Service,
    Port,
    Subset,
}

impl Missing {
    pub fn why(self, backend: &Backend) -> String {
        let Backend { service, port, subset } = backend;
        match self {
            Self::Service => format!("there is no service {service}"),
            Self::Port => format!("service {service} has no port {}", port.unwrap_or_default()),
            Self::Subset => {
                let subset = subset.as_deref().unwrap_or_default();
                format!("no DestinationRule for this client defines subset {subset} of service {service}")
            }
        }
    }
}

impl Destinations {
    /// The destination that `backend` names for a client at `source` that dialled `dialled`; its endpoints are those of
    /// `snapshot`.
    pub fn get(
        &self,
        snapshot: &Arc<Snapshot>,
        source: &Arc<Workload>,
        backend: &Backend,
        dialled: SocketAddr,
        can_dial: impl Fn(std::net::IpAddr) -> bool,
    ) -> Result<Arc<Destination>, Missing> {
        let port = backend.port.unwrap_or(dialled.port());
        let is_it = |one: &&Known| one.port == port && one.subset == backend.subset && one.ipv4 == dialled.is_ipv4();
        let find = |all: &HashMap<_, Vec<Known>>| {
            let found = all.get(&backend.service)?.iter().find(is_it)?;
            Some(Arc::clone(&found.destination))
        };
        let known = find(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(known) = known.filter(|known| known.made.load().generation == snapshot.generation()) {
            known.used.store(true, Ordering::Relaxed);
            return Ok(known);
        }
        let service = snapshot.service(&backend.service).ok_or(Missing::Service)?;
        if !service.ports.iter().any(|known| known.port == port) {
            return Err(Missing::Port);
        }
        let rules = snapshot.rules(&backend.service);
        let policy = rules.and_then(|rules| rules.traffic().policy_for(&source.namespace));
        let subset = backend.subset.as_deref();
        let found = match (policy, subset) {
            (Some(policy), subset) => Some(policy.of(subset, port).ok_or(Missing::Subset)?),
            (None, Some(_)) => return Err(Missing::Subset),
            (None, None) => None,
        };
        let (policy, labels) = found.unzip();
        let now = Now {
            snapshot,
            source,
            service,
            rules,
            policy,
            labels: labels.flatten(),
            dialled: SocketAddr::new(dialled.ip(), port),
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let destination = match find(&all) {
            Some(known) => known,
            None => {
                let destination = Arc::new(Destination::new(&now));
                let (subset, ipv4, new) = (backend.subset.clone(), dialled.is_ipv4(), Arc::clone(&destination));
                let known = Known { port, subset, ipv4, destination };
                all.entry(backend.service.clone()).or_default().push(known);
                new
            }
        };
        drop(all);
        destination.refresh(&now, can_dial);
        destination.used.store(true, Ordering::Relaxed);
        Ok(destination)
    }

    pub(super) fn sweep(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stays = |Known { destination, .. }: &mut Known| {
            destination.pool.sweep(&destination.policy.load().pool);
            let counts = destination.cluster.counts(Instant::now());
            let idle = counts.requests == 0 && counts.connections == 0;
            // What nobody asks for and nobody uses is as good as new when somebody comes.
            destination.used.swap(false, Ordering::Relaxed) || !idle || Arc::strong_count(destination) > 1
        };
        all.retain(|_, known| {
            known.retain_mut(stays);
            !known.is_empty()
        });
    }
}

/// What is said of a destination.
struct Now<'a> {
    snapshot: &'a Arc<Snapshot>,
    source: &'a Arc<Workload>,
    service: &'a Arc<Service>,
    rules: Option<&'a Arc<Rules>>,
    policy: Option<&'a TrafficPolicy>,
    labels: Option<&'a Labels>,
    dialled: SocketAddr,
}

impl Now<'_> {
    fn client(&self) -> Arc<Client> {
        let labels = Arc::new(self.source.labels.clone());
        Arc::new(Client { locality: self.source.locality.clone(), labels })
    }
}

impl Destination {
    fn new(now: &Now<'_>) -> Self {
        let policy = Arc::new(now.policy.cloned().unwrap_or_default());
        let made = Made {
            // Of none: it is refreshed at once.
            generation: u64::MAX,
            service: Arc::clone(now.service),
            rules: None,
            endpoints: None,
            source: Arc::clone(now.source),
            by_address: Arc::default(),
            protocol: Protocol::Auto,
        };
        Self {
            service: now.service.service_name(),
            cluster: Arc::new(Cluster::new(Arc::clone(&policy), now.client())),
            pool: Arc::default(),
            policy: ArcSwap::new(policy),
            made: ArcSwap::from_pointee(made),
            secure: ArcSwap::default(),
            checked: AtomicBool::new(false),
            used: AtomicBool::new(true),
        }
    }

    /// Two requests may do this at once: both come to the same.
    fn refresh(&self, now: &Now<'_>, can_dial: impl Fn(std::net::IpAddr) -> bool) {
        let before = self.made.load();
        let name = &self.service;
        let endpoints = now.snapshot.shared_endpoints(name);
        let is_same = |one: Option<&Group<Workload>>, other: Option<&Group<Workload>>| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        let same_rules = match (&before.rules, now.rules) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        let same_source = Arc::ptr_eq(&before.source, now.source);
        let first = before.generation == u64::MAX;
        let generation = now.snapshot.generation();
        let alike = is_same(before.endpoints.as_ref(), endpoints) && Arc::ptr_eq(&before.service, now.service);
        if first || !same_rules {
            let policy = Arc::new(now.policy.cloned().unwrap_or_default());
            if first || self.policy.load().tls != policy.tls {
                self.secure.store(Arc::new(policy.tls.as_ref().map(|tls| Secure::new(tls).map(Arc::new))));
            }
            if **self.policy.load() != *policy {
                self.policy.store(Arc::clone(&policy));
                self.cluster.set_policy(policy);
            }
        }
        if first || !same_source {
            self.cluster.set_client(now.client());
        }
        let (by_address, list) = if !first && alike && same_rules && same_source {
            (Arc::clone(&before.by_address), None)
        } else {
            let found = backends(now.snapshot, now.service, now.dialled, now.source, can_dial);
            let is_in = |workload: &Workload| {
                now.labels
                    .is_none_or(|wanted| wanted.iter().all(|(key, value)| workload.labels.get(key) == Some(value)))
            };
            let found: Vec<_> = found.into_iter().filter(|(workload, _)| is_in(workload)).collect();
            let list: Vec<balance::Endpoint> = found
                .iter()
                .map(|(workload, address)| balance::Endpoint {
                    address: *address,
                    locality: workload.locality.clone(),
                    labels: Arc::new(workload.labels.clone()),
                    weight: 1,
                })
                .collect();
            let by_address = found.into_iter().map(|(workload, address)| {
                let (workload, service) = (Arc::clone(workload), self.service.clone());
                (address, Arc::new(Endpoint { workload, address, service }))
            });
            (Arc::new(by_address.collect()), Some(list))
        };
        let made = Made {
            generation,
            service: Arc::clone(now.service),
            rules: now.rules.cloned(),
            endpoints: endpoints.cloned(),
            source: Arc::clone(now.source),
            by_address,
            protocol: now.rules.map_or(Protocol::Auto, |rules| rules.traffic().protocol(now.dialled.port())),
        };
        self.made.store(Arc::new(made));
        if let Some(list) = list {
            self.cluster.set_endpoints(&list, Instant::now());
            self.pool.retain(|address| list.iter().any(|endpoint| endpoint.address == address));
        }
    }

    pub fn policy(&self) -> Arc<TrafficPolicy> {
        self.policy.load_full()
    }

    /// How TLS is spoken to endpoints, if it is.
    pub fn secure(&self) -> Option<Result<Arc<Secure>, String>> {
        Option::clone(&self.secure.load())
    }

    /// All endpoints there are.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.made.load().by_address.values().cloned().collect()
    }

    pub fn protocol(&self) -> Protocol {
        self.made.load().protocol
    }

    /// The endpoint at an address that was chosen; `None`: it has just gone.
    pub fn endpoint(&self, address: SocketAddr) -> Option<Arc<Endpoint>> {
        self.made.load().by_address.get(&address).cloned()
    }
}
