//! The agent's side of the controller: configuration in, certificates signed, questions answered. Wire types stop
//! here, but for those of `nodemesh.v1` in which people ask and pods are reported.

mod backoff;
mod ca;
mod channel;
mod discovery;
mod link;
mod memory;
mod resources;
mod subscription;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use mesh_common::proto::nodemesh::PodState;
use tokio::{sync::watch, task::JoinSet};

pub use ca::CaClient;
pub use channel::Connection;
pub use link::Responder;
pub use memory::Memory;

use crate::state::Store;

/// What the agent says of itself. Nothing follows from it: the controller knows the node by its token.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// The node's name in Kubernetes.
    pub name: String,
    /// The agent's own address.
    pub ip: IpAddr,
    /// The agent's pod, or the name it goes by where it is none.
    pub agent: String,
    /// The agent's namespace.
    pub namespace: String,
    pub cluster: String,
}

/// Where the agent stands with its controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlStatus {
    /// The discovery stream is open.
    pub connected: bool,
    /// A first answer of each resource type was accepted since the agent started. What is held may be old while not
    /// connected. (The protocol marks no end of a first answer that comes in several parts.)
    pub synced: bool,
    /// Why configuration was refused, as long as resources of a refused answer have neither been accepted nor
    /// removed since.
    pub last_nack: Option<String>,
    /// The configuration was read from the disk, and no controller has confirmed it yet.
    pub from_disk: bool,
}

/// Running control. Dropping it ends its tasks at once.
#[derive(Debug)]
#[must_use = "dropping it ends the connection to the controller"]
pub struct Control {
    tasks: JoinSet<()>,
}

impl Control {
    /// Waits until the tasks have ended, which they do when told to shut down.
    pub async fn stopped(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Starts to keep `store` as the controller says, to tell how that goes by `status`, to report `pod_states` and to
/// answer questions. Returns at once; the controller need not be there yet. `shutdown` ends it when true or when its
/// sender is gone. `memory` is what an earlier agent held. While `speaks` is false another agent speaks for the node:
/// there is no link then, since the controller hears one agent a node; configuration arrives all the same.
#[expect(clippy::too_many_arguments, reason = "each is another side of the agent, and there is one caller")]
pub fn spawn(
    connection: Connection,
    node: NodeFacts,
    store: Arc<Store>,
    memory: Memory,
    status: watch::Sender<ControlStatus>,
    pod_states: watch::Receiver<Vec<PodState>>,
    responder: Arc<dyn Responder>,
    speaks: watch::Receiver<bool>,
    shutdown: watch::Receiver<bool>,
) -> Control {
    let mut tasks = JoinSet::new();

    tasks.spawn(discovery::run(connection.clone(), node, store, memory, status, stop(shutdown.clone())));
    let link = link::run(connection, pod_states, responder, speaks);
    let until = stop(shutdown);
    tasks.spawn(async move {
        tokio::select! { () = link => {}, () = until => {} }
    });
    Control { tasks }
}

async fn stop(mut shutdown: watch::Receiver<bool>) {
    // An error is a sender that is gone, which is a shutdown too.
    let _ = shutdown.wait_for(|stop| *stop).await;
}
