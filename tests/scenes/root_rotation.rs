//! The mesh's root is replaced while pods talk: nobody is refused, and in the end the new root alone is trusted.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use mesh_tests::{A, B, Patience, Place, Pod, World, eventually, installed, kube_folder};
use serde_json::{Value, json};

use crate::load::Load;

const PORT: u16 = 7000;
const SECRET: &str = "/api/v1/namespaces/nodemesh-system/secrets/mesh-ca";
/// For a certificate's whole life, as the overlap must be.
const LIFE: [&str; 2] = ["--certificate-ttl=2s", "--root-overlap=2s"];

fn secret(world: &World) -> Result<Value> {
    world.api()?.get(SECRET)?.context("the API has no Secret mesh-ca")
}

/// The roots to trust, and the root that signs.
fn roots(world: &World) -> Result<(String, String)> {
    let secret = secret(world)?;
    let text = |key: &str| -> Result<String> {
        Ok(String::from_utf8(BASE64.decode(secret["data"][key].as_str().unwrap_or_default())?)?)
    };
    Ok((text("roots.pem")?, text("ca.crt")?))
}

/// Whether the certificate that a pod's tunnel shows chains to this root alone, as openssl finds.
fn chains(from: &Place, pod: &Pod, root: &Path) -> Result<bool> {
    let options = ["s_client", "-connect", &format!("{}:15008", pod.ip), "-CAfile", &root.display().to_string()];
    let options: Vec<String> = options.iter().map(ToString::to_string).collect();
    let output = from.output(&installed("openssl")?, &options, Duration::from_secs(5))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("Verify return code: "), "openssl shows no certificate: {said}");
    Ok(said.contains("Verify return code: 0 (ok)"))
}

#[test]
fn the_root_is_replaced_while_pods_talk() -> Result<()> {
    if kube_folder()?.is_none() {
        return Ok(());
    }
    let mut world = World::on_kubernetes("root rotation")?;
    world.controller_options.extend(LIFE.map(str::to_owned));
    let (cart, web) = (world.pod("shop", "cart", A)?, world.pod("shop", "web", B)?);
    for server in [&cart, &web] {
        server.serve("echo", PORT)?;
    }
    world.start()?;
    world.mesh("shop")?;
    let load = Load::start(&[("there", &cart, web.at(PORT)), ("and back", &web, cart.at(PORT))]);
    load.until(50)?;
    let (before, _) = roots(&world)?;
    let (old, new) = (world.root().join("old.pem"), world.root().join("new.pem"));
    fs::write(&old, &before)?;
    assert!(chains(&world.node(A).host, &web, &old)?);

    world.api()?.apply(&json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "mesh-ca", "namespace": "nodemesh-system", "annotations": { "nodemesh.io/rotate": "now" } },
    }))?;
    let count = |pem: &str| pem.matches("BEGIN CERTIFICATE").count();
    eventually("two roots are trusted", Patience::LONG, || Ok((count(&roots(&world)?.0) == 2).then_some(())))?;
    let after = eventually("one root is trusted", Patience::LONG, || {
        let (trusted, signs) = roots(&world)?;
        Ok((count(&trusted) == 1).then_some((trusted, signs)))
    })?;
    assert_eq!(after.0.trim(), after.1.trim(), "the root that signs is the one that is trusted");
    assert_ne!(before.trim(), after.0.trim(), "it is another one");
    fs::write(&new, &after.0)?;
    for pod in [&cart, &web] {
        let from = &world.node(pod.node.other()).host;
        eventually("the new root alone bears out the pod's certificate", Patience::LONG, || {
            Ok((chains(from, pod, &new)? && !chains(from, pod, &old)?).then_some(()))
        })?;
    }
    load.until(load.done() + 100)?;
    println!("{} connections over a root's rotation: none failed", load.finish()?);
    for node in [A, B] {
        let failed: Vec<_> = world.flows(node)?.into_iter().filter(|flow| flow.verdict != "forwarded").collect();
        // openssl itself shows no certificate.
        let failed: Vec<_> = failed.into_iter().filter(|flow| flow.reason != "NO_CLIENT_CERTIFICATE").collect();
        assert!(failed.is_empty(), "{failed:?}");
    }
    Ok(())
}
