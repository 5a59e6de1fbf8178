//! Whom `doctor` and `bugreport` ask: sockets of this machine, or a cluster and the agents that its controller reaches.
//! Unlike other verbs they go on where the controller does not answer: that is what they are for.

use std::path::PathBuf;

use kube::Client;

use crate::client::{Cluster, Failure, Servers, or_socket};

pub struct Whom {
    /// `None`: sockets were meant, and no cluster is asked.
    pub client: Option<Client>,
    /// Of a cluster, the failure says why nobody of the mesh answers.
    pub servers: Result<Servers, Failure>,
    /// Empty: every node.
    pub node: String,
}

impl Whom {
    /// As `Servers::choose`.
    ///
    /// # Errors
    /// Nothing says whom to ask, or two things do.
    pub async fn choose(
        agents: (Vec<PathBuf>, bool),
        controller: (Option<PathBuf>, bool),
        cluster: &Cluster,
        node: String,
    ) -> Result<Self, Failure> {
        if let Some(servers) = Servers::here(agents, controller, cluster, node.clone())? {
            return Ok(Self { client: None, servers: Ok(servers), node });
        }
        let client = cluster.access.client().await.map_err(|failure| or_socket(failure, cluster))?;
        let servers = Servers::of_cluster(cluster, node.clone()).await;
        Ok(Self { client: Some(client), servers, node })
    }
}
