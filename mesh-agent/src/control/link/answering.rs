//! Questions under way on one link. Each is answered by a task of its own and ended by exactly one `End`.

use std::{collections::HashMap, sync::Arc};

use mesh_common::proto::nodemesh::{self, AgentMessage, Answer, End, TapQuery, agent_message, answer, query};
use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinSet},
};
use tokio_stream::StreamExt;

use super::Responder;

/// At once on one link: what some people with `flows -f` need, not what can exhaust an agent.
pub const MAX_QUESTIONS: usize = 32;

/// Dropping it ends all of them: nobody is left to read the answers.
pub struct Answering {
    outgoing: mpsc::Sender<AgentMessage>,
    responder: Arc<dyn Responder>,
    tasks: JoinSet<()>,
    questions: HashMap<u64, Question>,
}

struct Question {
    task: task::Id,
    cancel: Option<oneshot::Sender<()>>,
}

impl Answering {
    pub fn new(outgoing: mpsc::Sender<AgentMessage>, responder: Arc<dyn Responder>) -> Self {
        Self { outgoing, responder, tasks: JoinSet::new(), questions: HashMap::new() }
    }

    /// Begins to answer. One too many is ended at once, which waits for room if the controller reads slowly.
    pub async fn ask(&mut self, id: u64, query: nodemesh::Query) {
        if self.questions.contains_key(&id) {
            // An `End` would be taken for that of the first.
            tracing::warn!(id, "the controller asks twice under one id; the second question is ignored");
            return;
        }
        if self.questions.len() >= MAX_QUESTIONS {
            send_end(&self.outgoing, id, format!("{MAX_QUESTIONS} questions are being answered already")).await;
            return;
        }
        let (cancel, cancelled) = oneshot::channel();
        let (outgoing, responder) = (self.outgoing.clone(), Arc::clone(&self.responder));
        let task = self.tasks.spawn(async move {
            let error = tokio::select! {
                error = answer(id, query, &*responder, &outgoing) => error,
                _ = cancelled => "cancelled".to_owned(),
            };
            send_end(&outgoing, id, error).await;
        });
        self.questions.insert(id, Question { task: task.id(), cancel: Some(cancel) });
    }

    /// Ends the answer; its `End` follows. An id that is not being answered has ended already.
    pub fn cancel(&mut self, id: u64) {
        if let Some(cancel) = self.questions.get_mut(&id).and_then(|question| question.cancel.take()) {
            // An error means that it is ending anyway.
            let _ = cancel.send(());
        }
    }

    /// Waits until an answer has ended and forgets it; forever while there is none.
    pub async fn ended(&mut self) {
        let Some(result) = self.tasks.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (task, failed) = match result {
            Ok((task, ())) => (task, false),
            Err(error) => (error.id(), true),
        };
        let Some(id) = self.questions.iter().find_map(|(id, q)| (q.task == task).then_some(*id)) else { return };
        self.questions.remove(&id);
        if failed {
            tracing::error!(id, "the answer to a question panicked");
            // The link must not wait here: should the caller drop this, the end would be lost.
            let outgoing = self.outgoing.clone();
            self.tasks.spawn(async move { send_end(&outgoing, id, "internal error".to_owned()).await });
        }
    }
}

/// What is secret in requests no controller needs to know, nor whoever took one over.
fn refused(query: &nodemesh::Query) -> Option<&'static str> {
    matches!(&query.kind, Some(query::Kind::Tap(TapQuery { secrets: true, .. })))
        .then_some("secrets: an agent tells them on its own socket only: ask on the node, with --agent")
}

/// Sends the items; returns why the answer is incomplete, or an empty text.
async fn answer(
    id: u64,
    query: nodemesh::Query,
    responder: &dyn Responder,
    outgoing: &mpsc::Sender<AgentMessage>,
) -> String {
    if let Some(why) = refused(&query) {
        return why.to_owned();
    }
    let mut items = responder.ask(query);
    while let Some(item) = items.next().await {
        match item {
            Ok(item) => {
                if outgoing.send(message(id, answer::Kind::Item(item))).await.is_err() {
                    return "the link is gone".to_owned();
                }
            }
            Err(status) => return super::explain(&status),
        }
    }
    String::new()
}

async fn send_end(outgoing: &mpsc::Sender<AgentMessage>, id: u64, error: String) {
    // Fails only if the link is gone, and then nobody waits for the end.
    let _ = outgoing.send(message(id, answer::Kind::End(End { error }))).await;
}

fn message(id: u64, kind: answer::Kind) -> AgentMessage {
    AgentMessage { kind: Some(agent_message::Kind::Answer(Answer { id, kind: Some(kind) })) }
}
