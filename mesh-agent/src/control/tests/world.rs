//! A controller played in-process over TLS on loopback.

use std::{net::SocketAddr, path::PathBuf, pin::Pin, sync::Arc};

use mesh_common::proto::{
    auth::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
    },
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
    },
    nodemesh::{
        AgentMessage, ControllerMessage, Item, PodState, Query,
        agent_link_server::{AgentLink, AgentLinkServer},
    },
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{
    Request, Response, Status, Streaming,
    metadata::MetadataMap,
    transport::{Identity, Server, ServerTlsConfig},
};

use super::soon;
use crate::{
    control::{CaClient, Connection, Control, ControlStatus, Memory, NodeFacts, Responder, spawn},
    state::Store,
};

pub const NAME: &str = "mesh-controller.nodemesh-system.svc";

/// A stream as the controller sees it. Dropping it ends the stream.
pub struct Session<I, O> {
    pub metadata: MetadataMap,
    requests: Streaming<I>,
    responses: mpsc::Sender<Result<O, Status>>,
}

pub type Discovery = Session<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
pub type Link = Session<AgentMessage, ControllerMessage>;
type Signer = dyn Fn(&MetadataMap, IstioCertificateRequest) -> Result<Vec<String>, Status> + Send + Sync;

/// How to reach the controller that the world plays.
#[derive(Clone)]
pub struct Settings {
    pub controller: String,
    pub controller_name: String,
    pub ca_file: PathBuf,
    pub token_file: PathBuf,
    node: NodeFacts,
}

/// Control that runs, with what it tells.
pub struct Started {
    pub status: watch::Receiver<ControlStatus>,
    pub ca: CaClient,
    control: Control,
}

impl Started {
    pub async fn stopped(self) {
        self.control.stopped().await;
    }
}

impl Settings {
    pub fn connect(&self) -> Result<Connection, crate::control::channel::ConnectError> {
        Connection::new(&self.controller, &self.controller_name, &self.ca_file, self.token_file.clone())
    }
}

pub struct World {
    pub settings: Settings,
    pub store: Arc<Store>,
    pub pods: watch::Sender<Vec<PodState>>,
    pub discoveries: mpsc::Receiver<Discovery>,
    pub links: mpsc::Receiver<Link>,
    pub shutdown: watch::Sender<bool>,
    /// This agent speaks for the node.
    pub speaks: watch::Sender<bool>,
    server: JoinHandle<()>,
    files: tempfile::TempDir,
}

struct Streams<I, O>(mpsc::Sender<Session<I, O>>);

struct Authority(Arc<Signer>);

/// Answers nothing.
pub struct Mute;

impl<I, O> Session<I, O> {
    pub async fn next(&mut self) -> I {
        soon("a message of the agent", self.requests.message()).await.expect("stream").expect("open")
    }

    pub async fn send(&self, message: O) {
        soon("room for a response", self.responses.send(Ok(message))).await.expect("the agent listens");
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with_ca(|_, _| Err(Status::unimplemented("no CA here"))).await
    }

    /// A controller that listens; the agent has not begun.
    pub async fn with_ca(
        sign: impl Fn(&MetadataMap, IstioCertificateRequest) -> Result<Vec<String>, Status> + Send + Sync + 'static,
    ) -> Self {
        let files = tempfile::tempdir().expect("a folder");
        let (ca_pem, identity) = certificates();
        let (ca_file, token_file) = (files.path().join("ca.crt"), files.path().join("token"));
        std::fs::write(&ca_file, ca_pem).expect("written");
        std::fs::write(&token_file, "nm1.n1.secret\n").expect("written");
        std::fs::set_permissions(&token_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("mode");

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address: SocketAddr = listener.local_addr().expect("bound");
        let (discovery_sender, discoveries) = mpsc::channel(4);
        let (link_sender, links) = mpsc::channel(4);
        let server = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(identity))
            .expect("a TLS server")
            .add_service(AggregatedDiscoveryServiceServer::new(Streams(discovery_sender)))
            .add_service(AgentLinkServer::new(Streams(link_sender)))
            .add_service(IstioCertificateServiceServer::new(Authority(Arc::new(sign))))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.expect("serves") });

        let settings = Settings {
            controller: format!("https://{address}"),
            controller_name: NAME.into(),
            ca_file,
            token_file,
            node: NodeFacts {
                name: "n1".into(),
                ip: [192, 168, 0, 1].into(),
                agent: "mesh-agent-x".into(),
                namespace: "nodemesh-system".into(),
                cluster: "Kubernetes".into(),
            },
        };
        Self {
            settings,
            store: Arc::default(),
            pods: watch::Sender::new(Vec::new()),
            discoveries,
            links,
            shutdown: watch::Sender::new(false),
            speaks: watch::Sender::new(true),
            server,
            files,
        }
    }

    pub fn token_file(&self) -> PathBuf {
        self.settings.token_file.clone()
    }

    pub fn start(&self, responder: impl Responder) -> Started {
        let connection = self.settings.connect().expect("settings work");
        let (status, status_seen) = watch::channel(ControlStatus::default());
        let ca = CaClient::new(connection.clone());
        let control = spawn(
            connection,
            self.settings.node.clone(),
            Arc::clone(&self.store),
            self.memory(),
            status,
            self.pods.subscribe(),
            Arc::new(responder),
            self.speaks.subscribe(),
            self.shutdown.subscribe(),
        );
        Started { status: status_seen, ca, control }
    }

    /// What the agent of this world has on its disk.
    pub fn memory(&self) -> Memory {
        Memory::recall(self.files.path(), "n1", &self.store, self.speaks.subscribe()).expect("a folder")
    }

    /// Where it is.
    pub fn memory_file(&self) -> PathBuf {
        self.files.path().join("configuration")
    }

    pub async fn discovery(&mut self) -> Discovery {
        soon("a discovery stream", self.discoveries.recv()).await.expect("the server runs")
    }

    pub async fn link(&mut self) -> Link {
        soon("a link", self.links.recv()).await.expect("the server runs")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn certificates() -> (String, Identity) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("signed").pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec![NAME.to_owned()]).expect("parameters");
    let leaf_pem = leaf.signed_by(&key, &issuer).expect("signed").pem();
    (ca_pem, Identity::from_pem(leaf_pem, key.serialize_pem()))
}

impl<I: Send + 'static, O: Send + 'static> Streams<I, O> {
    async fn open(&self, request: Request<Streaming<I>>) -> Response<ReceiverStream<Result<O, Status>>> {
        let (metadata, _, requests) = request.into_parts();
        let (responses, receiver) = mpsc::channel(16);
        // A test that looks at the other stream only has dropped nothing.
        let _ = self.0.send(Session { metadata, requests, responses }).await;
        Response::new(ReceiverStream::new(receiver))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Streams<DeltaDiscoveryRequest, DeltaDiscoveryResponse> {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(self.open(request).await)
    }
}

#[tonic::async_trait]
impl AgentLink for Streams<AgentMessage, ControllerMessage> {
    type LinkStream = ReceiverStream<Result<ControllerMessage, Status>>;

    async fn link(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::LinkStream>, Status> {
        Ok(self.open(request).await)
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Authority {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        (self.0)(&metadata, message).map(|cert_chain| Response::new(IstioCertificateResponse { cert_chain }))
    }
}

impl Responder for Mute {
    fn ask(&self, _: Query) -> Pin<Box<dyn Stream<Item = Result<Item, Status>> + Send>> {
        Box::pin(tokio_stream::empty())
    }
}
