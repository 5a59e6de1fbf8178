//! One pod's view of the services that it dials: who may be chosen, how much is under way, and the connections there
//! are.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
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

/// What is known of a destination that nobody asks for is kept for so long, and longer where the policy's times are.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Of one pod. There are few of a service: a request looks through them without making a key.
#[derive(Debug, Default)]
pub struct Destinations(Mutex<HashMap<ServiceName, Vec<Arc<Destination>>>>);

/// A port of a service, or of a subset of it.
#[derive(Debug)]
pub struct Destination {
    pub service: ServiceName,
    pub cluster: Arc<Cluster>,
    pub pool: Arc<Pool>,
    subset: Option<String>,
    /// Its port, and an address of the family of which clients get endpoints first.
    dialled: SocketAddr,
    /// Whether the pod has addresses of IPv4, and of IPv6.
    families: [bool; 2],
    policy: ArcSwap<TrafficPolicy>,
    made: ArcSwap<Made>,
    /// By the policy; `Err`: no connection can be had, and why.
    secure: ArcSwap<Option<Result<Arc<Secure>, String>>>,
    /// Endpoints are asked whether they are well.
    pub(super) checked: AtomicBool,
    /// Somebody asked for it since the last sweep.
    used: AtomicBool,
    /// The last sweep that found it used.
    last_used: Mutex<Instant>,
    /// Held by who makes it anew.
    renewing: Mutex<()>,
}

/// Of which configuration the destination was made.
#[derive(Debug)]
struct Made {
    /// `None`: of none yet.
    generation: Option<u64>,
    service: Arc<Service>,
    rules: Option<Arc<Rules>>,
    endpoints: Option<Group<Workload>>,
    source: Arc<Workload>,
    by_address: Arc<HashMap<SocketAddr, Arc<Endpoint>>>,
    /// Those before: whoever is choosing meanwhile may still find one of them.
    before: Arc<HashMap<SocketAddr, Arc<Endpoint>>>,
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
    /// `snapshot`, or of a newer one that somebody else came with.
    pub fn get(
        &self,
        snapshot: &Arc<Snapshot>,
        source: &Arc<Workload>,
        backend: &Backend,
        dialled: SocketAddr,
        can_dial: impl Fn(IpAddr) -> bool,
    ) -> Result<Arc<Destination>, Missing> {
        let port = backend.port.unwrap_or(dialled.port());
        let is_it = |one: &&Arc<Destination>| {
            one.dialled.port() == port && one.subset == backend.subset && one.dialled.is_ipv4() == dialled.is_ipv4()
        };
        let find = |all: &HashMap<_, Vec<Arc<Destination>>>| {
            let found = all.get(&backend.service)?.iter().find(is_it)?;
            Some(Arc::clone(found))
        };
        let known = find(&self.all());
        if let Some(known) = known.filter(|known| known.made.load().generation >= Some(snapshot.generation())) {
            known.used.store(true, Ordering::Relaxed);
            return Ok(known);
        }
        let now = Now::of(snapshot, source, &backend.service, backend.subset.as_deref(), port)?;
        let mut all = self.all();
        let destination = match find(&all) {
            Some(known) => known,
            None => {
                let families = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()].map(can_dial);
                let (subset, dialled) = (backend.subset.clone(), SocketAddr::new(dialled.ip(), port));
                let destination = Arc::new(Destination::new(&now, subset, dialled, families));
                all.entry(backend.service.clone()).or_default().push(Arc::clone(&destination));
                destination
            }
        };
        drop(all);
        destination.refresh(&now);
        destination.used.store(true, Ordering::Relaxed);
        Ok(destination)
    }

    pub(super) fn ejected(&self, now: Instant) -> usize {
        let all: Vec<_> = self.all().values().flatten().cloned().collect();
        all.iter().map(|destination| destination.cluster.counts(now).ejected).sum()
    }

    /// Those that nobody asks for follow the configuration too: their connections and checks are for endpoints there
    /// are.
    pub(super) fn sweep(&self, snapshot: &Arc<Snapshot>, now: Instant) {
        let known: Vec<_> = self.all().values().flatten().cloned().collect();
        for destination in &known {
            destination.renew(snapshot);
            destination.pool.sweep(&destination.policy.load().pool);
        }
        drop(known);
        self.all().retain(|_, known| {
            known.retain(|destination| Arc::strong_count(destination) > 1 || destination.is_of_use(snapshot, now));
            !known.is_empty()
        });
    }

    fn all(&self) -> MutexGuard<'_, HashMap<ServiceName, Vec<Arc<Destination>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
}

impl<'a> Now<'a> {
    fn of(
        snapshot: &'a Arc<Snapshot>,
        source: &'a Arc<Workload>,
        service: &ServiceName,
        subset: Option<&str>,
        port: u16,
    ) -> Result<Self, Missing> {
        let rules = snapshot.rules(service);
        let service = snapshot.service(service).ok_or(Missing::Service)?;
        if !service.ports.iter().any(|known| known.port == port) {
            return Err(Missing::Port);
        }
        let policy = rules.and_then(|rules| rules.traffic().policy_for(&source.namespace));
        let found = match (policy, subset) {
            (Some(policy), subset) => Some(policy.of(subset, port).ok_or(Missing::Subset)?),
            (None, Some(_)) => return Err(Missing::Subset),
            (None, None) => None,
        };
        let (policy, labels) = found.unzip();
        Ok(Self { snapshot, source, service, rules, policy, labels: labels.flatten() })
    }

    fn client(&self) -> Arc<Client> {
        let labels = Arc::new(self.source.labels.clone());
        Arc::new(Client { locality: self.source.locality.clone(), labels })
    }
}

impl Destination {
    fn new(now: &Now<'_>, subset: Option<String>, dialled: SocketAddr, families: [bool; 2]) -> Self {
        let policy = Arc::new(now.policy.cloned().unwrap_or_default());
        let made = Made {
            // It is refreshed at once.
            generation: None,
            service: Arc::clone(now.service),
            rules: None,
            endpoints: None,
            source: Arc::clone(now.source),
            by_address: Arc::default(),
            before: Arc::default(),
            protocol: Protocol::Auto,
        };
        Self {
            service: now.service.service_name(),
            cluster: Arc::new(Cluster::new(Arc::clone(&policy), now.client())),
            pool: Arc::default(),
            subset,
            dialled,
            families,
            policy: ArcSwap::new(policy),
            made: ArcSwap::from_pointee(made),
            secure: ArcSwap::default(),
            checked: AtomicBool::new(false),
            used: AtomicBool::new(true),
            last_used: Mutex::new(Instant::now()),
            renewing: Mutex::default(),
        }
    }

    /// By what there is for it now; `None`: it, or the pod, is no more there.
    fn now<'a>(&self, snapshot: &'a Arc<Snapshot>) -> Option<Now<'a>> {
        let source = snapshot.workload(&self.made.load().source.uid)?;
        Now::of(snapshot, source, &self.service, self.subset.as_deref(), self.dialled.port()).ok()
    }

    fn renew(&self, snapshot: &Arc<Snapshot>) {
        if self.made.load().generation < Some(snapshot.generation())
            && let Some(now) = self.now(snapshot)
        {
            self.refresh(&now);
        }
    }

    /// Whether somebody uses it, may do so soon, or would miss what is known of it.
    fn is_of_use(&self, snapshot: &Arc<Snapshot>, now: Instant) -> bool {
        let mut last = self.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        if self.used.swap(false, Ordering::Relaxed) {
            *last = now;
        }
        let policy = self.policy.load();
        let ejected = policy.outlier.as_ref().map(|outlier| outlier.base_ejection);
        let warming = policy.balancing.warmup.as_ref().map(|warmup| warmup.duration);
        let longest = ejected.into_iter().chain(warming).map(Duration::from).fold(REMEMBERED, Duration::max);
        let counts = self.cluster.counts(now);
        let is_known = || policy.check.is_some() || self.cluster.is_marked(now);
        counts.requests > 0
            || counts.connections > 0
            || ((now.saturating_duration_since(*last) < longest || is_known()) && self.now(snapshot).is_some())
    }

    /// Nothing, if it is as new as that already.
    fn refresh(&self, now: &Now<'_>) {
        let _alone = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.made.load();
        let generation = Some(now.snapshot.generation());
        if before.generation >= generation {
            return;
        }
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
        let first = before.generation.is_none();
        let alike = is_same(before.endpoints.as_ref(), endpoints) && Arc::ptr_eq(&before.service, now.service);
        if first || !same_rules {
            let policy = Arc::new(now.policy.cloned().unwrap_or_default());
            if first || self.policy.load().tls != policy.tls {
                self.secure.store(Arc::new(policy.tls.as_ref().map(|tls| Secure::new(tls).map(Arc::new))));
            }
            if **self.policy.load() != *policy {
                self.policy.store(Arc::clone(&policy));
                self.cluster.set_policy(policy);
                // There may be more connections now.
                self.pool.wake();
            }
        }
        if first || !same_source {
            self.cluster.set_client(now.client());
        }
        let (by_address, list) = if !first && alike && same_rules && same_source {
            (Arc::clone(&before.by_address), None)
        } else {
            let [ipv4, ipv6] = self.families;
            let can_dial = |ip: IpAddr| if ip.to_canonical().is_ipv4() { ipv4 } else { ipv6 };
            let found = backends(now.snapshot, now.service, self.dialled, now.source, can_dial);
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
                (address, Arc::new(Endpoint::new(Arc::clone(workload), address, self.service.clone())))
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
            before: Arc::clone(&before.by_address),
            protocol: now.rules.map_or(Protocol::Auto, |rules| rules.traffic().protocol(self.dialled.port())),
        };
        self.made.store(Arc::new(made));
        if let Some(list) = list {
            self.cluster.set_endpoints(&list, Instant::now());
            self.pool.keep(list.iter().map(|endpoint| endpoint.address).collect());
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
        let made = self.made.load();
        made.by_address.get(&address).or_else(|| made.before.get(&address)).cloned()
    }
}
