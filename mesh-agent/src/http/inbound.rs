//! HTTP on its way into a pod of this node of which requests matter: each is decided by the pod's policies, with the
//! token that it bears, counted against its limits, and passed on or refused. One client's connection has one to the
//! application, in the version that the client speaks.
//!
//! What is decided is what is passed on: a request is read once (`message`), its path has one form, and what its client
//! may not say is taken out before anybody is asked. What two servers could read differently is refused (400). Of what
//! is under way everything is asked again when the configuration changes, and ends with the token that permitted it.

mod answer;
mod application;
mod decider;
mod limits;
mod question;
#[cfg(test)]
mod tests;
mod told;
mod under_way;

use std::{
    future::Future,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use mesh_common::{
    model::{Connection, Decision, Identity, LocalPod, ServiceName, traffic::Labels},
    route,
};
use tokio::sync::watch;

use super::{Http, Io, Spoken, counts::RouteCounts, message, serve::serve_by, upgrade::Switched};
use crate::{
    state::{Snapshot, Store},
    telemetry::{Flow, FlowLog},
};
use application::Application;
pub use application::Dial;
use decider::Decider;
pub use decider::Deciders;
pub use decider::Unauthorized;
pub use limits::{Limiters, Limits, Reached};
pub use question::{Foreseen, foresee};
use under_way::{Cause, UnderWay};

/// The name under which requests to pods are counted, beside those of routes.
const ROUTE: &str = "inbound";

/// Who is asked, and by whom.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub http: Arc<Http>,
    pub store: Arc<Store>,
    pub flows: Arc<FlowLog>,
    /// The connection's record so far: those of its requests have its ends and its way.
    pub flow: Arc<Flow>,
    /// The pod's key, and the uid of its workload.
    pub key: String,
    pub uid: String,
    pub client: SocketAddr,
    /// What the client proved, and the application's address.
    pub connection: Connection,
}

/// One client's connection.
struct Session<D> {
    arrived: Arrived,
    /// Without `spiffe://`.
    identity: Option<String>,
    /// What a client of HTTP/1.0 asks for that does not say it.
    host: String,
    counts: Arc<RouteCounts>,
    application: Application<D>,
    /// Of the configuration that was last asked about.
    known: Mutex<Option<Arc<Known>>>,
    /// That lead to the port: the client asked for one of them, most likely.
    services: Vec<Arc<ServiceName>>,
    /// Requests without an answer.
    waiting: watch::Sender<u32>,
    /// Those that were permitted and are not over.
    under_way: Arc<UnderWay>,
    /// An HTTP/1.1 connection that has become another protocol's.
    switched: Mutex<Option<Switched>>,
}

/// What one configuration says of the pod.
#[derive(Debug)]
struct Known {
    generation: u64,
    limits: Arc<Limits>,
    told: Option<Arc<LocalPod>>,
    /// Requests are read for the sake of being seen, and for nothing else.
    only_seen: bool,
}

/// Serves a client until it is done, with `server` as the first connection to the application; `None`: it is dialled
/// when a request may go there. When `ends` resolves, it takes no more requests. When `denied` does, it ends both sides
/// at once, as it does when it is dropped, and is told so by its requests' records.
pub async fn serve(
    arrived: Arrived,
    client: impl Io,
    server: Option<impl Io>,
    dial: impl Dial,
    spoken: Spoken,
    ends: impl Future<Output = ()>,
    denied: impl Future<Output = Decision>,
) -> Option<Decision> {
    let application = match Application::new(dial, server, spoken).await {
        Ok(application) => application,
        Err(error) => {
            tracing::debug!(%error, "the application's connection was over at once");
            return None;
        }
    };
    let (service, services) = services(&arrived);
    let counts = arrived.http.counts.of(&service, ROUTE);
    let host = service.hostname;
    let identity = arrived.connection.source_identity.as_ref().map(spiffe);
    let (known, waiting, switched, under_way) = Default::default();
    let session =
        Session { arrived, identity, host, counts, application, known, services, waiting, under_way, switched };
    let session = Arc::new(session);
    let cut = Cutting(&session.application);
    let answer = {
        let session = Arc::clone(&session);
        move |request| {
            let session = Arc::clone(&session);
            async move { session.answer(request).await }
        }
    };
    let ends = async {
        tokio::select! { () = ends => {}, () = session.over() => {} }
    };
    let served = async {
        serve_by(answer, client, spoken, ends).await;
        let switched = session.switched.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(switched) = switched {
            switched.join().await;
        }
    };
    // It lives on until what it carries was cut: whose answer just drops seems to have gone by itself.
    let mut served = pin!(served);
    let denied = tokio::select! {
        () = served.as_mut() => None,
        () = session.ask_again() => None,
        decision = denied => Some(decision),
    };
    match &denied {
        Some(decision) => session.under_way.cut(|_, _| Some(Cause::Denied(decision.clone()))),
        None => session.application.leave().await,
    }
    drop(cut);
    denied
}

/// Streams of HTTP/2 live in tasks of their own, and hold the session a little longer.
struct Cutting<'a, D: Dial>(&'a Application<D>);

impl<D: Dial> Drop for Cutting<'_, D> {
    fn drop(&mut self) {
        self.0.cut();
    }
}

/// A request without an answer, while this lives.
struct Waiting<'a>(&'a watch::Sender<u32>);

impl<'a> Waiting<'a> {
    fn new(all: &'a watch::Sender<u32>) -> Self {
        all.send_modify(|waiting| *waiting += 1);
        Self(all)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

/// An identity as limits name it.
pub fn spiffe(identity: &Identity) -> String {
    let id = identity.to_string();
    id.strip_prefix("spiffe://").unwrap_or(&id).to_owned()
}

/// Under whose name the requests are counted: the first service that leads to the port, or else the pod's own; and all
/// that lead there.
fn services(Arrived { store, uid, connection, .. }: &Arrived) -> (ServiceName, Vec<Arc<ServiceName>>) {
    let port = connection.destination.port();
    let snapshot = store.snapshot();
    let Some(workload) = snapshot.workload(uid) else {
        return (ServiceName { namespace: String::new(), hostname: uid.clone() }, Vec::new());
    };
    let leads: Vec<_> = workload.services_to(port).cloned().map(Arc::new).collect();
    let own = || ServiceName { namespace: workload.namespace.clone(), hostname: workload.name.clone() };
    (leads.first().map_or_else(own, |first| ServiceName::clone(first)), leads)
}

impl<D: Dial> Session<D> {
    /// Never resolves: ends what is under way when it is no longer permitted, or its token is over.
    async fn ask_again(&self) {
        let mut changes = self.arrived.store.subscribe();
        changes.mark_unchanged();
        let mut asked: Option<Arc<Decider>> = None;
        loop {
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        // The agent is shutting down, which ends the connection in its own way.
                        std::future::pending::<()>().await;
                    }
                    let snapshot = changes.borrow_and_update().clone();
                    let decider = self.decider(&snapshot);
                    if asked.as_ref().is_some_and(|asked| Arc::ptr_eq(asked, &decider)) {
                        continue;
                    }
                    self.under_way.cut(|original, _| {
                        let mut parts = original.parts();
                        let judged = decider.judge(&self.arrived.connection, &mut parts, &original.authority);
                        judged.outcome.err().map(Cause::Unauthorized)
                    });
                    asked = Some(decider);
                }
                () = self.under_way.expired() => {
                    let now = SystemTime::now();
                    self.under_way.cut(|_, facts| under_way::is_over(facts, now).then_some(Cause::Expired));
                }
            }
        }
    }

    /// Resolves when the application has ended its connection, and the client's is to end too.
    async fn over(&self) {
        self.application.ended().await;
        // The sender lives in `self`.
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting == 0).await;
        if self.switched.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            // It speaks another protocol from now on.
            std::future::pending::<()>().await;
        }
    }

    fn decider(&self, snapshot: &Arc<Snapshot>) -> Arc<Decider> {
        let Arrived { http, key, uid, .. } = &self.arrived;
        http.deciders.of_pod(key, uid, snapshot)
    }

    fn count(&self, snapshot: &Snapshot, parts: &http::request::Parts, authority: &str) -> Result<(), Reached> {
        let Arrived { client, connection: Connection { source_identity: identity, destination, .. }, .. } =
            &self.arrived;
        let known = snapshot.workload_by_address(client.ip());
        // An address says nothing beside an identity.
        let known = known.filter(|known| Some(&known.identity) == identity.as_ref());
        let nobody = Labels::new();
        let request = route::Request {
            method: &parts.method,
            path: parts.uri.path(),
            query: parts.uri.query(),
            scheme: "http",
            authority,
            headers: &parts.headers,
            port: destination.port(),
            source_labels: known.map_or(&nobody, |known| &known.labels),
            source_namespace: identity.as_ref().map_or("", Identity::namespace),
        };
        self.known(snapshot).limits.request(&request, self.identity.as_deref(), Instant::now())
    }

    fn known(&self, snapshot: &Snapshot) -> Arc<Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some(known) if known.generation == snapshot.generation() => Arc::clone(known),
            _ => {
                let Arrived { http, key, uid, connection, .. } = &self.arrived;
                let (generation, port) = (snapshot.generation(), connection.destination.port());
                let now = Arc::new(Known {
                    generation,
                    limits: http.limiters.of_pod(key, generation, snapshot.inbound(uid)),
                    told: snapshot.local_pod_by_uid(uid).cloned(),
                    only_seen: snapshot.workload(uid).is_some_and(|own| !snapshot.must_read(own, port)),
                });
                *known = Some(Arc::clone(&now));
                now
            }
        }
    }
}
