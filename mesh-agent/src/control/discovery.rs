//! The discovery stream: keeps the store as the controller says, over reconnects.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use mesh_common::proto::{
    core::Node,
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    rpc,
};
use prost_types::{Struct, Value, value};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    ControlStatus, NodeFacts,
    backoff::Backoff,
    channel::{Connection, LARGEST_MESSAGE, TokenError, explain},
    memory::Memory,
    resources::type_url,
    subscription::Subscription,
};
use crate::{
    durable,
    state::{Kind, Store, Turn},
};

/// Requests on their way: the first ones, one a type, and an answer to each response, which the loop waits to send.
const REQUESTS: usize = 8;
/// Changes of this long are written to the disk at once.
const SAVE_AFTER: Duration = Duration::from_secs(1);

struct Discovery {
    connection: Connection,
    node: Node,
    store: Arc<Store>,
    status: watch::Sender<ControlStatus>,
    memory: Memory,
    /// When what changed is to be written to the disk.
    save_at: Option<tokio::time::Instant>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("{}", explain(.0))]
    Call(#[from] tonic::Status),
    #[error("the controller closed the stream")]
    Closed,
}

/// Runs until `until` is ready; what changed last is on the disk then.
pub async fn run(
    connection: Connection,
    node: NodeFacts,
    store: Arc<Store>,
    memory: Memory,
    status: watch::Sender<ControlStatus>,
    until: impl Future<Output = ()>,
) {
    status.send_modify(|status| status.from_disk = memory.recalled());
    let mut discovery = Discovery { connection, node: wire_node(&node), store, status, memory, save_at: None };
    tokio::select! { () = discovery.streams() => {}, () = until => {} }
    if discovery.save_at.is_some() {
        discovery.save().await;
    }
}

impl Discovery {
    async fn streams(&mut self) {
        let mut backoff = Backoff::default();
        loop {
            let Err(error) = self.stream(&mut backoff).await;
            self.status.send_if_modified(|status| std::mem::take(&mut status.connected));
            let delay = backoff.delay();
            tracing::warn!(%error, retry_in = ?delay, "no discovery stream; the last good configuration stays");
            let again = tokio::time::Instant::now() + delay;
            while let Some(at) = self.save_at.filter(|at| *at < again) {
                tokio::time::sleep_until(at).await;
                self.save().await;
            }
            tokio::time::sleep_until(again).await;
        }
    }

    async fn stream(&mut self, backoff: &mut Backoff) -> Result<std::convert::Infallible, StreamError> {
        let (requests, receiver) = mpsc::channel(REQUESTS);
        for (i, subscription) in self.memory.subscriptions.iter().enumerate() {
            // The first message of a stream says who asks.
            let node = (i == 0).then(|| self.node.clone());
            let names = if subscription.kind() == Kind::Address { self.store.questions().all() } else { Vec::new() };
            requests.try_send(subscription.first_request(node, names)).map_err(|_| StreamError::Closed)?;
        }
        let store = Arc::clone(&self.store);
        let mut questions = store.questions().watch();
        let request = self.connection.request(ReceiverStream::new(receiver)).await?;
        let mut client =
            AggregatedDiscoveryServiceClient::new(self.connection.channel()).max_decoding_message_size(LARGEST_MESSAGE);
        let mut responses = client.delta_aggregated_resources(request).await?.into_inner();
        tracing::info!("discovery stream open");
        self.status.send_if_modified(|status| !std::mem::replace(&mut status.connected, true));

        loop {
            let response = tokio::select! {
                response = responses.message() => response?.ok_or(StreamError::Closed)?,
                () = until(self.save_at) => {
                    self.save().await;
                    continue;
                }
                // The store, which is held here, has the sender.
                Ok(()) = questions.changed() => {
                    if let Some(turn) = store.questions().turn() {
                        requests.send(asking(turn)).await.map_err(|_| StreamError::Closed)?;
                    }
                    continue;
                }
            };
            backoff.reset();
            let answer = self.take(response);
            self.save_at.get_or_insert_with(|| tokio::time::Instant::now() + SAVE_AFTER);
            self.report();
            requests.send(answer).await.map_err(|_| StreamError::Closed)?;
        }
    }

    /// Writes what is held to the disk. What fails, or is another agent's to write, is tried again.
    async fn save(&mut self) {
        let Some((path, content)) = self.memory.file(&self.store) else {
            self.save_at = Some(tokio::time::Instant::now() + SAVE_AFTER);
            return;
        };
        let shown = path.display().to_string();
        let written = tokio::task::spawn_blocking(move || durable::replace(&path, &content)).await;
        self.save_at = match written.map_err(std::io::Error::other).flatten() {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(file = shown, %error, "a restart would not remember the configuration");
                Some(tokio::time::Instant::now() + SAVE_AFTER)
            }
        };
    }

    fn take(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let (updated, removed) = (response.resources.len(), response.removed_resources.len());
        let Some(subscription) = self.memory.subscriptions.iter_mut().find(|s| type_url(s.kind()) == response.type_url)
        else {
            let message = format!("type `{}` was not asked for", response.type_url);
            tracing::warn!(error = message, "configuration refused");
            return DeltaDiscoveryRequest {
                type_url: response.type_url,
                response_nonce: response.nonce,
                error_detail: Some(rpc::Status {
                    code: tonic::Code::InvalidArgument.into(),
                    message,
                    details: Vec::new(),
                }),
                ..Default::default()
            };
        };
        let kind = subscription.kind();
        let nothing = if kind == Kind::Address { response.removed_resources.clone() } else { Vec::new() };
        let answer = subscription.take(&self.store, response);
        let snapshot = self.store.snapshot();
        let generation = snapshot.generation();
        if matches!(kind, Kind::Address | Kind::OnDemand) {
            self.store.questions().settle(&snapshot, &nothing);
        }
        match &answer.error_detail {
            Some(error) => tracing::warn!(?kind, error = error.message, generation, "configuration refused"),
            None => tracing::debug!(?kind, updated, removed, generation, "configuration accepted"),
        }
        answer
    }

    fn report(&self) {
        let synced = self.memory.subscriptions.iter().all(Subscription::answered);
        let last_nack = self.memory.subscriptions.iter().find_map(Subscription::refusal);
        self.status.send_if_modified(|status| {
            let changed = status.synced != synced || status.last_nack.as_deref() != last_nack;
            if changed {
                status.synced = synced;
                status.from_disk &= !synced;
                status.last_nack = last_nack.map(ToOwned::to_owned);
            }
            changed
        });
    }
}

fn asking(turn: Turn) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url(Kind::Address).to_owned(),
        resource_names_subscribe: turn.subscribe,
        resource_names_unsubscribe: turn.unsubscribe,
        ..Default::default()
    }
}

async fn until(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn wire_node(facts: &NodeFacts) -> Node {
    let NodeFacts { name, ip, agent, namespace, cluster } = facts;
    let ip = ip.to_string();
    let text =
        |(key, text): (&str, &str)| (key.to_owned(), Value { kind: Some(value::Kind::StringValue(text.to_owned())) });
    let fields: BTreeMap<_, _> = [
        ("NAME", agent.as_str()),
        ("NAMESPACE", namespace),
        ("INSTANCE_IPS", &ip),
        ("NODE_NAME", name),
        ("CLUSTER_ID", cluster),
    ]
    .map(text)
    .into();
    Node {
        id: format!("ztunnel~{ip}~{agent}.{namespace}~{namespace}.svc.cluster.local"),
        cluster: "ztunnel".to_owned(),
        metadata: Some(Struct { fields }),
    }
}
