//! A Kubernetes API of a test's own, on loopback, in a folder of its own.

#[expect(dead_code, reason = "scenes use all of it")]
#[path = "../../../../../tests/src/kube_api/server.rs"]
mod server;

use std::{
    fs,
    future::Future,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use kube::{
    Client, Config, ResourceExt,
    api::{Api, ApiResource, DynamicObject, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
};
use serde::Deserialize;
use server::KubeServer;

const PATIENCE: Duration = Duration::from_secs(30);

pub struct RealApi {
    server: KubeServer,
    scripts: PathBuf,
    port: u16,
    pub client: Client,
    // The last ones: what ran in the folder has ended by then.
    folder: tempfile::TempDir,
    _janitor: Janitor,
}

/// A process that outlives this one and ends what it left, should it be killed.
struct Janitor(Child);

impl Janitor {
    fn hire(folder: &Path) -> Self {
        let script = r#"cat >/dev/null; cat "$1"/*.pid 2>/dev/null | xargs -r kill -9; rm -rf "$1""#;
        let mut command = Command::new("sh");
        command.args(["-c", script, "janitor"]).arg(folder).stdin(Stdio::piped());
        // Whoever ends this process with its group does not end that one.
        command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("a janitor"))
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl RealApi {
    /// `None`, said aloud, where there is no API to start; with CI set that is a failure.
    pub async fn start() -> Option<Self> {
        let scripts = server::scripts().expect("MESH_KUBE")?;
        let folder = tempfile::tempdir().expect("folder");
        let janitor = Janitor::hire(folder.path());
        let port = server::free_ports().expect("ports");
        let server = KubeServer::start(&scripts, folder.path(), port, Vec::new()).expect("an API");
        let client = client(&server.kubeconfig()).await;
        Some(Self { server, scripts, port, client, folder, _janitor: janitor })
    }

    /// Kills the API server; its store stays.
    pub fn stop(&self) {
        self.server.kill().expect("its end");
    }

    /// Makes the store forget everything but the present.
    pub fn compact(&self) {
        let etcd = |path: &str, body: &str| {
            let url = format!("http://127.0.0.1:{}/v3/kv/{path}", self.port + 1);
            let answer = Command::new("curl").args(["-sf", "-d", body, &url]).output().expect("curl");
            assert!(answer.status.success(), "{path}: {answer:?}");
            serde_json::from_slice::<serde_json::Value>(&answer.stdout).expect("JSON")
        };
        let answer = etcd("range", r#"{"key": "AA=="}"#);
        let revision = answer["header"]["revision"].as_str().expect("a revision").to_owned();
        etcd("compaction", &format!(r#"{{"revision": "{revision}", "physical": true}}"#));
    }

    /// Starts it again.
    pub fn resume(&self) {
        self.server.start_again().expect("it answers");
    }

    /// As `kubectl apply --server-side`, of each document, and its status too.
    pub async fn apply(&self, yaml: &str) {
        for document in serde_yaml_ng::Deserializer::from_str(yaml) {
            let value = serde_yaml_ng::Value::deserialize(document).expect("YAML");
            if value.is_null() {
                continue;
            }
            let mut value = serde_json::to_value(value).expect("JSON");
            let status = value.as_object_mut().and_then(|map| map.remove("status"));
            // What only an API gives.
            if let Some(metadata) = value.pointer_mut("/metadata").and_then(serde_json::Value::as_object_mut) {
                metadata.retain(|key, _| !matches!(key.as_str(), "uid" | "creationTimestamp"));
            }
            let (api, object) = self.of(value.clone());
            let parameters = PatchParams::apply("test").force();
            api.patch(&object.name_any(), &parameters, &Patch::Apply(&value)).await.expect("applied");
            if let Some(status) = status {
                let patch = Patch::Merge(serde_json::json!({"status": status}));
                api.patch_status(&object.name_any(), &PatchParams::default(), &patch).await.expect("status");
            }
        }
    }

    /// As `kubectl create`, when the kind is served.
    pub async fn create(&self, yaml: &str) {
        let value: serde_json::Value = serde_yaml_ng::from_str(yaml).expect("YAML");
        let (api, object) = &self.of(value);
        eventually("it is taken", async || match api.create(&Default::default(), object).await {
            Err(kube::Error::Api(status)) if status.code == 404 => false,
            outcome => {
                outcome.expect("created");
                true
            }
        })
        .await;
    }

    pub async fn delete(&self, yaml: &str) {
        let value: serde_json::Value = serde_yaml_ng::from_str(yaml).expect("YAML");
        let (api, object) = self.of(value);
        api.delete(&object.name_any(), &Default::default()).await.expect("deleted");
    }

    pub fn of(&self, value: serde_json::Value) -> (Api<DynamicObject>, DynamicObject) {
        let object: DynamicObject = serde_json::from_value(value).expect("an object");
        let types = object.types.clone().expect("apiVersion and kind");
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types).expect("a kind"));
        let api = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        (api, object)
    }

    /// Installs this CustomResourceDefinition of those beside the scripts.
    pub async fn install(&self, name: &str) {
        self.apply(&serde_yaml_ng::to_string(&self.definition(name)).expect("YAML")).await;
    }

    pub async fn uninstall(&self, name: &str) {
        self.delete(&serde_yaml_ng::to_string(&self.definition(name)).expect("YAML")).await;
    }

    fn definition(&self, name: &str) -> serde_yaml_ng::Value {
        let folder = fs::read_dir(self.scripts.join("crds")).expect("crds");
        let files = folder.map(|file| fs::read_to_string(file.expect("a file").path()).expect("text"));
        for file in files.collect::<Vec<_>>() {
            // Reading YAML is what takes the time.
            let wanted = format!("name: {name}");
            let wanted: Vec<_> = file.split("\n---").filter(|text| text.contains(&wanted)).collect();
            let documents = wanted.into_iter().flat_map(serde_yaml_ng::Deserializer::from_str);
            for value in documents.map(|document| serde_yaml_ng::Value::deserialize(document).expect("YAML")) {
                if value.get("metadata").and_then(|m| m.get("name")).and_then(|name| name.as_str()) == Some(name) {
                    return value;
                }
            }
        }
        panic!("no definition of {name}");
    }
}

impl Drop for RealApi {
    fn drop(&mut self) {
        self.server.end();
    }
}

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.expect("a config");
    config.read_timeout = Some(Duration::from_secs(120));
    Client::try_from(config).expect("a client")
}

/// Waits until it holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Not a test: [`a_killed_test_leaves_nothing`] runs it and kills it.
#[ignore = "is run by another test, to be killed"]
#[tokio::test]
async fn one_that_will_be_killed() {
    let Some(api) = RealApi::start().await else { return };
    println!("\nin {} with {}", api.folder.path().display(), api.server.pid().expect("a pid"));
    std::thread::sleep(PATIENCE);
}

#[test]
fn a_killed_test_leaves_nothing() {
    if server::scripts().expect("MESH_KUBE").is_none() {
        return;
    }
    let name = format!("{}::one_that_will_be_killed", module_path!().split_once("::").expect("a crate").1);
    let mut test = Command::new("/proc/self/exe");
    test.args([&name, "--exact", "--ignored", "--nocapture"]).stdout(Stdio::piped());
    let mut test = test.spawn().expect("itself");
    let lines = BufReader::new(test.stdout.take().expect("it was piped")).lines().map_while(Result::ok);
    let line = lines.into_iter().find(|line| line.starts_with("in ")).expect("a folder");
    let (folder, pid) = line["in ".len()..].split_once(" with ").expect("both");
    let folder = Path::new(folder);
    let store = fs::read_to_string(folder.join("etcd.pid")).expect("etcd.pid");
    let [process, store] = [pid, store.trim()].map(|pid| pid.parse().expect("a pid"));
    assert!(!server::is_gone(process) && !server::is_gone(store));
    test.kill().expect("it runs");
    test.wait().expect("its end");
    let start = Instant::now();
    while !server::is_gone(process) || !server::is_gone(store) || folder.exists() {
        assert!(start.elapsed() < PATIENCE, "left: {line}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
