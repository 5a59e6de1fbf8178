//! Who says to be an agent, and what an agent asks for that is not its to have: tokens, requests for certificates, and
//! what the holder of a stolen credential can reach. Against a real Kubernetes API.

mod authority;
mod requests;
mod stage;
mod tokens;

use anyhow::{Result, ensure};
use mesh_tests::refused;
use tonic::Code;

use stage::{Ask, Stage, bearer, csr, named};

/// Pods of both nodes: in the mesh, observed, left alone, in the node's network, and without an account that exists.
const MANIFESTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {nodemesh.io/mode: mesh}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: bank, labels: {nodemesh.io/mode: mesh}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: outside}}
";

/// Namespace, account, node, what is special.
const PODS: [(&str, &str, &str, &str); 12] = [
    ("shop", "cart", "a", ""),
    ("shop", "crawler", "a", ""),
    ("shop", "web", "b", ""),
    ("shop", "cache", "b", ""),
    ("bank", "cart", "b", ""),
    ("bank", "teller", "a", ""),
    ("bank", "vault", "b", ""),
    ("outside", "batch", "a", ""),
    ("outside", "mail", "b", ""),
    ("shop", "proxy", "a", "hostNetwork: true"),
    ("shop", "watcher", "a", "observe"),
    ("shop", "ghost", "a", "no account"),
];

fn manifests() -> String {
    let mut text = MANIFESTS.to_owned();
    for (i, (namespace, account, node, special)) in PODS.iter().enumerate() {
        let label = if *special == "observe" { "labels: {nodemesh.io/mode: observe}, " } else { "" };
        let network = if special.starts_with("host") { "hostNetwork: true, " } else { "" };
        text += &format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {account}, namespace: {namespace}, {label}uid: u{i}}}, \
             spec: {{nodeName: {node}, serviceAccountName: {account}, {network}containers: [{{name: c}}]}}, \
             status: {{phase: Running, podIP: 10.0.0.{i}}}}}\n"
        );
        if *special != "no account" {
            text += &format!(
                "---\n{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {account}, namespace: {namespace}}}}}\n"
            );
        }
    }
    text
}

/// A stage with those pods; `None`: this machine has no API, which was said.
async fn stage(options: &[&str]) -> Result<Option<Stage>> {
    Stage::new(&manifests(), options).await
}

fn identity(namespace: &str, account: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_credential_obtains_identities_of_its_node_alone() -> Result<()> {
    let Some(stage) = stage(&[]).await? else { return Ok(()) };
    for node in ["a", "b"] {
        let token = stage.agent(node).await?;
        let mut had = Vec::new();
        let mut refused = 0;
        for (namespace, account, home, special) in PODS {
            let ask = Ask { authorization: bearer(&token), identity: named(&identity(namespace, account)), csr: csr() };
            match stage.ask(ask).await {
                Ok(_) => had.push((namespace, account)),
                Err(status) => {
                    let allowed = home == node && special.is_empty() && namespace != "outside";
                    ensure!(!allowed, "{namespace}/{account} on {node}: {status}");
                    ensure!(matches!(status.code(), Code::PermissionDenied | Code::FailedPrecondition), "{status}");
                    refused += 1;
                }
            }
        }
        let own: Vec<_> = PODS
            .iter()
            .filter(|(namespace, _, home, special)| *home == node && special.is_empty() && *namespace != "outside")
            .map(|(namespace, account, ..)| (*namespace, *account))
            .collect();
        ensure!(had == own, "node {node} had {had:?}, its own are {own:?}");
        let what = format!("the credential of node {node}, tried on all {} identities of the cluster", PODS.len());
        let seen = format!("{} signed, its own; {refused} refused", had.len());
        refused::row("X18", &what, &seen, "IDENTITY_NOT_HERE", "audit log of mesh-controller");
    }
    Ok(())
}
