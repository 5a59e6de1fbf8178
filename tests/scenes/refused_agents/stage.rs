//! A real Kubernetes API, a real controller that asks it about tokens, and callers that say to be agents.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Namespace, Node, Pod, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use mesh_common::proto::auth::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};
use mesh_tests::{HostApi, Process, installed, programs_dir, refused};
use prost_types::{Struct, Value, value::Kind};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

pub const OWN: &str = "nodemesh-system";
pub const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
/// How long the controller believes the API's answers, and how often it looks at live streams: `--token-check`.
pub const CHECK: Duration = Duration::from_secs(1);
const NAME: &str = "mesh-controller.nodemesh-system.svc";

/// Everything; dropping it ends it.
pub struct Stage {
    pub client: Client,
    controller: Process,
    // The last one: what runs in it ends before it.
    pub api: HostApi,
}

/// What a caller sends.
pub struct Ask {
    pub authorization: Option<String>,
    pub identity: Option<Kind>,
    pub csr: String,
}

impl Stage {
    /// `None`: this machine has no API, which was said. `options` are the controller's.
    pub async fn new(manifests: &str, options: &[&str]) -> Result<Option<Self>> {
        let Some(api) = HostApi::start_with(&["--min-token-seconds=1"])? else { return Ok(None) };
        let client = api.client().await?;
        objects(&client).await?;
        let (config, state) = (api.folder().join("config"), api.folder().join("state"));
        fs::create_dir_all(&config)?;
        fs::write(config.join("all.yaml"), manifests)?;
        let mut arguments = vec![
            format!("KUBECONFIG={}", api.kubeconfig().display()),
            programs_dir()?.join("mesh-controller").display().to_string(),
            format!("--source=dir:{}", config.display()),
            format!("--state={}", state.display()),
            format!("--listen={}", api.spare_address()),
        ];
        arguments.extend(["--agent-auth=kubernetes", "--ca-secret=mesh-ca"].map(str::to_owned));
        arguments.push(format!("--token-check={}s", CHECK.as_secs()));
        arguments.extend(options.iter().map(ToString::to_string));
        let controller = api.place().start("controller", &installed("env")?, &arguments)?;
        let stage = Self { client, controller, api };
        stage.logged("serving", 0).await?;
        Ok(Some(stage))
    }

    pub async fn pod(&self, namespace: &str, name: &str, node: &str, account: &str) -> Result<()> {
        pod(&self.client, namespace, name, node, account).await
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
        Ok(Endpoint::from_shared(format!("https://{}", self.api.spare_address()))?.tls_config(tls)?.connect().await?)
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
        let before = self.log_length()?;
        let status = match self.ask(ask).await {
            Ok(_) => anyhow::bail!("{what}: not refused"),
            Err(status) => status,
        };
        self.told(id, what, &status, code, before).await
    }

    /// The same of a refusal that was seen already.
    pub async fn told(&self, id: &str, what: &str, status: &Status, code: &str, before: usize) -> Result<()> {
        let said = status.metadata().get("nodemesh-reason").and_then(|reason| reason.to_str().ok());
        // What the protocol itself refuses has no code on the wire.
        ensure!(said == Some(code) || code == "REQUEST_INVALID", "{what}: {said:?} instead of {code}: {status}");
        ensure!(status.code() != Code::Ok, "{what}: {status}");
        self.logged(&format!("reason=\"{code}\""), before).await.with_context(|| what.to_owned())?;
        let seen = format!("{:?}: {}", status.code(), status.message().chars().take(110).collect::<String>());
        refused::row(id, what, &seen, code, "audit log of mesh-controller");
        Ok(())
    }

    pub fn log_length(&self) -> Result<usize> {
        Ok(self.controller.log()?.len())
    }

    /// Waits for a line of the controller's log behind `from`.
    pub async fn logged(&self, text: &str, from: usize) -> Result<String> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let log = self.controller.log()?;
            let rest = log.get(from..).unwrap_or_default();
            if let Some(line) = rest.lines().find(|line| line.contains(text)) {
                return Ok(line.to_owned());
            }
            ensure!(Instant::now() < until, "the controller does not say {text}: {rest}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn folder(&self) -> &Path {
        self.api.folder()
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

/// What the API has from the beginning.
async fn objects(client: &Client) -> Result<()> {
    let (namespaces, nodes): (Api<Namespace>, Api<Node>) = (Api::all(client.clone()), Api::all(client.clone()));
    for name in [OWN, "shop", "bank"] {
        namespaces
            .create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": name}}))?)
            .await?;
    }
    for name in ["a", "b"] {
        nodes.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": name}}))?).await?;
    }
    for (namespace, name) in [(OWN, "mesh-agent"), (OWN, "other"), ("shop", "mesh-agent")] {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        accounts.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": name}}))?).await?;
    }
    for (name, node) in [("mesh-agent-a", "a"), ("mesh-agent-b", "b"), ("mesh-agent-nowhere", "")] {
        pod(client, OWN, name, node, "mesh-agent").await?;
    }
    pod(client, OWN, "other-a", "a", "other").await?;
    pod(client, "shop", "mesh-agent-a", "a", "mesh-agent").await
}

async fn pod(client: &Client, namespace: &str, name: &str, node: &str, account: &str) -> Result<()> {
    let spec = json!({"nodeName": node, "serviceAccountName": account, "containers": [{"name": "c", "image": "i"}]});
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let object = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
    pods.create(&PostParams::default(), &object).await?;
    Ok(())
}
