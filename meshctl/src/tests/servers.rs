//! Several servers at once, and servers that are not there.

use mesh_common::proto::nodemesh::Flow;

use super::*;

/// A flow that ended at this second.
fn flow(id: u64, seconds: i64) -> item::Kind {
    let mut flow = Flow { id, ..Flow::default() };
    flow.end.get_or_insert_default().seconds = seconds;
    item::Kind::Flow(flow.into())
}

fn ids(text: &str) -> Vec<u64> {
    text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_u64().unwrap()).collect()
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

#[tokio::test]
async fn the_newest_flows_of_all_nodes_come_last() {
    let (outcome, text) = meshctl("meshctl flows --last 2 -o json", |kind| {
        let query::Kind::Flows(query) = kind else { return Err(Status::internal("not flows")) };
        assert_eq!(query.last, 2);
        Ok(vec![flow(3, 30), flow(1, 10), flow(2, 20)])
    })
    .await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert_eq!(ids(&text), [2, 3]);
}

#[tokio::test]
async fn following_ends_as_a_failure_when_the_server_ends() {
    let (outcome, _) = meshctl("meshctl flows -f", |_| Ok(Vec::new())).await;
    assert_eq!(outcome.unwrap_err().exit_code(), 3);
}

#[tokio::test]
async fn recorded_flows_of_several_agents_are_followed_in_order_of_time() {
    let served =
        |node, flows: [(u64, i64); 2]| Served::of(node, move |_| Ok(flows.map(|(id, at)| flow(id, at)).into()));
    let (a, b) = (served("a", [(1, 10), (4, 40)]), served("b", [(2, 20), (3, 30)]));
    let sockets = [&*a.socket(), &*b.socket()];
    let (outcome, text) = asked("meshctl flows -f -o json", &sockets).await;
    assert_eq!(outcome.unwrap_err().exit_code(), 3);
    assert_eq!(ids(&text), [1, 2, 3, 4]);
    let (_, text) = asked("meshctl flows -f --last 2 -o json", &sockets).await;
    assert_eq!(ids(&text), [3, 4]);
}

#[tokio::test]
async fn agents_of_other_nodes_stay_silent() {
    let served = |node| Served::of(node, |_| Ok(vec![super::node(Redirection::Enabled)]));
    let (a, b) = (served("a"), served("b"));
    let sockets = [&*a.socket(), &*b.socket()];
    let (outcome, text) = asked("meshctl status --node b", &sockets).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert!(text.contains("\nb     connected") && !text.contains("\na  "), "{text}");
    let (outcome, text) = asked("meshctl status --node c", &sockets).await;
    let failure = outcome.unwrap_err();
    assert_eq!((failure.exit_code(), text.as_str()), (2, ""));
    assert_eq!(failure.to_string(), "no agent of node c: these are the agents of a, b");
    // The only agent says it itself.
    let (outcome, _) = asked("meshctl status --node b", &sockets[..1]).await;
    let failure = outcome.unwrap_err();
    assert_eq!(failure.exit_code(), 2);
    assert!(failure.to_string().ends_with("this is node a, not b"), "{failure}");
}

#[tokio::test]
async fn what_the_right_agent_does_not_find_is_said() {
    let unknown = |node| {
        Served::of(node, |kind| match kind {
            query::Kind::Authz(_) => Err(Status::not_found("destination: no pod shop/b is known")),
            _ => Ok(vec![super::node(Redirection::Enabled)]),
        })
    };
    let (a, b) = (unknown("a"), unknown("b"));
    let line = "meshctl authz check shop/a shop/b --port 80 --node a";
    let (outcome, _) = asked(line, &[&a.socket(), &b.socket()]).await;
    let failure = outcome.unwrap_err().to_string();
    assert!(failure.ends_with("destination: no pod shop/b is known") && !failure.contains('\n'), "{failure}");
}
