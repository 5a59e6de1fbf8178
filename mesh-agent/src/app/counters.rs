//! What the kernel counts, and what is open or valid now, reaches the metrics: at each scrape, and every 5 s.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use mesh_common::abi::Counter;
use tokio::sync::watch;

use crate::{
    bpf::Datapath,
    control::ControlStatus,
    direct::Direct,
    http::Http,
    identity::Certificates,
    state::Store,
    telemetry::{self, FlowLog, Metrics, Used},
};

/// How often metrics are brought to what is now.
const INTERVAL: Duration = Duration::from_secs(5);

/// Where what is counted elsewhere is looked up.
pub struct Sources {
    pub datapath: Arc<Datapath>,
    pub direct: Arc<Direct>,
    pub flows: Arc<FlowLog>,
    pub http: Arc<Http>,
    pub certificates: Arc<Certificates>,
    pub store: Arc<Store>,
    pub control: watch::Receiver<ControlStatus>,
    pub metrics: Metrics,
}

/// Connections that only the kernel sees are told by the agent that speaks for the node then.
pub struct Counters {
    sources: Sources,
    /// Entries that the kernel's tables may have: they keep the size with which they were made.
    capacities: Vec<(&'static str, usize)>,
    /// Records and refusals that found no room in a ring and are told; `None`: another agent speaks.
    told: Mutex<Option<u64>>,
}

impl Counters {
    pub fn new(sources: Sources) -> Arc<Self> {
        let capacities = sources.datapath.map_capacities();
        Arc::new(Self { sources, capacities, told: Mutex::new(None) })
    }

    /// This agent speaks for the node from now on: what was lost before is an earlier one's to tell.
    pub fn begin(&self) {
        *self.told() = Some(self.lost());
    }

    /// Another agent speaks for it from now on.
    pub fn end(&self) {
        self.gather();
        *self.told() = None;
    }

    /// Since the kernel's counters began, which outlive agents.
    fn lost(&self) -> u64 {
        [Counter::ClosedLost, Counter::EventsLost].map(|of| self.sources.datapath.counter(of)).iter().sum()
    }

    /// Brings the metrics to what is now.
    pub fn gather(&self) {
        let Sources { datapath, direct, flows, http, certificates, store, control, metrics } = &self.sources;
        // The tables of connections may be long: connections shall not wait.
        let entries = tokio::task::block_in_place(|| datapath.map_entries());
        let most = |name| self.capacities.iter().find(|(of, _)| *of == name).map_or(1, |(_, most)| *most);
        telemetry::map_entries(entries.map(|(name, entries)| (name, entries, most(name))));
        telemetry::kernel_counters(datapath.counters().map(|(counter, value)| (counter.name(), value)));
        telemetry::direct_connections(datapath.counter(Counter::DirectOpened));
        telemetry::ejections(http.ejected(Instant::now()));
        telemetry::configuration(store.snapshot().generation(), control.borrow().connected);
        let now = SystemTime::now();
        let left = certificates.list().into_iter().filter_map(|certificate| {
            let end = certificate.not_after?;
            let over = || -now.duration_since(end).unwrap_or_default().as_secs_f64();
            let left = end.duration_since(now).map_or_else(|_| over(), |left| left.as_secs_f64());
            Some((certificate.identity.to_string(), left))
        });
        metrics.certificates(left.collect());
        flows.count_live();
        // Under the lock: two scrapes at a time must not tell the same twice.
        let mut told = self.told();
        if let Some(told) = &mut *told {
            tokio::task::block_in_place(|| direct.count_open());
            let lost = self.lost();
            // None if the counters began anew.
            telemetry::flows_lost("ring", lost.saturating_sub(*told));
            *told = lost;
        }
    }

    /// Brings the metrics and what pods cost to what is now, until the runtime ends.
    pub async fn copy(self: Arc<Self>) {
        let mut tick = tokio::time::interval(INTERVAL);
        loop {
            tick.tick().await;
            self.sources.metrics.upkeep();
            self.gather();
            let stats = self.sources.flows.stats();
            stats.expire(SystemTime::now());
            if let Some(used) = Used::now() {
                stats.costs().share(used, Instant::now());
            }
        }
    }

    /// Nothing that holds it can panic half way through a change.
    fn told(&self) -> MutexGuard<'_, Option<u64>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
