//! Which nodes and pods the controller misses, as agents come and go.

use mesh_common::proto::nodemesh::ControllerStatus;

use super::*;

/// Asks until the status is as it should be.
async fn until(client: &mut AdminClient<Channel>, is_right: impl Fn(&ControllerStatus) -> bool) {
    let mut last = None;
    for _ in 0..500 {
        let own = Query { node: "controller".into(), kind: Some(query::Kind::Status(StatusQuery {})) };
        let item = client.ask(own).await.expect("items").into_inner().message().await.expect("no error");
        match item.and_then(|item| item.kind) {
            Some(item::Kind::Controller(status)) if is_right(&status) => return,
            other => last = other,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{last:?}");
}

/// Its mesh pods, and how many of them are redirected.
fn missing(status: &ControllerStatus, node: &str) -> Option<(u32, u32)> {
    status.missing_nodes.iter().find(|n| n.node == node).map(|node| (node.mesh_pods, node.redirected_pods))
}

#[tokio::test]
async fn an_agent_that_is_gone_is_missed() {
    let scene = scene().await;
    let mut client = admin(scene.state().join("admin.sock")).await;
    until(&mut client, |status| missing(status, "a") == Some((1, 0)) && missing(status, "b") == Some((1, 0))).await;

    // Linked, it has not said anything of its pod yet.
    let agent = scene.agent("a").await;
    let (messages, stream) = mpsc::channel(8);
    let link = agent.request(ReceiverStream::new(stream));
    let linked = AgentLinkClient::new(agent.channel.clone()).link(link).await.expect("linked");
    let unjoined = |status: &ControllerStatus| status.unjoined_pods.iter().any(|pod| pod.name == "cart-6f5d8-x1");
    until(&mut client, |status| missing(status, "a").is_none() && unjoined(status)).await;

    let state = PodState {
        namespace: "shop".into(),
        name: "cart-6f5d8-x1".into(),
        redirection: Redirection::Enabled.into(),
        pod_uid: "u-cart".into(),
        ..Default::default()
    };
    let pods = agent_message::Kind::Pods(PodStates { pods: vec![state] });
    messages.send(AgentMessage { kind: Some(pods) }).await.expect("open");
    until(&mut client, |status| missing(status, "a").is_none() && !unjoined(status)).await;

    drop((messages, linked, agent));
    until(&mut client, |status| missing(status, "a") == Some((1, 1))).await;
}
