//! What a cluster holds of all that files may speak of.

use std::time::Duration;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use mesh_controller::analyze::{Collection, collections};
use serde_json::Value;

use crate::{
    client::Failure,
    cluster::{explained, is_missing},
};

/// For all lists together: files can be looked at without them.
const PATIENCE: Duration = Duration::from_secs(15);

/// Every object of the kinds that the mesh reads, as far as the cluster knows them.
///
/// # Errors
/// It does not answer in time, or refuses a list.
pub async fn objects(client: &Client) -> Result<Vec<Value>, Failure> {
    let all = async {
        let mut all = Vec::new();
        for collection in collections() {
            all.extend(collected(client, &collection).await?);
        }
        Ok(all)
    };
    let late = |_| Failure::Unreachable(format!("the API server has not answered for {}s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, all).await.map_err(late)?
}

/// Those of the first version that is served; none of a kind that the cluster does not know.
async fn collected(client: &Client, collection: &Collection) -> Result<Vec<Value>, Failure> {
    let Collection { group, versions, kind, plural } = collection;
    for version in *versions {
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let list = match api.list(&ListParams::default()).await {
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
