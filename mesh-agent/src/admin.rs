//! What meshctl asks: the same questions over the agent's own socket and, relayed, over the link to the controller.

#[cfg(test)]
mod advice;
mod authz;
mod config;
mod cost;
mod edges;
mod explain;
mod flows;
mod identity;
mod mtls;
mod routes;
mod socket;
mod stat;
mod tap;
mod verify;

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::SystemTime};

use mesh_common::{
    model::Mode,
    proto::nodemesh::{self, ConfigKind, item, query},
};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::Status;

use crate::{
    bpf::Datapath,
    control::{ControlStatus, Responder},
    direct::Direct,
    health::Readiness,
    http::Http,
    identity::Certificates,
    pods::{PodStatus, Redirection},
    proxy::Proxy,
    state::{Snapshot, Store},
    telemetry::FlowLog,
    tunnel::Pool,
};

pub use socket::serve;

/// Items that may wait for a slow reader.
const QUEUE: usize = 256;

/// Everything that can be asked about.
pub struct Admin {
    pub node: String,
    pub started: SystemTime,
    pub store: Arc<Store>,
    pub flows: Arc<FlowLog>,
    pub certificates: Arc<Certificates>,
    pub datapath: Arc<Datapath>,
    pub pods: watch::Receiver<Vec<PodStatus>>,
    /// Set once the controller is being talked to.
    pub control: watch::Receiver<ControlStatus>,
    pub readiness: Readiness,
    pub pool: Arc<Pool>,
    pub direct: Arc<Direct>,
    pub http: Arc<Http>,
    pub proxy: Arc<Proxy>,
}

type Answer = Pin<Box<dyn Stream<Item = Result<nodemesh::Item, Status>> + Send>>;

impl Responder for Admin {
    fn ask(&self, query: nodemesh::Query) -> Answer {
        if !query.node.is_empty() && query.node != self.node {
            return Box::pin(tokio_stream::once(Err(Status::not_found(format!(
                "this is node {}, not {}",
                self.node, query.node
            )))));
        }
        if self.flows.is_off() && query.kind.as_ref().is_some_and(asks_for_records) {
            return Box::pin(tokio_stream::once(Err(Status::failed_precondition(format!(
                "the telemetry of node {} is off (--telemetry off): its agent keeps no record of connections and \
                 requests",
                self.node
            )))));
        }
        match query.kind {
            Some(query::Kind::Status(_)) => self.items(vec![item::Kind::Status(self.status())]),
            Some(query::Kind::Flows(query)) => flows::answer(self, query),
            Some(query::Kind::Config(query)) => match config::answer(self, &query) {
                Ok(items) => self.items(items),
                Err(status) => Box::pin(tokio_stream::once(Err(status))),
            },
            Some(query::Kind::Authz(query)) => match authz::answer(self, &query) {
                Ok(answer) => self.items(vec![item::Kind::Authz(answer)]),
                Err(status) => Box::pin(tokio_stream::once(Err(status))),
            },
            Some(query::Kind::Edges(query)) => self.items(edges::answer(self, &query)),
            Some(query::Kind::Explain(query)) => self.items(
                explain::answer(self, &query).map(|told| item::Kind::Explanation(told.into())).into_iter().collect(),
            ),
            Some(query::Kind::Routes(query)) => self.items(routes::answer(self, &query)),
            Some(query::Kind::Identity(query)) => self.items(identity::answer(self, &query)),
            Some(query::Kind::Verify(query)) => verify::answer(self, query),
            Some(query::Kind::Dashboard(_)) => Box::pin(tokio_stream::once(Err(Status::invalid_argument(
                "the controller serves the dashboard, not an agent: ask it by --controller",
            )))),
            Some(query::Kind::Stat(query)) => match stat::answer(self, &query) {
                Ok(items) => self.items(items),
                Err(status) => Box::pin(tokio_stream::once(Err(status))),
            },
            Some(query::Kind::Tap(query)) => tap::answer(self, query),
            Some(query::Kind::Cost(query)) => self.items(cost::answer(self, &query)),
            None => Box::pin(tokio_stream::once(Err(Status::unimplemented(
                "this agent does not know that question; is meshctl newer than the agent?",
            )))),
        }
    }
}

/// What nobody can answer who tells nothing of single connections and requests.
fn asks_for_records(query: &query::Kind) -> bool {
    match query {
        query::Kind::Config(config) => config.kind() == ConfigKind::Connections,
        query::Kind::Flows(_)
        | query::Kind::Edges(_)
        | query::Kind::Explain(_)
        | query::Kind::Stat(_)
        | query::Kind::Tap(_)
        | query::Kind::Cost(_) => true,
        query::Kind::Status(_)
        | query::Kind::Authz(_)
        | query::Kind::Routes(_)
        | query::Kind::Identity(_)
        | query::Kind::Verify(_)
        | query::Kind::Dashboard(_) => false,
    }
}

impl Admin {
    fn items(&self, kinds: Vec<item::Kind>) -> Answer {
        let node = self.node.clone();
        let items = kinds.into_iter().map(move |kind| Ok(nodemesh::Item { node: node.clone(), kind: Some(kind) }));
        Box::pin(tokio_stream::iter(items.collect::<Vec<_>>()))
    }

    fn status(&self) -> nodemesh::NodeStatus {
        let snapshot = self.direct.in_force();
        let control = self.control.borrow().clone();
        // Not borrowed below: readiness borrows it too, and a writer that waits between the two waits for ever, and
        // they for it (tokio::sync::watch).
        let pods = self.pods.borrow().clone();
        let older = self.direct.older();
        let on_the_node = host_network(&snapshot, &self.node);
        nodemesh::NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: Some(self.started.into()),
            controller_connected: control.connected,
            generation: snapshot.generation(),
            workloads: snapshot.workloads().len() as u32,
            services: snapshot.services().len() as u32,
            policies: snapshot.policies().len() as u32,
            pods: pods.iter().map(|pod| self.pod_status(&snapshot, pod, &older)).chain(on_the_node).collect(),
            counters: self
                .datapath
                .counters()
                .map(|(counter, value)| nodemesh::Counter { name: counter.name().to_owned(), value })
                .collect(),
            open_connections: self.flows.open().saturating_add(self.direct.open_count()),
            last_nack: control.last_nack.unwrap_or_default(),
            configuration_from_disk: control.from_disk,
            not_ready: self.readiness.not_ready().unwrap_or_default(),
            draining: self.readiness.draining(),
            tunnels: u32::try_from(self.pool.connections()).unwrap_or(u32::MAX),
            addresses_asked: snapshot
                .is_on_demand()
                .then(|| u32::try_from(self.store.questions().len()).unwrap_or(u32::MAX)),
            edges_dropped: self.flows.edges_dropped(),
            telemetry_off: self.flows.is_off(),
        }
    }
}

impl Admin {
    /// With what only people want to know.
    fn pod_status(
        &self,
        snapshot: &Snapshot,
        pod: &PodStatus,
        older: &BTreeMap<(String, String), usize>,
    ) -> nodemesh::PodState {
        let older = older.get(&(pod.namespace.clone(), pod.name.clone())).copied().unwrap_or_default();
        let mtls = mtls::of(snapshot, pod, older);
        let mut state = nodemesh::PodState { mode: mode(snapshot, pod), mtls, ..pod_state(pod) };
        if older > 0 && state.message.is_empty() {
            state.message = format!("{older} of its connections are older than its enrolment");
        }
        state
    }
}

/// Pods in the network of this node whose namespace is in the mesh: they are not.
fn host_network(snapshot: &Snapshot, node: &str) -> Vec<nodemesh::PodState> {
    let meshed = |namespace: &str| snapshot.namespace_mode(namespace) == Some(Mode::Mesh);
    let here = snapshot.workloads().filter(|w| w.host_network && w.node == node && meshed(&w.namespace));
    let mut states: Vec<_> = here
        .map(|workload| nodemesh::PodState {
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
            redirection: nodemesh::Redirection::Disabled.into(),
            message: "it is in the node's own network (hostNetwork), which no pod of the mesh can be".to_owned(),
            ..nodemesh::PodState::default()
        })
        .collect();
    states.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    states
}

/// Passes the pods' states on in the words of the link, until nobody tells of them any more.
pub async fn report(mut pods: watch::Receiver<Vec<PodStatus>>, states: watch::Sender<Vec<nodemesh::PodState>>) {
    loop {
        let now = pods.borrow_and_update().iter().map(pod_state).collect();
        states.send_replace(now);
        if pods.changed().await.is_err() {
            return;
        }
    }
}

/// A pod's state in the words of the link and of meshctl.
fn pod_state(status: &PodStatus) -> nodemesh::PodState {
    let PodStatus { namespace, name, pod_uid, redirection, wanted: _, fault, proven } = status;
    let (redirection, message) = match redirection {
        Redirection::Disabled => (nodemesh::Redirection::Disabled, ""),
        Redirection::Observed => (nodemesh::Redirection::Disabled, "its connections are recorded"),
        Redirection::Pending(why) => (nodemesh::Redirection::Pending, why.as_str()),
        Redirection::Enabled => (nodemesh::Redirection::Enabled, ""),
        Redirection::Failed(why) => (nodemesh::Redirection::Failed, why.as_str()),
    };
    nodemesh::PodState {
        namespace: namespace.clone(),
        name: name.clone(),
        pod_uid: pod_uid.clone(),
        redirection: redirection.into(),
        message: message.to_owned(),
        fault: fault.clone(),
        proven: proven.map(Into::into),
        mode: None,
        mtls: None,
    }
}

/// What the configuration asks for; a recreated pod has the name only.
fn mode(snapshot: &Snapshot, status: &PodStatus) -> Option<i32> {
    let pod = snapshot.local_pod(&status.namespace, &status.name)?;
    let is_it = pod.pod_uid.is_empty() || status.pod_uid.is_empty() || pod.pod_uid == status.pod_uid;
    is_it.then(|| nodemesh::Mode::from(pod.mode).into())
}
