//! The tries of one request.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode, uri::PathAndQuery};
use hyper::body::Incoming;
use mesh_common::{
    model::traffic::{Backend, HttpUpgrade, Protocol, Retries},
    route::{Outcome, backoff, grpc_status, retry_on},
};
use tokio::time::{sleep, sleep_until};

use super::{
    super::{
        Connect, Destination, Session,
        answer::flag,
        body::{ResponseBody, Streamed},
        counts::RouteCounts,
        message, mirror,
        pool::{Lease, NoConnection, NotSent, Version, Wanted},
        record::Why,
        replay::Replay,
        upgrade::{self, Switched},
    },
    Answered, Understood, hash,
};
use crate::{
    balance::{self, RetryRefused},
    telemetry::reason,
};

/// Connections that are found closed for one try: each is another one of the pool.
const STALE: usize = 3;

/// How often, and how long.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub timeout: Option<Duration>,
    pub try_timeout: Option<Duration>,
    pub retries: Retries,
    /// Who gets a copy.
    pub mirrors: Vec<Backend>,
}

pub struct Attempts<'a, C> {
    pub session: &'a Arc<Session<C>>,
    pub counts: &'a Arc<RouteCounts>,
    pub plan: Plan,
}

/// A try without an answer.
struct Failed {
    outcome: Outcome,
    balance: balance::Outcome,
    flag: &'static str,
    status: StatusCode,
    why: String,
    /// Where the flag does not say enough.
    code: Option<&'static str>,
    /// Never tried again: a bound is reached.
    last: bool,
}

/// A try with one.
struct Got {
    /// There were as many tries as there may be, and it is an answer after which there would be another.
    exhausted: Option<Why>,
    response: Response<Incoming>,
    lease: Lease,
    picked: balance::Picked,
}

impl<C: Connect> Attempts<'_, C> {
    /// `path` as it was rewritten.
    pub async fn answer(
        self,
        mut request: Understood,
        backend: &Backend,
        path: Option<PathAndQuery>,
        body: Incoming,
    ) -> Answered {
        let grpc = request.grpc;
        let session = self.session;
        let path = path.unwrap_or_else(|| request.path());
        let destination = match session.destination(&request.snapshot, &request.source, backend) {
            Ok(destination) => destination,
            Err(missing) => {
                let why = missing.why(backend);
                return Answered::own(StatusCode::SERVICE_UNAVAILABLE, flag::NO_CLUSTER, &why, grpc);
            }
        };
        let admitted = match destination.cluster.admit() {
            Ok(admitted) => admitted,
            Err(overflow) => {
                let why = overflow.to_string();
                return Answered::own(StatusCode::SERVICE_UNAVAILABLE, flag::OVERFLOW, &why, grpc);
            }
        };
        let downstream = request.parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let body = Replay::new(body);
        let sticky = hash::Sticky::of(&destination.policy().balancing.algorithm, &request, session.client.ip());
        // What becomes another protocol has no copy.
        for backend in self.plan.mirrors.iter().filter(|_| !request.asked.upgrades) {
            mirror::copy(session, &request, &path, backend, &body, self.counts);
        }
        // The route's time begins when the client has sent everything.
        let mut deadline = self.plan.timeout.map(|timeout| over(body.ended(), timeout));
        let mut tried = Vec::new();
        let tries = self.tries(&request, &path, &destination, &body, sticky.key, &mut tried);
        let got = tokio::select! {
            biased;
            got = tries => got,
            () = async {
                match &mut deadline {
                    Some(deadline) => deadline.await,
                    None => std::future::pending().await,
                }
            } => {
                let why = "the route's time is over";
                let mut answered = Answered::own(StatusCode::GATEWAY_TIMEOUT, flag::TIMEOUT, why, grpc);
                if let Some(recorded) = &mut answered.why {
                    recorded.endpoint = tried.last().copied();
                }
                return answered;
            }
        };
        match got {
            Ok(Got { exhausted, response, lease, picked }) => {
                let held = Box::new((admitted, picked));
                let (mut parts, incoming) = response.into_parts();
                let agreed = upgrade::is_agreed(&request.parts.method, parts.status);
                if let (true, true, Some(downstream)) = (agreed, request.asked.upgrades, downstream) {
                    let upstream = hyper::upgrade::on(Response::from_parts(parts.clone(), incoming));
                    let switched = Switched::new(downstream, upstream, (lease, held), None);
                    match request.parts.version {
                        http::Version::HTTP_2 => drop(tokio::spawn(switched.join())),
                        _ => *session.switched.lock().unwrap_or_else(PoisonError::into_inner) = Some(switched),
                    }
                    let mut response = Response::new(ResponseBody::Empty);
                    upgrade::keep_headers(&mut parts.headers);
                    (*response.status_mut(), *response.headers_mut()) = (parts.status, parts.headers);
                    return response.into();
                }
                if let (true, why) = (agreed, "the endpoint changed to a protocol that nobody asked for") {
                    return Answered::own(StatusCode::BAD_GATEWAY, flag::UPSTREAM_PROTOCOL, why, grpc);
                }
                message::strip(&mut parts.headers);
                if let Some(cookie) = sticky.cookie {
                    parts.headers.append(http::header::SET_COOKIE, cookie);
                }
                // Each side's connection has its own version.
                parts.version = http::Version::HTTP_11;
                let counts = Arc::clone(self.counts);
                let streamed = Streamed {
                    body: incoming,
                    deadline,
                    lease: Some(lease),
                    cut: None,
                    _held: held,
                    counts,
                    over: false,
                };
                let response = Response::from_parts(parts, ResponseBody::Streamed(Box::new(streamed)));
                Answered { flag: exhausted.is_some().then_some(flag::RETRIES), why: exhausted, response }
            }
            Err(Failed { status, flag, why, code, .. }) => {
                let mut answered = Answered::own(status, flag, &why, grpc);
                if let Some(recorded) = &mut answered.why {
                    recorded.code = code.unwrap_or(recorded.code);
                    recorded.endpoint = tried.last().copied();
                }
                answered
            }
        }
    }

    async fn tries(
        &self,
        request: &Understood,
        path: &PathAndQuery,
        destination: &Arc<Destination>,
        body: &Replay,
        key: Option<u64>,
        tried: &mut Vec<SocketAddr>,
    ) -> Result<Got, Failed> {
        let retries = &self.plan.retries;
        let mut number = 0;
        let mut permit = None;
        loop {
            let result = self.one(request, path, destination, body, key, tried).await;
            let outcome = match &result {
                Ok(got) => Outcome::Answered {
                    status: got.response.status().as_u16(),
                    grpc_status: grpc_status(got.response.headers()),
                },
                Err(failed) if failed.last => return result,
                Err(failed) => failed.outcome,
            };
            if !retry_on(&retries.on, &outcome) || !body.can_replay() || request.asked.upgrades {
                return result;
            }
            if number >= retries.attempts {
                // What it came to is told as it is; that there were as many tries as there may be, the flag says.
                return match number {
                    0 => result,
                    number => result.map(|got| got.exhausted(number)).map_err(|failed| failed.exhausted(number)),
                };
            }
            drop(permit.take());
            match destination.cluster.admit_retry() {
                Ok(admitted) => permit = Some(admitted),
                Err(refused) => {
                    let reason = match refused {
                        RetryRefused::Limit => "limit",
                        RetryRefused::Budget => "budget",
                    };
                    metrics::counter!("mesh_retry_budget_exhausted_total", "by" => reason).increment(1);
                    return result;
                }
            }
            drop(result);
            number += 1;
            self.counts.retried();
            sleep(backoff(retries, number, fastrand::u32(..))).await;
        }
    }

    /// One try, at the endpoint that is chosen for it.
    async fn one(
        &self,
        request: &Understood,
        path: &PathAndQuery,
        destination: &Arc<Destination>,
        body: &Replay,
        key: Option<u64>,
        tried: &mut Vec<SocketAddr>,
    ) -> Result<Got, Failed> {
        let avoid: &[SocketAddr] = if self.plan.retries.avoid_tried { tried } else { &[] };
        let Some(picked) = destination.cluster.pick(key, avoid, fastrand::u64(..), Instant::now()) else {
            let why = nobody(destination);
            return Err(Failed::connect(flag::NO_HEALTHY_ENDPOINT, why, true));
        };
        tried.push(picked.address());
        let sent = self.sent(request, path, destination, body, picked.address());
        let longest = self.plan.retries.try_timeout.map(Duration::from).or(self.plan.try_timeout);
        let result = match longest.filter(|longest| !longest.is_zero()) {
            // It begins when the client has sent everything: before that the endpoint need not answer.
            Some(longest) => tokio::select! {
                biased;
                sent = sent => sent,
                () = async { body.ended().await; sleep(longest).await } => Err(Failed::late()),
            },
            None => sent.await,
        };
        let outcome = match &result {
            Ok((response, _)) => balance::Outcome::Status(status_for(response)),
            Err(failed) => failed.balance,
        };
        picked.done(outcome, Instant::now());
        result.map(|(response, lease)| Got { exhausted: None, response, lease, picked })
    }

    async fn sent(
        &self,
        request: &Understood,
        path: &PathAndQuery,
        destination: &Arc<Destination>,
        body: &Replay,
        address: SocketAddr,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        let Some(endpoint) = destination.endpoint(address) else {
            let why = format!("the endpoint {address} has just gone");
            return Err(Failed::connect(flag::NO_HEALTHY_ENDPOINT, why, false));
        };
        let policy = destination.policy();
        let version = version(policy.pool.upgrade, destination.protocol(), request);
        let authority = &request.asked.authority;
        let tls = match destination.secure() {
            Some(Ok(secure)) => Some(secure.secured(authority)),
            Some(Err(why)) => {
                return Err(Failed::connect(flag::CONNECT, why, true).because(reason::UPSTREAM_TLS));
            }
            None => None,
        };
        let mut stale = 0;
        loop {
            let wanted = Wanted { endpoint: &endpoint, version, settings: &policy.pool, tls: tls.as_ref() };
            let lease = destination.pool.lease(&destination.cluster, wanted, &self.session.connect);
            let mut lease = lease.await.map_err(|why| Failed::no_connection(why, address))?;
            let mut parts = request.parts.clone();
            let form = message::Form { version, secure: tls.is_some(), upgrades: request.asked.upgrades };
            message::address(&mut parts, authority, path.clone(), form);
            match lease.send(Request::from_parts(parts, body.next())).await {
                Ok(response) => return Ok((response, lease)),
                // It was closed while it rested: nothing was sent.
                Err(NotSent::Unsent) if lease.is_used() && stale < STALE => stale += 1,
                Err(NotSent::Unsent) => return Err(Failed::reset(address, None, false)),
                // It was being closed when this was sent.
                Err(NotSent::Failed(error))
                    if lease.is_used() && stale < STALE && body.can_replay() && was_closing(&error, request) =>
                {
                    stale += 1;
                }
                Err(NotSent::Failed(error)) => return Err(Failed::reset(address, Some(error), body.is_broken())),
            }
        }
    }
}

impl Failed {
    fn connect(flag: &'static str, why: String, last: bool) -> Self {
        let (outcome, balance) = (Outcome::ConnectFailed, balance::Outcome::ConnectFailed);
        Self { outcome, balance, flag, status: StatusCode::SERVICE_UNAVAILABLE, why, code: None, last }
    }

    fn because(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// After the first try and so many more. Its code is that of the last try: what to mend.
    fn exhausted(self, more: u32) -> Self {
        let code = self.code.or_else(|| Why::of(self.flag, "").map(|why| why.code));
        let why = format!("{}; tried {} times", self.why, more + 1);
        Self { flag: flag::RETRIES, code, why, ..self }
    }

    fn late() -> Self {
        Self {
            outcome: Outcome::TryTimeout,
            balance: balance::Outcome::Timeout,
            flag: flag::TIMEOUT,
            status: StatusCode::GATEWAY_TIMEOUT,
            why: "the endpoint did not answer in the time of one try".to_owned(),
            code: None,
            last: false,
        }
    }

    fn no_connection(why: NoConnection, address: SocketAddr) -> Self {
        match why {
            NoConnection::Overflow(overflow) => Self {
                // That is nothing that the endpoint has done.
                balance: balance::Outcome::Cancelled,
                ..Self::connect(flag::OVERFLOW, overflow.to_string(), true)
            },
            NoConnection::Gone => Self {
                balance: balance::Outcome::Cancelled,
                ..Self::connect(flag::NO_HEALTHY_ENDPOINT, format!("the endpoint {address} has just gone"), false)
            },
            NoConnection::Refused(code) => {
                Self::connect(flag::CONNECT, format!("no connection to {address}: {code}"), false).because(code)
            }
            NoConnection::Timeout => Self::connect(flag::CONNECT, format!("no connection to {address} in time"), false),
            NoConnection::Tls(why) => {
                let why = format!("no TLS with {address}: {why}");
                Self::connect(flag::CONNECT, why, false).because(reason::UPSTREAM_TLS)
            }
            NoConnection::Handshake => {
                let why = format!("{address} does not speak the HTTP that it was spoken to in");
                Self::connect(flag::CONNECT, why, false).because(reason::UPSTREAM_PROTOCOL)
            }
        }
    }

    /// `None`: nothing of the request was sent. `broken`: nor will be all of it.
    fn reset(address: SocketAddr, error: Option<hyper::Error>, broken: bool) -> Self {
        let reason = error.as_ref().and_then(h2_error).and_then(h2::Error::reason);
        let refused = reason == Some(h2::Reason::REFUSED_STREAM);
        let gone = broken || error.as_ref().is_some_and(hyper::Error::is_user);
        let sent = error.is_some();
        let garbled = error.as_ref().is_some_and(|error| error.is_parse() || h2_error(error).is_some_and(is_garbled));
        let why = match error {
            Some(error) if garbled => format!("{address} does not answer in the HTTP that it was asked in: {error}"),
            Some(_) if broken => "the request broke off".to_owned(),
            Some(error) => format!("{address} ended the connection without an answer: {error}"),
            None => format!("{address} ended the connection"),
        };
        Self {
            outcome: if refused { Outcome::RefusedStream } else { Outcome::Reset { sent } },
            balance: if gone { balance::Outcome::Cancelled } else { balance::Outcome::Reset },
            flag: if gone { flag::CLIENT_GONE } else { flag::RESET },
            status: StatusCode::SERVICE_UNAVAILABLE,
            why,
            code: garbled.then_some(reason::UPSTREAM_PROTOCOL),
            last: gone,
        }
    }
}

impl Got {
    /// After the first try and so many more.
    fn exhausted(self, more: u32) -> Self {
        let text = format!("the answer is {}; tried {} times", self.response.status(), more + 1);
        let endpoint = Some(self.picked.address());
        Self { exhausted: Some(Why { code: reason::RETRIES_EXHAUSTED, text, endpoint }), ..self }
    }
}

/// Why nobody can be asked.
fn nobody(destination: &Destination) -> String {
    let balance::Counts { endpoints, healthy: _, ejected, .. } = destination.cluster.counts(Instant::now());
    let service = &destination.service;
    match (endpoints, ejected) {
        (0, _) => format!("service {service} has no endpoint"),
        (_, 0) => format!("service {service} has no healthy endpoint, of {endpoints}"),
        (_, ejected) => format!(
            "service {service} has no healthy endpoint: of {endpoints}, {ejected} ejected after failures \
             (outlierDetection)"
        ),
    }
}

/// What the endpoint said is no HTTP/2.
fn is_garbled(error: &h2::Error) -> bool {
    error.is_library() && error.reason() != Some(h2::Reason::NO_ERROR)
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return Some(error);
        }
        source = cause.source();
    }
    None
}

/// The endpoint was about to close the connection when the request came, and has not processed it: HTTP/2 says so
/// (RFC 9113, 6.8); with HTTP/1.1 nobody knows, so only a request that does no harm twice is sent again
/// (RFC 9112, 9.3.1).
fn was_closing(error: &hyper::Error, request: &Understood) -> bool {
    if let Some(error) = h2_error(error) {
        return error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
    }
    let harmless = request.parts.method.is_safe() && !request.asked.upgrades;
    harmless && (error.is_incomplete_message() || error.is_closed() || is_broken(error))
}

fn is_broken(error: &hyper::Error) -> bool {
    let io = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| matches!(io.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe))
}

/// As outliers are counted: a gRPC status in the head counts as the HTTP status that it stands for.
fn status_for(response: &Response<Incoming>) -> u16 {
    match grpc_status(response.headers()) {
        Some(14) => 503,
        Some(13 | 2 | 15) => 500,
        Some(4) => 504,
        _ => response.status().as_u16(),
    }
}

pub fn version(upgrade: HttpUpgrade, protocol: Protocol, request: &Understood) -> Version {
    // Only HTTP/1.1 can become something else.
    if request.asked.upgrades {
        return Version::Http1;
    }
    let as_client = match request.parts.version {
        http::Version::HTTP_2 => Version::Http2,
        _ => Version::Http1,
    };
    match (upgrade, protocol) {
        (HttpUpgrade::Always, _) | (HttpUpgrade::Default, Protocol::Http2) => Version::Http2,
        // gRPC cannot be said in HTTP/1.1: who speaks it there has named the port wrongly.
        (HttpUpgrade::Default | HttpUpgrade::Never, Protocol::Http) if !request.grpc => Version::Http1,
        (HttpUpgrade::Default | HttpUpgrade::Never, _) => as_client,
    }
}

/// Resolves when that time has passed since the request's end.
fn over(
    ended: impl Future<Output = tokio::time::Instant> + Send + 'static,
    time: Duration,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move { sleep_until(ended.await + time).await })
}
