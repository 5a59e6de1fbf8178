//! doctor and bugreport with real agents, a real controller and a Kubernetes API. The API has no kubelet: nothing can
//! be forwarded to pods, and no log be read; both say so and go on.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use mesh_install::{Values, objects};
use mesh_tests::{A, B, KubeApi, Patience, World, eventually, kube_folder};
use serde_json::json;

const PLANTED: &str = "planted-4711";

#[test]
fn doctor_says_what_is_wrong_and_a_report_holds_no_secret() -> Result<()> {
    if kube_folder()?.is_none() {
        return Ok(());
    }
    let mut world = World::on_kubernetes("doctor")?;
    let cart = world.pod("shop", "cart", A)?;
    let web = world.pod("shop", "web", B)?;
    // Pods that were there before the mesh are found by their processes.
    for pod in [&cart, &web] {
        pod.serve("echo", 7000)?;
    }
    world.start()?;
    world.mesh("shop")?;
    world.metrics();
    eventually("agents have nothing wrong", Patience::LONG, || Ok((findings(&world)?.is_empty()).then_some(())))?;

    let api = world.api()?;
    plant(&api)?;
    let report = world.root().join("report.tar.gz");
    let (code, said) = api.meshctl(&["bugreport", "--out", &report.display().to_string()])?;
    ensure!(code == 3, "logs cannot be had here: {code}: {said}");
    let text = holds_no_secret(&api, &report, &world.root().join("report"))?;
    let names = ["nodemesh.io/redirection", "mesh-agent-a", "logs/careless.log: ", "metrics/careless.txt: "];
    for name in [cart.name.as_str()].into_iter().chain(names) {
        ensure!(text.contains(name), "the report has nothing of {name}: {said}");
    }

    // The cluster is seen, though nobody answers through it.
    let (code, said) = api.meshctl(&["doctor"])?;
    ensure!(code == 1 && said.contains("no answer: ") && said.contains("leads"), "{code}: {said}");
    ensure!(!said.contains("shop/cart"), "the annotation says that it is redirected: {said}");

    world.kill_controller()?;
    eventually("the agents' loss is found", Patience::LONG, || {
        Ok(findings(&world)?.iter().any(|what| what == "the agent of a has no controller").then_some(()))
    })
}

/// What one agent has wrong.
fn findings(world: &World) -> Result<Vec<String>> {
    let all = world.ask_agent(A, &["doctor"])?;
    let wrong = all.into_iter().filter(|finding| finding["mark"] != "ok");
    Ok(wrong.map(|finding| finding["what"].as_str().unwrap_or_default().to_owned()).collect())
}

/// As installed by meshctl, and secrets wherever somebody may have put one.
fn plant(api: &KubeApi) -> Result<()> {
    let installed = objects(&Values::default());
    let wanted =
        installed.into_iter().filter(|object| ["Deployment", "DaemonSet"].iter().any(|kind| object["kind"] == *kind));
    api.apply_all(&wanted.collect::<Vec<_>>())?;
    let key = format!("-----BEGIN PRIVATE KEY-----\n{PLANTED}\n-----END PRIVATE KEY-----\n");
    let pod = |namespace: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "careless", "namespace": namespace, "labels": { "app.kubernetes.io/name": "mesh-agent" },
                "annotations": { "example.com/key": key },
            },
            "spec": { "containers": [{
                "name": "app", "image": "x", "args": [format!("--password={PLANTED}")],
                "env": [{ "name": "PASSWORD", "value": PLANTED }],
            }] },
        })
    };
    let metadata = json!({ "name": "careless", "namespace": "nodemesh-system" });
    api.apply_all(&[
        pod("shop"),
        pod("nodemesh-system"),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "password": PLANTED } }),
        // base64 of what is planted, and as text.
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": { "password": "cGxhbnRlZC00NzEx" } }),
    ])
}

/// All of its text.
fn holds_no_secret(api: &KubeApi, report: &Path, folder: &Path) -> Result<String> {
    fs::create_dir_all(folder)?;
    let tar = Command::new("tar").arg("-xzf").arg(report).arg("-C").arg(folder).status()?;
    ensure!(tar.success(), "tar -xzf");
    let mut text = String::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(at)? {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => text += &fs::read_to_string(path)?,
            }
        }
    }
    let ca = api.get("/api/v1/namespaces/nodemesh-system/secrets/mesh-ca")?.context("the CA's Secret")?;
    let secret = |key: &str| ca["data"][key].as_str().map(ToOwned::to_owned).context("a key of the CA's Secret");
    let private = secret("ca.key")?;
    ensure!(text.contains("mesh-ca") && text.contains("ca.key"), "that there is a CA's key, the report says");
    for gone in [PLANTED, "cGxhbnRlZC00NzEx", private.as_str(), &private[40..80], "PRIVATE KEY"] {
        ensure!(!text.contains(gone), "the report holds {gone}");
    }
    Ok(text)
}
