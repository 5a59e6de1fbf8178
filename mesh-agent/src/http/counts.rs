//! What was routed, by route: requests, their answers, and what the agent itself answered.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh_common::model::ServiceName;
use metrics::counter;

/// Routes that are counted by themselves; all others of an agent are one, without a name.
const ROUTES: usize = 4096;

/// Of one agent.
#[derive(Debug, Default)]
pub struct Counts(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    /// Two steps, so that a request looks up without making a key.
    services: HashMap<ServiceName, HashMap<String, Arc<RouteCounts>>>,
    routes: usize,
}

/// Of one route.
#[derive(Debug, Default)]
pub struct RouteCounts {
    /// Empty, too, of those that are not counted by themselves.
    pub name: Arc<str>,
    pub requests: AtomicU64,
    /// Requests that have no answer yet.
    pub active: AtomicU64,
    /// By hundreds of the status: 0 is what ended without one.
    pub answers: [AtomicU64; 6],
    pub retries: AtomicU64,
    pub mirrored: AtomicU64,
    /// By Envoy's flag.
    pub flags: Mutex<BTreeMap<&'static str, u64>>,
}

/// One route's counts as they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    pub service: ServiceName,
    pub route: String,
    pub requests: u64,
    pub active: u64,
    pub answers: [u64; 6],
    pub retries: u64,
    pub mirrored: u64,
    pub flags: BTreeMap<&'static str, u64>,
}

impl Counts {
    pub fn of(&self, service: &ServiceName, route: &str) -> Arc<RouteCounts> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let All { services, routes } = &mut *all;
        if let Some(known) = services.get(service).and_then(|known| known.get(route)) {
            return Arc::clone(known);
        }
        let name = if *routes < ROUTES { route } else { "" };
        let known = services.entry(service.clone()).or_default().entry(name.to_owned());
        Arc::clone(known.or_insert_with(|| {
            *routes += 1;
            Arc::new(RouteCounts { name: name.into(), ..RouteCounts::default() })
        }))
    }

    /// In the order of services and routes.
    pub fn all(&self) -> Vec<Routed> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = |(service, known)| -> Vec<Routed> {
            let known: &HashMap<String, Arc<RouteCounts>> = known;
            known.iter().map(|(route, counts)| counts.now(service, route)).collect()
        };
        let mut routed: Vec<_> = all.services.iter().flat_map(each).collect();
        routed.sort_by(|a, b| (&a.service, &a.route).cmp(&(&b.service, &b.route)));
        routed
    }
}

impl RouteCounts {
    pub fn begun(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// `status` 0: the client has gone before there was one.
    pub fn answered(&self, status: u16, flag: Option<&'static str>) {
        self.active.fetch_sub(1, Ordering::Relaxed);
        self.answers[usize::from(status / 100).min(5)].fetch_add(1, Ordering::Relaxed);
        if let Some(flag) = flag {
            self.flagged(flag);
        }
    }

    /// Something befell a request or its answer.
    pub fn flagged(&self, flag: &'static str) {
        *self.flags.lock().unwrap_or_else(PoisonError::into_inner).entry(flag).or_default() += 1;
        counter!("mesh_http_flags_total", "flag" => flag).increment(1);
    }

    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
        counter!("mesh_retries_total").increment(1);
    }

    pub fn mirrored(&self) {
        self.mirrored.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self, service: &ServiceName, route: &str) -> Routed {
        Routed {
            service: service.clone(),
            route: route.to_owned(),
            requests: self.requests.load(Ordering::Relaxed),
            active: self.active.load(Ordering::Relaxed),
            answers: std::array::from_fn(|class| self.answers[class].load(Ordering::Relaxed)),
            retries: self.retries.load(Ordering::Relaxed),
            mirrored: self.mirrored.load(Ordering::Relaxed),
            flags: self.flags.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
