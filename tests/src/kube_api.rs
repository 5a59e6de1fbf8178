//! A real Kubernetes API, with the CRDs that the mesh reads: etcd and an API server, started by the script `up.sh` in
//! the folder that `MESH_KUBE` names. A world's listens on the loopback of the namespace that it is given.

mod host;
mod server;

pub use host::HostApi;

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use http::{Method, Request};
use kube::{Client, Config, config::Kubeconfig};
use serde::Deserialize;
use serde_json::{Value, json};

use server::KubeServer;

use crate::{Patience, Place, config, eventually, network, place};

/// Free: the namespace is the world's own.
const PORT: u16 = 18443;
const PROGRAMS: [&str; 2] = ["etcd", API_SERVER];
const API_SERVER: &str = "minikapi";
/// Whoever writes here, as Kubernetes' field managers go.
const MANAGER: &str = "mesh-tests";
/// Requests under way, of many.
const AT_ONCE: usize = 16;
/// The kinds of other projects that the mesh reads.
const CRDS: [&str; 12] = [
    "peerauthentications.security.istio.io",
    "authorizationpolicies.security.istio.io",
    "virtualservices.networking.istio.io",
    "destinationrules.networking.istio.io",
    "serviceentries.networking.istio.io",
    "telemetries.telemetry.istio.io",
    "httproutes.gateway.networking.k8s.io",
    "grpcroutes.gateway.networking.k8s.io",
    "tcproutes.gateway.networking.k8s.io",
    "tlsroutes.gateway.networking.k8s.io",
    "referencegrants.gateway.networking.k8s.io",
    "backendtlspolicies.gateway.networking.k8s.io",
];
/// The mesh's own.
const OWN: &str = "ratelimitpolicies.nodemesh.io";

/// A running API.
#[derive(Debug)]
pub struct KubeApi {
    /// Its network namespace; `None`: that of this process.
    netns: Option<String>,
    /// The folder with up.sh.
    scripts: PathBuf,
    kubeconfig: PathBuf,
    server: KubeServer,
}

/// A change of what the API has.
#[derive(Clone, Debug)]
pub enum Change {
    Apply(Value),
    Delete(Value),
}

/// What makes an object that object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    api_version: String,
    kind: String,
    /// Empty for kinds without namespace.
    namespace: String,
    name: String,
}

/// The folder with the script that starts the API; `None` where there is none, and a scene cannot run.
///
/// # Errors
/// There is none, and `CI` says that everything must run.
pub fn kube_folder() -> Result<Option<PathBuf>> {
    server::scripts()
}

impl KubeApi {
    /// Serving, with CRDs, when this returns. `folder` is for its data.
    pub(crate) fn start(place: &Place, netns: &str, folder: &Path) -> Result<Self> {
        let scripts = server::scripts()?.context("this scene needs a Kubernetes API")?;
        unpack(&scripts, &folder.join("bin"), &[])?;
        let api = Self::start_bare(&scripts, place, Some(netns.to_owned()), folder, PORT)?;
        api.add_crds()?;
        Ok(api)
    }

    fn start_bare(scripts: &Path, place: &Place, netns: Option<String>, folder: &Path, port: u16) -> Result<Self> {
        let server = KubeServer::start(scripts, folder, port, place.prefix()?)?;
        Ok(Self { netns, scripts: scripts.to_owned(), kubeconfig: server.kubeconfig(), server })
    }

    /// The file by which programs in its namespace find it.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The API server's process.
    pub fn pid(&self) -> Result<i32> {
        self.server.pid()
    }

    /// Stops the API server in its tracks, or lets it go on.
    pub fn hold_still(&self, still: bool) -> Result<()> {
        self.server.hold_still(still)
    }

    /// SIGKILL to the API server; what it has stays in its store.
    pub fn kill(&self) -> Result<()> {
        self.server.kill()
    }

    /// It answers again when this returns.
    pub fn start_again(&self) -> Result<()> {
        self.server.start_again()
    }

    fn end(&self) {
        self.server.end();
    }

    /// A client for where the API can be reached: this process, for a [`HostApi`].
    pub async fn client(&self) -> Result<Client> {
        let read = Kubeconfig::read_from(&self.kubeconfig);
        let read = read.with_context(|| format!("read {}", self.kubeconfig.display()))?;
        let config = Config::from_custom_kubeconfig(read, &Default::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// meshctl with this API: its exit code, and what it said on both streams.
    pub fn meshctl(&self, arguments: &[&str]) -> Result<(i32, String)> {
        self.run(async |_| {
            let mut command = Command::new(config::built("meshctl")?);
            command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments).env("NO_COLOR", "1");
            let output = command.output().context("meshctl")?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            Ok((output.status.code().unwrap_or(-1), said))
        })
    }

    /// Runs `work` where the API can be reached.
    pub fn run<T: Send>(&self, work: impl AsyncFnOnce(Client) -> Result<T> + Send) -> Result<T> {
        let there = || {
            // Sockets belong to the namespace of the thread that makes them.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.context("start a runtime")?.block_on(async { work(self.client().await?).await })
        };
        match &self.netns {
            Some(netns) => network::inside(netns, there)?,
            None => there(),
        }
    }

    /// Server-side apply of an object and of its status, as its owner and its controller do; what the API has then.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        self.run(async |client| apply(&client, object).await)
    }

    /// The same of many, in no order.
    pub fn apply_all(&self, objects: &[Value]) -> Result<()> {
        self.run(async |client| {
            let all = stream::iter(objects).map(|object| apply(&client, object)).buffer_unordered(AT_ONCE);
            all.map_ok(drop).try_collect().await
        })
    }

    /// At once; what is gone already is gone.
    pub(crate) fn delete(&self, reference: &Reference) -> Result<()> {
        let path = reference.path() + "?gracePeriodSeconds=0";
        self.run(async |client| match send(&client, Method::DELETE, &path, None).await {
            Err(error) if is_not_found(&error) => Ok(()),
            other => other.map(drop),
        })
        .with_context(|| format!("delete {reference:?}"))
    }

    /// As in `/api/v1/namespaces/shop/pods/web`; `None`: there is no such object.
    pub fn get(&self, path: &str) -> Result<Option<Value>> {
        self.run(async |client| match send(&client, Method::GET, path, None).await {
            Err(error) if is_not_found(&error) => Ok(None),
            other => other.map(Some),
        })
    }

    /// Tokens of a ServiceAccount as kubelets ask for them: for one audience, each bound to one of these pods.
    pub fn tokens(&self, namespace: &str, account: &str, pods: &[String], audience: &str) -> Result<Vec<String>> {
        self.run(async |client| {
            let one = async |pod: &String| {
                let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
                let uid = send(&client, Method::GET, &path, None).await?["metadata"]["uid"].clone();
                let bound = json!({ "apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid });
                let spec = json!({ "audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound });
                let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
                let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
                let answer = send(&client, Method::POST, &path, Some(&body)).await?;
                Ok(answer["status"]["token"].as_str().context("the API gave no token")?.to_owned())
            };
            stream::iter(pods).map(one).buffered(AT_ONCE).try_collect().await
        })
    }

    /// Makes a change after another, so many a second, until it is over: how many there were.
    pub fn change(&self, rate: u32, over: &AtomicBool, change: impl Fn(usize) -> Change + Sync) -> Result<usize> {
        self.run(async |client| {
            let (start, mut made) = (Instant::now(), 0);
            while !over.load(Ordering::Relaxed) {
                match change(made) {
                    Change::Apply(object) => drop(apply(&client, &object).await?),
                    Change::Delete(object) => {
                        let path = Reference::of(&object)?.path() + "?gracePeriodSeconds=0";
                        match send(&client, Method::DELETE, &path, None).await {
                            Err(error) if !is_not_found(&error) => return Err(error),
                            _ => {}
                        }
                    }
                }
                made += 1;
                // By the clock: one that was late makes none of the others late.
                let due = Duration::from_secs(1) * u32::try_from(made).unwrap_or(u32::MAX) / rate;
                tokio::time::sleep(due.saturating_sub(start.elapsed())).await;
            }
            Ok(made)
        })
    }

    /// The kinds of other projects that the mesh reads, and its own, served when this returns.
    pub fn add_crds(&self) -> Result<()> {
        let folder = &self.scripts.join("crds");
        for file in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
            let path = file?.path();
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            // One of them has all that are wanted; reading YAML is what takes the time.
            let wanted =
                text.split("\n---").filter(|text| CRDS.iter().any(|name| text.contains(&format!("name: {name}"))));
            for text in wanted {
                let crd: Value = serde_yaml_ng::from_str(text).with_context(|| format!("read {}", path.display()))?;
                self.apply(&crd)?;
            }
        }
        self.apply(&mesh_install::rate_limit_policy())?;
        for name in CRDS.into_iter().chain([OWN]) {
            let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
            eventually(format_args!("the API serves {name}"), Patience::LONG, || {
                let crd = self.get(&path)?;
                let conditions = crd.as_ref().and_then(|crd| crd["status"]["conditions"].as_array());
                let served = |c: &Value| c["type"] == "Established" && c["status"] == "True";
                Ok(conditions.is_some_and(|all| all.iter().any(served)).then_some(()))
            })?;
        }
        Ok(())
    }
}

impl Reference {
    pub fn of(object: &Value) -> Result<Self> {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        let [api_version, kind] = [&object["apiVersion"], &object["kind"]].map(word);
        let [namespace, name] = [&metadata["namespace"], &metadata["name"]].map(word);
        if api_version.is_empty() || kind.is_empty() || name.is_empty() {
            bail!("no object with apiVersion, kind and name: {object}");
        }
        Ok(Self { api_version, kind, namespace, name })
    }

    fn path(&self) -> String {
        let root = if self.api_version.contains('/') { "apis" } else { "api" };
        let lower = self.kind.to_lowercase();
        let plural = match lower.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None if lower.ends_with('s') => format!("{lower}es"),
            None => lower + "s",
        };
        let place = match self.namespace.as_str() {
            "" => String::new(),
            namespace => format!("namespaces/{namespace}/"),
        };
        format!("/{root}/{}/{place}{plural}/{}", self.api_version, self.name)
    }
}

async fn apply(client: &Client, object: &Value) -> Result<Value> {
    let mut object = object.clone();
    let reference = Reference::of(&object)?;
    if let Some(metadata) = object["metadata"].as_object_mut() {
        // The API gives it.
        metadata.remove("uid");
    }
    let status = object.as_object_mut().and_then(|object| object.remove("status"));
    let query = format!("?fieldManager={MANAGER}&force=true");
    let failed = || format!("apply {reference:?}");
    let applied =
        send(client, Method::PATCH, &(reference.path() + &query), Some(&object)).await.with_context(failed)?;
    let Some(status) = status else { return Ok(applied) };
    let Reference { api_version, kind, name, .. } = &reference;
    let metadata = json!({ "name": name, "namespace": applied["metadata"]["namespace"] });
    let body = json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata, "status": status });
    send(client, Method::PATCH, &(reference.path() + "/status" + &query), Some(&body)).await.with_context(failed)
}

async fn send(client: &Client, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
    let kind = if method == Method::PATCH { "application/apply-patch+yaml" } else { "application/json" };
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let request = Request::builder().method(method).uri(path).header("content-type", kind).body(body);
    Ok(client.request(request.context("not a request")?).await?)
}

fn is_not_found(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 404)
}

/// The programs of the script, unpacked once for all worlds, beside the built programs; `options` are more of the API
/// server's than the script gives it.
fn unpack(scripts: &Path, bin: &Path, options: &[&str]) -> Result<()> {
    let kept = config::programs_dir()?.join("kube-api");
    for folder in [kept.as_path(), bin] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    for name in PROGRAMS {
        let (packed, program) = (scripts.join(format!("{name}.xz")), kept.join(name));
        let age = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
        if age(&program).is_none_or(|own| age(&packed).is_some_and(|packed| packed > own)) {
            // Several worlds may do it at once.
            let draft = kept.join(format!("{name}.{}", config::own_pid()));
            let mut command = Command::new("sh");
            let [from, to] = [&packed, &draft].map(|path| path.display().to_string());
            command.args(["-c", r#"xz -dc "$1" >"$2" && chmod +x "$2""#, "sh", &from, &to]);
            place::succeed(command, Duration::from_secs(60))?;
            fs::rename(&draft, &program).with_context(|| format!("move {to} to {}", program.display()))?;
        }
        let called = bin.join(name);
        let made = match options {
            [_, ..] if name == API_SERVER => {
                let text = format!("#!/bin/sh\nexec {} \"$@\" {}\n", program.display(), options.join(" "));
                fs::write(&called, text).and_then(|()| fs::set_permissions(&called, Permissions::from_mode(0o755)))
            }
            _ => symlink(&program, &called),
        };
        made.with_context(|| format!("make {}", called.display()))?;
    }
    Ok(())
}

/// The objects of a YAML text, in order.
pub(crate) fn documents(yaml: &str) -> Result<Vec<Value>> {
    let all = serde_yaml_ng::Deserializer::from_str(yaml).map(Value::deserialize);
    let all: Vec<Value> = all.collect::<Result<_, _>>().context("read YAML")?;
    Ok(all.into_iter().filter(|one| !one.is_null()).collect())
}
