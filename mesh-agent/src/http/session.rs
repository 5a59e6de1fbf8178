//! Who asks, whom, and by which rules.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use mesh_common::model::{ServiceName, Workload, traffic::Backend};

use tokio::sync::Semaphore;

use super::{
    Connect, Destination, Destinations, Http, Missing, check,
    record::{Head, Why},
    upgrade::Switched,
};
use crate::{
    state::{Snapshot, Store},
    telemetry::{Direction, Flow, FlowLog, Party},
};

/// One client's connection to a service with rules.
pub struct Session<C> {
    pub http: Arc<Http>,
    pub store: Arc<Store>,
    /// Of requests that get an answer of the agent's own.
    pub flows: Arc<FlowLog>,
    pub destinations: Arc<Destinations>,
    /// The uid of the client's workload.
    pub uid: String,
    /// The client's own end.
    pub client: SocketAddr,
    pub service: ServiceName,
    /// The service's address and port.
    pub dialled: SocketAddr,
    pub connect: C,
    /// One for each copy that is under way.
    pub mirrors: Arc<Semaphore>,
    /// The client's connection, if it has become another protocol's (HTTP/1.1).
    pub switched: Mutex<Option<Switched>>,
}

impl<C: Connect> Session<C> {
    /// The client as the configuration has it; `None`: it is gone from it.
    pub fn source(&self, snapshot: &Snapshot) -> Option<Arc<Workload>> {
        snapshot.workload(&self.uid).cloned()
    }

    pub fn destination(
        &self,
        snapshot: &Arc<Snapshot>,
        source: &Arc<Workload>,
        backend: &Backend,
    ) -> Result<Arc<Destination>, Missing> {
        let can_dial = |ip| self.connect.can_dial(ip);
        let destination = self.destinations.get(snapshot, source, backend, self.dialled, can_dial)?;
        check::begin(&destination, &self.connect);
        Ok(destination)
    }

    /// Writes the record of a request that got an answer of the agent's own.
    pub fn record(&self, head: Head, why: Why, status: u16, flag: Option<&'static str>) {
        let snapshot = self.store.snapshot();
        let source = match snapshot.workload(&self.uid) {
            Some(own) => Party::of(own, self.client),
            None => Party::stranger(self.client),
        };
        let destination = match why.endpoint {
            Some(address) => match snapshot.workload_by_address(address.ip()) {
                Some(workload) => Party::of(workload, address),
                None => Party::stranger(address),
            },
            None => Party::stranger(self.dialled),
        };
        let id = self.flows.next_id();
        let mut flow = Flow::new(id, std::time::SystemTime::now(), Direction::Outbound, source, destination);
        (flow.service, flow.generation) = (Some(self.service.clone()), snapshot.generation());
        head.fill(&mut flow, why, status, flag);
        self.flows.write(flow);
    }

    /// That which was dialled.
    pub fn own_backend(&self) -> Backend {
        Backend { service: self.service.clone(), port: None, subset: None }
    }
}

impl<C> std::fmt::Debug for Session<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("service", &self.service).field("client", &self.client).finish_non_exhaustive()
    }
}
