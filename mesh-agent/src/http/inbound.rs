//! HTTP on its way into a pod of this node of which requests matter: each is decided by the pod's policies, with the
//! token that it bears, counted against its limits, and passed on or refused. One client's connection has one to the
//! application, in the version that the client speaks.
//!
//! What is decided is what is passed on: a request is read once (`message`), its path has one form, and what its client
//! may not say is taken out before anybody is asked. What two servers could read differently is refused (400). Of what
//! is under way everything is asked again when the configuration changes, and ends with the token that permitted it.

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
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header, uri::PathAndQuery};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use mesh_common::{
    model::{Connection, Decision, Identity, RequestFacts, ServiceName, traffic::Labels},
    route,
};
use tokio::sync::watch;

use super::{
    Http, Io, Spoken,
    answer::{FLAG_HEADER, REASON_HEADER, flag, own, refusal},
    body::{CutAnswer, Guarded, ResponseBody, Streamed},
    counts::RouteCounts,
    exchange::{Answered, Counted},
    message, pool,
    record::{Head, Why},
    serve::serve_by,
    upgrade::{self, Switched},
};
use crate::{
    state::{Snapshot, Store},
    telemetry::{Flow, FlowLog, HttpRequest, reason},
};
pub use application::Dial;
use application::{Application, NoAnswer};
pub use decider::Deciders;
pub use decider::Unauthorized;
use decider::{Decider, Judged};
pub use limits::{Limiters, Limits, Reached};
pub use question::{Foreseen, foresee};
use under_way::{Held, Original, UnderWay};

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
    pub flows: Arc<FlowLog>,
    /// The connection's record so far: requests have its ends and its way.
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
    /// The limits, and the configuration of which they are.
    limits: Mutex<Option<(u64, Arc<Limits>)>>,
    /// Requests without an answer.
    waiting: watch::Sender<u32>,
    /// Those that were permitted and are not over.
    under_way: Arc<UnderWay>,
    /// An HTTP/1.1 connection that has become another protocol's.
    switched: Mutex<Option<Switched>>,
}

/// A request that may go on.
struct Permitted<'a, D: Dial> {
    heard: Heard<'a, D>,
    held: Arc<Held>,
}

/// What is to be heard of a permitted request: it is recorded when this drops, whatever became of the request.
struct Heard<'a, D: Dial> {
    session: &'a Session<D>,
    of: Option<Box<(Decision, Arc<RequestFacts>)>>,
    status: u16,
}

impl<D: Dial> Drop for Heard<'_, D> {
    fn drop(&mut self) {
        if let Some((decision, facts)) = self.of.take().map(|heard| *heard) {
            self.session.record(&facts, |flow| flow.decided(&decision), self.status, None);
        }
    }
}

/// Serves a client until it is done, with `server` as the first connection to the application; `None`: it is dialled
/// when a request may go there. When `ends` resolves, it takes no more requests. Dropped, it ends both sides at once.
pub async fn serve(
    arrived: Arrived,
    client: impl Io,
    server: Option<impl Io>,
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
    let identity = arrived.connection.source_identity.as_ref().map(spiffe);
    let (limits, waiting, switched, under_way) = Default::default();
    let session =
        Arc::new(Session { arrived, identity, host, counts, application, limits, waiting, under_way, switched });
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
    tokio::select! { () = served => {}, () = session.ask_again() => {} }
    session.application.leave().await;
    drop(cut);
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

/// Under whose name the requests are counted: the first service that leads to the port, or else the pod's own.
fn service(Arrived { store, uid, connection, .. }: &Arrived) -> ServiceName {
    let port = connection.destination.port();
    let snapshot = store.snapshot();
    let Some(workload) = snapshot.workload(uid) else {
        return ServiceName { namespace: String::new(), hostname: uid.clone() };
    };
    let leads = workload.services.iter().find(|(_, ports)| ports.iter().any(|service| service.target == port));
    let own = || ServiceName { namespace: workload.namespace.clone(), hostname: workload.name.clone() };
    leads.map_or_else(own, |(name, _)| name.clone())
}

impl<D: Dial> Session<D> {
    async fn answer(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        self.counts.begun();
        let mut counted = Counted(Arc::clone(&self.counts), None);
        let _waiting = Waiting::new(&self.waiting);
        let (parts, body) = request.into_parts();
        let mut head = Head::of(&parts);
        let Answered { response, flag, why } = self.answered(parts, body, &mut head).await;
        if let Some(why) = why {
            let mut flow = Flow::clone(&self.arrived.flow);
            flow.id = self.arrived.flows.next_id();
            flow.undecided();
            head.fill(&mut flow, why, response.status().as_u16(), flag);
            self.arrived.flows.write(flow);
        }
        counted.1 = Some((response.status().as_u16(), flag));
        response
    }

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
                    self.under_way.cut(|original, facts| {
                        let judged =
                            decider.judge(&self.arrived.connection, &mut original.parts(), &original.authority);
                        let why = judged.outcome.err()?;
                        let code = why.code();
                        self.record(facts, |flow| why.tell(flow), 0, None);
                        Some(code)
                    });
                    asked = Some(decider);
                }
                () = self.under_way.expired() => {
                    let now = SystemTime::now();
                    self.under_way.cut(|_, facts| {
                        let code = under_way::is_over(facts, now).then_some(reason::JWT_EXPIRED)?;
                        self.record(facts, |flow| flow.dropped(code, "its token is over"), 0, None);
                        Some(code)
                    });
                }
            }
        }
    }

    /// Writes the record of a request.
    fn record(&self, facts: &RequestFacts, what: impl FnOnce(&mut Flow), status: u16, flag: Option<&'static str>) {
        let Arrived { flow, flows, .. } = &self.arrived;
        let now = SystemTime::now();
        let mut record = Flow::clone(flow);
        (record.id, record.start, record.end) = (flows.next_id(), now, now);
        record.undecided();
        record.http = Some(Box::new(HttpRequest {
            method: facts.method.clone(),
            path: facts.path.clone(),
            host: facts.host.clone(),
            status,
            version: match self.application.spoken() {
                Spoken::Http1 => "HTTP/1.1",
                Spoken::Http2 => "HTTP/2",
            },
            principal: facts.token.as_ref().map(|token| token.principal.clone()),
            flags: flag,
            request_id: None,
        }));
        what(&mut record);
        flows.write(record);
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

    async fn answered(&self, mut parts: http::request::Parts, body: Incoming, head: &mut Head) -> Answered {
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
        head.read(&parts, &asked.authority);
        let snapshot = self.arrived.store.snapshot();
        let Permitted { mut heard, held } = match self.permitted(&snapshot, &mut parts, asked.authority.as_str()) {
            Ok(permitted) => permitted,
            Err(refused) => return self.unauthorized(&refused.0, &refused.1, grpc, http2),
        };
        if let Err(reached) = self.count(&snapshot, &parts, asked.authority.as_str()) {
            heard.status = StatusCode::TOO_MANY_REQUESTS.as_u16();
            return limited(&reached, grpc);
        }
        let method = parts.method.clone();
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let version = if http2 { pool::Version::Http2 } else { pool::Version::Http1 };
        let form = message::Form { version, secure: false, upgrades: asked.upgrades };
        message::address(&mut parts, &asked.authority, path, form);
        let downstream = parts.extensions.remove::<OnUpgrade>();
        let body = Guarded { body, cut: held.cut(), _held: Arc::clone(&held) };
        let sent = tokio::select! {
            // It says why nothing more is sent.
            biased;
            code = held.cut() => return refused(refusal(code), code, grpc),
            sent = self.application.send(Request::from_parts(parts, body)) => sent,
        };
        let response = match sent {
            Ok(response) => response,
            Err(why) => return failed(&why, grpc),
        };
        heard.status = response.status().as_u16();
        drop(heard);
        let (mut parts, incoming) = response.into_parts();
        let agreed = upgrade::is_agreed(&method, parts.status);
        if let (true, true, Some(downstream)) = (agreed, asked.upgrades, downstream) {
            let upstream = hyper::upgrade::on(Response::from_parts(parts.clone(), incoming));
            let switched = Switched::new(downstream, upstream, Arc::clone(&held), Some(held.cut()));
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
        let streamed = Streamed {
            body: incoming,
            deadline: None,
            lease: None,
            cut: Some(CutAnswer { cut: Some(held.cut()), grpc }),
            _held: Box::new(held),
            counts,
            over: false,
        };
        Response::from_parts(parts, ResponseBody::Streamed(Box::new(streamed))).into()
    }

    /// Makes of a request's head what is passed on, and decides about that.
    fn permitted(
        &self,
        snapshot: &Arc<Snapshot>,
        parts: &mut http::request::Parts,
        authority: &str,
    ) -> Result<Permitted<'_, D>, Box<(Unauthorized, RequestFacts)>> {
        let Arrived { client, uid, connection, .. } = &self.arrived;
        let own = snapshot.workload(uid).map(|own| &own.identity);
        told::tell(&mut parts.headers, client.ip(), connection.source_identity.as_ref(), own);
        let original = Arc::new(Original::of(parts, authority));
        let decider = self.decider(snapshot);
        let Judged { facts, outcome } = decider.judge(connection, parts, authority);
        let approved = match outcome {
            Ok(approved) => approved,
            Err(why) => return Err(Box::new((why, facts))),
        };
        let facts = Arc::new(facts);
        let held = self.under_way.begin(Arc::clone(&original), Arc::clone(&facts));
        // A change that came between was not asked about this one.
        let newest = self.decider(&self.arrived.store.snapshot());
        if !Arc::ptr_eq(&newest, &decider)
            && let Judged { facts, outcome: Err(why) } = newest.judge(connection, &mut original.parts(), authority)
        {
            return Err(Box::new((why, facts)));
        }
        // What policies observe of a connection is in its own record.
        let of = (decider.is_asked() && !approved.observations.is_empty())
            .then(|| Box::new((decider.approval(connection, Arc::clone(&facts), approved), facts)));
        Ok(Permitted { heard: Heard { session: self, of, status: 0 }, held })
    }

    fn decider(&self, snapshot: &Arc<Snapshot>) -> Arc<Decider> {
        let Arrived { http, key, uid, .. } = &self.arrived;
        http.deciders.of_pod(key, uid, snapshot)
    }

    /// The answer to a request that may not go on, which is recorded here.
    fn unauthorized(&self, why: &Unauthorized, facts: &RequestFacts, grpc: bool, http2: bool) -> Answered {
        let record = |status: StatusCode, flag| self.record(facts, |flow| why.tell(flow), status.as_u16(), Some(flag));
        match why {
            Unauthorized::Token(token) => {
                let (status, headers, _) = token.answer();
                record(status, flag::UNAUTHORIZED);
                let mut answered = refused(status, why.code(), grpc);
                answered.response.headers_mut().extend(headers);
                answered
            }
            Unauthorized::Path(fault) => {
                record(StatusCode::BAD_REQUEST, flag::PROTOCOL);
                let mut answered = Answered::own(StatusCode::BAD_REQUEST, flag::PROTOCOL, &fault.to_string(), grpc);
                answered.why = None;
                if !http2 {
                    answered.response.headers_mut().insert(header::CONNECTION, CLOSE);
                }
                answered
            }
            Unauthorized::Denied(_) => {
                record(StatusCode::FORBIDDEN, flag::UNAUTHORIZED);
                refused(StatusCode::FORBIDDEN, why.code(), grpc)
            }
        }
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
        self.limits(snapshot).request(&request, self.identity.as_deref(), Instant::now())
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

/// What a client hears that may not ask for this: a code, and nothing of what would have been needed.
fn refused(status: StatusCode, code: &'static str, grpc: bool) -> Answered {
    let mut answered = Answered::own(status, flag::UNAUTHORIZED, &format!("access denied: {code}"), grpc);
    answered.response.headers_mut().insert(REASON_HEADER, HeaderValue::from_static(code));
    answered
}

fn limited(Reached { retry_after, policy }: &Reached, grpc: bool) -> Answered {
    const WHY: &str = "too many requests";
    let mut response = if grpc {
        let mut response = route::grpc_answer(EXHAUSTED, WHY).map(|()| ResponseBody::Empty);
        response.headers_mut().insert(FLAG_HEADER, HeaderValue::from_static(flag::RATE_LIMITED));
        response
    } else {
        own(StatusCode::TOO_MANY_REQUESTS, flag::RATE_LIMITED, WHY, false)
    };
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*retry_after));
    let why = Why::of(flag::RATE_LIMITED, &format!("{policy} permits no more for {retry_after} s"));
    Answered { response, flag: Some(flag::RATE_LIMITED), why }
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
