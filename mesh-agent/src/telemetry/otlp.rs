//! Spans and lines of the access log, as OTLP (<https://opentelemetry.io/docs/specs/otlp/>) to collectors, over gRPC or
//! as protobuf over HTTP/1.1.
//!
//! Who hands over a record never waits: it goes into a bounded queue, one for each collector, from which a task takes
//! batches. All is counted: what was made is what collectors took, what is lost, and what waits. A collector that is
//! away is tried again for a minute with the same batch, then with the next one. One that took a batch whose answer got
//! lost has it twice; spans have ids.
//!
//! Nothing here knows whose addresses a name stands for; who does is passed in.

mod attributes;
mod connect;
mod deliver;
mod lane;
mod logs;
mod outcome;
mod spans;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh_common::model::telemetry::{Collector, OtlpProtocol};
use rustls::RootCertStore;
use tokio::{runtime::Handle, task::JoinHandle};

use super::flow::Flow;
use lane::Lane;
pub use spans::Spans;

/// Collectors of one agent. What goes to one more is lost.
const COLLECTORS: usize = 16;
/// How long the end of the agent waits for what is in the queues.
pub const LAST: Duration = Duration::from_secs(2);

/// Where a service of the mesh answers: `None` if the name is none's, so that it is one for DNS; an empty list if it
/// has no endpoint now.
pub type Resolve = Arc<dyn Fn(&str, u16) -> Option<Vec<SocketAddr>> + Send + Sync>;

/// What takes OTLP, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub collector: Collector,
    /// To the collector's name, by the trusted roots of the image or host.
    pub tls: bool,
    /// Over HTTP, before /v1/traces; empty or with a slash at its beginning only.
    pub path: String,
}

/// What holds for all collectors.
#[derive(Clone)]
pub struct Settings {
    pub node: String,
    pub cluster: String,
    /// Where no pod's setting names a collector.
    pub target: Option<Target>,
    /// Records that may wait for one collector, beside those that are being sent; a record has 11 KiB at most.
    pub queue: usize,
    /// How long a batch is tried.
    pub patience: Duration,
    pub resolve: Resolve,
    /// Whom `https://` trusts; `None`: the roots of the image or host.
    pub roots: Option<Arc<RootCertStore>>,
}

/// What the records become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Spans,
    Logs,
}

/// Takes records for one signal.
#[derive(Clone, Debug)]
pub struct Exporter(Arc<Inner>);

struct Inner {
    signal: Signal,
    settings: Settings,
    runtime: Handle,
    lanes: Mutex<Lanes>,
    tally: Arc<Tally>,
}

#[derive(Default)]
struct Lanes {
    /// To [`Settings::target`].
    own: Option<(Arc<Lane>, JoinHandle<()>)>,
    others: HashMap<Collector, (Arc<Lane>, JoinHandle<()>)>,
    ended: bool,
}

/// Records that were made = sent + lost + those that wait.
#[derive(Debug)]
pub struct Tally {
    signal: Signal,
    made: AtomicU64,
    sent: AtomicU64,
    lost: AtomicU64,
}

impl Exporter {
    /// To be called in a runtime, which sends.
    pub fn new(signal: Signal, settings: Settings) -> Self {
        let tally = Arc::new(Tally { signal, made: 0.into(), sent: 0.into(), lost: 0.into() });
        Self(Arc::new(Inner { signal, settings, runtime: Handle::current(), lanes: Mutex::default(), tally }))
    }

    /// Somebody takes what names this collector, or none.
    pub fn takes(&self, collector: Option<&Collector>) -> bool {
        collector.is_some() || self.0.settings.target.is_some()
    }

    /// Never waits. `None`: the agent's own collector; without one it is not made.
    pub fn take(&self, collector: Option<&Collector>, flow: &Arc<Flow>) {
        let Inner { settings, tally, .. } = &*self.0;
        if !self.takes(collector) {
            return;
        }
        tally.made(1);
        let mut lanes = self.0.lanes();
        if lanes.ended {
            return tally.lost("ended", 1);
        }
        let lane = match (collector, &settings.target) {
            (Some(collector), _) => {
                if !lanes.others.contains_key(collector) && lanes.others.len() >= COLLECTORS {
                    lanes.others.retain(|_, (_, task)| !task.is_finished());
                    if lanes.others.len() >= COLLECTORS {
                        return tally.lost("collectors", 1);
                    }
                }
                let target = || Target { collector: collector.clone(), tls: false, path: String::new() };
                lanes.others.entry(collector.clone()).or_insert_with(|| self.0.lane(target()))
            }
            (None, Some(target)) => lanes.own.get_or_insert_with(|| self.0.lane(target.clone())),
            (None, None) => return,
        };
        // One that had nothing to send for long has ended.
        if !lane.0.push(flow) {
            *lane = self.0.lane(lane.0.target().clone());
            lane.0.push(flow);
        }
    }

    pub fn tally(&self) -> &Tally {
        &self.0.tally
    }

    /// Sends what waits, if that takes no longer than this; the rest is lost, and so is what comes later.
    pub async fn end(&self, patience: Duration) {
        let lanes: Vec<_> = {
            let mut lanes = self.0.lanes();
            lanes.ended = true;
            let others = std::mem::take(&mut lanes.others).into_values();
            others.chain(lanes.own.take()).collect()
        };
        lanes.iter().for_each(|(lane, _)| lane.end());
        let until = tokio::time::Instant::now() + patience;
        for (_, mut task) in lanes {
            if tokio::time::timeout_at(until, &mut task).await.is_err() {
                task.abort();
                // Nothing is counted as sent after this.
                let _ = task.await;
            }
        }
        let tally = self.tally();
        tally.lost("ended", tally.waiting());
    }
}

impl Inner {
    fn lane(&self, target: Target) -> (Arc<Lane>, JoinHandle<()>) {
        let lane = Arc::new(Lane::new(self.signal, target, self.settings.clone(), Arc::clone(&self.tally)));
        let task = self.runtime.spawn(Arc::clone(&lane).run());
        (lane, task)
    }

    /// Nothing that holds it can panic half way through a change.
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    fn made(&self, records: u64) {
        self.made.fetch_add(records, Ordering::Relaxed);
        match self.signal {
            Signal::Spans => metrics::counter!("mesh_spans_made_total").increment(records),
            Signal::Logs => metrics::counter!("mesh_access_log_lines_total", "to" => "otlp").increment(records),
        }
    }

    fn sent(&self, records: u64) {
        self.sent.fetch_add(records, Ordering::Relaxed);
        match self.signal {
            Signal::Spans => metrics::counter!("mesh_spans_sent_total").increment(records),
            Signal::Logs => metrics::counter!("mesh_access_log_written_total", "to" => "otlp").increment(records),
        }
    }

    fn lost(&self, why: &'static str, records: u64) {
        if records == 0 {
            return;
        }
        self.lost.fetch_add(records, Ordering::Relaxed);
        match self.signal {
            Signal::Spans => metrics::counter!("mesh_spans_lost_total", "why" => why).increment(records),
            Signal::Logs => {
                metrics::counter!("mesh_access_log_lost_total", "to" => "otlp", "why" => why).increment(records);
            }
        }
    }

    /// Neither sent nor lost yet.
    pub fn waiting(&self) -> u64 {
        let [made, sent, lost] = self.all();
        made.saturating_sub(sent + lost)
    }

    /// Made, sent, lost.
    pub fn all(&self) -> [u64; 3] {
        [&self.made, &self.sent, &self.lost].map(|count| count.load(Ordering::Relaxed))
    }
}

impl Target {
    /// As an administrator writes it, as in `http://collector.observability:4317`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str, protocol: OtlpProtocol) -> Result<Self, String> {
        let uri: http::Uri = url.parse().map_err(|error| format!("`{url}`: {error}"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("`{url}` does not begin with http:// or https://")),
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let (Some(port), false) = (uri.port_u16(), host.is_empty()) else {
            return Err(format!("`{url}` is not of the form http://HOST:PORT"));
        };
        let path = uri.path().trim_end_matches('/').to_owned();
        if uri.query().is_some() || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(format!("`{url}`: a query or a user is not understood"));
        }
        if !path.is_empty() && protocol == OtlpProtocol::Grpc {
            return Err(format!("`{url}`: gRPC has no path"));
        }
        Ok(Self { collector: Collector { host, port, protocol }, tls, path })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { collector: Collector { host, port, protocol: _ }, tls, path } = self;
        let scheme = if *tls { "https" } else { "http" };
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        write!(f, "{scheme}://{host}:{port}{path}")
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("signal", &self.signal).field("tally", &self.tally).finish_non_exhaustive()
    }
}
