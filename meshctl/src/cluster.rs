//! The way to a cluster's API server, and what its refusals mean for people.

use std::path::PathBuf;

use kube::{
    Api, Client, Config, Error,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

use crate::client::Failure;

/// Field manager of everything that is applied, and value of the label `managed-by`.
pub const MANAGER: &str = "meshctl";
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// Which cluster.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Access {
    /// A kubeconfig file [default: KUBECONFIG, ~/.kube/config, or the pod's own account]
    #[arg(long, global = true, help_heading = "Which cluster", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A context of it [default: its current one]
    #[arg(long, global = true, help_heading = "Which cluster", value_name = "NAME")]
    pub context: Option<String>,
}

impl Access {
    /// Somebody typed which cluster is meant.
    pub fn is_named(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }

    /// # Errors
    /// There is no such file or context, or it cannot be read. The server is not asked yet.
    pub async fn client(&self) -> Result<Client, Failure> {
        let usage = |error: &dyn std::fmt::Display| {
            Failure::Usage(format!("{error}; name the cluster by --kubeconfig FILE or --context NAME"))
        };
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match (&self.kubeconfig, &self.context) {
            (Some(path), _) => {
                let file = Kubeconfig::read_from(path)
                    .map_err(|error| usage(&format!("--kubeconfig {}: {error}", path.display())))?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| usage(&error))?
            }
            (None, Some(_)) => Config::from_kubeconfig(&options).await.map_err(|error| usage(&error))?,
            (None, None) => Config::infer().await.map_err(|error| usage(&error))?,
        };
        Client::try_from(config).map_err(|error| usage(&error))
    }
}

/// What failed while doing something, and what to do about it.
pub fn explained(doing: &str, error: Error) -> Failure {
    let text = match error {
        Error::Api(status) => {
            let conflict = status.code == 409 && !status.details.as_ref().is_none_or(|all| all.causes.is_empty());
            let hint = match status.code {
                401 => "; the cluster does not know this account: log in again",
                403 => "; the account of this kubeconfig may not: see `meshctl check --pre`",
                409 if conflict => "; what another one set is left alone; --force-conflicts takes it over",
                _ => "",
            };
            format!("{doing}: {}{hint}", status.message)
        }
        Error::Service(error) => format!("{doing}: the API server does not answer: {}", causes(&*error)),
        other => format!("{doing}: {}", causes(&other)),
    };
    Failure::Unreachable(text)
}

/// An error with what caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

/// Whether the API server says that there is no such object, or no such kind.
pub fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 404)
}

/// The collection of `kind` in a namespace, or of the whole cluster.
pub fn api(client: &Client, api_version: &str, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// `DaemonSet nodemesh-system/mesh-agent`.
pub fn shown(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}
