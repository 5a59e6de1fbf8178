//! HTTP on its way into a pod of this node that has rate limits: each request is counted, and passed on as it is or
//! refused. One client's connection has one to the application, in the version that the client speaks.
//!
//! Nothing is changed in a message but what is about one connection (RFC 9110, 7.6), as for requests that are routed.
//! What two servers could read differently is refused (400), whether there is a limit for it or not.

mod application;
mod limits;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header, uri::PathAndQuery};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use mesh_common::{
    model::{Identity, ServiceName, traffic::Labels},
    route,
};
use tokio::sync::watch;

use super::{
    Http, Io, Spoken,
    answer::{FLAG_HEADER, flag, own},
    body::{ResponseBody, Streamed},
    counts::RouteCounts,
    exchange::{Answered, Counted},
    message, pool,
    serve::serve_by,
    upgrade::{self, Switched},
};
use crate::state::{Snapshot, Store};
pub use application::Dial;
use application::{Application, NoAnswer};
pub use limits::{Limiters, Limits, Reached};

/// The name under which requests to pods are counted, beside those of routes.
const ROUTE: &str = "inbound";
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// gRPC's RESOURCE_EXHAUSTED.
const EXHAUSTED: u8 = 8;

/// Who is asked, and by whom.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub http: Arc<Http>,
    pub store: Arc<Store>,
    /// The pod's key, and the uid of its workload.
    pub key: String,
    pub uid: String,
    /// The application's.
    pub port: u16,
    pub client: SocketAddr,
    /// What the client proved.
    pub identity: Option<Identity>,
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
    /// The limits, and the configuration of which they are.
    limits: Mutex<Option<(u64, Arc<Limits>)>>,
    /// Requests without an answer.
    waiting: watch::Sender<u32>,
    /// An HTTP/1.1 connection that has become another protocol's.
    switched: Mutex<Option<Switched>>,
}

/// Serves a client until it is done, with `server` as the first connection to the application. When `ends` resolves, it
/// takes no more requests. Dropped, it ends both sides at once.
pub async fn serve(
    arrived: Arrived,
    client: impl Io,
    server: impl Io,
    dial: impl Dial,
    spoken: Spoken,
    ends: impl Future<Output = ()>,
) {
    let application = match Application::new(dial, server, spoken).await {
        Ok(application) => application,
        Err(error) => return tracing::debug!(%error, "the application's connection was over at once"),
    };
    let service = service(&arrived);
    let counts = arrived.http.counts.of(&service, ROUTE);
    let host = service.hostname;
    let identity = arrived.identity.as_ref().map(spiffe);
    let (limits, waiting, switched) = (Mutex::default(), watch::Sender::new(0), Mutex::default());
    let session = Arc::new(Session { arrived, identity, host, counts, application, limits, waiting, switched });
    let cut = Cut(&session.application);
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
    serve_by(answer, client, spoken, ends).await;
    let switched = session.switched.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(switched) = switched {
        switched.join().await;
    }
    session.application.leave().await;
    drop(cut);
}

/// Streams of HTTP/2 live in tasks of their own, and hold the session a little longer.
struct Cut<'a, D: Dial>(&'a Application<D>);

impl<D: Dial> Drop for Cut<'_, D> {
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

/// Under whose name the requests are counted: the first service that leads to the port, or else the pod's own.
fn service(Arrived { store, uid, port, .. }: &Arrived) -> ServiceName {
    let snapshot = store.snapshot();
    let Some(workload) = snapshot.workload(uid) else {
        return ServiceName { namespace: String::new(), hostname: uid.clone() };
    };
    let leads = workload.services.iter().find(|(_, ports)| ports.iter().any(|service| service.target == *port));
    let own = || ServiceName { namespace: workload.namespace.clone(), hostname: workload.name.clone() };
    leads.map_or_else(own, |(name, _)| name.clone())
}

impl<D: Dial> Session<D> {
    async fn answer(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        self.counts.begun();
        let mut counted = Counted(Arc::clone(&self.counts), None);
        let _waiting = Waiting::new(&self.waiting);
        let Answered { response, flag } = self.answered(request).await;
        counted.1 = Some((response.status().as_u16(), flag));
        response
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

    async fn answered(&self, request: Request<Incoming>) -> Answered {
        let (mut parts, body) = request.into_parts();
        let grpc = route::is_grpc(&parts.headers);
        let http2 = parts.version == Version::HTTP_2;
        let asked = match message::read(&mut parts, &self.host) {
            Ok(asked) => asked,
            Err(why) => {
                let mut answered = Answered::own(why.status(), flag::PROTOCOL, &why.to_string(), grpc);
                // Who says something that can be read in two ways may have said more than one thing.
                if !http2 {
                    answered.response.headers_mut().insert(header::CONNECTION, CLOSE);
                }
                return answered;
            }
        };
        if let Err(reached) = self.count(&parts, asked.authority.as_str()) {
            return limited(&reached, grpc);
        }
        let method = parts.method.clone();
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let version = if http2 { pool::Version::Http2 } else { pool::Version::Http1 };
        let form = message::Form { version, secure: false, upgrades: asked.upgrades };
        message::address(&mut parts, &asked.authority, path, form);
        let downstream = parts.extensions.remove::<OnUpgrade>();
        let response = match self.application.send(Request::from_parts(parts, body)).await {
            Ok(response) => response,
            Err(why) => return failed(&why, grpc),
        };
        let (mut parts, incoming) = response.into_parts();
        let agreed = upgrade::is_agreed(&method, parts.status);
        if let (true, true, Some(downstream)) = (agreed, asked.upgrades, downstream) {
            let upstream = hyper::upgrade::on(Response::from_parts(parts.clone(), incoming));
            let switched = Switched::new(downstream, upstream, ());
            match http2 {
                true => drop(tokio::spawn(switched.join())),
                false => *self.switched.lock().unwrap_or_else(PoisonError::into_inner) = Some(switched),
            }
            let mut response = Response::new(ResponseBody::Empty);
            upgrade::keep_headers(&mut parts.headers);
            (*response.status_mut(), *response.headers_mut()) = (parts.status, parts.headers);
            return response.into();
        }
        if agreed {
            const WHY: &str = "the application changed to a protocol that nobody asked for";
            return Answered::own(StatusCode::BAD_GATEWAY, flag::UPSTREAM_PROTOCOL, WHY, grpc);
        }
        let closes = !http2 && closes(parts.version, &parts.headers);
        message::strip(&mut parts.headers);
        if closes {
            parts.headers.insert(header::CONNECTION, CLOSE);
        }
        // Each side's connection has its own version.
        parts.version = Version::HTTP_11;
        let counts = Arc::clone(&self.counts);
        let streamed =
            Streamed { body: incoming, deadline: None, lease: None, _held: Box::new(()), counts, over: false };
        Response::from_parts(parts, ResponseBody::Streamed(Box::new(streamed))).into()
    }

    fn count(&self, parts: &http::request::Parts, authority: &str) -> Result<(), Reached> {
        let snapshot = self.arrived.store.snapshot();
        let known = snapshot.workload_by_address(self.arrived.client.ip());
        // An address says nothing beside an identity.
        let known = known.filter(|known| Some(&known.identity) == self.arrived.identity.as_ref());
        let nobody = Labels::new();
        let request = route::Request {
            method: &parts.method,
            path: parts.uri.path(),
            query: parts.uri.query(),
            scheme: "http",
            authority,
            headers: &parts.headers,
            port: self.arrived.port,
            source_labels: known.map_or(&nobody, |known| &known.labels),
            source_namespace: self.arrived.identity.as_ref().map_or("", Identity::namespace),
        };
        self.limits(&snapshot).request(&request, self.identity.as_deref(), Instant::now())
    }

    /// Those of the newest configuration.
    fn limits(&self, snapshot: &Snapshot) -> Arc<Limits> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        match &*limits {
            Some((generation, known)) if *generation == snapshot.generation() => Arc::clone(known),
            _ => {
                let Arrived { http, key, uid, .. } = &self.arrived;
                let generation = snapshot.generation();
                let newest = http.limiters.of_pod(key, generation, snapshot.inbound(uid));
                *limits = Some((generation, Arc::clone(&newest)));
                newest
            }
        }
    }
}

fn limited(Reached { retry_after, policy: _ }: &Reached, grpc: bool) -> Answered {
    const WHY: &str = "too many requests";
    let mut response = if grpc {
        let mut response = route::grpc_answer(EXHAUSTED, WHY).map(|()| ResponseBody::Empty);
        response.headers_mut().insert(FLAG_HEADER, HeaderValue::from_static(flag::RATE_LIMITED));
        response
    } else {
        own(StatusCode::TOO_MANY_REQUESTS, flag::RATE_LIMITED, WHY, false)
    };
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*retry_after));
    Answered { response, flag: Some(flag::RATE_LIMITED) }
}

fn failed(why: &NoAnswer, grpc: bool) -> Answered {
    let (flag, why) = match why {
        NoAnswer::Dial(error) => (flag::CONNECT, format!("no connection to the application: {error}")),
        NoAnswer::Ended => (flag::RESET, "the application ended the connection".to_owned()),
        NoAnswer::Failed(error) if error.is_user() => (flag::CLIENT_GONE, "the request broke off".to_owned()),
        NoAnswer::Failed(error) => (flag::RESET, format!("the application gave no answer: {error}")),
    };
    Answered::own(StatusCode::SERVICE_UNAVAILABLE, flag, &why, grpc)
}

/// Whether the application takes no more requests on this connection (RFC 9112, 9.3).
fn closes(version: Version, headers: &HeaderMap) -> bool {
    let says = |word: &str| {
        let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(word))
    };
    says("close") || (version == Version::HTTP_10 && !says("keep-alive"))
}
