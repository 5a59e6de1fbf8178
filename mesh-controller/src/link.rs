//! Agents' links: what they report of their pods goes in, questions for them go out.

mod question;

pub use question::{Question, Reply};

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh_common::proto::nodemesh::{
    AgentMessage, Answer, Cancel, ControllerMessage, PodState, PodStates, Query, Redirection, StatusQuery,
    agent_link_server as server, agent_message, answer, controller_message, item, query,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    index::{PodName, Redirected, Report},
    publish::NodeReport,
    serve::{Acknowledged, caller, refuse},
    tokens::{Authenticator, Caller},
};

/// Messages that may wait for an agent.
const BACKLOG: usize = 64;
/// Answers that may wait for whoever asked.
const ANSWERS: usize = 1024;
/// How long an agent's link waits for one slow asker, before that question is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// The agents that are linked now. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Links {
    state: Arc<Mutex<State>>,
    /// A link came, went, or said something of its pods.
    news: Arc<watch::Sender<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts links and questions.
    next: u64,
    /// What agents have taken of the configuration, by node; also of those that are linked no more.
    acknowledged: BTreeMap<String, Acknowledged>,
    nodes: BTreeMap<String, Link>,
}

#[derive(Debug)]
struct Link {
    id: u64,
    /// The agent's pod; none: it came with a join token.
    pod: Option<String>,
    agent: mpsc::Sender<Result<ControllerMessage, Status>>,
    questions: BTreeMap<u64, mpsc::Sender<Reply>>,
    /// What the agent last said on this link.
    reports: Reports,
}

/// What an agent says of its node's pods.
pub type Reports = BTreeMap<PodName, Report>;

impl Links {
    /// Nodes with a linked agent, and what that said of its pods since it is linked.
    pub fn reports(&self) -> BTreeMap<String, Reports> {
        self.lock().nodes.iter().map(|(node, link)| (node.clone(), link.reports.clone())).collect()
    }

    /// Nodes with a linked agent, that agent's pod if it has one, and what it has taken.
    pub fn linked(&self) -> BTreeMap<String, (Option<String>, Acknowledged)> {
        let state = self.lock();
        let taken = |node: &String| state.acknowledged.get(node).cloned().unwrap_or_default();
        state.nodes.iter().map(|(node, link)| (node.clone(), (link.pod.clone(), taken(node)))).collect()
    }

    /// Keeps what a node's agent has taken.
    pub fn acknowledge(&self, node: &str, taken: &Acknowledged) {
        let mut state = self.lock();
        if state.acknowledged.get(node) == Some(taken) {
            return;
        }
        state.acknowledged.insert(node.to_owned(), taken.clone());
        drop(state);
        self.news.send_replace(());
    }

    /// Whether a node's agent is linked and says of itself that it is ready.
    pub async fn is_ready(&self, node: &str) -> bool {
        let query = Query { node: node.to_owned(), kind: Some(query::Kind::Status(StatusQuery::default())) };
        let Ok(mut question) = self.ask(Some(node), &query) else { return false };
        while let Some(item) = question.next().await {
            if let Some(item::Kind::Status(status)) = item.kind {
                return status.not_ready.is_empty();
            }
        }
        false
    }

    /// Tells when [`Self::reports`] or [`Self::linked`] may say something else.
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Links an agent that says this of its pods, and answers every question with a status: it is ready.
    #[cfg(test)]
    pub fn pretend(&self, node: &str, reports: &Reports) {
        use mesh_common::proto::nodemesh::{End, Item, NodeStatus};
        let (sender, mut asked) = mpsc::channel(BACKLOG);
        let id = self.add(node, Some(&format!("mesh-agent-of-{node}")), sender);
        self.report(node, id, reports);
        let (links, node) = (self.clone(), node.to_owned());
        tokio::spawn(async move {
            while let Some(Ok(ControllerMessage { id, kind: Some(controller_message::Kind::Ask(_)) })) =
                asked.recv().await
            {
                let item = Item { kind: Some(item::Kind::Status(NodeStatus::default())), ..Item::default() };
                for kind in [answer::Kind::Item(item), answer::Kind::End(End::default())] {
                    links.answer(&node, Answer { id, kind: Some(kind) }).await;
                }
            }
        });
    }

    /// Asks one node, or all that are linked.
    ///
    /// # Errors
    /// If that node's agent is not linked.
    pub fn ask(&self, node: Option<&str>, query: &Query) -> Result<Question, Status> {
        let (sender, replies) = mpsc::channel(ANSWERS);
        let mut state = self.lock();
        state.next += 1;
        let id = state.next;
        let mut open: Vec<String> = Vec::new();
        let mut refused = Vec::new();
        for (name, link) in state.nodes.iter_mut().filter(|(name, _)| node.is_none_or(|node| node == *name)) {
            let ask = ControllerMessage { id, kind: Some(controller_message::Kind::Ask(query.clone())) };
            match link.agent.try_send(Ok(ask)) {
                Ok(()) => {
                    link.questions.insert(id, sender.clone());
                    open.push(name.clone());
                }
                Err(_) => refused.push(name.clone()),
            }
        }
        match node {
            Some(node) if open.is_empty() && refused.is_empty() => {
                Err(Status::failed_precondition(format!("the agent of node {node} is not connected")))
            }
            _ => Ok(Question::new(self.clone(), id, open, refused, replies)),
        }
    }

    /// The asker is gone.
    fn cancel(&self, id: u64) {
        for link in self.lock().nodes.values_mut().filter(|link| link.questions.contains_key(&id)) {
            link.cancel(id);
        }
    }

    /// A new link replaces the node's old one, which then ends.
    fn add(&self, node: &str, pod: Option<&str>, agent: mpsc::Sender<Result<ControllerMessage, Status>>) -> u64 {
        let mut state = self.lock();
        state.next += 1;
        let id = state.next;
        let pod = pod.map(ToOwned::to_owned);
        let link = Link { id, pod, agent, questions: BTreeMap::new(), reports: Reports::new() };
        state.nodes.insert(node.to_owned(), link);
        drop(state);
        self.news.send_replace(());
        id
    }

    /// Keeps what the agent says by its current link.
    fn report(&self, node: &str, id: u64, reports: &Reports) {
        if let Some(link) = self.lock().nodes.get_mut(node).filter(|link| link.id == id) {
            link.reports.clone_from(reports);
        }
        self.news.send_replace(());
    }

    fn remove(&self, node: &str, id: u64) {
        let mut state = self.lock();
        if state.nodes.get(node).is_some_and(|link| link.id == id) {
            state.nodes.remove(node);
        }
        drop(state);
        self.news.send_replace(());
    }

    /// Whether this is still the node's link.
    fn is_current(&self, node: &str, id: u64) -> bool {
        self.lock().nodes.get(node).is_some_and(|link| link.id == id)
    }

    /// Hands an answer to whoever asked.
    async fn answer(&self, node: &str, answer: Answer) {
        let Answer { id, kind } = answer;
        let asker = self.lock().nodes.get(node).and_then(|link| link.questions.get(&id)).cloned();
        // An answer to a question that was cancelled meanwhile.
        let Some(asker) = asker else { return };
        let (reply, last) = match kind {
            Some(answer::Kind::Item(mut item)) => {
                // Whose answer it is, the token says.
                item.node = node.to_owned();
                (Reply::Item(Box::new(item)), false)
            }
            Some(answer::Kind::End(end)) => (Reply::End { node: node.to_owned(), error: end.error }, true),
            None => return,
        };
        let lost = asker.send_timeout(reply, PATIENCE).await.is_err();
        if let (true, Some(link)) = (lost || last, self.lock().nodes.get_mut(node)) {
            if last {
                link.questions.remove(&id);
            } else {
                link.cancel(id);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this lock, and nothing waits.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    fn cancel(&mut self, id: u64) {
        self.questions.remove(&id);
        // An agent that does not keep up will notice by its answers going nowhere.
        let _ =
            self.agent.try_send(Ok(ControllerMessage { id, kind: Some(controller_message::Kind::Cancel(Cancel {})) }));
    }
}

/// The server side of the links.
#[derive(Clone, Debug)]
pub struct LinkService {
    links: Links,
    authenticator: Authenticator,
    reports: mpsc::Sender<NodeReport>,
}

impl LinkService {
    pub fn new(links: Links, authenticator: Authenticator, reports: mpsc::Sender<NodeReport>) -> Self {
        Self { links, authenticator, reports }
    }

    async fn serve(self, caller: Caller, id: u64, mut messages: Streaming<AgentMessage>) {
        let node = caller.node();
        tracing::info!(node, "agent linked");
        let mut check = tokio::time::interval(self.authenticator.check_interval());
        loop {
            let message = tokio::select! {
                message = messages.message() => message,
                _ = check.tick() => {
                    if let Err(refusal) = self.authenticator.still(&caller) {
                        // Says so in the log; the agent hears it on its other stream.
                        let _ = refuse(node, &refusal);
                        break;
                    }
                    if self.links.is_current(node, id) {
                        continue;
                    }
                    break;
                }
            };
            match message {
                // The node has a newer link: this one has nothing to say any more.
                Ok(Some(_)) if !self.links.is_current(node, id) => break,
                Ok(Some(AgentMessage { kind: Some(agent_message::Kind::Pods(states)) })) => {
                    let report = report(node, states);
                    self.links.report(node, id, &report.pods);
                    if self.reports.send(report).await.is_err() {
                        break;
                    }
                }
                Ok(Some(AgentMessage { kind: Some(agent_message::Kind::Answer(answer)) })) => {
                    self.links.answer(node, answer).await;
                }
                Ok(Some(AgentMessage { kind: None })) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.links.remove(node, id);
        tracing::info!(node, "agent unlinked");
    }
}

fn report(node: &str, states: PodStates) -> NodeReport {
    let pods = states.pods.into_iter().map(|state| {
        let redirected = match state.redirection() {
            Redirection::Disabled => Redirected::Disabled,
            Redirection::Pending => Redirected::Pending,
            Redirection::Enabled => Redirected::Enabled,
            Redirection::Failed => Redirected::Failed,
        };
        let PodState { namespace, name, redirection: _, message, pod_uid, fault: _, proven: _, mode: _, mtls: _ } =
            state;
        if redirected == Redirected::Failed {
            tracing::warn!(node, namespace, name, message, "the agent cannot redirect a pod");
        }
        (PodName { namespace, name }, Report { redirected, pod_uid, why: message })
    });
    NodeReport { node: node.to_owned(), pods: pods.collect() }
}

#[tonic::async_trait]
impl server::AgentLink for LinkService {
    type LinkStream = ReceiverStream<Result<ControllerMessage, Status>>;

    async fn link(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::LinkStream>, Status> {
        let caller = caller(&request)?;
        let (agent, stream) = mpsc::channel(BACKLOG);
        let id = self.links.add(caller.node(), caller.pod(), agent);
        tokio::spawn(self.clone().serve(caller, id, request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
