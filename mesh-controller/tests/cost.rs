//! What a controller costs in a large cluster that changes all the time. A measurement of an optimised build:
//! `MESH_KUBE=... cargo test --release -p mesh-controller --test cost -- --ignored --nocapture`

#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(dead_code, reason = "not all of what the tests share is used here")]

#[path = "../src/source/kubernetes/tests/api.rs"]
mod api;

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use api::RealApi;

const NAMESPACES: usize = 20;
const NODES: usize = 10;
const SERVICES: usize = 1000;
const PODS: usize = 2000;
const CHANGES_A_SECOND: u32 = 30;
const SECONDS: u32 = 20;

struct Controller(Child);

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Controller {
    /// User and system time so far.
    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// In MB: now, and at most.
    fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
        };
        (field("VmRSS"), field("VmHWM"))
    }
}

fn namespace(number: usize) -> String {
    format!("n{}", number % NAMESPACES)
}

fn address(pod: usize) -> String {
    format!("10.{}.{}.{}", 1 + pod % NODES, pod / 250, pod % 250 + 1)
}

/// A pod as large as they are, with what a kubelet and others write into it.
fn pod(number: usize) -> serde_json::Value {
    let variables: Vec<_> =
        (0..40).map(|n| json!({"name": format!("VARIABLE_{n}"), "value": "x".repeat(40)})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("p{number}"), "namespace": namespace(number / 2), "labels": {"app": format!("s{}", number / 2)},
                     "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "x".repeat(2000)}},
        "spec": {"nodeName": format!("node-{}", number % NODES), "serviceAccountName": "default",
                 "containers": [{"name": "c", "image": "example.com/app:1", "env": variables,
                                 "ports": [{"name": "http", "containerPort": 8080}],
                                 "readinessProbe": {"httpGet": {"path": "/", "port": 8080}}}]},
        "status": {"phase": "Running", "podIP": address(number), "podIPs": [{"ip": address(number)}],
                   "conditions": [{"type": "Ready", "status": "True"}],
                   "containerStatuses": [{"name": "c", "ready": true, "restartCount": 0, "image": "x", "imageID": "x".repeat(100)}]},
    })
}

async fn create<K>(client: &Client, namespace: &str, value: serde_json::Value)
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), &serde_json::from_value(value).unwrap()).await.unwrap();
}

async fn fill(client: &Client) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for number in 0..NAMESPACES {
        let value = json!({"metadata": {"name": namespace(number), "labels": {"nodemesh.io/mode": "mesh"}}});
        namespaces.create(&PostParams::default(), &serde_json::from_value(value).unwrap()).await.unwrap();
    }
    let services = stream::iter(0..SERVICES).map(|number| async move {
        let (name, namespace) = (format!("s{number}"), namespace(number));
        let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
        let ip = format!("10.96.{}.{}", number / 250, number % 250 + 1);
        create::<Service>(
            client,
            &namespace,
            json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": ports}}),
        )
        .await;
        let endpoints: Vec<_> = [number * 2, number * 2 + 1]
            .map(|pod| {
                let target = json!({"kind": "Pod", "name": format!("p{pod}"), "namespace": namespace});
                json!({"addresses": [address(pod)], "conditions": {"ready": true}, "targetRef": target})
            })
            .into();
        let labels = json!({"kubernetes.io/service-name": name});
        let slice = json!({"metadata": {"name": format!("{name}-x"), "labels": labels}, "addressType": "IPv4",
                           "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints});
        create::<EndpointSlice>(client, &namespace, slice).await;
    });
    services.buffer_unordered(16).collect::<Vec<_>>().await;
    let pods = stream::iter(0..PODS).map(|number| create::<Pod>(client, namespace(number / 2).leak(), pod(number)));
    pods.buffer_unordered(16).collect::<Vec<_>>().await;
}

/// Turns a pod's readiness.
async fn change(client: &Client, number: usize, ready: bool) {
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace(number / 2));
    let conditions = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
    let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
    api.patch_status(&format!("p{number}"), &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test]
#[ignore = "a measurement, of an optimised build"]
async fn thirty_changes_a_second() {
    let Some(api) = RealApi::start().await else { return };
    let start = Instant::now();
    fill(&api.client).await;
    println!("{SERVICES} services and {PODS} pods written in {:?}", start.elapsed());
    let state = tempfile::tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_mesh-controller"))
        .args(["--source", "kubernetes", "--listen", "127.0.0.1:0", "--log", "warn", "--state"])
        .arg(state.path())
        .env("KUBECONFIG", api.kubeconfig())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let controller = Controller(child);
    let start = Instant::now();
    while !state.path().join("admin.sock").exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "the controller does not serve");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ready = start.elapsed();
    let cost = controller.cpu();
    println!("serving after {ready:?}, {cost:?} of CPU, memory now and at most {:?} MB", controller.memory());
    tokio::time::sleep(Duration::from_secs(5)).await;

    let idle = controller.cpu();
    tokio::time::sleep(Duration::from_secs(10)).await;
    println!("idle: {:.3} cores", (controller.cpu() - idle).as_secs_f64() / 10.0);
    let (before, start) = (controller.cpu(), Instant::now());
    let mut tick = tokio::time::interval(Duration::from_secs(1) / CHANGES_A_SECOND);
    for number in 0..(CHANGES_A_SECOND * SECONDS) as usize {
        tick.tick().await;
        let client = api.client.clone();
        tokio::spawn(async move { change(&client, number * 7 % PODS, false).await });
    }
    let (cost, passed) = (controller.cpu() - before, start.elapsed());
    let rate = f64::from(CHANGES_A_SECOND * SECONDS) / passed.as_secs_f64();
    println!(
        "{rate:.1} changes a second: {:.3} cores, memory now and at most {:?} MB",
        cost.as_secs_f64() / passed.as_secs_f64(),
        controller.memory()
    );
}
