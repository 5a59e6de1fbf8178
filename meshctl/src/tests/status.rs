//! What `meshctl status` finds.

use mesh_common::proto::nodemesh::{ControllerStatus, MissingNode, NodeStatus, UnjoinedPod};

use super::*;

fn controller(status: ControllerStatus) -> impl Fn(query::Kind) -> Result<Vec<item::Kind>, Status> {
    move |_| Ok(vec![item::Kind::Controller(status.clone())])
}

#[tokio::test]
async fn status_finds_what_is_wrong() {
    let (outcome, text) = meshctl("meshctl status", |_| Ok(vec![node(Redirection::Enabled)])).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert!(text.contains("node-a  connected   9"), "{text}");
    let (outcome, text) = meshctl("meshctl status -v", |_| Ok(vec![node(Redirection::Failed)])).await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
    assert!(text.contains("shop/web  mesh  failed  ") && text.contains("no\\u{1b}[2Jcgroup"), "{text}");
}

#[tokio::test]
async fn every_pod_has_its_mode() {
    let of = |mode: Option<Mode>| {
        let item::Kind::Status(mut status) = node(Redirection::Disabled) else { panic!("an agent's status") };
        status.pods[0].mode = mode.map(Into::into);
        move |_: query::Kind| Ok(vec![item::Kind::Status(status.clone())])
    };
    for (mode, word, json) in [
        (Some(Mode::Observe), "observe", r#""mode":"observe""#),
        (Some(Mode::None), "none", r#""mode":"none""#),
        (None, "-", r#""mode":null"#),
    ] {
        let (outcome, text) = meshctl("meshctl status", of(mode)).await;
        assert_eq!(outcome.unwrap(), Outcome::Fine);
        let row = text.lines().last().unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(row[..4], ["node-a", "shop/web", word, "disabled"], "{text}");
        let (_, text) = meshctl("meshctl status -o json", of(mode)).await;
        assert!(text.contains(json), "{text}");
    }
}

#[tokio::test]
async fn the_controller_counts_pods_by_mode() {
    let counted = async |mesh_pods, observed_pods| {
        let status = ControllerStatus { mesh_pods, observed_pods, version: "9".into(), ..Default::default() };
        let (_, text) = meshctl("meshctl status", controller(status)).await;
        text.lines().next().unwrap().to_owned()
    };
    let held = "controller 9: 0 workloads, 0 services, 0 policies;";
    assert_eq!(counted(1, 0).await, format!("{held} 1 pod in the mesh"));
    assert_eq!(counted(3, 2).await, format!("{held} 3 pods in the mesh, 2 observed"));
}

#[tokio::test]
async fn what_an_audit_says_is_found() {
    let changed = |change: fn(&mut NodeStatus)| {
        let item::Kind::Status(mut status) = node(Redirection::Enabled) else { panic!("an agent's status") };
        change(&mut status);
        move |_: query::Kind| Ok(vec![item::Kind::Status(status.clone())])
    };
    let faulty = changed(|status| status.pods[0].fault = "its sk_lookup link is not pinned".into());
    let (outcome, text) = meshctl("meshctl status", faulty).await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
    assert!(text.contains("its sk_lookup link is not pinned"), "{text}");
    let broken = changed(|status| status.not_ready = "the link of hook connect4 is not pinned".into());
    let (outcome, text) = meshctl("meshctl status", broken).await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
    assert!(text.contains("node-a is not ready: the link of hook connect4 is not pinned\n"), "{text}");
    let from_disk = changed(|status| status.configuration_from_disk = true);
    let (outcome, text) = meshctl("meshctl status", from_disk).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert!(text.contains("node-a has the rules of its disk"), "{text}");
    let silent = changed(|status| status.telemetry_off = true);
    let (outcome, text) = meshctl("meshctl status", silent).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert!(text.contains("node-a keeps no record of connections and requests"), "{text}");
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
async fn a_pod_that_waits_is_found() {
    let (outcome, text) = meshctl("meshctl status", |_| Ok(vec![node(Redirection::Pending)])).await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
    assert!(text.contains("shop/web  mesh  pending"), "{text}");
    let (outcome, _) = meshctl("meshctl status", |_| Ok(vec![node(Redirection::Disabled)])).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
}

#[tokio::test]
async fn a_node_without_its_agent_is_found() {
    let missing =
        |node: &str, mesh_pods, redirected_pods| MissingNode { node: node.into(), mesh_pods, redirected_pods };
    let missing_nodes = vec![missing("a", 3, 3), missing("b", 2, 0), missing("c", 3, 1)];
    let status = ControllerStatus { missing_nodes, ..Default::default() };
    let (outcome, text) = meshctl("meshctl status", controller(status.clone())).await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
    let expected = "\
node a  not connected: its 3 mesh pods refuse connections, unless the agent runs on without the controller
node b  not connected: its 2 mesh pods are not redirected yet
node c  not connected: its 1 mesh pod refuses connections, unless the agent runs on without the controller; 2 mesh pods are not redirected yet
";
    assert!(text.contains(expected), "{text}");
    let (outcome, text) = meshctl("meshctl status -o json", controller(status)).await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
    assert!(text.contains(r#""missing_nodes":[{"mesh_pods":3,"node":"a","redirected_pods":3},"#), "{text}");
}

#[tokio::test]
async fn a_pod_that_its_agent_does_not_know_is_found() {
    let pod = |name: &str, redirected| UnjoinedPod {
        node: "a".into(),
        namespace: "shop".into(),
        name: name.into(),
        pod_uid: "u".into(),
        redirected,
    };
    let unjoined_pods = vec![pod("cart", true), pod("web", false)];
    let status = ControllerStatus { unjoined_pods, connected_nodes: vec!["a".into()], ..Default::default() };
    let (outcome, text) = meshctl("meshctl status", controller(status.clone())).await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
    let expected = "node a  not joined: pod shop/cart refuses connections\n\
                    node a  not joined: pod shop/web is not redirected yet\n";
    assert!(text.contains(expected), "{text}");
    let (outcome, text) = meshctl("meshctl status -o json", controller(status)).await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cart = serde_json::json!({
        "node": "a", "namespace": "shop", "pod": "cart", "pod_uid": "u", "redirected": true,
    });
    assert_eq!(record["unjoined_pods"][0], cart);
}

#[tokio::test]
async fn a_wrong_socket_is_all_that_is_said() {
    let (outcome, text) = asked("meshctl status", &[Path::new("/nonexistent/agent.sock")]).await;
    assert_eq!(outcome.unwrap_err().exit_code(), 3);
    assert_eq!(text, "");
    let (outcome, text) = meshctl("meshctl status", controller(ControllerStatus::default())).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert!(text.ends_with("no agent answered: none is connected\n"), "{text}");
}
