//! The tries of one request.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
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
        answered::Answered,
        body::{ResponseBody, Streamed},
        counts::RouteCounts,
        message,
        messages::Messages,
        mirror,
        pool::{Lease, NotSent, Version, Wanted},
        record::OpenRequest,
        replay::Replay,
        upgrade::{self, Switched},
    },
    Understood,
    failed::{Failed, Got, nobody, status_for, was_closing},
    hash,
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
    pub told: &'a OpenRequest,
    pub counts: &'a Arc<RouteCounts>,
    pub plan: Plan,
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
        let body = Replay::new(body, self.told.passed(), grpc);
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
                return Answered::own(StatusCode::GATEWAY_TIMEOUT, flag::TIMEOUT, why, grpc);
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
                    let mut response = Response::new(ResponseBody::Empty);
                    upgrade::keep_headers(&mut parts.headers);
                    (*response.status_mut(), *response.headers_mut()) = (parts.status, parts.headers);
                    return Answered { switched: Some(switched), ..response.into() };
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
                    told: None,
                    messages: grpc.then(Messages::default),
                    over: false,
                };
                let response = Response::from_parts(parts, ResponseBody::Streamed(Box::new(streamed)));
                Answered { flag: exhausted.is_some().then_some(flag::RETRIES), why: exhausted, ..response.into() }
            }
            Err(Failed { status, flag, why, code, .. }) => {
                let mut answered = Answered::own(status, flag, &why, grpc);
                if let Some(recorded) = &mut answered.why {
                    recorded.code = code.unwrap_or(recorded.code);
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
            self.told.with(|_, http| http.retries = number);
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
        self.told.tried(&endpoint);
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
            if let Some(used) = lease.used() {
                self.told.goes(used);
            }
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
