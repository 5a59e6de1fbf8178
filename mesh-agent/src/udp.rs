//! UDP of redirected pods: it is counted and told by the names of both ends, and neither redirected, encrypted nor
//! decided about. The kernel counts ([`Datapath::take_datagrams`]); here its figures get names and reach metrics, sums
//! and records. Who the other end is, its address says: nobody proves anything.

mod exchanges;
mod parties;

use std::{collections::HashSet, sync::Arc, time::Duration};

use mesh_common::abi::{DatagramKey, Datagrams};
use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    bpf::{Datapath, wall_clock},
    pods::PodTable,
    state::Store,
    telemetry::{self, FlowLog},
};
use exchanges::Exchanges;
use parties::Parties;

/// How long a round is. What passed is told after one, and before two more are over.
const ROUND: Duration = Duration::from_secs(1);

/// One for the whole agent.
pub struct Udp {
    pub datapath: Arc<Datapath>,
    pub store: Arc<Store>,
    pub pods: Arc<PodTable>,
    pub flows: Arc<FlowLog>,
    /// An exchange without datagrams for so long is over.
    pub idle: Duration,
}

impl Udp {
    /// Tells what passes, as the only one of this node, until it is dropped: what is not taken from the kernel by then
    /// the next agent tells. `named`: the pods of an earlier agent are known again.
    pub async fn run(self, named: impl Future<Output = ()>) {
        named.await;
        // The programs that still write the table of the last round must be through with it.
        let mut tick = tokio::time::interval_at(Instant::now() + ROUND, ROUND);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.pods.changes();
        let (mut parties, mut exchanges) = (Parties::default(), Exchanges::default());
        let mut failing = false;
        loop {
            // What pods left with their last round is told under their names.
            parties.remember(&self.pods.redirected(), &self.store.snapshot(), Instant::now());
            tokio::select! {
                _ = tick.tick() => {}
                Ok(()) = changes.changed() => continue,
            }
            // The tables may be long: connections shall not wait.
            let taken = tokio::task::block_in_place(|| self.datapath.take_datagrams());
            match taken {
                Ok(taken) => {
                    failing = false;
                    self.tell(&taken, &parties, &mut exchanges);
                }
                Err(e) if !failing => {
                    failing = true;
                    tracing::error!(error = %anyhow::Error::from(e), "datagrams are not told for now");
                }
                Err(_) => {}
            }
            for flow in exchanges.over(Instant::now(), self.idle) {
                self.flows.write(flow);
            }
        }
    }

    fn tell(&self, taken: &[(DatagramKey, Datagrams)], parties: &Parties, exchanges: &mut Exchanges) {
        let (snapshot, now) = (self.store.snapshot(), Instant::now());
        let keys: HashSet<DatagramKey> = taken.iter().map(|(key, _)| *key).collect();
        for (key, passed) in taken {
            // The client's end tells what stays on the node, in the same round or the one before.
            if parties.client_of(key).is_some_and(|client| keys.contains(&client) || exchanges.has(&client, now)) {
                continue;
            }
            let known = exchanges.flow(key).filter(|flow| flow.generation == snapshot.generation());
            let begin = || {
                let mut flow = parties.flow(key, &snapshot, wall_clock(passed.first));
                flow.id = self.flows.next_id();
                flow
            };
            let flow = known.cloned().unwrap_or_else(begin);
            let (there, back) = exchanges::either_way(key, passed);
            let datagrams = telemetry::Udp { sent: there.0, received: back.0 };
            self.flows.datagrams(&flow, datagrams, there.1, back.1);
            if let Some(flow) = exchanges.passed(*key, flow, passed, wall_clock(passed.last), now) {
                self.flows.write(flow);
            }
        }
    }
}
