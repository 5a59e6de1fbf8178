//! The controller's replicas in a cluster, reached through the Kubernetes API: its port-forward leads to their
//! loopback, and who may use it is decided by the cluster's own permissions.

use std::{fmt, path::PathBuf};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Failure;

/// Where a replica answers meshctl, on its loopback.
const PORT: u16 = 15000;
/// The pods of the controller's Deployment.
const LABELS: &str = "app.kubernetes.io/part-of=nodemesh,app.kubernetes.io/component=controller";

/// Which cluster, and where the mesh lives there.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Cluster {
    /// Ask the mesh of this cluster, through its API [default: KUBECONFIG, ~/.kube/config or the pod that this runs in,
    /// if no socket is here]
    #[arg(long, global = true, help_heading = "Whom to ask", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context in that file
    #[arg(long, global = true, help_heading = "Whom to ask", value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace in which the mesh was installed
    #[arg(
        long,
        global = true,
        help_heading = "Whom to ask",
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
    /// Somebody typed which cluster is meant.
    pub fn is_named(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }

    /// A client of the API.
    ///
    /// # Errors
    /// The file is none, does not have the context, or there is none at all.
    pub async fn client(&self) -> Result<Client, Failure> {
        let unreadable = |error: &dyn fmt::Display| Failure::Usage(format!("cannot read the kubeconfig: {error}"));
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            Some(path) => {
                let read = Kubeconfig::read_from(path)
                    .map_err(|error| Failure::Usage(format!("--kubeconfig {}: {error}", path.display())))?;
                Config::from_custom_kubeconfig(read, &options).await.map_err(|error| unreadable(&error))?
            }
            None if self.context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(|error| unreadable(&error))?
            }
            None => Config::infer().await.map_err(|error| unreadable(&error))?,
        };
        Client::try_from(config).map_err(|error| Failure::Usage(format!("the kubeconfig cannot be used: {error}")))
    }

    /// The replicas that run, by name.
    ///
    /// # Errors
    /// The API cannot be reached or does not permit it, or there is none.
    pub async fn replicas(&self) -> Result<Vec<Replica>, Failure> {
        let namespace = &self.mesh_namespace;
        let pods: Api<Pod> = Api::namespaced(self.client().await?, namespace);
        let listed = pods.list(&ListParams::default().labels(LABELS)).await.map_err(|error| {
            Failure::Unreachable(format!("cannot list the controller's pods in namespace {namespace}: {error}"))
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
