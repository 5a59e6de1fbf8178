//! Replicas behind an API. The API here is no Kubernetes: it lists pods and forwards their port to unix sockets, as
//! `v4.channel.k8s.io` says, and nothing else.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};
use tokio_tungstenite::tungstenite::{
    Message,
    handshake::server::{Request, Response},
};

use super::*;

/// Pods and their sockets.
type Pods = BTreeMap<&'static str, PathBuf>;

/// Its kubeconfig lies in `folder`.
async fn api(folder: &Path, pods: Pods) -> Cluster {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, pods.clone()));
        }
    });
    let kubeconfig = folder.join("kubeconfig");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{ "name": "x", "context": { "cluster": "x", "user": "x" } }],
        "clusters": [{ "name": "x", "cluster": { "server": server } }],
        "users": [{ "name": "x", "user": {} }],
    });
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let access = Access { kubeconfig: Some(kubeconfig), context: None };
    Cluster { access, mesh_namespace: "nodemesh-system".into() }
}

async fn answer(mut stream: TcpStream, pods: Pods) {
    let mut head = [0; 4096];
    let length = stream.peek(&mut head).await.unwrap();
    let line = String::from_utf8_lossy(&head[..length]).lines().next().unwrap_or_default().to_owned();
    if line.contains("/portforward?") {
        assert!(line.contains("ports=15000"), "{line}");
        let pod = pods.iter().find(|(name, _)| line.contains(&format!("/pods/{name}/portforward?")));
        return forward(stream, pod.map(|(_, socket)| socket.clone()).unwrap()).await;
    }
    assert!(line.contains("/api/v1/namespaces/nodemesh-system/pods?&labelSelector=app.kubernetes.io"), "{line}");
    let _ = stream.read(&mut head).await.unwrap();
    let items: Vec<_> = pods
        .keys()
        .map(|name| json!({ "metadata": { "name": name }, "status": { "phase": "Running" } }))
        .chain([json!({ "metadata": { "name": "waits" }, "status": { "phase": "Pending" } })])
        .collect();
    let body = json!({ "apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items }).to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
}

#[expect(clippy::result_large_err, reason = "the type of the library's callback")]
async fn forward(stream: TcpStream, socket: PathBuf) {
    let speaks = |_: &Request, mut response: Response| {
        response.headers_mut().insert("sec-websocket-protocol", "v4.channel.k8s.io".parse().unwrap());
        Ok(response)
    };
    let mut socket = UnixStream::connect(socket).await.unwrap();
    let mut client = tokio_tungstenite::accept_hdr_async(stream, speaks).await.unwrap();
    let [low, high] = PORT.to_le_bytes();
    for channel in [0, 1] {
        client.send(Message::binary(vec![channel, low, high])).await.unwrap();
    }
    let mut chunk = [0; 4096];
    loop {
        tokio::select! {
            read = socket.read(&mut chunk) => match read {
                Ok(0) | Err(_) => return,
                Ok(length) => client.send(Message::binary([&[0], &chunk[..length]].concat())).await.unwrap(),
            },
            message = client.next() => match message {
                Some(Ok(Message::Binary(bytes))) if bytes[0] == 0 => socket.write_all(&bytes[1..]).await.unwrap(),
                Some(Ok(_)) => {}
                None | Some(Err(_)) => return,
            },
        }
    }
}

mod served {
    use mesh_common::proto::nodemesh::{ControllerStatus, MissingNode, NodeStatus, WorkloadInfo, item, query};
    use tonic::Status;

    use super::*;
    use crate::{
        Outcome,
        client::Servers,
        tests::{Served, run_at},
    };

    /// A replica with one agent, of this node.
    fn replica(node: &'static str, other: &'static str) -> Served {
        Served::of_nodes(move |asked, kind| {
            if !asked.is_empty() && asked != node && asked != "controller" {
                return Err(Status::failed_precondition(format!("the agent of node {asked} is not connected")));
            }
            let missing = MissingNode { node: other.into(), mesh_pods: 1, redirected_pods: 1 };
            let own = match kind {
                query::Kind::Status(_) => item::Kind::Controller(ControllerStatus {
                    version: "1".into(),
                    connected_nodes: vec![node.into()],
                    missing_nodes: vec![missing],
                    problems: vec!["one".into()],
                    ..ControllerStatus::default()
                }),
                _ => item::Kind::Workload(WorkloadInfo { name: "cart".into(), ..WorkloadInfo::default() }),
            };
            let agent = item::Kind::Status(NodeStatus { controller_connected: true, ..NodeStatus::default() });
            let own = ("controller".to_owned(), own);
            Ok(match (asked, kind) {
                ("", query::Kind::Status(_)) => vec![own, (node.into(), agent)],
                ("" | "controller", _) => vec![own],
                _ => vec![(node.into(), agent)],
            })
        })
    }

    #[tokio::test]
    async fn several_replicas_are_asked_as_one_controller() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (replica("a", "b"), replica("b", "a"));
        let pods = Pods::from([("mesh-controller-1", first.socket()), ("mesh-controller-2", second.socket())]);
        let cluster = api(folder.path(), pods).await;
        let asked =
            async |line: &str| run_at(line, async |node| Servers::of_cluster(&cluster, node).await.unwrap()).await;
        let (outcome, text) = asked("meshctl status -o json").await;
        // The problem was found, once.
        assert_eq!(outcome.unwrap(), Outcome::Found);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            lines.iter().map(|line| line["node"].as_str().unwrap()).collect::<Vec<_>>(),
            ["a", "b", "controller"]
        );
        assert_eq!(lines[2]["connected_nodes"], json!(["a", "b"]));
        assert_eq!((&lines[2]["missing_nodes"], &lines[2]["problems"]), (&json!([]), &json!(["one"])));
        // Configuration is told once.
        let (_, text) = asked("meshctl config workloads -o json").await;
        assert_eq!(text.lines().count(), 1, "{text}");
        // The dashboard has the agents of both, too.
        let servers = Servers::of_cluster(&cluster, String::new()).await.unwrap();
        assert!(servers.are_replicas());
        assert_eq!(crate::dashboard::tests::agents(&servers).await, (vec!["a".to_owned(), "b".to_owned()], vec![]));
        // An agent is found wherever it is linked.
        let (outcome, text) = asked("meshctl status --node b -o json").await;
        assert_eq!(outcome.unwrap(), Outcome::Fine, "{text}");
        let (outcome, _) = asked("meshctl status --node c").await;
        let failure = outcome.unwrap_err();
        assert_eq!(failure.exit_code(), 3);
        let places = "pod nodemesh-system/mesh-controller-1, pod nodemesh-system/mesh-controller-2";
        assert_eq!(failure.to_string(), format!("the agent of node c is not connected to any of {places}"));
    }

    #[tokio::test]
    async fn a_cluster_without_the_mesh_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = api(folder.path(), Pods::new()).await;
        let failure = cluster.replicas().await.unwrap_err();
        assert_eq!(failure.exit_code(), 3);
        assert!(failure.to_string().contains("no controller runs in namespace nodemesh-system"), "{failure}");
        let access = Access { kubeconfig: Some("/nonexistent/kubeconfig".into()), context: None };
        let nowhere = Cluster { access, ..cluster };
        let failure = nowhere.replicas().await.unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.to_string().starts_with("--kubeconfig /nonexistent/kubeconfig: "), "{failure}");
    }
}
