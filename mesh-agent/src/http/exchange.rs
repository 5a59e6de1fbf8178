//! The story of one request: read, routed, delayed or aborted, tried, tried again, answered, counted.

mod attempt;
mod failed;
mod hash;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Request, Response, StatusCode, request::Parts, uri::PathAndQuery};
use hyper::body::Incoming;
use mesh_common::{
    model::{
        Workload,
        traffic::{Action, Fault, HttpRoute, Percent, Target, WeightedBackend},
    },
    route::{self, Aborted, Effort, Matched, PermittedOrigin, TooMuch},
};

use super::{
    Connect, Session,
    answer::{empty, flag},
    answered::{Answered, Counted},
    body::ResponseBody,
    counts::RouteCounts,
    message::{self, Malformed},
    record::{OpenRequest, Why},
};
use crate::{
    state::{Acts, Rules, Snapshot, View},
    telemetry::{reason, trace::Peer},
};
pub use attempt::version;
use attempt::{Attempts, Plan};

const NOT_CONFIGURED: &str = "the client is not in the configuration";

/// A request that was understood.
pub struct Understood {
    pub parts: Parts,
    pub asked: message::Asked,
    pub grpc: bool,
    pub snapshot: Arc<Snapshot>,
    pub source: Arc<Workload>,
}

pub async fn answer<C: Connect>(session: &Arc<Session<C>>, request: Request<Incoming>) -> Response<ResponseBody> {
    let begun = SystemTime::now();
    let (mut parts, body) = request.into_parts();
    let http2 = parts.version == http::Version::HTTP_2;
    let snapshot = session.store.snapshot();
    let read = message::read(&mut parts, &session.service.hostname);
    let told = session.begin(&snapshot, begun, &parts, read.as_ref().ok().map(|asked| &asked.authority));
    let answered = answered(session, &told, snapshot, (parts, read), body).await;
    answered.passes(told, &session.switched, http2)
}

async fn answered<C: Connect>(
    session: &Arc<Session<C>>,
    told: &OpenRequest,
    snapshot: Arc<Snapshot>,
    (mut parts, read): (Parts, Result<message::Asked, Malformed>),
    body: Incoming,
) -> Answered {
    let grpc = route::is_grpc(&parts.headers);
    let refused = |status, flag, why: &str| Counted::begin(session, "").end(Answered::own(status, flag, why, grpc));
    let asked = match read {
        Ok(asked) => asked,
        Err(why) => {
            let mut answered = refused(why.status(), flag::PROTOCOL, &why.to_string());
            // Who says something that can be read in two ways may have said more than one thing.
            if parts.version != http::Version::HTTP_2 {
                let close = http::HeaderValue::from_static("close");
                answered.response.headers_mut().insert(http::header::CONNECTION, close);
            }
            return answered;
        }
    };
    told.mark(&mut parts.headers, Peer::Application);
    let Some(source) = session.source(&snapshot) else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, flag::NO_CLUSTER, NOT_CONFIGURED);
    };
    let request = Understood { parts, asked, grpc, snapshot, source };
    routed(session, told, request, body).await
}

/// What holds for a request.
struct Ruling<'a> {
    route: Option<(&'a HttpRoute, &'a Acts, Matched)>,
    faults: Vec<&'a Fault>,
    /// Whose abort comes first, if it is not the route's own.
    laid_by: Option<&'a str>,
    /// Routes there are, and none is for it.
    none_matches: bool,
}

fn rule<'a, C: Connect>(
    session: &Session<C>,
    request: &Understood,
    rules: Option<&'a Rules>,
) -> Result<Ruling<'a>, TooMuch> {
    let nothing = Ruling { route: None, faults: Vec::new(), laid_by: None, none_matches: false };
    let Some((routes, View { http, acts, faults })) = rules.and_then(|rules| rules.view(&request.source.namespace))
    else {
        return Ok(nothing);
    };
    let port = session.dialled.port();
    let view = request.view(port);
    let effort = Effort::default();
    let mut laid = None;
    for (matches, fault) in faults.iter().zip(&routes.faults) {
        if matches.matches(&view, &effort)? {
            laid = Some(fault);
            break;
        }
    }
    let laid_by = laid.filter(|laid| laid.fault.abort.is_some()).map(|laid| laid.origin.object.as_str());
    let mut faults: Vec<_> = laid.iter().map(|laid| &laid.fault).collect();
    if !http.concerns(port) {
        return Ok(Ruling { faults, laid_by, ..nothing });
    }
    let found = http.find(&view, &effort)?;
    let route = found.map(|found| (&routes.http[found.route], &acts[found.route], found.matched));
    faults.extend(route.and_then(|(route, ..)| route.fault.as_ref()));
    Ok(Ruling { none_matches: route.is_none(), route, faults, laid_by })
}

impl Understood {
    /// As rules see it.
    pub fn view(&self, port: u16) -> route::Request<'_> {
        route::Request {
            method: &self.parts.method,
            path: self.parts.uri.path(),
            query: self.parts.uri.query(),
            scheme: "http",
            authority: self.asked.authority.as_str(),
            headers: &self.parts.headers,
            port,
            source_labels: &self.source.labels,
            source_namespace: &self.source.namespace,
        }
    }

    /// Time has passed: its route stays, and leads to who is there now. Whether the client still is.
    fn renew<C: Connect>(&mut self, session: &Session<C>) -> bool {
        self.snapshot = session.store.snapshot();
        session.source(&self.snapshot).map(|source| self.source = source).is_some()
    }

    fn path(&self) -> PathAndQuery {
        self.parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
    }
}

async fn routed<C: Connect>(
    session: &Arc<Session<C>>,
    told: &OpenRequest,
    mut request: Understood,
    body: Incoming,
) -> Answered {
    let rules = request.snapshot.rules(&session.service).cloned();
    let Ruling { route, faults, laid_by, none_matches } = match rule(session, &request, rules.as_deref()) {
        Ok(ruling) => ruling,
        Err(TooMuch) => {
            let why = TooMuch.to_string();
            let answered = Answered::own(StatusCode::URI_TOO_LONG, flag::PROTOCOL, &why, request.grpc);
            return Counted::begin(session, "").end(answered);
        }
    };
    let name = route.map_or("", |(route, ..)| route.name.as_str());
    let counted = Counted::begin(session, name);
    let counts = Arc::clone(&counted.0);
    if !name.is_empty() {
        let route = if *counts.name == *name { Arc::clone(&counts.name) } else { name.into() };
        told.with(|_, http| http.route = Some(route));
    }
    let mut answered = match none_matches {
        true => Answered::own(StatusCode::NOT_FOUND, flag::NO_ROUTE, "no route matches", request.grpc),
        false => {
            let (delay, abort) = befalling(&faults, request.grpc);
            if let Some(delay) = delay {
                tokio::time::sleep(delay).await;
            }
            match abort {
                Some(abort) => aborted(abort, request.grpc),
                None if delay.is_some() && !request.renew(session) => {
                    let status = StatusCode::SERVICE_UNAVAILABLE;
                    Answered::own(status, flag::NO_CLUSTER, NOT_CONFIGURED, request.grpc)
                }
                None => {
                    let mut answered = acted((session, told, &counts), request, body, route).await;
                    answered.flag = answered.flag.or(delay.map(|_| flag::DELAY));
                    answered
                }
            }
        }
    };
    if let Some(why) = &mut answered.why {
        match laid_by.filter(|_| why.code == reason::FAULT_INJECTED) {
            Some(object) => why.text += &format!(" (asked for by {object})"),
            None if name.is_empty() => {}
            None => why.text += &format!(" (route {name})"),
        }
    }
    counted.end(answered)
}

/// Every delay counts, and the first abort.
fn befalling(faults: &[&Fault], grpc: bool) -> (Option<Duration>, Option<Aborted>) {
    let all = faults.iter().map(|fault| route::decide(fault, grpc, (fastrand::u32(..), fastrand::u32(..))));
    all.fold((None, None), |(delay, abort): (Option<Duration>, _), befalls| {
        let delays = delay.into_iter().chain(befalls.delay).reduce(|sum, more| sum + more);
        (delays, abort.or(befalls.abort))
    })
}

fn aborted(abort: Aborted, grpc: bool) -> Answered {
    const WHY: &str = "fault filter abort";
    match abort {
        Aborted::Status(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            Answered::own(status, flag::ABORT, WHY, grpc)
        }
        Aborted::Grpc(status) => {
            let mut response = route::grpc_answer(status, WHY).map(|()| ResponseBody::Empty);
            response.headers_mut().insert(super::answer::FLAG_HEADER, http::HeaderValue::from_static(flag::ABORT));
            Answered { flag: Some(flag::ABORT), why: Why::of(flag::ABORT, WHY), ..response.into() }
        }
    }
}

async fn acted<C: Connect>(
    (session, told, counts): (&Arc<Session<C>>, &OpenRequest, &Arc<RouteCounts>),
    mut request: Understood,
    body: Incoming,
    route: Option<(&HttpRoute, &Acts, Matched)>,
) -> Answered {
    let Some((route, acts, matched)) = route else {
        let backend = session.own_backend();
        let plan = Plan::default();
        return Attempts { session, told, counts, plan }.answer(request, &backend, None, body).await;
    };
    if let Some(cors) = &acts.cors
        && let Some(headers) = cors.preflight(&request.parts.method, &request.parts.headers)
    {
        return empty(StatusCode::OK, headers).into();
    }
    let origin = acts.cors.as_ref().map(|cors| (cors, cors.origin(&request.parts.headers)));
    let path = match &acts.rewriting {
        Some(rewriting) => match rewritten(&request, rewriting, matched) {
            Ok(path) => path,
            Err(why) => {
                return Answered::own(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    flag::PROTOCOL,
                    &why.to_string(),
                    request.grpc,
                );
            }
        },
        None => None,
    };
    let mut answered = match &route.action {
        Action::Redirect(_) => {
            match acts.redirecting.as_ref().map(|to| to.answer(&request.view(session.dialled.port()), matched)) {
                Some(Ok(answer)) => answer.map(|()| ResponseBody::Empty).into(),
                Some(Err(why)) => {
                    Answered::own(StatusCode::INTERNAL_SERVER_ERROR, flag::PROTOCOL, &why.to_string(), request.grpc)
                }
                None => unreachable!("compiled with the route"),
            }
        }
        Action::Respond(_) => {
            let answer = acts.response.as_ref().expect("compiled with the route").clone();
            answer.map(|body| ResponseBody::Text((!body.is_empty()).then(|| body.into()))).into()
        }
        Action::Forward(backends) => {
            let Some(place) = route::choose(backends, fastrand::u32(..)) else {
                const NOBODY: &str = "the route leads nowhere: it has no backend, or none of any weight";
                return Answered::own(StatusCode::INTERNAL_SERVER_ERROR, flag::NO_CLUSTER, NOBODY, request.grpc);
            };
            let WeightedBackend { target, .. } = &backends[place];
            if let Some(changes) = &acts.changes {
                change(&mut request, &changes.request);
            }
            let own = acts.backends.get(place).and_then(Option::as_ref);
            if let Some(changes) = own {
                change(&mut request, &changes.request);
            }
            if let Some(authority) = acts.rewriting.as_ref().and_then(|rewriting| rewriting.authority.clone()) {
                request.asked.authority = authority;
            }
            match target {
                Target::Invalid { status, why } => {
                    let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                    Answered::own(status, flag::NO_CLUSTER, why, request.grpc)
                }
                Target::Backend(backend) => {
                    let plan = Plan {
                        timeout: route.timeout.map(Into::into).filter(|timeout: &Duration| !timeout.is_zero()),
                        try_timeout: route.try_timeout.map(Into::into),
                        retries: route.retries.clone().unwrap_or_default(),
                        mirrors: route
                            .mirrors
                            .iter()
                            .filter(|mirror| drawn(mirror.percent))
                            .map(|m| m.backend.clone())
                            .collect(),
                    };
                    let attempts = Attempts { session, told, counts, plan };
                    let mut answered = attempts.answer(request, backend, path, body).await;
                    if let Some(changes) = own {
                        changes.response.apply(answered.response.headers_mut());
                    }
                    answered
                }
            }
        }
    };
    if let Some(changes) = &acts.changes {
        changes.response.apply(answered.response.headers_mut());
    }
    if let Some((cors, origin)) = origin {
        let origin: PermittedOrigin = origin;
        cors.answer(&origin, answered.response.headers_mut());
    }
    answered
}

fn drawn(percent: Percent) -> bool {
    percent.has(fastrand::u32(..))
}

fn change(request: &mut Understood, edit: &route::RequestEdit) {
    if let Some(authority) = edit.apply(&mut request.parts.headers) {
        request.asked.authority = authority.clone();
    }
}

fn rewritten(
    request: &Understood,
    rewriting: &route::Rewriting,
    matched: Matched,
) -> Result<Option<PathAndQuery>, route::NoPath> {
    let uri = &request.parts.uri;
    rewriting.path.as_ref().map(|path| path.path_and_query(uri.path(), uri.query(), matched)).transpose()
}
