//! A real Kubernetes API, a real controller that asks it about tokens, and callers that say to be agents.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        core::v1::{ConfigMap, Namespace, Node, Pod, ServiceAccount},
    },
    serde::{Serialize, de::DeserializeOwned},
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use mesh_common::proto::auth::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};
use mesh_tests::{programs_dir, refused};
use prost_types::{Struct, Value, value::Kind};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

pub const OWN: &str = "nodemesh-system";
pub const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const NAME: &str = "mesh-controller.nodemesh-system.svc";

/// Everything; dropping it ends it.
pub struct Stage {
    pub client: Client,
    pub api: KubeApi,
    controller: Child,
    log: PathBuf,
    address: SocketAddr,
    folder: PathBuf,
}

/// etcd and the API server, in a folder.
pub struct KubeApi {
    scripts: PathBuf,
    folder: PathBuf,
}

impl KubeApi {
    /// `None`: this machine has none, and no CI asks for it.
    fn start(folder: &Path) -> Result<Option<Self>> {
        let Some(scripts) = std::env::var_os("MESH_KUBE").map(PathBuf::from) else {
            ensure!(std::env::var_os("CI").is_none(), "MESH_KUBE names no folder with up.sh, and CI is set");
            eprintln!("skipped: MESH_KUBE names no folder with up.sh (a Kubernetes API for tests)");
            return Ok(None);
        };
        let folder = folder.join("kube");
        fs::create_dir_all(&folder)?;
        let started = Self { scripts, folder };
        let port = free_ports()?;
        let output =
            Command::new(started.scripts.join("up.sh")).arg(&started.folder).env("PORT", port.to_string()).output()?;
        ensure!(output.status.success(), "up.sh: {}", String::from_utf8_lossy(&output.stderr));
        started.restart(&["--min-token-seconds=1"])?;
        Ok(Some(started))
    }

    pub fn pid(&self) -> Result<i32> {
        Ok(fs::read_to_string(self.folder.join("api.pid"))?.trim().parse()?)
    }

    pub fn hold_still(&self, still: bool) -> Result<()> {
        let pid = rustix::process::Pid::from_raw(self.pid()?).context("a pid")?;
        let signal = if still { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Ends the API server and starts it again with more options, over the same data.
    fn restart(&self, more: &[&str]) -> Result<()> {
        let pid = self.pid()?;
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
        let mut words = line.trim_end_matches('\0').split('\0');
        let program = words.next().context("a program")?;
        let arguments: Vec<&str> = words.chain(more.iter().copied()).collect();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).context("a pid")?,
            rustix::process::Signal::KILL,
        )?;
        let log = File::create(self.folder.join("api-2.log"))?;
        std::thread::sleep(Duration::from_millis(300));
        let child = Command::new(program).args(arguments).stdout(log.try_clone()?).stderr(log).spawn()?;
        fs::write(self.folder.join("api.pid"), child.id().to_string())?;
        Ok(())
    }
}

impl Drop for KubeApi {
    fn drop(&mut self) {
        let _ = self.hold_still(false);
        let _ = Command::new(self.scripts.join("down.sh")).arg(&self.folder).status();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.controller.kill();
        let _ = self.controller.wait();
    }
}

/// What a caller sends.
pub struct Ask {
    pub authorization: Option<String>,
    pub identity: Option<Kind>,
    pub csr: String,
}

impl Stage {
    /// `options` are the controller's.
    pub async fn new(folder: &Path, manifests: &str, options: &[&str]) -> Result<Option<Self>> {
        let Some(api) = KubeApi::start(folder)? else { return Ok(None) };
        let kubeconfig = api.folder.join("kubeconfig");
        let config = Kubeconfig::read_from(&kubeconfig)?;
        let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        config.default_namespace = OWN.to_owned();
        let client = Client::try_from(config)?;
        let (config, state, log) = (folder.join("config"), folder.join("state"), folder.join("controller.log"));
        fs::create_dir_all(&config)?;
        fs::write(config.join("all.yaml"), manifests)?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_ports()?));
        let stage = Self { controller: dummy()?, client, api, log: log.clone(), address, folder: folder.to_owned() };
        stage.objects().await?;
        let output = File::create(&log)?;
        let controller = Command::new(programs_dir()?.join("mesh-controller"))
            .env("KUBECONFIG", &kubeconfig)
            .arg(format!("--source=dir:{}", config.display()))
            .arg(format!("--state={}", state.display()))
            .arg(format!("--listen={address}"))
            .args(["--agent-auth=kubernetes", "--ca-secret=mesh-ca", "--token-check=2s"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let mut stage = stage;
        let mut idle = std::mem::replace(&mut stage.controller, controller);
        let _ = (idle.kill(), idle.wait());
        stage.logged("serving", 0).await?;
        Ok(Some(stage))
    }

    async fn objects(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(60);
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        while let Err(error) = namespaces.list(&Default::default()).await {
            ensure!(Instant::now() < until, "the API does not answer: {error}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for name in [OWN, "shop", "bank"] {
            namespaces
                .create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": name}}))?)
                .await?;
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        for name in ["a", "b"] {
            nodes.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": name}}))?).await?;
        }
        for (namespace, name) in [(OWN, "mesh-agent"), (OWN, "other"), ("shop", "mesh-agent")] {
            self.account(namespace, name).await?;
        }
        for (name, node) in [("mesh-agent-a", "a"), ("mesh-agent-b", "b"), ("mesh-agent-nowhere", "")] {
            self.pod(OWN, name, node, "mesh-agent").await?;
        }
        self.pod(OWN, "other-a", "a", "other").await?;
        self.pod("shop", "mesh-agent-a", "a", "mesh-agent").await
    }

    pub async fn account(&self, namespace: &str, name: &str) -> Result<()> {
        self.create::<ServiceAccount>(namespace, json!({"metadata": {"name": name}})).await
    }

    pub async fn pod(&self, namespace: &str, name: &str, node: &str, account: &str) -> Result<()> {
        let spec =
            json!({"nodeName": node, "serviceAccountName": account, "containers": [{"name": "c", "image": "i"}]});
        self.create::<Pod>(namespace, json!({"metadata": {"name": name}, "spec": spec})).await
    }

    async fn create<K>(&self, namespace: &str, object: serde_json::Value) -> Result<()>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        Ok(())
    }

    pub async fn delete_pod(&self, name: &str) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), OWN);
        let now = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
        pods.delete(name, &now).await?;
        Ok(())
    }

    /// A token as the kubelet asks for one. No pod: bound to nothing.
    pub async fn token(&self, of: (&str, &str), pod: Option<&str>, audiences: &[&str], seconds: i64) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), of.0);
        let bound = pod.map(|pod| BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.into()),
            uid: None,
        });
        let spec = TokenRequestSpec {
            audiences: Some(audiences.iter().map(ToString::to_string).collect()),
            bound_object_ref: bound,
            expiration_seconds: Some(seconds),
        };
        let request = TokenRequest { spec: Some(spec), ..Default::default() };
        let made = accounts.create_token_request(of.1, &PostParams::default(), &request).await?;
        made.status.and_then(|status| status.token).context("a token")
    }

    /// The token of the agent of a node.
    pub async fn agent(&self, node: &str) -> Result<String> {
        self.token((OWN, "mesh-agent"), Some(&format!("mesh-agent-{node}")), &["nodemesh"], 3600).await
    }

    /// As an agent connects, with the roots that are mounted into its pod.
    pub async fn channel(&self) -> Result<Channel> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), OWN);
        let until = Instant::now() + Duration::from_secs(10);
        let roots = loop {
            if let Some(roots) = maps.get_opt("mesh-ca-root").await?.and_then(|map| map.data?.remove("root-cert.pem")) {
                break roots;
            }
            ensure!(Instant::now() < until, "no ConfigMap mesh-ca-root");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots)).domain_name(NAME);
        Ok(Endpoint::from_shared(format!("https://{}", self.address))?.tls_config(tls)?.connect().await?)
    }

    pub async fn ask(&self, ask: Ask) -> Result<Vec<String>, Status> {
        let channel = self.channel().await.map_err(|error| Status::unknown(format!("{error:#}")))?;
        let Ask { authorization, identity, csr } = ask;
        let field = identity.map(|kind| ("ImpersonatedIdentity".to_owned(), Value { kind: Some(kind) }));
        let metadata = Some(Struct { fields: field.into_iter().collect() });
        let mut request = Request::new(IstioCertificateRequest { csr, validity_duration: 600, metadata });
        if let Some(value) = authorization {
            let value = value.parse().map_err(|_| Status::unknown("no header can carry that"))?;
            request.metadata_mut().insert("authorization", value);
        }
        let mut client = IstioCertificateServiceClient::new(channel).max_encoding_message_size(64 << 20);
        client.create_certificate(request).await.map(|response| response.into_inner().cert_chain)
    }

    /// That `ask` is refused with this code, and that the audit log says so; a line of the table.
    pub async fn refused(&self, id: &str, what: &str, ask: Ask, code: &str) -> Result<()> {
        let before = fs::metadata(&self.log)?.len();
        let status = match self.ask(ask).await {
            Ok(_) => bail!("{what}: not refused"),
            Err(status) => status,
        };
        self.told(id, what, &status, code, before).await
    }

    /// The same of a refusal that was seen already.
    pub async fn told(&self, id: &str, what: &str, status: &Status, code: &str, before: u64) -> Result<()> {
        let said = status.metadata().get("nodemesh-reason").and_then(|reason| reason.to_str().ok());
        // What the protocol itself refuses has no code on the wire.
        ensure!(said == Some(code) || code == "REQUEST_INVALID", "{what}: {said:?} instead of {code}: {status}");
        ensure!(status.code() != Code::Ok, "{what}: {status}");
        self.logged(&format!("reason=\"{code}\""), before).await.with_context(|| what.to_owned())?;
        let seen = format!("{:?}: {}", status.code(), status.message().chars().take(110).collect::<String>());
        refused::row(id, what, &seen, code, "audit log of mesh-controller");
        Ok(())
    }

    pub fn log_length(&self) -> Result<u64> {
        Ok(fs::metadata(&self.log)?.len())
    }

    /// Waits for a line of the controller's log behind `from`.
    pub async fn logged(&self, text: &str, from: u64) -> Result<String> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let log = fs::read(&self.log)?;
            let rest = String::from_utf8_lossy(log.get(usize::try_from(from)?..).unwrap_or_default()).into_owned();
            if let Some(line) = rest.lines().find(|line| line.contains(text)) {
                return Ok(line.to_owned());
            }
            ensure!(Instant::now() < until, "the controller does not say {text}: {rest}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

pub fn csr() -> String {
    csr_of(&KeyPair::generate().expect("key"), |_| {})
}

pub fn csr_of(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(key).and_then(|request| request.pem()).expect("request")
}

pub fn bearer(token: &str) -> Option<String> {
    Some(format!("Bearer {token}"))
}

pub fn named(identity: &str) -> Option<Kind> {
    Some(Kind::StringValue(identity.to_owned()))
}

/// Three in a row that nobody has now; other tests look for theirs elsewhere.
fn free_ports() -> Result<u16> {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let base = 22_000 + u16::try_from(std::process::id() % 1_000)? * 8;
    for _ in 0..1_000 {
        let port = base + TAKEN.fetch_add(1, Ordering::Relaxed) * 4;
        let free = (port..port + 3).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
        if free {
            return Ok(port);
        }
    }
    bail!("no free ports above {base}")
}

fn dummy() -> Result<Child> {
    Ok(Command::new("sleep").arg("60").spawn()?)
}
