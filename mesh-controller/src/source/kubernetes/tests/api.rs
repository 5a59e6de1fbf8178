//! A Kubernetes API of a test's own, on loopback, in a folder of its own.

use std::{
    env, fs,
    future::Future,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use kube::{
    Client, Config, ResourceExt,
    api::{Api, ApiResource, DynamicObject, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
};
use serde::Deserialize;

const PATIENCE: Duration = Duration::from_secs(30);

pub struct RealApi {
    folder: tempfile::TempDir,
    scripts: PathBuf,
    port: u16,
    /// The API server, if it was started again.
    again: Mutex<Option<Child>>,
    pub client: Client,
}

impl RealApi {
    /// `None`, said aloud, where there is no API to start; with CI set that is a failure.
    pub async fn start() -> Option<Self> {
        let Some(scripts) = env::var_os("MESH_KUBE").map(PathBuf::from) else {
            assert!(env::var_os("CI").is_none(), "MESH_KUBE is not set: no Kubernetes API to test with");
            eprintln!("skipped: MESH_KUBE is not set (the folder with up.sh, which starts a Kubernetes API)");
            return None;
        };
        let folder = tempfile::tempdir().expect("folder");
        let port = free_ports();
        let up = Command::new(scripts.join("up.sh"))
            .arg(folder.path())
            .env("PORT", port.to_string())
            .stdout(Stdio::null())
            .status();
        assert!(up.expect("up.sh").success(), "up.sh failed");
        let client = client(&folder.path().join("kubeconfig")).await;
        Some(Self { folder, scripts, port, again: Mutex::new(None), client })
    }

    /// The file that names it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Kills the API server; its store stays.
    pub fn stop(&self) {
        let file = self.kubeconfig().with_file_name("api.pid");
        let pid = fs::read_to_string(&file).expect("api.pid").trim().to_owned();
        Command::new("kill").args(["-9", &pid]).status().expect("kill");
        if let Some(mut child) = self.again.lock().expect("no panic").take() {
            child.wait().expect("its end");
        }
        while Path::new("/proc").join(&pid).exists() && !is_zombie(&pid) {
            std::thread::sleep(Duration::from_millis(10));
        }
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
    pub async fn resume(&self) {
        let (folder, port) = (self.folder.path(), self.port);
        let log = fs::File::options().append(true).open(folder.join("api.log")).expect("api.log");
        let child = Command::new(folder.join("bin/minikapi"))
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", port + 1))
            .args(["--bind-address=127.0.0.1".to_owned(), format!("--secure-port={port}")])
            .arg(format!("--cert-dir={}", folder.join("certs").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("minikapi");
        fs::write(folder.join("api.pid"), child.id().to_string()).expect("api.pid");
        *self.again.lock().expect("no panic") = Some(child);
        eventually("the API answers", async || self.client.apiserver_version().await.is_ok()).await;
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
            let documents = serde_yaml_ng::Deserializer::from_str(&file);
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
        // Whose parent is not this process, down.sh ends.
        if let Some(mut child) = self.again.get_mut().ok().and_then(Option::take) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new(self.scripts.join("down.sh")).arg(self.folder.path()).status();
    }
}

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.expect("a config");
    config.read_timeout = Some(Duration::from_secs(120));
    Client::try_from(config).expect("a client")
}

/// Ended; whose child it was has not asked yet.
fn is_zombie(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('Z'))
}

/// The first of three free ports in a row.
fn free_ports() -> u16 {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        // Below the ports that the kernel gives to clients: nobody takes them between this look and their use.
        let first = 20_000 + first % 10_000;
        if (first..first + 3).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no free ports");
}

/// Waits until it holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
