//! Server-side apply of a list of objects. All are tried first, so that a refusal is heard before anything is changed.

use std::io;

use kube::{
    Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
};
use mesh_install::{PART_OF, PART_OF_LABEL};
use serde_json::{Value, json};

use crate::{
    client::Failure,
    cluster::{MANAGED_BY_LABEL, MANAGER, api, explained, is_missing, shown},
    output::{Mood, Screen},
};

/// Every kind that meshctl applies, in the order in which it deletes them; but for definitions of kinds: with one of
/// them all of its objects would go, which are users'.
pub const KINDS: &[(&str, &str)] = &[
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("cert-manager.io/v1", "Certificate"),
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "Deployment"),
    ("policy/v1", "PodDisruptionBudget"),
    ("v1", "Service"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("v1", "ServiceAccount"),
    ("v1", "ConfigMap"),
    ("v1", "Namespace"),
];

pub async fn all<W: io::Write>(
    client: &Client,
    objects: &[Value],
    force: bool,
    screen: &mut Screen<W>,
) -> Result<(), Failure> {
    // Nothing can be tried in a namespace that is not there.
    let (namespaces, rest): (Vec<_>, Vec<_>) = objects.iter().partition(|object| object["kind"] == "Namespace");
    for namespace in namespaces {
        one(client, namespace, force, screen).await?;
    }
    let mut refused = Vec::new();
    for object in &rest {
        let mut parameters = parameters(force);
        parameters.dry_run = true;
        if let Err(failure) = patch(client, object, &parameters).await {
            refused.push(failure.to_string());
        }
    }
    if !refused.is_empty() {
        return Err(Failure::Unreachable(format!("{}\nnothing was changed", refused.join("\n"))));
    }
    for object in rest {
        one(client, object, force, screen).await?;
    }
    Ok(())
}

fn parameters(force: bool) -> PatchParams {
    let mut parameters = PatchParams::apply(MANAGER);
    parameters.force = force;
    parameters
}

async fn one<W: io::Write>(
    client: &Client,
    object: &Value,
    force: bool,
    screen: &mut Screen<W>,
) -> Result<(), Failure> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let before = collection(client, object).get_opt(name).await;
    let before = before.map_err(|error| explained(&format!("reading {}", shown(object)), error))?;
    let after = patch(client, object, &parameters(force)).await?;
    let word = match before {
        None => "created",
        Some(before) if before.metadata.resource_version == after.metadata.resource_version => "unchanged",
        Some(_) => "configured",
    };
    if screen.format.is_text() {
        let mood = if word == "unchanged" { Mood::Dim } else { Mood::Plain };
        screen.line(&format!("{word:<11} {}", shown(object)), mood)?;
    } else {
        let metadata = &object["metadata"];
        screen.object(&json!({
            "kind": object["kind"], "namespace": metadata["namespace"], "name": metadata["name"], "result": word,
        }))?;
    }
    Ok(())
}

async fn patch(client: &Client, object: &Value, parameters: &PatchParams) -> Result<DynamicObject, Failure> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let applied = collection(client, object).patch(name, parameters, &Patch::Apply(object)).await;
    applied.map_err(|error| match is_missing(&error) {
        // The namespace is there: see `all`.
        true => Failure::Unreachable(format!(
            "applying {}: this cluster has no kind {} of {}; its CRD comes from its own project",
            shown(object),
            object["kind"].as_str().unwrap_or_default(),
            object["apiVersion"].as_str().unwrap_or_default()
        )),
        false => explained(&format!("applying {}", shown(object)), error),
    })
}

fn collection(client: &Client, object: &Value) -> kube::Api<DynamicObject> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let namespace = object["metadata"]["namespace"].as_str();
    api(client, &text(&object["apiVersion"]), &text(&object["kind"]), namespace)
}

/// What meshctl has applied of a kind, in any namespace; nothing where the cluster has no such kind.
pub async fn list_own(client: &Client, api_version: &str, kind: &str) -> Result<Vec<DynamicObject>, Failure> {
    let selector = format!("{PART_OF_LABEL}={PART_OF},{MANAGED_BY_LABEL}={MANAGER}");
    match api(client, api_version, kind, None).list(&ListParams::default().labels(&selector)).await {
        Ok(list) => Ok(list.items),
        Err(error) if is_missing(&error) => Ok(Vec::new()),
        Err(error) => Err(explained(&format!("listing every {kind} of the mesh"), error)),
    }
}

/// Deletes what meshctl has applied and is not among `objects`; says what.
pub async fn delete_others(client: &Client, objects: &[Value]) -> Result<Vec<String>, Failure> {
    let wanted = objects.iter().map(shown).collect::<Vec<_>>();
    let mut gone = Vec::new();
    for (api_version, kind) in KINDS {
        for object in list_own(client, api_version, kind).await? {
            let metadata = json!({ "kind": kind, "metadata": object.metadata });
            let name = shown(&metadata);
            if wanted.contains(&name) || object.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let api = api(client, api_version, kind, object.metadata.namespace.as_deref());
            match api.delete(object.metadata.name.as_deref().unwrap_or_default(), &DeleteParams::background()).await {
                Ok(_) => gone.push(name),
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(explained(&format!("deleting {name}"), error)),
            }
        }
    }
    Ok(gone)
}
