//! HTTP between a pod of this node and the services that have rules: each request is routed, tried, limited and counted
//! by itself. Who dials an endpoint, and whether it may, is the caller's affair ([`Connect`]).

mod answer;
mod answered;
mod body;
mod check;
mod counts;
mod destination;
mod detect;
mod exchange;
mod hello;
pub mod inbound;
mod marks;
mod message;
mod messages;
mod mirror;
mod pool;
mod record;
mod replay;
mod serve;
mod session;
#[cfg(test)]
mod tests;
mod tls;
pub mod token;
mod upgrade;
mod watched;

pub use counts::{Counts, Routed};
pub use destination::{Destination, Destinations, Missing};
pub use detect::{Detected, Peeked, detect, detect_surely};
pub use hello::{Hello, hello};
pub use mirror::AT_ONCE as MIRRORS;
pub use pool::Place;
pub use serve::{Spoken, serve};
pub use session::Session;
#[cfg(test)]
pub use tls::Secure;
pub use watched::Watched;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use mesh_common::model::{ServiceName, Workload};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    state::Snapshot,
    telemetry::{Party, Path, Security},
};

/// For TCP, TLS and the tunnel together, where nobody says.
pub const CONNECT: Duration = Duration::from_secs(10);
/// Of a message's head, and how many headers it may have.
const HEAD_BYTES: usize = 64 * 1024;
const HEADERS: usize = 128;
/// Unread bytes of a stream of HTTP/2; of a connection four times that.
const WINDOW: u32 = 1 << 20;

/// Bytes to an endpoint.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// An endpoint of a service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub workload: Arc<Workload>,
    pub address: SocketAddr,
    /// That it serves.
    pub service: ServiceName,
    /// As records name it.
    pub party: Party,
}

impl Endpoint {
    pub fn new(workload: Arc<Workload>, address: SocketAddr, service: ServiceName) -> Self {
        let party = Party::of(&workload, address);
        Self { workload, address, service, party }
    }
}

/// A connection to an endpoint.
pub struct Way {
    pub io: Box<dyn Io>,
    /// Resolves when the connection must end: a change denies it. Its record is written when this drops.
    pub until: Pin<Box<dyn Future<Output = ()> + Send>>,
    pub used: Used,
}

/// How a connection is carried, as its record says, and those of the requests on it.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    pub path: Option<Path>,
    pub security: Security,
    pub tls: Option<(&'static str, &'static str)>,
    pub tunnel: Option<SocketAddr>,
}

/// Why there is no connection, as its record says too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

/// Opens connections of one pod to endpoints. Active checks keep a copy for as long as the pod has the destination.
pub trait Connect: Clone + Send + Sync + 'static {
    fn connect(&self, to: &Endpoint) -> impl Future<Output = Result<Way, Refused>> + Send;

    /// Whether the pod has an address of this one's family.
    fn can_dial(&self, to: std::net::IpAddr) -> bool;
}

/// What lasts longer than a connection: each pod's view of its destinations, and the counts of routes.
#[derive(Default)]
pub struct Http {
    /// By the pod's key: two pods never share connections, limits or what they think of an endpoint.
    pods: Mutex<HashMap<String, Arc<Destinations>>>,
    pub counts: Counts,
    /// Limits of requests to pods of this node.
    pub limiters: inbound::Limiters,
    /// Who may ask pods of this node for what.
    pub deciders: inbound::Deciders,
}

impl Http {
    /// What the pod with this key knows of its destinations.
    pub fn of_pod(&self, key: &str) -> Arc<Destinations> {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        match pods.get(key) {
            Some(known) => Arc::clone(known),
            None => Arc::clone(pods.entry(key.to_owned()).or_default()),
        }
    }

    /// The pod is gone, and its connections with it.
    pub fn forget(&self, key: &str) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.limiters.forget(key);
        self.deciders.forget(key);
    }

    /// To be called now and then, with the newest configuration: closes connections that nobody has used for long, and
    /// forgets destinations.
    pub fn sweep(&self, snapshot: &Arc<Snapshot>, now: Instant) {
        let pods: Vec<_> = self.pods.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        pods.iter().for_each(|destinations| destinations.sweep(snapshot, now));
    }
}

impl Http {
    /// Endpoints that are left alone now, once for each pod that does so.
    pub fn ejected(&self, now: Instant) -> usize {
        let pods: Vec<_> = self.pods.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        pods.iter().map(|destinations| destinations.ejected(now)).sum()
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").finish_non_exhaustive()
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").finish_non_exhaustive()
    }
}
