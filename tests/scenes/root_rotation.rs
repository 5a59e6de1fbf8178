//! The mesh's root is replaced while pods talk: nobody is refused, and in the end the new root alone is trusted. Only a
//! connection that began with the old root, and lasts longer than that one is trusted, ends with it.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use mesh_tests::{A, B, End, Patience, Place, Pod, World, eventually, installed, kube_folder};
use serde_json::{Value, json};

use crate::load::Load;

const PORT: u16 = 7000;
const SECRET: &str = "/api/v1/namespaces/nodemesh-system/secrets/mesh-ca";
/// An overlap is longer than a certificate's life, so that none of the old root is in use when that one goes.
const LIFE: [&str; 2] = ["--certificate-ttl=2s", "--root-overlap=3s"];

/// Of a certificate that was signed just before the new root began to sign.
const OVER: Duration = Duration::from_millis(2300);

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

/// Until the certificates of these pods chain to this root.
fn bears_out(world: &World, pods: &[&Pod], root: &Path) -> Result<()> {
    pods.iter().try_for_each(|pod| {
        let from = &world.node(pod.node.other()).host;
        eventually(format_args!("{} bears out {}", root.display(), pod.name), Patience::LONG, || {
            Ok(chains(from, pod, root)?.then_some(()))
        })
    })
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
    let held = cart.hold(web.at(PORT))?;
    load.until(50)?;
    let (before, first) = roots(&world)?;
    let (old, new) = (world.root().join("old.pem"), world.root().join("new.pem"));
    fs::write(&old, &before)?;
    assert!(chains(&world.node(A).host, &web, &old)?);

    world.api()?.apply(&json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "mesh-ca", "namespace": "nodemesh-system", "annotations": { "nodemesh.io/rotate": "now" } },
    }))?;
    let count = |pem: &str| pem.matches("BEGIN CERTIFICATE").count();
    eventually("two roots are trusted", Patience::LONG, || Ok((count(&roots(&world)?.0) == 2).then_some(())))?;
    eventually("another root signs", Patience::LONG, || {
        let (_, signs) = roots(&world)?;
        fs::write(&new, &signs)?;
        Ok((signs != first).then_some(()))
    })?;
    // A tunnel of before lasts as long as either end's certificate: what begins now stands on the new root alone.
    thread::sleep(OVER);
    let young = cart.hold(web.at(PORT))?;
    let (trusted, signs) = eventually("one root is trusted", Patience::LONG, || {
        let (trusted, signs) = roots(&world)?;
        Ok((count(&trusted) == 1).then_some((trusted, signs)))
    })?;
    assert_eq!(trusted.trim(), signs.trim(), "the root that signs is the one that is trusted");
    bears_out(&world, &[&cart, &web], &new)?;
    assert!(!chains(&world.node(A).host, &web, &old)?, "the old root bears out a certificate");
    // What began with the old root ends with it, and is told; what is younger goes on.
    let ended = held.ended(Patience::LONG)?;
    assert_eq!(ended.end, End::Reset, "{ended:?}");
    // Whichever end is the first to hear of the roots.
    eventually("it is told that the tunnel's root is gone", Patience::LONG, || {
        let by_client = world.agent(A)?.process.log()?.contains("the root of a tunnel's peer is no longer trusted");
        let by_server = world.flows(B)?.iter().any(|flow| flow.reason == "CERT_UNKNOWN_ISSUER");
        Ok((by_client || by_server).then_some(()))
    })?;
    load.until(load.done() + 100)?;
    println!("{} connections over a root's rotation: none failed", load.finish()?);
    assert!(young.is_open()?, "a connection of the new root ended");
    let young = young.finish()?;
    assert!(young.end == End::Eof && young.received == young.sent, "{young:?}");
    for node in [A, B] {
        let mut failed: Vec<_> = world.flows(node)?.into_iter().filter(|flow| flow.verdict != "forwarded").collect();
        // openssl shows no certificate of its own, and the tunnel is the one above.
        failed.retain(|flow| !["NO_CLIENT_CERTIFICATE", "CERT_UNKNOWN_ISSUER"].contains(&flow.reason.as_str()));
        assert!(failed.is_empty(), "{failed:?}");
    }
    Ok(())
}
