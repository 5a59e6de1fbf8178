//! What a cluster holds of all that files may speak of, and what its controller was told.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use mesh_controller::analyze::Collection;
use mesh_install::CONTROLLER;
use serde_json::Value;

use crate::{
    client::Failure,
    cluster::{explained, is_missing},
};

/// For all lists together: files can be looked at without them.
const PATIENCE: Duration = Duration::from_secs(15);

/// Every object of these kinds, as far as the cluster knows them.
///
/// # Errors
/// It does not answer in time, or refuses a list.
pub async fn objects(client: &Client, kinds: impl Iterator<Item = Collection>) -> Result<Vec<Value>, Failure> {
    let all = async {
        let mut all = Vec::new();
        for collection in kinds {
            all.extend(collected(client, &collection).await?);
        }
        Ok(all)
    };
    let late = |_| Failure::Unreachable(format!("the API server has not answered for {}s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, all).await.map_err(late)?
}

/// Arguments of the controller in the mesh's namespace; none if there is none.
///
/// # Errors
/// It cannot be read.
pub async fn arguments(client: &Client, namespace: &str) -> Result<Vec<String>, Failure> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let late = |_| Failure::Unreachable(format!("the API server has not answered for {}s", PATIENCE.as_secs()));
    let doing = format!("cannot read Deployment {namespace}/{CONTROLLER}");
    let found = tokio::time::timeout(PATIENCE, api.get_opt(CONTROLLER)).await.map_err(late)?;
    let spec = found.map_err(|error| explained(&doing, error))?.and_then(|found| found.spec?.template.spec);
    let containers = spec.into_iter().flat_map(|spec| spec.containers);
    let arguments = containers.filter(|container| container.name == CONTROLLER).filter_map(|own| own.args);
    Ok(arguments.flatten().collect())
}

/// Those of the first version that is served; none of a kind that the cluster does not know.
async fn collected(client: &Client, collection: &Collection) -> Result<Vec<Value>, Failure> {
    let Collection { group, versions, kind, plural, name } = collection;
    let parameters =
        name.map_or_else(ListParams::default, |name| ListParams::default().fields(&format!("metadata.name={name}")));
    for version in *versions {
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let list = match api.list(&parameters).await {
            Ok(list) => list,
            Err(error) if is_missing(&error) => continue,
            Err(error) => return Err(explained(&format!("cannot list {plural}"), error)),
        };
        // Items of lists do not say what they are.
        let typed = |object: DynamicObject| {
            let mut value = serde_json::to_value(object).ok()?;
            let fields = value.as_object_mut()?;
            fields.insert("apiVersion".into(), resource.api_version.as_str().into());
            fields.insert("kind".into(), resource.kind.as_str().into());
            Some(value)
        };
        return Ok(list.items.into_iter().filter_map(typed).collect());
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests;
