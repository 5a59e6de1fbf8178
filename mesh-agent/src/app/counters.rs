//! What the kernel counts reaches the metrics: at each scrape, and now and then between.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh_common::abi::Counter;

use crate::{
    bpf::Datapath,
    telemetry::{self, Direction, Metrics},
};

/// How often the kernel's counters are copied to the metrics.
const INTERVAL: Duration = Duration::from_secs(5);

/// Connections that only the kernel saw begin: each is counted once as opened, by the agent that speaks for the node
/// then.
pub struct Counters {
    datapath: Arc<Datapath>,
    told: Mutex<Option<Opened>>,
}

/// Since the kernel's counters began, which outlive agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Opened {
    direct: u64,
    dialled: u64,
    accepted: u64,
    /// Records and refusals that found no room in a ring.
    lost: u64,
}

impl Counters {
    pub fn new(datapath: Arc<Datapath>) -> Arc<Self> {
        Arc::new(Self { datapath, told: Mutex::new(None) })
    }

    /// This agent speaks for the node from now on: what was opened before is an earlier one's to tell.
    pub fn begin(&self) {
        *self.told() = Some(Opened::now(&self.datapath));
    }

    /// Another agent speaks for it from now on.
    pub fn end(&self) {
        self.gather();
        *self.told() = None;
    }

    /// Brings the metrics to what the kernel counted until now.
    pub fn gather(&self) {
        // The tables of connections may be long: connections shall not wait.
        telemetry::map_entries(tokio::task::block_in_place(|| self.datapath.map_entries()));
        telemetry::kernel_counters(self.datapath.counters().map(|(counter, value)| (counter.name(), value)));
        // Under the lock: two scrapes at a time must not tell the same connections.
        let mut told = self.told();
        let now = Opened::now(&self.datapath);
        telemetry::direct_connections(now.direct);
        if let Some(told) = &mut *told {
            for (direction, count) in now.since(told) {
                telemetry::opened(direction, count);
            }
            telemetry::flows_lost("ring", now.lost.saturating_sub(told.lost));
            *told = now;
        }
    }

    /// Observations are added up, and the kernel's counters copied, until the runtime ends.
    pub async fn copy(self: Arc<Self>, metrics: Metrics) {
        let mut tick = tokio::time::interval(INTERVAL);
        loop {
            tick.tick().await;
            metrics.upkeep();
            self.gather();
        }
    }

    /// Nothing that holds it can panic half way through a change.
    fn told(&self) -> std::sync::MutexGuard<'_, Option<Opened>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opened {
    fn now(datapath: &Datapath) -> Self {
        let [direct, dialled, accepted] =
            [Counter::DirectOpened, Counter::ObservedOpened, Counter::ObservedAccepted].map(|of| datapath.counter(of));
        let lost = [Counter::ClosedLost, Counter::EventsLost].map(|of| datapath.counter(of)).iter().sum();
        Self { direct, dialled, accepted, lost }
    }

    /// Those that are new; none if the counters began anew.
    fn since(&self, before: &Self) -> [(Direction, u64); 2] {
        let new = |now: u64, before: u64| now.saturating_sub(before);
        let source = new(self.direct, before.direct) + new(self.dialled, before.dialled);
        [(Direction::Outbound, source), (Direction::Inbound, new(self.accepted, before.accepted))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_is_new_once() {
        let before = Opened { direct: 5, dialled: 7, accepted: 9, lost: 0 };
        let now = Opened { direct: 6, dialled: 9, accepted: 12, lost: 0 };
        assert_eq!(now.since(&before), [(Direction::Outbound, 3), (Direction::Inbound, 3)]);
        assert_eq!(now.since(&now), [(Direction::Outbound, 0), (Direction::Inbound, 0)]);
        // After an uninstall
        let anew = Opened { direct: 0, dialled: 0, accepted: 1, lost: 0 };
        assert_eq!(anew.since(&before), [(Direction::Outbound, 0), (Direction::Inbound, 0)]);
    }
}
