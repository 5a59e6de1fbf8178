//! Every verb against a server on a unix socket that answers as told: what is printed, and the exit code's meaning.

use std::{path::Path, pin::Pin, sync::Arc};

use mesh_common::proto::nodemesh::{
    AuthzAnswer, CertificateInfo, ControllerStatus, Item, NodeStatus, PodState, Query, Redirection, Verdict,
    WorkloadInfo,
    admin_server::{Admin, AdminServer},
    item, query,
};
use tokio::net::UnixListener;
use tokio_stream::{Stream, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status, transport::Server};

use super::*;

type Answer = Arc<dyn Fn(query::Kind) -> Result<Vec<item::Kind>, Status> + Send + Sync>;

struct Told(Answer);

#[tonic::async_trait]
impl Admin for Told {
    type AskStream = Pin<Box<dyn Stream<Item = Result<Item, Status>> + Send>>;

    async fn ask(&self, request: Request<Query>) -> Result<Response<Self::AskStream>, Status> {
        let kinds = (self.0)(request.into_inner().kind.expect("meshctl asks something"))?;
        let items = kinds.into_iter().map(|kind| Ok(Item { node: "node-a".into(), kind: Some(kind) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }
}

/// Serves until it is dropped.
struct Served {
    dir: tempfile::TempDir,
    task: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    fn new(answer: impl Fn(query::Kind) -> Result<Vec<item::Kind>, Status> + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListenerStream::new(UnixListener::bind(dir.path().join("agent.sock")).unwrap());
        let server = Server::builder().add_service(AdminServer::new(Told(Arc::new(answer))));
        Self { dir, task: tokio::spawn(server.serve_with_incoming(listener)) }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }
}

/// Runs one command line against a server that answers as `answer` says; the outcome and what was printed.
async fn meshctl(
    line: &str,
    answer: impl Fn(query::Kind) -> Result<Vec<item::Kind>, Status> + Send + Sync + 'static,
) -> (Result<Outcome, Failure>, String) {
    let served = Served::new(answer);
    asked(line, &[&served.socket()]).await
}

async fn asked(line: &str, sockets: &[&Path]) -> (Result<Outcome, Failure>, String) {
    let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
    let sockets = sockets.iter().map(|socket| socket.to_path_buf()).collect();
    let servers = Servers::choose((sockets, true), (None, false), arguments.common.node).unwrap();
    let mut out = Vec::new();
    let mut screen = Screen::new(&mut out, arguments.common.output, false);
    let outcome = match arguments.verb {
        Verb::Status(arguments) => status::run(&servers, &arguments, &mut screen).await,
        Verb::Flows(arguments) => flows::run(&servers, &arguments, &mut screen).await,
        Verb::Config(kind) => config::run(&servers, &kind, &mut screen).await,
        Verb::Authz(question) => authz::run(&servers, &question, &mut screen).await,
    };
    (outcome, String::from_utf8(out).unwrap())
}

fn node(redirection: Redirection) -> item::Kind {
    let pod = PodState {
        namespace: "shop".into(),
        name: "web".into(),
        redirection: redirection.into(),
        message: "no\x1b[2Jcgroup".into(),
        pod_uid: "1".into(),
    };
    item::Kind::Status(NodeStatus { controller_connected: true, generation: 9, pods: vec![pod], ..Default::default() })
}

#[tokio::test]
async fn status_finds_what_is_wrong() {
    let (outcome, text) = meshctl("meshctl status", |_| Ok(vec![node(Redirection::Enabled)])).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert!(text.contains("node-a  connected   9"), "{text}");
    let (outcome, text) = meshctl("meshctl status -v", |_| Ok(vec![node(Redirection::Failed)])).await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
    assert!(text.contains("shop/web  failed       no\\u{1b}[2Jcgroup"), "{text}");
}

#[tokio::test]
async fn status_of_the_controller_lists_problems() {
    let (outcome, text) = meshctl("meshctl status", |_| {
        let problems = vec!["a.yaml: Pod shop/web: spec: missing".to_string()];
        let connected_nodes = vec!["node-a".into(), "node-b".into()];
        Ok(vec![item::Kind::Controller(ControllerStatus { problems, connected_nodes, ..Default::default() })])
    })
    .await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
    assert!(text.contains("connected nodes: node-a, node-b\nproblem: a.yaml: Pod shop/web: spec: missing\n"), "{text}");
}

#[tokio::test]
async fn the_newest_flows_of_all_nodes_come_last() {
    let (outcome, text) = meshctl("meshctl flows --last 2 -o json", |kind| {
        let query::Kind::Flows(query) = kind else { return Err(Status::internal("not flows")) };
        assert_eq!(query.last, 2);
        let flow = |id, seconds| {
            let mut flow = mesh_common::proto::nodemesh::Flow { id, ..Default::default() };
            flow.end.get_or_insert_default().seconds = seconds;
            item::Kind::Flow(flow)
        };
        Ok(vec![flow(3, 30), flow(1, 10), flow(2, 20)])
    })
    .await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    let ids = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].clone());
    assert_eq!(ids.collect::<Vec<_>>(), [2, 3]);
}

#[tokio::test]
async fn following_ends_as_a_failure_when_the_server_ends() {
    let (outcome, _) = meshctl("meshctl flows -f", |_| Ok(Vec::new())).await;
    assert_eq!(outcome.unwrap_err().exit_code(), 3);
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
async fn a_missing_certificate_is_found() {
    let (outcome, _) = meshctl("meshctl config certs", |_| {
        Ok(vec![item::Kind::Certificate(CertificateInfo { state: "CA unreachable".into(), ..Default::default() })])
    })
    .await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
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
async fn a_question_that_the_server_refuses_is_a_wrong_question() {
    let check = "meshctl authz check shop/a shop/b --port 80";
    let (outcome, _) = meshctl(check, |_| Err(Status::not_found("there is no pod shop/b"))).await;
    let failure = outcome.unwrap_err();
    assert_eq!(failure.exit_code(), 2);
    assert!(failure.to_string().ends_with("there is no pod shop/b"));
    let (outcome, _) = meshctl(check, |_| Ok(Vec::new())).await;
    assert_eq!(outcome.unwrap_err().exit_code(), 3);
}

#[tokio::test]
async fn a_dead_agent_does_not_hide_the_others_and_is_not_forgotten() {
    let living = Served::new(|_| Ok(vec![node(Redirection::Enabled)]));
    let (outcome, text) = asked("meshctl status", &[Path::new("/nonexistent/agent.sock"), &living.socket()]).await;
    let failure = outcome.unwrap_err();
    assert_eq!(failure.exit_code(), 3);
    assert!(failure.to_string().contains("no socket /nonexistent/agent.sock"), "{failure}");
    assert!(text.contains("node-a  connected"), "{text}");
}

#[test]
fn the_command_line_is_sound() {
    Arguments::command().debug_assert();
    assert!(Arguments::try_parse_from(["meshctl", "authz", "check", "a/b", "c/d", "--port", "0"]).is_err());
    assert!(Arguments::try_parse_from(["meshctl", "authz", "check", "a/b", "c/d"]).is_err());
}
