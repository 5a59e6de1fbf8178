//! One request: read, marked, decided, counted, passed on or refused.

use std::{sync::Arc, time::SystemTime};

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header, request::Parts, uri::Authority,
    uri::PathAndQuery,
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use mesh_common::{model::ServiceName, route};

use super::{
    super::{
        answer::{FLAG_HEADER, REASON_HEADER, flag, own, refusal},
        answered::{Answered, Counted},
        body::{CutAnswer, Guarded, ResponseBody, Streamed},
        message::{self, Malformed},
        messages::Messages,
        pool,
        record::{OpenRequest, Why},
        upgrade::{self, Switched},
    },
    Arrived, Dial, Known, Reached, Session, Unauthorized, Waiting,
    application::NoAnswer,
    decider::Judged,
    told,
    under_way::{Held, Original},
};
use crate::{
    state::Snapshot,
    telemetry::{Direction, Flow, trace::Peer},
};

const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// gRPC's RESOURCE_EXHAUSTED.
const EXHAUSTED: u8 = 8;

impl<D: Dial> Session<D> {
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let begun = SystemTime::now();
        self.counts.begun();
        let counted = Counted(Arc::clone(&self.counts), None);
        let _waiting = Waiting::new(&self.waiting);
        let (mut parts, body) = request.into_parts();
        let http2 = parts.version == Version::HTTP_2;
        let snapshot = self.arrived.store.snapshot();
        let read = message::read(&mut parts, &self.host);
        let told = self.begin(&snapshot, begun, &parts, read.as_ref().ok().map(|asked| &asked.authority));
        let answered = self.answered(&told, &snapshot, (parts, read), body).await;
        counted.end(answered).passes(told, &self.switched, http2)
    }

    /// Begins the record of a request.
    fn begin(
        &self,
        snapshot: &Snapshot,
        begun: SystemTime,
        parts: &Parts,
        authority: Option<&Authority>,
    ) -> OpenRequest {
        let Arrived { flows, flow: of, .. } = &self.arrived;
        let ends = (of.source.clone(), of.destination.clone());
        let mut flow = Flow::new(flows.next_id(), begun, Direction::Inbound, ends.0, ends.1);
        (flow.path, flow.security, flow.tls, flow.tunnel) = (of.path, of.security, of.tls, of.tunnel);
        flow.service = self.service(authority).cloned();
        flow.generation = snapshot.generation();
        flow.told.clone_from(&self.known(snapshot).told);
        OpenRequest::begin(flows, flow, parts, authority)
    }

    /// The service that was asked for, as far as the request's host tells it from others that lead here.
    fn service(&self, authority: Option<&Authority>) -> Option<&Arc<ServiceName>> {
        let named = |service: &&Arc<ServiceName>| {
            let rest = authority.and_then(|authority| service.hostname.strip_prefix(authority.host()));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.services.iter().find(named).or(self.services.first())
    }

    async fn answered(
        &self,
        told: &OpenRequest,
        snapshot: &Arc<Snapshot>,
        (mut parts, read): (Parts, Result<message::Asked, Malformed>),
        body: Incoming,
    ) -> Answered {
        let grpc = route::is_grpc(&parts.headers);
        let http2 = parts.version == Version::HTTP_2;
        let asked = match read {
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
        let held = match self.permitted(told, snapshot, &mut parts, asked.authority.as_str()) {
            Ok(held) => held,
            Err(why) => return unauthorized(told, &why, grpc, http2),
        };
        if let Err(reached) = self.count(snapshot, &parts, asked.authority.as_str()) {
            return limited(&reached, grpc);
        }
        let method = parts.method.clone();
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let version = if http2 { pool::Version::Http2 } else { pool::Version::Http1 };
        let form = message::Form { version, secure: false, upgrades: asked.upgrades };
        message::address(&mut parts, &asked.authority, path, form);
        let downstream = parts.extensions.remove::<OnUpgrade>();
        let (passed, messages) = (Arc::clone(told.passed()), grpc.then(Messages::default));
        let body = Guarded { body, cut: held.cut(), passed, messages, _held: Arc::clone(&held) };
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
        let (mut parts, incoming) = response.into_parts();
        let agreed = upgrade::is_agreed(&method, parts.status);
        if let (true, true, Some(downstream)) = (agreed, asked.upgrades, downstream) {
            let upstream = hyper::upgrade::on(Response::from_parts(parts.clone(), incoming));
            let switched = Switched::new(downstream, upstream, Arc::clone(&held), Some(held.cut()));
            let mut response = Response::new(ResponseBody::Empty);
            upgrade::keep_headers(&mut parts.headers);
            (*response.status_mut(), *response.headers_mut()) = (parts.status, parts.headers);
            return Answered { switched: Some(switched), ..response.into() };
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
            told: None,
            messages: grpc.then(Messages::default),
            over: false,
        };
        Response::from_parts(parts, ResponseBody::Streamed(Box::new(streamed))).into()
    }

    /// Makes of a request's head what is passed on, and decides about that.
    fn permitted(
        &self,
        told: &OpenRequest,
        snapshot: &Arc<Snapshot>,
        parts: &mut Parts,
        authority: &str,
    ) -> Result<Arc<Held>, Unauthorized> {
        let Arrived { client, uid, connection, flow: of, .. } = &self.arrived;
        let Known { only_seen, .. } = *self.known(snapshot);
        if !only_seen {
            let own = snapshot.workload(uid).map(|own| &own.identity);
            told::tell(&mut parts.headers, client.ip(), connection.source_identity.as_ref(), own);
        }
        told.mark(
            &mut parts.headers,
            if connection.source_identity.is_some() { Peer::Agent } else { Peer::Application },
        );
        let original = Arc::new(Original::of(parts, authority));
        let decider = self.decider(snapshot);
        let Judged { facts, outcome } = decider.judge(connection, parts, authority);
        if let Some(token) = &facts.token {
            told.with(|_, http| http.principal = Some(token.principal.clone()));
        }
        let approved = outcome?;
        let facts = Arc::new(facts);
        let held = self.under_way.begin(Arc::clone(&original), Arc::clone(&facts), told.record());
        // A change that came between was not asked about this one.
        let newest = self.decider(&self.arrived.store.snapshot());
        if !Arc::ptr_eq(&newest, &decider) {
            newest.judge(connection, &mut original.parts(), authority).outcome?;
        }
        told.with(|flow, _| match decider.is_asked() {
            true => flow.decided(&decider.approval(connection, facts, approved)),
            // What policies observe of a connection is in its own record.
            false => {
                (flow.policy, flow.rule, flow.asked) = (of.policy.clone(), of.rule, of.asked.clone());
            }
        });
        Ok(held)
    }
}

/// The answer to a request that may not go on.
fn unauthorized(told: &OpenRequest, why: &Unauthorized, grpc: bool, http2: bool) -> Answered {
    told.with(|flow, _| why.tell(flow));
    match why {
        Unauthorized::Token(token) => {
            let (status, headers, _) = token.answer();
            let mut answered = refused(status, why.code(), grpc);
            answered.response.headers_mut().extend(headers);
            answered
        }
        Unauthorized::Path(fault) => {
            let mut answered = Answered::own(StatusCode::BAD_REQUEST, flag::PROTOCOL, &fault.to_string(), grpc);
            answered.why = None;
            if !http2 {
                answered.response.headers_mut().insert(header::CONNECTION, CLOSE);
            }
            answered
        }
        Unauthorized::Denied(_) => refused(StatusCode::FORBIDDEN, why.code(), grpc),
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
    Answered { flag: Some(flag::RATE_LIMITED), why, ..response.into() }
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
