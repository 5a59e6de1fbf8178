//! A change that is looked at before it is made: which files, and what runs now.

use std::path::PathBuf;

use mesh_controller::analyze::{Change, Current, Deleted, Unclear, Wanted, all_collections, change};

use super::{known, settings_with};
use crate::client::{Cluster, Failure};

#[derive(Debug, Default, clap::Args)]
pub struct Changing {
    /// A file, or a folder whose .yaml, .yml and .json files are read; their objects take the place of those of the
    /// same kind, namespace and name
    #[arg(short, long = "file", value_name = "PATH", num_args = 1.., required_unless_present = "deleted")]
    files: Vec<PathBuf>,
    /// An object that goes, as AuthorizationPolicy/shop/cart; may be given several times
    #[arg(long = "delete", value_name = "KIND/NAMESPACE/NAME")]
    deleted: Vec<Deleted>,
    /// What runs now, pods included: the files that the controller reads, or a copy of a cluster's objects [default:
    /// the cluster's]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    current: Vec<PathBuf>,
    /// The suffix of service names [default: the controller's, or cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    cluster_domain: Option<String>,
    /// The trust domain of identities [default: the controller's, or cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// The namespace whose policies hold for the whole mesh [default: the controller's, or istio-system]
    #[arg(long, value_name = "NAMESPACE")]
    root_namespace: Option<String>,
}

impl Changing {
    /// Compiles what runs and what would run.
    ///
    /// # Errors
    /// A file cannot be read or holds what it must not; what runs now cannot be known.
    pub async fn compile(&self, only_policies: bool, cluster: &Cluster) -> Result<Change, Failure> {
        let Self { files, deleted, current, .. } = self;
        for (flag, paths) in [("--file", files), ("--current", current)] {
            for path in paths {
                path.metadata().map_err(|error| Failure::Usage(format!("{flag} {}: {error}", path.display())))?;
            }
        }
        let wanted = Wanted { paths: files.clone(), deleted: deleted.clone(), only_policies };
        let (known, of_controller) = if current.is_empty() { of_cluster(cluster).await? } else { Default::default() };
        let current = Current { known, paths: current.clone() };
        let given = [
            ("--cluster-domain", &self.cluster_domain),
            ("--trust-domain", &self.trust_domain),
            ("--root-namespace", &self.root_namespace),
        ];
        let settings = settings_with(&of_controller, given)?;
        change(&settings, &current, &wanted).map_err(|error| match error {
            Unclear::Wanted(_) => Failure::Usage(error.to_string()),
            Unclear::Current(_) => Failure::Unreachable(error.to_string()),
        })
    }
}

/// Its objects, and its controller's arguments.
async fn of_cluster(cluster: &Cluster) -> Result<(Vec<serde_json::Value>, Vec<String>), Failure> {
    let Cluster { access, mesh_namespace } = cluster;
    let client = access.client().await.map_err(|failure| {
        Failure::Usage(format!("what runs now is not known: name its files by --current, or a cluster ({failure})"))
    })?;
    let objects = known::objects(&client, all_collections()).await?;
    Ok((objects, known::arguments(&client, mesh_namespace).await?))
}
