//! Connections between two pods of this node that need no agent. The agent decides once about a source, a destination
//! and a port; the kernel acts on it, and the two pods talk as if there were no mesh. Here are the decisions that the
//! kernel holds, their renewal and withdrawal, the endpoints of services among which it chooses, and the records of the
//! connections that it let pass.

mod cache;
mod connections;
mod decisions;
mod judge;
mod lessons;
mod older;
mod outdated;
mod records;
mod services;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use cache::State;
use connections::Marks;
pub use decisions::Known;
use lessons::Lessons;
pub use outdated::{LONGEST, QUIET};
use services::Services;

use crate::{
    bpf::Datapath,
    pods::{Pod, PodTable},
    sock_diag,
    state::{Snapshot, Store},
    telemetry::FlowLog,
};

/// How often a change of many objects, one by one, is looked at: a service with a thousand endpoints that come up one
/// after another is not written a thousand times.
const SETTLE: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long the kernel may act on a decision that nobody renews.
    pub lease: Duration,
    /// How many verdicts the kernel holds at most.
    pub max_verdicts: u32,
    /// How long a connection that is older than its pod's enrolment goes on once it is denied.
    pub strict_grace: Duration,
    /// Port of the tunnel between nodes, which is never dialled directly.
    pub hbone_port: u16,
}

/// One for the whole agent.
pub struct Direct {
    settings: Settings,
    datapath: Arc<Datapath>,
    store: Arc<Store>,
    pods: Arc<PodTable>,
    flows: Arc<FlowLog>,
    state: Mutex<State>,
    /// Of its own: records do not wait while a change is brought to the kernel.
    marks: Mutex<Marks>,
    /// Source and target of what was decided, by the source's index and the address that it dialled.
    lessons: Lessons<(u32, SocketAddr), (Arc<Pod>, Arc<Pod>)>,
    /// How many connections are older than their pod's enrolment, by pod.
    older: Mutex<BTreeMap<(String, String), usize>>,
}

impl Direct {
    /// Touches nothing before [`Direct::run`].
    pub fn new(
        settings: Settings,
        datapath: Arc<Datapath>,
        store: Arc<Store>,
        pods: Arc<PodTable>,
        flows: Arc<FlowLog>,
    ) -> Arc<Self> {
        let state = Mutex::new(State::new(store.snapshot()));
        let (marks, lessons) = (Mutex::default(), Lessons::default());
        Arc::new(Self { settings, datapath, store, pods, flows, state, marks, lessons, older: Mutex::default() })
    }

    /// Keeps the kernel's tables as the configuration and the pods are, from now on and as the only one of this node:
    /// an agent that this one takes over from must have let go. Ends with an error of the ring only; if it is dropped,
    /// what the kernel holds stays until its lease is over. Records wait for `named`: those of the time without an
    /// agent are about pods that are about to be found again.
    pub async fn run(self: Arc<Self>, named: impl Future<Output = ()>) -> io::Result<()> {
        if let Err(e) = sock_diag::can_destroy() {
            tracing::error!(
                error = %e,
                "this kernel ends no sockets (CONFIG_INET_DIAG_DESTROY): the agent carries what could be direct"
            );
        } else {
            self.locked().begin(&self.datapath);
        }
        let _ends = Ends(&self);
        let services = Services::new(&self.datapath);
        tokio::select! {
            () = self.follow(self.store.subscribe(), self.pods.changes()) => Ok(()),
            () = self.renew() => Ok(()),
            () = self.learn_waiting() => Ok(()),
            () = self.watch_room() => Ok(()),
            () = self.watch_older() => Ok(()),
            () = self.watch_outdated() => Ok(()),
            () = services.follow(&self.store, &self.datapath) => Ok(()),
            ended = async {
                named.await;
                // So are the decisions that their records stand on.
                self.bring().await;
                records::read(&self).await
            } => ended,
        }
    }

    /// The agent decided about a connection of `source`; the kernel shall know it of those to come.
    pub fn learn(&self, source: &Arc<Pod>, target: &Arc<Pod>, destination: SocketAddr) {
        let pods = (Arc::clone(source), Arc::clone(target));
        self.lessons.give(&self.state, (source.index, destination), pods, |state, key, pods| {
            self.learn_in(state, key, pods);
        });
    }

    async fn learn_waiting(&self) {
        self.lessons.learn_waiting(&self.state, |state, key, pods| self.learn_in(state, key, pods)).await;
    }

    fn learn_in(&self, state: &mut State, (_, destination): (u32, SocketAddr), (source, target): (Arc<Pod>, Arc<Pod>)) {
        state.learn(self, &source, &target, destination);
    }

    /// The newest configuration by which the kernel decides too, and from then on: what is listed of it holds for every
    /// connection to come. The store's while this agent writes nothing to the kernel.
    pub fn in_force(&self) -> Arc<Snapshot> {
        let state = self.locked();
        if state.is_active() { state.applied() } else { self.store.snapshot() }
    }

    /// Connections that are open and that no agent carries.
    pub fn open_count(&self) -> u32 {
        let open = tokio::task::block_in_place(|| self.datapath.direct_connections().len());
        u32::try_from(open).unwrap_or(u32::MAX)
    }

    /// The decision with this number, which the kernel names.
    pub fn known(&self, decision: u32) -> Option<Arc<Known>> {
        self.locked().known(decision)
    }

    /// Brings what the kernel holds to every change of the configuration and of pods.
    async fn follow(&self, mut configuration: watch::Receiver<Arc<Snapshot>>, mut pods: watch::Receiver<()>) {
        loop {
            configuration.mark_unchanged();
            pods.mark_unchanged();
            self.bring().await;
            // A lone change is followed at once.
            tokio::time::sleep(SETTLE).await;
            tokio::select! {
                changed = configuration.changed() => if changed.is_err() { return },
                changed = pods.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Brings the kernel to what is now, and ends what is denied by it.
    async fn bring(&self) {
        // The more pods talk to each other, the longer: connections shall not wait for it.
        if tokio::task::block_in_place(|| self.locked().apply(self)) {
            self.revoke().await;
        }
    }

    /// Renews leases, and lets go what nobody asks for any more.
    async fn renew(&self) {
        let mut tick = tokio::time::interval(self.settings.lease / 3);
        loop {
            tick.tick().await;
            let in_use = tokio::task::block_in_place(|| self.in_use());
            let keys = self.locked().keys();
            for keys in keys.chunks(cache::AT_ONCE) {
                self.locked().renew(self, keys, &in_use);
                // Connections come first.
                tokio::task::yield_now().await;
            }
            // What was open before may stand on an entry that has gone meanwhile.
            let in_use = tokio::task::block_in_place(|| self.in_use());
            self.locked().compare(&in_use);
            self.marks().compare(&in_use);
        }
    }

    /// A pod of this index and epoch is in the mesh now.
    fn lives(&self, (index, epoch): (u32, u32)) -> bool {
        self.pods.by_index(index).is_some_and(|pod| pod.epoch == epoch)
    }

    /// As [`Direct::locked`]; neither is taken while the other one is held.
    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing that holds it can panic half way through a change.
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Another agent may be the only one.
struct Ends<'a>(&'a Direct);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.locked().end();
    }
}
