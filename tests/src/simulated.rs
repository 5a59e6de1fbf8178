//! Agents that only listen: each subscribes to everything as an agent does, acknowledges, and notes when a policy
//! arrived. They redirect nothing and ask for no certificates; they are there to be many.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use mesh_common::proto::{
    discovery::{DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
    type_url,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use crate::{Controller, Place, controller, network};

const TYPES: [&str; 5] =
    [type_url::ACCOUNTS, type_url::AUTHORIZATION, type_url::ADDRESS, type_url::TRAFFIC, type_url::LOCAL_POD];
/// All of a large cluster in one.
const LARGEST: usize = 64 << 20;

/// Some of them. Dropping it disconnects them.
#[derive(Debug)]
pub struct Simulated {
    count: usize,
    heard: Arc<Heard>,
    stop: Option<oneshot::Sender<()>>,
    listening: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Heard {
    /// Those that have had an answer to every subscription.
    synced: AtomicUsize,
    /// Those that gave up, and why the first one did.
    failed: Mutex<Option<String>>,
    /// By policy, when it came to each.
    policies: Mutex<HashMap<String, Vec<Instant>>>,
}

impl Simulated {
    /// One with each of these tokens, from the network namespace of `place`.
    pub fn connect(place: &Place, ca: &Path, tokens: Vec<String>) -> Result<Self> {
        let name =
            place.netns.as_ref().and_then(|path| path.file_name()?.to_str()).context("no namespace of its own")?;
        let (name, count) = (name.to_owned(), tokens.len());
        let ca = fs::read(ca).with_context(|| format!("read {}", ca.display()))?;
        let heard = Arc::new(Heard::default());
        let (stop, stopped) = oneshot::channel();
        let all = Arc::clone(&heard);
        let listening = thread::spawn(move || {
            // Sockets belong to the namespace of the thread that makes them.
            let done = network::inside(&name, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.context("start a runtime")?.block_on(async {
                    for token in tokens {
                        let (heard, ca) = (Arc::clone(&all), ca.clone());
                        tokio::spawn(async move {
                            if let Err(error) = listen(&token, &ca, &heard).await {
                                lock(&heard.failed).get_or_insert_with(|| format!("{error:#}"));
                            }
                        });
                    }
                    let _ = stopped.await;
                });
                anyhow::Ok(())
            });
            if let Err(error) = done.and_then(|done| done) {
                lock(&all.failed).get_or_insert_with(|| format!("{error:#}"));
            }
        });
        Ok(Self { count, heard, stop: Some(stop), listening: Some(listening) })
    }

    /// Until each has all that there is.
    pub fn wait_until_synced(&self, limit: Duration) -> Result<()> {
        self.wait("simulated agents have everything", limit, || self.heard.synced.load(Ordering::Relaxed))
    }

    /// Until each has this policy; how long after `since` it came to each.
    pub fn arrivals(&self, policy: &str, since: Instant, limit: Duration) -> Result<Vec<Duration>> {
        let come = || lock(&self.heard.policies).get(policy).map_or(0, Vec::len);
        self.wait(&format!("simulated agents have {policy}"), limit, come)?;
        let policies = lock(&self.heard.policies);
        let times = policies.get(policy).into_iter().flatten();
        Ok(times.map(|time| time.saturating_duration_since(since)).collect())
    }

    fn wait(&self, what: &str, limit: Duration, done: impl Fn() -> usize) -> Result<()> {
        let start = Instant::now();
        while done() < self.count {
            if let Some(why) = &*lock(&self.heard.failed) {
                return Err(anyhow!("a simulated agent gave up: {why}"));
            }
            if start.elapsed() > limit || crate::interrupted() {
                return Err(anyhow!(
                    "{what}: {} of {} within {:.1} s",
                    done(),
                    self.count,
                    start.elapsed().as_secs_f64()
                ));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

async fn listen(token: &str, ca: &[u8], heard: &Heard) -> Result<()> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(controller::SERVER_NAME);
    let endpoint = Endpoint::from_shared(Controller::url())?.tls_config(tls)?;
    let channel = endpoint.connect().await.context("connect")?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(LARGEST);
    let (requests, stream) = mpsc::channel(16);
    for type_url in TYPES {
        requests.send(DeltaDiscoveryRequest { type_url: type_url.to_owned(), ..Default::default() }).await?;
    }
    let mut request = Request::new(ReceiverStream::new(stream));
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let mut responses = client.delta_aggregated_resources(request).await?.into_inner();
    let mut open: Vec<&str> = TYPES.to_vec();
    while let Some(response) = responses.message().await? {
        let now = Instant::now();
        let ack = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce,
            ..Default::default()
        };
        requests.send(ack).await?;
        if response.type_url == type_url::AUTHORIZATION {
            let mut policies = lock(&heard.policies);
            for resource in response.resources {
                policies.entry(resource.name).or_default().push(now);
            }
        }
        let before = open.len();
        open.retain(|type_url| *type_url != response.type_url);
        if before > 0 && open.is_empty() {
            heard.synced.fetch_add(1, Ordering::Relaxed);
        }
    }
    Err(anyhow!("the controller ended the stream"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
