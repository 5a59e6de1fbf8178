//! Every verb against a server on a unix socket that answers as told: what is printed, and the exit code's meaning.

mod explain;
mod routes;
mod seen;
mod servers;
mod status;

use std::{path::Path, pin::Pin, sync::Arc};

use mesh_common::model::Validity;
use mesh_common::proto::nodemesh::{
    AuthzAnswer, CertificateInfo, Item, Mode, NodeStatus, PodState, Query, Redirection, Verdict, WorkloadInfo,
    admin_server::{Admin, AdminServer},
    item, query,
};
use tokio::net::UnixListener;
use tokio_stream::{Stream, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status, transport::Server};

use super::*;

/// To a question about this node, the items of these nodes.
type Answer = Arc<dyn Fn(&str, query::Kind) -> Result<Vec<(String, item::Kind)>, Status> + Send + Sync>;

struct Told(Answer);

#[tonic::async_trait]
impl Admin for Told {
    type AskStream = Pin<Box<dyn Stream<Item = Result<Item, Status>> + Send>>;

    async fn ask(&self, request: Request<Query>) -> Result<Response<Self::AskStream>, Status> {
        let query = request.into_inner();
        let answers = (self.0)(&query.node, query.kind.expect("meshctl asks something"))?;
        let items = answers.into_iter().map(|(node, kind)| Ok(Item { node, kind: Some(kind) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }
}

/// Serves until it is dropped.
pub(crate) struct Served {
    dir: tempfile::TempDir,
    task: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    pub(crate) fn new(answer: impl Fn(query::Kind) -> Result<Vec<item::Kind>, Status> + Send + Sync + 'static) -> Self {
        Self::of("node-a", answer)
    }

    /// The agent of this node.
    fn of(
        node: &'static str,
        answer: impl Fn(query::Kind) -> Result<Vec<item::Kind>, Status> + Send + Sync + 'static,
    ) -> Self {
        Self::of_nodes(move |asked, kind| {
            if !asked.is_empty() && asked != node {
                return Err(Status::not_found(format!("this is node {node}, not {asked}")));
            }
            Ok(answer(kind)?.into_iter().map(|kind| (node.to_owned(), kind)).collect())
        })
    }

    pub(crate) fn of_nodes(
        answer: impl Fn(&str, query::Kind) -> Result<Vec<(String, item::Kind)>, Status> + Send + Sync + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListenerStream::new(UnixListener::bind(dir.path().join("agent.sock")).unwrap());
        let server = Server::builder().add_service(AdminServer::new(Told(Arc::new(answer))));
        Self { dir, task: tokio::spawn(server.serve_with_incoming(listener)) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }
}

/// Runs one command line against a server that answers as `answer` says; the outcome and what was printed.
pub(crate) async fn meshctl(
    line: &str,
    answer: impl Fn(query::Kind) -> Result<Vec<item::Kind>, Status> + Send + Sync + 'static,
) -> (Result<Outcome, Failure>, String) {
    let served = Served::new(answer);
    asked(line, &[&served.socket()]).await
}

pub(crate) async fn asked(line: &str, sockets: &[&Path]) -> (Result<Outcome, Failure>, String) {
    let sockets = sockets.iter().map(|socket| socket.to_path_buf()).collect();
    run_at(line, async |node| Servers::of_sockets(sockets, node)).await
}

/// Asks the servers that are chosen for a node.
pub(crate) async fn run_at(
    line: &str,
    servers: impl AsyncFnOnce(String) -> Servers,
) -> (Result<Outcome, Failure>, String) {
    let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
    let servers = servers(arguments.common.node).await;
    let mut out = Vec::new();
    let mut screen = Screen::new(&mut out, arguments.common.output, false);
    let outcome = answer(arguments.verb, &servers, &mut screen).await;
    (outcome, String::from_utf8(out).unwrap())
}

fn node(redirection: Redirection) -> item::Kind {
    let pod = PodState {
        namespace: "shop".into(),
        name: "web".into(),
        redirection: redirection.into(),
        message: "no\x1b[2Jcgroup".into(),
        pod_uid: "1".into(),
        mode: Some(Mode::Mesh.into()),
        ..Default::default()
    };
    item::Kind::Status(NodeStatus { controller_connected: true, generation: 9, pods: vec![pod], ..Default::default() })
}

#[tokio::test]
async fn configuration_as_table_and_json() {
    let answer = |_| {
        Ok(vec![item::Kind::Workload(WorkloadInfo {
            namespace: "shop".into(),
            name: "web".into(),
            identity: "spiffe://cluster.local/ns/shop/sa/web".into(),
            protocol: "HBONE".into(),
            ..Default::default()
        })])
    };
    let (_, text) = meshctl("meshctl config workloads -n shop", answer).await;
    assert!(text.contains("shop/web  -     -          shop/web  HBONE     unhealthy"), "{text}");
    let (_, text) = meshctl("meshctl config workloads -o json", answer).await;
    assert!(text.contains(r#""identity":"spiffe://cluster.local/ns/shop/sa/web""#), "{text}");
}

#[tokio::test]
async fn a_certificate_is_found_unless_it_is_valid() {
    let outcome = async |validity: Validity<&str>| {
        let state = validity.to_string();
        let info = move || item::Kind::Certificate(CertificateInfo { state: state.clone(), ..Default::default() });
        meshctl("meshctl config certs", move |_| Ok(vec![info()])).await.0.unwrap()
    };
    assert_eq!(outcome(Validity::Valid).await, Outcome::Fine);
    for wrong in [
        Validity::NotRenewed("no answer"),
        Validity::Fetching,
        Validity::Expired(None),
        Validity::Expired(Some("no answer")),
        Validity::Failed("no answer"),
    ] {
        assert_eq!(outcome(wrong).await, Outcome::Found, "{wrong}");
    }
}

#[tokio::test]
async fn the_destinations_own_node_decides() {
    let answer = |verdict: Verdict, authoritative| {
        item::Kind::Authz(AuthzAnswer {
            verdict: verdict.into(),
            policy: "shop/only-web".into(),
            rule: -1,
            reason: "DENY".into(),
            authoritative,
            ..Default::default()
        })
    };
    let check = "meshctl authz check - shop/redis --port 6379";
    let (outcome, text) =
        meshctl(check, move |_| Ok(vec![answer(Verdict::Dropped, true), answer(Verdict::Forwarded, false)])).await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
    assert!(text.starts_with("denied: a client without identity -> shop/redis port 6379\n"), "{text}");
    assert!(text.contains("policy       shop/only-web\n"), "{text}");
    let (outcome, _) =
        meshctl(check, move |_| Ok(vec![answer(Verdict::Dropped, false), answer(Verdict::Forwarded, true)])).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    let (outcome, _) =
        meshctl(check, move |_| Ok(vec![answer(Verdict::Dropped, false), answer(Verdict::Forwarded, false)])).await;
    assert_eq!(outcome.unwrap(), Outcome::Found, "without its node the strictest counts");
}

#[tokio::test]
async fn a_permission_by_another_node_is_unsure() {
    let answer = |verdict: Verdict| {
        move |kind| match kind {
            query::Kind::Authz(_) => {
                let answer = AuthzAnswer { verdict: verdict.into(), rule: -1, ..Default::default() };
                Ok(vec![item::Kind::Authz(answer)])
            }
            query::Kind::Config(_) => Ok(vec![item::Kind::Workload(WorkloadInfo {
                namespace: "shop".into(),
                name: "redis".into(),
                node: "node-b".into(),
                ..Default::default()
            })]),
            _ => Err(Status::internal("another question")),
        }
    };
    let check = "meshctl authz check shop/web shop/redis --port 6379";
    let (outcome, text) = meshctl(check, answer(Verdict::Forwarded)).await;
    assert_eq!(outcome.unwrap(), Outcome::Unsure);
    let line = "by what node-a knows; node node-b, which decides, does not answer: shop/web -> shop/redis port 6379\n";
    assert!(text.starts_with(&format!("permitted {line}")), "{text}");
    let (outcome, text) = meshctl(check, answer(Verdict::Dropped)).await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
    assert!(text.starts_with(&format!("denied {line}")), "{text}");
    let (outcome, text) = meshctl(&format!("{check} -o json"), answer(Verdict::Forwarded)).await;
    assert_eq!(outcome.unwrap(), Outcome::Unsure);
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&record["authoritative"], &record["deciding_node"]), (&false.into(), &"node-b".into()));
}

#[test]
fn the_command_line_is_sound() {
    let command = Arguments::command();
    command.clone().debug_assert();
    let variables = command.get_arguments().filter_map(|argument| argument.get_env()).collect::<Vec<_>>();
    // An agent's own MESH_CONTROLLER is a URL.
    assert_eq!(variables, ["MESH_AGENT_SOCKET", "MESH_CONTROLLER_SOCKET", "NO_COLOR"]);
    assert!(Arguments::try_parse_from(["meshctl", "authz", "check", "a/b", "c/d", "--port", "0"]).is_err());
    assert!(Arguments::try_parse_from(["meshctl", "authz", "check", "a/b", "c/d"]).is_err());
}
