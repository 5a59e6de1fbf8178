//! The controller's replicas in a cluster, reached through the Kubernetes API: its port-forward leads to their
//! loopback, and who may use it is decided by the cluster's own permissions.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use mesh_install::{CONTROLLER, NAME_LABEL, PART_OF, PART_OF_LABEL};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Failure;
use crate::cluster::{Access, explained};

/// Where a replica answers meshctl, on its loopback.
const PORT: u16 = 15000;

/// Which cluster, and where the mesh lives there. It is asked if it is named, or if no socket is here.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Cluster {
    #[command(flatten)]
    pub access: Access,
    /// The namespace in which the mesh was installed
    #[arg(
        long,
        global = true,
        help_heading = "Which cluster",
        value_name = "NAMESPACE",
        default_value = "nodemesh-system",
        hide_default_value = true
    )]
    pub mesh_namespace: String,
}

/// A pod of the controller.
#[derive(Clone)]
pub struct Replica {
    pods: Api<Pod>,
    namespace: String,
    name: String,
}

impl Cluster {
    /// The replicas that run, by name.
    ///
    /// # Errors
    /// The API cannot be reached or does not permit it, or there is none.
    pub async fn replicas(&self) -> Result<Vec<Replica>, Failure> {
        let namespace = &self.mesh_namespace;
        let pods: Api<Pod> = Api::namespaced(self.access.client().await?, namespace);
        let labels = format!("{PART_OF_LABEL}={PART_OF},{NAME_LABEL}={CONTROLLER}");
        let listed = pods.list(&ListParams::default().labels(&labels)).await;
        let listed = listed.map_err(|error| {
            explained(&format!("cannot list the controller's pods in namespace {namespace}"), error)
        })?;
        let runs = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
        let names = listed.items.into_iter().filter(runs).filter_map(|pod| pod.metadata.name);
        let mut replicas: Vec<Replica> =
            names.map(|name| Replica { pods: pods.clone(), namespace: namespace.clone(), name }).collect();
        replicas.sort_by(|a, b| a.name.cmp(&b.name));
        if replicas.is_empty() {
            return Err(Failure::Unreachable(format!(
                "no controller runs in namespace {namespace} of this cluster: is the mesh installed there? Name its \
                 namespace by --mesh-namespace"
            )));
        }
        Ok(replicas)
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("namespace", &self.namespace).field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod {}/{}", self.namespace, self.name)
    }
}

impl Replica {
    /// A way to its loopback.
    pub(super) async fn open(&self) -> Result<impl AsyncRead + AsyncWrite + Unpin + use<>, Failure> {
        let failed = |why: &dyn fmt::Display| {
            Failure::Unreachable(format!(
                "{self}: no port-forward to it: {why} (it takes pods/portforward to be permitted)"
            ))
        };
        let mut forward = self.pods.portforward(&self.name, &[PORT]).await.map_err(|error| failed(&error))?;
        forward.take_stream(PORT).ok_or_else(|| failed(&"the API opened none"))
    }
}

#[cfg(test)]
mod tests;
