//! A CA that cert-manager issues, as far as meshctl goes: asked for, judged, taken away. cert-manager is not here.
//! Its kind is a test double, written here after its documentation with the fields that the mesh sets, and its
//! controller is the scene.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use mesh_tests::{KubeApi, Patience, World, eventually, kube_folder, programs_dir};
use serde_json::{Value, json};

const CERTIFICATE: &str = "/apis/cert-manager.io/v1/namespaces/nodemesh-system/certificates/mesh-ca";
const CHOSEN: [&str; 2] = ["--set", "certManager.issuer=own-ca"];

#[test]
fn cert_manager_issues_the_ca() -> Result<()> {
    if kube_folder()?.is_none() {
        return Ok(());
    }
    let world = World::on_kubernetes("cert-manager")?;
    let api = world.api()?;
    let install = [&["install", "--no-wait"], &CHOSEN[..]].concat();
    let (code, said) = api.meshctl(&install)?;
    ensure!(code == 3 && said.contains("this cluster has no kind Certificate of cert-manager.io/v1"), "{code}: {said}");
    ensure!(said.contains("nothing was changed"), "{said}");
    let (code, said) = api.meshctl(&[&install[..], &["--set", "caSecret=cacerts"]].concat())?;
    ensure!(code == 2 && said.contains("not both"), "{code}: {said}");

    api.apply(&double())?;
    eventually("the kind is served", Patience::LONG, || {
        Ok(api.meshctl(&install).ok().filter(|(code, _)| *code == 0).map(drop))
    })?;
    let certificate = api.get(CERTIFICATE)?.context("the Certificate")?;
    let spec = &certificate["spec"];
    assert_eq!((&spec["isCA"], &spec["secretName"]), (&json!(true), &json!("mesh-ca")));
    assert_eq!(spec["issuerRef"], json!({ "name": "own-ca", "kind": "Issuer", "group": "cert-manager.io" }));
    let deployment = "/apis/apps/v1/namespaces/nodemesh-system/deployments/mesh-controller";
    let arguments =
        api.get(deployment)?.context("the controller")?["spec"]["template"]["spec"]["containers"][0].clone();
    ensure!(arguments["args"].to_string().contains("--ca-given"), "{arguments}");
    let help = Command::new(programs_dir()?.join("mesh-controller")).arg("--help").output()?;
    ensure!(String::from_utf8_lossy(&help.stdout).contains("--ca-given"), "the controller knows the option");

    let says = |expected: &str| -> Result<()> {
        let (_, said) = api.meshctl(&["check"])?;
        ensure!(said.contains(expected), "no {expected:?} in {said}");
        Ok(())
    };
    says("× authority    Certificate nodemesh-system/mesh-ca: cert-manager says nothing of it")?;
    report(&api, &certificate, "False", "Issuing", "the issuer is not there")?;
    says("× authority    Certificate nodemesh-system/mesh-ca is not ready: Issuing the issuer is not there")?;
    report(&api, &certificate, "True", "Ready", "")?;
    says("✓ authority    Certificate nodemesh-system/mesh-ca is ready")?;

    // Nobody makes the Secret anew afterwards.
    let (code, said) = api.meshctl(&["uninstall", "--skip-node", "a", "--skip-node", "b"])?;
    ensure!(code == 0, "{code}: {said}");
    ensure!(api.get(CERTIFICATE)?.is_none(), "the Certificate is left");
    Ok(())
}

fn report(api: &KubeApi, certificate: &Value, status: &str, reason: &str, message: &str) -> Result<()> {
    let condition = json!({ "type": "Ready", "status": status, "reason": reason, "message": message });
    let metadata = json!({ "name": "mesh-ca", "namespace": "nodemesh-system" });
    let reported = json!({
        "apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": metadata,
        "spec": certificate["spec"], "status": { "conditions": [condition] },
    });
    api.apply(&reported).map(drop)
}

/// Not cert-manager's: a stand-in of the test, as strict as it is small.
fn double() -> Value {
    let text = json!({ "type": "string" });
    let object =
        |fields: Value, required: Value| json!({ "type": "object", "properties": fields, "required": required });
    let spec = object(
        json!({
            "isCA": { "type": "boolean" },
            "commonName": text,
            "subject": object(json!({ "organizations": { "type": "array", "items": text } }), json!([])),
            "secretName": text,
            "duration": text,
            "renewBefore": text,
            "privateKey": object(
                json!({
                    "algorithm": { "type": "string", "enum": ["RSA", "ECDSA", "Ed25519"] },
                    "size": { "type": "integer" },
                    "encoding": { "type": "string", "enum": ["PKCS1", "PKCS8"] },
                    "rotationPolicy": { "type": "string", "enum": ["Never", "Always"] },
                }),
                json!([]),
            ),
            "usages": { "type": "array", "items": { "type": "string", "enum": ["cert sign", "crl sign"] } },
            "issuerRef": object(json!({ "name": text, "kind": text, "group": text }), json!(["name"])),
        }),
        json!(["secretName", "issuerRef"]),
    );
    let condition = object(json!({ "type": text, "status": text, "reason": text, "message": text }), json!(["type"]));
    let status = object(json!({ "conditions": { "type": "array", "items": condition } }), json!([]));
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "certificates.cert-manager.io" },
        "spec": {
            "group": "cert-manager.io",
            "scope": "Namespaced",
            "names": { "kind": "Certificate", "plural": "certificates", "singular": "certificate" },
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": object(json!({ "spec": spec, "status": status }), json!([])) },
            }],
        },
    })
}
