//! A whole controller on loopback, and an agent that talks to it over TLS.

mod large;
mod refusals;
mod status;

use std::{path::Path, sync::Arc, time::Duration};

use clap::Parser;
use mesh_common::proto::{
    auth::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    nodemesh::{
        AgentMessage, Answer, End, Item, LocalPod, PodState, PodStates, Query, Redirection, StatusQuery,
        admin_client::AdminClient, admin_server::Admin, agent_link_client::AgentLinkClient, agent_message, answer,
        controller_message, item, query,
    },
    type_url, workload,
};
use prost::Message;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::*;
use crate::{
    admin::AdminService,
    config::Cli,
    index::tests::{CART, SHOP},
};

const NAME: &str = "mesh-controller.nodemesh-system.svc";
const CART_ID: &str = "spiffe://cluster.local/ns/shop/sa/cart";

struct Scene {
    folder: tempfile::TempDir,
    app: App,
}

/// One node's agent.
struct Agent {
    channel: Channel,
    token: String,
}

/// An open discovery stream.
struct Discovery {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: tonic::Streaming<DeltaDiscoveryResponse>,
}

fn config(folder: &Path) -> Run {
    let (source, state) = (folder.join("config"), folder.join("state"));
    let source = format!("dir:{}", source.display());
    let arguments = ["c", "--listen", "127.0.0.1:0", "--source", &source, "--state", state.to_str().expect("UTF-8")];
    Cli::try_parse_from(arguments).expect("valid").run.expect("run")
}

async fn scene() -> Scene {
    let folder = tempfile::tempdir().expect("folder");
    fs::create_dir(folder.path().join("config")).expect("folder");
    fs::write(folder.path().join("config/shop.yaml"), SHOP).expect("file");
    let app = App::start(&config(folder.path())).await.expect("start");
    Scene { folder, app }
}

impl Scene {
    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join("config").join(name), text).expect("file");
    }

    async fn agent(&self, node: &str) -> Agent {
        Agent::connect(self.app.address, &self.state(), node).await
    }
}

/// As meshctl asks.
async fn admin(socket: PathBuf) -> AdminClient<Channel> {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://controller");
    AdminClient::new(endpoint.connect_with_connector(connector).await.expect("connected"))
}

impl Agent {
    /// To the controller with this state folder.
    async fn connect(address: SocketAddr, state: &Path, node: &str) -> Self {
        let root = fs::read_to_string(state.join("ca/ca.crt")).expect("root");
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(root)).domain_name(NAME);
        let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("address");
        let channel = endpoint.tls_config(tls).expect("TLS").connect().await.expect("connected");
        Self { channel, token: Tokens::new(state).create(node).expect("token") }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().expect("ASCII"));
        request
    }

    async fn discovery(&self) -> Discovery {
        let (requests, stream) = mpsc::channel(8);
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel.clone());
        let call = client.delta_aggregated_resources(self.request(ReceiverStream::new(stream)));
        Discovery { requests, responses: call.await.expect("stream").into_inner() }
    }

    async fn certificate(&self, identity: &str) -> Result<Vec<String>, Status> {
        let key = rcgen::KeyPair::generate().expect("key");
        let csr = rcgen::CertificateParams::default().serialize_request(&key).expect("request").pem().expect("PEM");
        let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(identity.to_owned())) };
        let metadata = prost_types::Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into() };
        let message = IstioCertificateRequest { csr, validity_duration: 600, metadata: Some(metadata) };
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        Ok(client.create_certificate(self.request(message)).await?.into_inner().cert_chain)
    }
}

impl Discovery {
    async fn subscribe(&self, type_url: &str) {
        let request = DeltaDiscoveryRequest { type_url: type_url.to_owned(), ..Default::default() };
        self.requests.send(request).await.expect("open");
    }

    /// The next response, which is taken.
    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let response = tokio::time::timeout(Duration::from_secs(10), self.responses.message());
        let response = response.await.expect("in time").expect("no error").expect("a response");
        let taken = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        self.requests.send(taken).await.expect("open");
        response
    }
}

fn cart(response: &DeltaDiscoveryResponse) -> workload::Workload {
    let resource = response.resources.iter().find(|r| r.name == CART).expect("the cart");
    let value = &resource.resource.as_ref().expect("content").value;
    match workload::Address::decode(value.as_slice()).expect("an address").r#type {
        Some(workload::address::Type::Workload(workload)) => workload,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_agent_learns_joins_and_gets_its_certificates() {
    let scene = scene().await;
    let agent = scene.agent("a").await;
    let mut discovery = agent.discovery().await;
    discovery.subscribe(type_url::ADDRESS).await;
    assert_eq!(cart(&discovery.next().await).tunnel_protocol(), workload::TunnelProtocol::None);
    discovery.subscribe(type_url::LOCAL_POD).await;
    let pods = discovery.next().await;
    assert_eq!(pods.resources.len(), 1);
    let pod = pods.resources[0].resource.as_ref().expect("content");
    assert_eq!(LocalPod::decode(pod.value.as_slice()).expect("a pod").pod_uid, "u-cart");

    // Its own identity, and no other node's.
    assert_eq!(agent.certificate(CART_ID).await.expect("signed").len(), 2);
    let refused = scene.agent("b").await.certificate(CART_ID).await.expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);

    // The pod is redirected: everybody learns that it takes HBONE, and it is remembered.
    let (messages, stream) = mpsc::channel(8);
    let mut link = AgentLinkClient::new(agent.channel.clone());
    let state = PodState {
        namespace: "shop".into(),
        name: "cart-6f5d8-x1".into(),
        redirection: Redirection::Enabled.into(),
        pod_uid: "u-cart".into(),
        ..Default::default()
    };
    let pods = AgentMessage { kind: Some(agent_message::Kind::Pods(PodStates { pods: vec![state] })) };
    messages.send(pods).await.expect("open");
    let linked = link.link(agent.request(ReceiverStream::new(stream))).await.expect("linked");
    assert_eq!(cart(&discovery.next().await).tunnel_protocol(), workload::TunnelProtocol::Hbone);
    let remembered = fs::read_to_string(scene.state().join("redirected.json")).expect("memory");
    assert!(remembered.contains("u-cart"), "{remembered}");

    // The label goes, in the folder; so does HBONE.
    scene.write("shop.yaml", &SHOP.replace("nodemesh.io/mode: mesh", "nodemesh.io/mode: none"));
    let (one, other) = (discovery.next().await, discovery.next().await);
    let of_type = |type_url| [&one, &other].into_iter().find(|r| r.type_url == type_url).expect("both types changed");
    assert_eq!(cart(of_type(type_url::ADDRESS)).tunnel_protocol(), workload::TunnelProtocol::None);
    assert_eq!(of_type(type_url::LOCAL_POD).resources.len(), 1);
    drop(linked);
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_reported() {
    let scene = scene().await;
    let agent = scene.agent("a").await;
    let mut discovery = agent.discovery().await;
    discovery.subscribe(type_url::ADDRESS).await;
    assert_eq!(discovery.next().await.resources.len(), 3);
    scene.write("shop.yaml", "kind: [");
    scene.write("more.yaml", "{apiVersion: v1, kind: Service, metadata: {name: new, namespace: shop}, spec: {}}");
    let response = discovery.next().await;
    assert_eq!(response.resources.len(), 1);
    assert_eq!(response.resources[0].name, "shop/new.shop.svc.cluster.local");
    assert!(response.removed_resources.is_empty());
}

#[tokio::test]
async fn questions_reach_the_agents() {
    let (links, published) = (Links::default(), watch::channel(Arc::default()).1);
    let folder = tempfile::tempdir().expect("folder");
    let socket = folder.path().join("admin.sock");
    let _listener = admin::listen(&socket).expect("socket");
    assert_eq!(fs::metadata(&socket).expect("socket").permissions().mode() & 0o777, 0o600);
    let service = AdminService::new(links.clone(), published.clone());
    let status = |node: &str| Query { node: node.into(), kind: Some(query::Kind::Status(StatusQuery {})) };
    let items: Vec<_> = service.ask(Request::new(status(""))).await.expect("items").into_inner().collect().await;
    assert!(matches!(items.as_slice(), [Ok(Item { kind: Some(item::Kind::Controller(_)), .. })]));
    let items: Vec<_> = service.ask(Request::new(status("a"))).await.expect("items").into_inner().collect().await;
    assert!(matches!(items.as_slice(), [Err(status)] if status.message().contains("not connected")));

    // Over a real link.
    let scene = scene().await;
    let agent = scene.agent("a").await;
    let (messages, stream) = mpsc::channel(8);
    let mut client = AgentLinkClient::new(agent.channel.clone());
    let mut asked = client.link(agent.request(ReceiverStream::new(stream))).await.expect("linked").into_inner();
    let answering = tokio::spawn(async move {
        let question = asked.message().await.expect("no error").expect("a question");
        assert!(matches!(question.kind, Some(controller_message::Kind::Ask(_))));
        for kind in [
            // A node cannot answer in another's name.
            answer::Kind::Item(Item { node: "b".into(), kind: Some(item::Kind::Status(Default::default())) }),
            answer::Kind::End(End::default()),
        ] {
            let answer = Answer { id: question.id, kind: Some(kind) };
            messages.send(AgentMessage { kind: Some(agent_message::Kind::Answer(answer)) }).await.expect("open");
        }
        (messages, asked)
    });
    let mut client = admin(scene.state().join("admin.sock")).await;
    let items: Vec<_> = client.ask(status("")).await.expect("items").into_inner().collect().await;
    let nodes: Vec<_> = items.iter().map(|item| item.as_ref().expect("an item").node.as_str()).collect();
    assert_eq!(nodes, ["controller", "a"]);
    drop(answering.await.expect("answered"));
}
