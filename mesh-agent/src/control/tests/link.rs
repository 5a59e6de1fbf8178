//! The link against a played controller: reports, answers, cancelled questions.

use std::pin::Pin;

use mesh_common::proto::nodemesh::{
    AgentMessage, Cancel, ControllerMessage, Item, PodState, Query, StatusQuery, TapQuery, agent_message, answer,
    controller_message, query,
};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::{
    soon,
    world::{Link, Mute, World},
};
use crate::control::{Responder, link::MAX_QUESTIONS};

/// Answers as the node of the question says: two items, an error after one, items without end, silence or a panic.
struct Scripted;

impl Responder for Scripted {
    fn ask(&self, query: Query) -> Pin<Box<dyn Stream<Item = Result<Item, Status>> + Send>> {
        let item = || Ok(Item { node: "n1".into(), kind: None });
        match query.node.as_str() {
            "two" => Box::pin(tokio_stream::iter([item(), item()])),
            "error" => Box::pin(tokio_stream::iter([item(), Err(Status::not_found("no such pod"))])),
            "endless" => Box::pin(tokio_stream::iter(std::iter::repeat_with(item))),
            "silent" => Box::pin(tokio_stream::pending()),
            "panic" => Box::pin(tokio_stream::iter([()]).map(|()| panic!("on purpose"))),
            other => panic!("no script for {other}"),
        }
    }
}

fn pod(name: &str, redirection: i32) -> PodState {
    PodState { namespace: "shop".into(), name: name.into(), redirection, ..Default::default() }
}

async fn reported(link: &mut Link) -> Vec<PodState> {
    match link.next().await.kind {
        Some(agent_message::Kind::Pods(states)) => states.pods,
        other => panic!("not a report: {other:?}"),
    }
}

async fn ask(link: &Link, id: u64, node: &str) {
    let query = Query { node: node.into(), kind: Some(query::Kind::Status(StatusQuery {})) };
    link.send(ControllerMessage { id, kind: Some(controller_message::Kind::Ask(query)) }).await;
}

async fn cancel(link: &Link, id: u64) {
    link.send(ControllerMessage { id, kind: Some(controller_message::Kind::Cancel(Cancel {})) }).await;
}

/// Reads to the next end: whose it is, how many items of it came on the way, and its error.
async fn ended(link: &mut Link) -> (u64, usize, String) {
    let mut items = std::collections::HashMap::new();
    loop {
        let AgentMessage { kind: Some(agent_message::Kind::Answer(answer)) } = link.next().await else {
            panic!("not an answer");
        };
        match answer.kind.expect("a kind") {
            answer::Kind::Item(_) => *items.entry(answer.id).or_insert(0) += 1,
            answer::Kind::End(end) => return (answer.id, items.remove(&answer.id).unwrap_or(0), end.error),
        }
    }
}

#[tokio::test]
async fn reports_pods_at_once_on_change_and_on_each_new_link() {
    let mut world = World::new().await;
    world.pods.send_replace(vec![pod("a", 1)]);
    let _control = world.start(Mute);
    let mut link = world.link().await;
    assert_eq!(link.metadata.get("authorization").expect("a token"), "Bearer nm1.n1.secret");
    assert_eq!(reported(&mut link).await, [pod("a", 1)]);
    world.pods.send_replace(vec![pod("a", 2), pod("b", 1)]);
    assert_eq!(reported(&mut link).await, [pod("a", 2), pod("b", 1)]);
    drop(link);
    let mut link = world.link().await;
    assert_eq!(reported(&mut link).await, [pod("a", 2), pod("b", 1)]);
}

#[tokio::test]
async fn answers_and_ends_every_question_once() {
    let mut world = World::new().await;
    let _control = world.start(Scripted);
    let mut link = world.link().await;
    reported(&mut link).await;
    ask(&link, 1, "two").await;
    assert_eq!(ended(&mut link).await, (1, 2, String::new()));
    ask(&link, 2, "error").await;
    assert_eq!(ended(&mut link).await, (2, 1, "no such pod".into()));
    ask(&link, 3, "panic").await;
    assert_eq!(ended(&mut link).await, (3, 0, "internal error".into()));
    // A message of a later version is passed over.
    link.send(ControllerMessage { id: 4, kind: None }).await;
    ask(&link, 1, "two").await;
    assert_eq!(ended(&mut link).await, (1, 2, String::new()), "an id is free again after its end");
}

#[tokio::test]
async fn a_controller_is_not_told_what_is_secret_in_requests() {
    let mut world = World::new().await;
    let _control = world.start(Scripted);
    let mut link = world.link().await;
    reported(&mut link).await;
    for (id, secrets) in [(1, true), (2, false)] {
        let tap = query::Kind::Tap(TapQuery { headers: true, secrets, ..TapQuery::default() });
        let query = Query { node: "two".into(), kind: Some(tap) };
        link.send(ControllerMessage { id, kind: Some(controller_message::Kind::Ask(query)) }).await;
    }
    let (id, items, error) = ended(&mut link).await;
    assert_eq!((id, items), (1, 0));
    assert!(error.starts_with("secrets: "), "{error}");
    assert_eq!(ended(&mut link).await, (2, 2, String::new()));
}

#[tokio::test]
async fn cancels_one_answer_and_goes_on_with_others() {
    let mut world = World::new().await;
    let _control = world.start(Scripted);
    let mut link = world.link().await;
    reported(&mut link).await;
    ask(&link, 1, "silent").await;
    ask(&link, 2, "endless").await;
    ask(&link, 1, "two").await;
    cancel(&link, 2).await;
    cancel(&link, 7).await;
    let (id, _, error) = ended(&mut link).await;
    assert_eq!((id, error.as_str()), (2, "cancelled"));
    world.pods.send_replace(vec![pod("a", 2)]);
    assert_eq!(reported(&mut link).await, [pod("a", 2)], "the second question under id 1 was ignored");
    cancel(&link, 1).await;
    assert_eq!(ended(&mut link).await, (1, 0, "cancelled".into()));
}

#[tokio::test]
async fn one_question_too_many_is_ended_at_once() {
    let mut world = World::new().await;
    let control = world.start(Scripted);
    let mut link = world.link().await;
    reported(&mut link).await;
    let most = MAX_QUESTIONS as u64;
    for id in 1..=most + 1 {
        ask(&link, id, "silent").await;
    }
    let (id, _, error) = ended(&mut link).await;
    assert_eq!(id, most + 1);
    assert!(error.contains(&most.to_string()), "{error}");
    cancel(&link, 1).await;
    assert_eq!(ended(&mut link).await.0, 1);
    ask(&link, most + 2, "two").await;
    assert_eq!(ended(&mut link).await, (most + 2, 2, String::new()));

    world.shutdown.send_replace(true);
    soon("shutdown with questions open", control.stopped()).await;
}
