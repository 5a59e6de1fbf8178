//! ConfigMap `mesh-ca-root`: the roots that agents must trust to reach the controller, mounted into their pods. The
//! leader keeps it as the authority has it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use tokio::sync::watch;

use super::Material;
use crate::leader::Leading;

const NAME: &str = "mesh-ca-root";
const KEY: &str = "root-cert.pem";
const MANAGER: &str = "mesh-controller";
/// How often it is looked at whether somebody else has changed it.
const LOOK: Duration = Duration::from_secs(30);
/// How soon a failed write is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Keeps it while this replica leads.
pub async fn keep(
    client: Client,
    namespace: String,
    mut material: watch::Receiver<Arc<Material>>,
    mut leading: Leading,
) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    loop {
        if leading.leads().await.is_none() {
            return;
        }
        let pem = material.borrow_and_update().roots_pem();
        let wait = match write(&maps, pem).await {
            Ok(()) => LOOK,
            Err(error) => {
                tracing::warn!(%error, "ConfigMap {namespace}/{NAME} cannot be written; new agents may not trust us");
                AGAIN
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = material.changed() => if changed.is_err() { return },
            changed = leading.changed() => if changed.is_none() { return },
        }
    }
}

async fn write(maps: &Api<ConfigMap>, pem: String) -> kube::Result<()> {
    let found = maps.get_opt(NAME).await?;
    if found.is_some_and(|found| found.data.as_ref().and_then(|data| data.get(KEY)) == Some(&pem)) {
        return Ok(());
    }
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), ..Default::default() },
        data: Some(BTreeMap::from([(KEY.to_owned(), pem)])),
        ..Default::default()
    };
    maps.patch(NAME, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&map)).await.map(drop)
}
