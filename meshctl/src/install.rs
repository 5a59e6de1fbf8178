//! `meshctl install` and `upgrade`: applies what mesh-install says, server-side, and waits until it runs. Running it
//! again changes nothing. What others set on the same objects is left alone.

mod apply;
pub mod rollout;

use std::{fs, io, path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use mesh_install::{PART_OF, PART_OF_LABEL, Values};
use serde_json::{Value, json};

use crate::{
    Outcome,
    client::Failure,
    cluster::{self, Access, MANAGED_BY_LABEL, MANAGER, explained},
    output::{Format, Mood, Screen},
    uninstall,
};
#[cfg(test)]
use apply::KINDS;
pub use apply::{delete_others, list_own};

/// ConfigMap with the values that were chosen, so that an upgrade keeps them.
const CHOSEN: &str = "mesh-values";
const CHOSEN_KEY: &str = "values.yaml";

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl install --dry-run -o yaml                     # what would be applied
  meshctl install --set image.repository=REGISTRY/nodemesh
  meshctl upgrade --values mine.yaml --timeout 600
  meshctl upgrade --set agent.otlp.endpoint=http://collector.observability:4317 --set agent.tracing.sampling=5
  meshctl upgrade --set agent.accessLog.format=json --set agent.accessLog.errors=true

manifests/chart/nodemesh/values.yaml says what can be chosen.")]
pub struct Arguments {
    #[command(flatten)]
    chosen: Chosen,
    /// Print the objects and apply nothing; no cluster is asked (-o table, json or yaml)
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until everything runs
    #[arg(long)]
    no_wait: bool,
    /// How long to wait, in seconds
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// Take over fields that others have set on these objects
    #[arg(long)]
    force_conflicts: bool,
}

#[derive(Clone, Debug, Default, clap::Args)]
struct Chosen {
    /// A file of values; several are read in this order
    #[arg(short = 'f', long, value_name = "FILE")]
    values: Vec<PathBuf>,
    /// A single value, after those of files, as in controller.replicas=3
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Forget what was chosen before; only for upgrade
    #[arg(long)]
    reset_values: bool,
}

/// Installing takes the defaults, upgrading what was chosen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Install,
    Upgrade,
}

impl Chosen {
    fn over(&self, mut values: Values) -> Result<Values, Failure> {
        for path in &self.values {
            let place = format!("--values {}", path.display());
            let text = fs::read_to_string(path).map_err(|error| Failure::Usage(format!("{place}: {error}")))?;
            values.merge(&text).map_err(|wrong| Failure::Usage(format!("{place}: {wrong}")))?;
        }
        for assignment in &self.set {
            values.set(assignment).map_err(|wrong| Failure::Usage(format!("--set {wrong}")))?;
        }
        values.together().map_err(|wrong| Failure::Usage(wrong.to_string()))?;
        Ok(values)
    }
}

pub async fn run<W: io::Write>(
    how: How,
    arguments: &Arguments,
    access: &Access,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let Arguments { chosen, dry_run, no_wait, timeout, force_conflicts } = arguments;
    if *dry_run {
        return print(&chosen.over(Values::default())?, screen);
    }
    let client = access.client().await?;
    let found = installed(&client).await?;
    let before = match (how, &found) {
        (How::Install, _) => Values::default(),
        (How::Upgrade, None) => {
            return Err(Failure::Usage("there is nothing to upgrade: meshctl has installed no mesh here".into()));
        }
        (How::Upgrade, Some(_)) if chosen.reset_values => Values::default(),
        (How::Upgrade, Some(namespace)) => remembered(&client, namespace).await?,
    };
    let values = chosen.over(before)?;
    if let Some(namespace) = found.as_ref().filter(|namespace| *namespace != values.namespace()) {
        return Err(Failure::Usage(format!(
            "a mesh is installed in namespace {namespace}, and there can be one only: name it by --set \
             namespace={namespace}, or `meshctl uninstall` it first"
        )));
    }
    if let Some(namespace) = &found {
        uninstall::undo(&client, namespace).await?;
    }
    let objects = owned(&values);
    apply::all(&client, &objects, *force_conflicts, screen).await?;
    for gone in delete_others(&client, &objects).await? {
        screen.line(&format!("deleted     {gone}"), Mood::Plain)?;
    }
    if *no_wait {
        return Ok(Outcome::Fine);
    }
    rollout::wait(&client, values.namespace(), Duration::from_secs(*timeout), screen).await
}

/// The objects with the label of who applies them, and the values themselves.
fn owned(values: &Values) -> Vec<Value> {
    let mut objects = mesh_install::objects(values);
    let chosen = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": CHOSEN, "namespace": values.namespace(), "labels": { PART_OF_LABEL: PART_OF } },
        "data": { CHOSEN_KEY: values.changes() },
    });
    objects.push(chosen);
    for object in &mut objects {
        object["metadata"]["labels"][MANAGED_BY_LABEL] = MANAGER.into();
    }
    objects
}

fn print<W: io::Write>(values: &Values, screen: &mut Screen<W>) -> Result<Outcome, Failure> {
    for object in owned(values) {
        match screen.format {
            Format::Table | Format::Compact => screen.line(&cluster::shown(&object), Mood::Plain)?,
            Format::Json | Format::Yaml => screen.object(&object)?,
        }
    }
    Ok(Outcome::Fine)
}

/// The namespace of the mesh that meshctl has installed.
pub async fn installed(client: &Client) -> Result<Option<String>, Failure> {
    let agents = list_own(client, "apps/v1", "DaemonSet").await?;
    Ok(agents.into_iter().find_map(|agent| agent.metadata.namespace))
}

async fn remembered(client: &Client, namespace: &str) -> Result<Values, Failure> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = api.get_opt(CHOSEN).await.map_err(|error| explained("reading the values chosen before", error))?;
    let text = map.and_then(|map| map.data).and_then(|mut data| data.remove(CHOSEN_KEY));
    let mut values = Values::default();
    let text = text.ok_or_else(|| {
        Failure::Usage(format!(
            "ConfigMap {namespace}/{CHOSEN} with the values chosen before is gone; say them anew, with --reset-values"
        ))
    })?;
    values.merge(&text).map_err(|wrong| {
        Failure::Usage(format!("ConfigMap {namespace}/{CHOSEN}: {wrong}; say the values anew, with --reset-values"))
    })?;
    Ok(values)
}

#[cfg(test)]
mod tests;
