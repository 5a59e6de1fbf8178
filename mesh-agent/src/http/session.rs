//! Who asks, whom, and by which rules.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use http::{request::Parts, uri::Authority};
use mesh_common::model::{LocalPod, ServiceName, Workload, traffic::Backend};
use tokio::sync::Semaphore;

use super::{
    Connect, Destination, Destinations, Http, Missing, check,
    record::{OpenRequest, party},
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
    pub flows: Arc<FlowLog>,
    pub destinations: Arc<Destinations>,
    /// The uid of the client's workload.
    pub uid: String,
    /// The client's own end.
    pub client: SocketAddr,
    pub service: Arc<ServiceName>,
    /// The service's address and port.
    pub dialled: SocketAddr,
    pub connect: C,
    /// One for each copy that is under way.
    pub mirrors: Arc<Semaphore>,
    /// The client's connection, if it has become another protocol's (HTTP/1.1).
    pub switched: Mutex<Option<Switched>>,
    pub known: Mutex<Option<Arc<Known>>>,
}

/// The client, as records name it, by one configuration.
#[derive(Debug)]
pub struct Known {
    generation: u64,
    source: Party,
    told: Option<Arc<LocalPod>>,
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

    /// Begins the record of a request whose head was read at `begun`.
    pub fn begin(
        &self,
        snapshot: &Snapshot,
        begun: SystemTime,
        parts: &Parts,
        authority: Option<&Authority>,
    ) -> OpenRequest {
        let Known { source, told, .. } = &*self.known(snapshot);
        let (id, destination) = (self.flows.next_id(), Party::stranger(self.dialled));
        let mut flow = Flow::new(id, begun, Direction::Outbound, source.clone(), destination);
        (flow.service, flow.generation) = (Some(self.service.clone()), snapshot.generation());
        flow.told.clone_from(told);
        OpenRequest::begin(&self.flows, flow, parts, authority)
    }

    /// Who asks, as of the configuration that was last asked about.
    fn known(&self, snapshot: &Snapshot) -> Arc<Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some(known) if known.generation == snapshot.generation() => Arc::clone(known),
            _ => {
                let source = party(snapshot.workload(&self.uid).map(|own| &**own), self.client);
                let told = snapshot.local_pod_by_uid(&self.uid).cloned();
                let now = Arc::new(Known { generation: snapshot.generation(), source, told });
                *known = Some(Arc::clone(&now));
                now
            }
        }
    }

    /// That which was dialled.
    pub fn own_backend(&self) -> Backend {
        Backend { service: ServiceName::clone(&self.service), port: None, subset: None }
    }
}

impl<C> std::fmt::Debug for Session<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("service", &self.service).field("client", &self.client).finish_non_exhaustive()
    }
}
