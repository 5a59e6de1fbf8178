//! An authority in a Secret that somebody damages, and whose root rotates while agents listen.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use mesh_common::proto::{discovery::DeltaDiscoveryResponse, nodemesh::TrustBundle};
use prost_types::Any;
use serde_json::json;

use super::{
    refused, stage,
    stage::{Ask, CART, OWN, Stage, bearer, csr, named},
    tokens::subscribe,
};

async fn patch(stage: &Stage, change: serde_json::Value) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), OWN);
    secrets.patch("mesh-ca", &PatchParams::default(), &Patch::Merge(&change)).await?;
    Ok(())
}

/// The roots at the end of a new certificate's chain.
async fn signed(stage: &Stage, token: &str) -> Result<(String, usize)> {
    let chain = stage.ask(Ask { authorization: bearer(token), identity: named(CART), csr: csr() }).await?;
    let roots = chain.last().context("roots")?;
    Ok((chain[0].clone(), roots.matches("BEGIN CERTIFICATE").count()))
}

fn roots(response: &DeltaDiscoveryResponse) -> Result<usize> {
    let resource = response.resources.first().and_then(|resource| resource.resource.clone()).context("a bundle")?;
    let Any { type_url: _, value } = resource;
    Ok(<TrustBundle as prost::Message>::decode(value.as_slice())?.roots.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_authority_goes_on_with_what_was_good() -> Result<()> {
    let Some(stage) = stage(&[]).await? else { return Ok(()) };
    let token = stage.agent("a").await?;
    for (what, change, why) in [
        ("its key is none", json!({"stringData": {"ca.key": "hello"}}), "ca.key: not a private key"),
        ("its key is gone", json!({"data": {"ca.key": null}}), "ca.key: is missing"),
        ("its roots are none", json!({"data": {"roots.pem": "aGVsbG8="}}), "roots.pem: holds no certificate"),
    ] {
        let before = stage.log_length()?;
        let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), OWN);
        let good = secrets.get("mesh-ca").await?;
        let change = if change.get("stringData").is_some() { json!({"data": {"ca.key": "aGVsbG8="}}) } else { change };
        patch(&stage, change).await?;
        let said = stage.logged("the last good one stays", before).await?;
        ensure!(said.contains("Secret nodemesh-system/mesh-ca") && said.contains(why), "{what}: {said}");
        ensure!(signed(&stage, &token).await?.1 == 1, "{what}");
        patch(&stage, json!({"data": good.data})).await?;
        let seen = format!("the last good one signs; {why}");
        refused::row("X16", &format!("an authority of which {what}"), &seen, "-", "log of mesh-controller");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_rotates_under_the_agents() -> Result<()> {
    let Some(stage) = stage(&["--root-overlap=3s"]).await? else { return Ok(()) };
    let token = stage.agent("a").await?;
    let (requests, mut heard) = subscribe(&stage, &token).await?;
    let mut nonce = String::new();
    let before = stage.log_length()?;
    patch(&stage, json!({"metadata": {"annotations": {"nodemesh.io/rotate": "now"}}})).await?;
    let mut next = async || -> Result<usize> {
        // The first answer was taken by the one who subscribed.
        let acknowledged = if nonce.is_empty() { "1".to_owned() } else { nonce.clone() };
        let type_url = mesh_common::proto::type_url::TRUST_BUNDLE.to_owned();
        let ack = mesh_common::proto::discovery::DeltaDiscoveryRequest {
            type_url,
            response_nonce: acknowledged,
            ..Default::default()
        };
        requests.send(ack).await?;
        let answer = tokio::time::timeout(Duration::from_secs(20), heard.message()).await??.context("an answer")?;
        nonce = answer.nonce.clone();
        roots(&answer)
    };
    ensure!(next().await? == 2, "the new root is trusted beside the old one");
    ensure!(signed(&stage, &token).await?.1 == 2);
    stage.logged("what=\"the new root signs\"", before).await?;
    ensure!(next().await? == 1, "the new root is alone");
    stage.logged("what=\"the old root is no longer trusted\"", before).await?;
    ensure!(signed(&stage, &token).await?.1 == 1);

    // Who mounts the ConfigMap still reaches the controller, whose own certificate is of the new root.
    let maps: Api<ConfigMap> = Api::namespaced(stage.client.clone(), OWN);
    let until = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let map = maps.get("mesh-ca-root").await?;
        let pem = map.data.and_then(|mut data| data.remove("root-cert.pem")).unwrap_or_default();
        if pem.matches("BEGIN CERTIFICATE").count() == 1 {
            break;
        }
        ensure!(std::time::Instant::now() < until, "{pem}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    signed(&stage, &token).await.map(drop)
}
