//! `meshctl check --probe` on a Kubernetes API. The kubelets are the scene.

use std::thread;

use anyhow::{Context, Result, ensure};
use mesh_tests::{KubeApi, Patience, World, eventually, kube_folder};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/nodemesh-system/pods";

#[test]
fn every_kernel_is_asked_and_nothing_is_left() -> Result<()> {
    if kube_folder()?.is_none() {
        return Ok(());
    }
    let world = World::on_kubernetes("probe")?;
    let api = world.api()?;
    for node in ["a", "b"] {
        let info = json!({
            "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "containerd://2.1.0",
            "kernelVersion": "6.12.0", "kubeProxyVersion": "", "kubeletVersion": "v1.36.0", "machineID": "",
            "operatingSystem": "linux", "osImage": "", "systemUUID": "",
        });
        let metadata = json!({ "name": node });
        let status = json!({ "nodeInfo": info });
        api.apply(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status }))?;
    }
    let (code, said) = thread::scope(|scope| -> Result<_> {
        let check = scope.spawn(|| api.meshctl(&["check", "--pre", "--probe", "--timeout", "60"]));
        let pods = eventually("a probe on each node", Patience::LONG, || {
            let pods = probes(&api)?;
            Ok((pods.len() == 2).then_some(pods))
        })?;
        for pod in &pods {
            let container = &pod["spec"]["containers"][0];
            ensure!(container["command"] == json!(["/usr/local/bin/mesh-agent", "programs"]), "{container}");
            ensure!(container["securityContext"]["privileged"] == false, "{container}");
            let status = match pod["spec"]["nodeName"].as_str() {
                Some("a") => json!({ "phase": "Succeeded" }),
                _ => json!({ "phase": "Failed", "containerStatuses": [{
                    "name": "mesh-probe", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": { "terminated": { "exitCode": 1, "message": "kernel 5.15 does not take connect4" } },
                }] }),
            };
            let metadata = json!({ "name": pod["metadata"]["name"], "namespace": "nodemesh-system" });
            let object = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status });
            api.apply(&object)?;
        }
        check.join().map_err(|_| anyhow::anyhow!("meshctl's thread"))?
    })?;
    ensure!(code == 1 && said.contains("✓ kernel       a takes the programs"), "{code}: {said}");
    ensure!(said.contains("× kernel       b: kernel 5.15 does not take connect4"), "{said}");
    ensure!(probes(&api)?.is_empty(), "pods are left");
    let namespace = api.get("/api/v1/namespaces/nodemesh-system")?;
    ensure!(namespace.is_none_or(|one| !one["metadata"]["deletionTimestamp"].is_null()), "the namespace is left");
    Ok(())
}

fn probes(api: &KubeApi) -> Result<Vec<Value>> {
    let list = api.get(&format!("{PODS}?labelSelector=app.kubernetes.io/name=mesh-probe"))?.context("a list")?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}
