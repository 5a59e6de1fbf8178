//! The link to the controller: reports the node's pods whenever they change, and answers the questions that the
//! controller relays.

mod answering;

use std::{pin::Pin, sync::Arc};

use mesh_common::proto::nodemesh::{
    self, AgentMessage, PodState, PodStates, agent_link_client::AgentLinkClient, agent_message, controller_message,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};

use super::{
    backoff::Backoff,
    channel::{Connection, TokenError, explain},
};
use answering::Answering;
#[cfg(test)]
pub use answering::MAX_QUESTIONS;

/// Messages that wait for the controller; when they are full, answers wait where they are made.
const OUTGOING: usize = 64;

/// Answers questions about this node.
pub trait Responder: Send + Sync + 'static {
    /// The items of the answer; the stream is dropped when the asker is gone. An error ends the answer.
    fn ask(&self, query: nodemesh::Query) -> Pin<Box<dyn Stream<Item = Result<nodemesh::Item, tonic::Status>> + Send>>;
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("{}", explain(.0))]
    Call(#[from] tonic::Status),
    #[error("the controller closed the link")]
    Closed,
}

/// Runs until it is dropped; there is a link while `speaks` is true.
pub async fn run(
    connection: Connection,
    mut pods: watch::Receiver<Vec<PodState>>,
    responder: Arc<dyn Responder>,
    mut speaks: watch::Receiver<bool>,
) {
    loop {
        if speaks.wait_for(|speaks| *speaks).await.is_err() {
            return;
        }
        tokio::select! {
            () = links(&connection, &mut pods, &responder) => {}
            // An error: nobody will ever say that another agent speaks.
            Ok(_) = speaks.wait_for(|speaks| !*speaks) => {}
        }
    }
}

async fn links(connection: &Connection, pods: &mut watch::Receiver<Vec<PodState>>, responder: &Arc<dyn Responder>) {
    let mut backoff = Backoff::default();
    loop {
        let Err(error) = link(connection, pods, responder, &mut backoff).await;
        let delay = backoff.delay();
        tracing::warn!(%error, retry_in = ?delay, "no link to the controller");
        tokio::time::sleep(delay).await;
    }
}

async fn link(
    connection: &Connection,
    pods: &mut watch::Receiver<Vec<PodState>>,
    responder: &Arc<dyn Responder>,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, LinkError> {
    let (outgoing, receiver) = mpsc::channel(OUTGOING);
    // The controller forgets what it does not hear again: each link begins with a report.
    outgoing.try_send(report(pods)).map_err(|_| LinkError::Closed)?;
    let request = connection.request(ReceiverStream::new(receiver)).await?;
    let mut incoming = AgentLinkClient::new(connection.channel()).link(request).await?.into_inner();
    tracing::info!("link to the controller open");
    backoff.reset();

    let mut answering = Answering::new(outgoing.clone(), Arc::clone(responder));
    let mut pods_watched = true;
    loop {
        tokio::select! {
            // First, so that a question that has ended makes room for the next.
            biased;
            () = answering.ended() => {}
            message = incoming.message() => {
                let message = message?.ok_or(LinkError::Closed)?;
                match message.kind {
                    Some(controller_message::Kind::Ask(query)) => answering.ask(message.id, query).await,
                    Some(controller_message::Kind::Cancel(_)) => answering.cancel(message.id),
                    None => tracing::warn!(id = message.id, "unknown kind of message on the link"),
                }
            }
            // Room first, then the newest state: a slow controller misses what is over, never what is.
            room = room_for_change(&outgoing, pods), if pods_watched => match room {
                Some(room) => room.send(report(pods)),
                None => pods_watched = false,
            },
        }
    }
}

/// `None` if nothing will change any more.
async fn room_for_change<'a>(
    outgoing: &'a mpsc::Sender<AgentMessage>,
    pods: &mut watch::Receiver<Vec<PodState>>,
) -> Option<mpsc::Permit<'a, AgentMessage>> {
    pods.changed().await.ok()?;
    // Should this be dropped while it waits for room, the change must be seen again.
    pods.mark_changed();
    outgoing.reserve().await.ok()
}

fn report(pods: &mut watch::Receiver<Vec<PodState>>) -> AgentMessage {
    let pods = pods.borrow_and_update().clone();
    AgentMessage { kind: Some(agent_message::Kind::Pods(PodStates { pods })) }
}
