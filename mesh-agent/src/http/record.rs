//! The record of a request in the making. It is begun when the head was read, and written once, however the request
//! ends: whole, broken off by either side, refused, become another protocol's, or cut when what permitted it is no
//! more.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::SystemTime,
};

use http::{HeaderMap, HeaderValue, Response, Version, header, request::Parts, uri::Authority};
use mesh_common::route::{grpc_of, grpc_status, is_grpc};

use super::{
    Endpoint, Used,
    answer::{flag, refusal},
    body::ResponseBody,
};
use crate::telemetry::{Flow, FlowLog, Headers, HttpRequest, Live, Party, reason};

/// Who answers has it, then the answer's body, or what its connection has become. The record is written when this
/// drops, unless the request was cut before.
#[derive(Debug)]
pub struct OpenRequest(Arc<Record>);

/// Shared with those who may cut the request.
pub struct Record {
    pub flows: Arc<FlowLog>,
    /// What has passed of both bodies.
    pub passed: Arc<Live>,
    making: Mutex<Option<Box<Making>>>,
}

/// `None` where this stands: it is written.
struct Making {
    /// With [`Flow::http`].
    flow: Flow,
    /// `None`: nobody looks.
    headers: Option<Box<Headers>>,
    /// The answer came to its end.
    whole: bool,
}

/// Why the agent answered itself.
#[derive(Clone, Debug)]
pub struct Why {
    /// A stable one.
    pub code: &'static str,
    /// For people.
    pub text: String,
}

impl OpenRequest {
    /// `flow` says whose it is, and is not of a request yet. `authority` is what was read of the head, if that could be
    /// read.
    pub fn begin(flows: &Arc<FlowLog>, mut flow: Flow, parts: &Parts, authority: Option<&Authority>) -> Self {
        let host = match authority.or(parts.uri.authority()) {
            Some(authority) => authority.as_str().to_ascii_lowercase(),
            None => parts.headers.get(header::HOST).map(|host| lossy(host).to_ascii_lowercase()).unwrap_or_default(),
        };
        flow.http = Some(Box::new(HttpRequest {
            method: parts.method.as_str().to_owned(),
            path: parts.uri.path().to_owned(),
            host,
            version: if parts.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
            grpc: is_grpc(&parts.headers),
            ..HttpRequest::default()
        }));
        let headers = (flows.taps() > 0).then(Box::default);
        let making = Mutex::new(Some(Box::new(Making { flow, headers, whole: false })));
        Self(Arc::new(Record { flows: Arc::clone(flows), passed: Arc::default(), making }))
    }

    pub fn record(&self) -> &Arc<Record> {
        &self.0
    }

    pub fn passed(&self) -> &Arc<Live> {
        &self.0.passed
    }

    /// `None`: the record is written.
    pub fn with<T>(&self, change: impl FnOnce(&mut Flow, &mut HttpRequest) -> T) -> Option<T> {
        self.0.with(|making| {
            let mut http = making.flow.http.take()?;
            let changed = change(&mut making.flow, &mut http);
            making.flow.http = Some(http);
            Some(changed)
        })?
    }

    /// The head as it is passed on, for those who look.
    pub fn passes(&self, headers: &HeaderMap) {
        self.0.with(|making| {
            if let Some(seen) = &mut making.headers {
                seen.request = Headers::copied(headers);
            }
        });
    }

    /// Somebody is asked; of several tries the last is the one that counts.
    pub fn tried(&self, endpoint: &Endpoint) {
        self.with(|flow, _| flow.destination = endpoint.party.clone());
    }

    /// On such a connection.
    pub fn goes(&self, used: Used) {
        let Used { path, security, tls, tunnel } = used;
        self.with(|flow, _| {
            (flow.path, flow.security) = (path, security);
            (flow.tls, flow.tunnel) = (tls, tunnel);
        });
    }

    /// There is an answer's head; `why` the agent gave it itself.
    pub fn answered(&self, response: &Response<ResponseBody>, flag: Option<&'static str>, why: Option<Why>) {
        self.0.with(|making| {
            if let Some(seen) = &mut making.headers {
                seen.answer = Headers::copied(response.headers());
            }
        });
        self.with(|flow, http| {
            // Nobody hears an answer to what was broken off.
            http.status = if flag == Some(flag::CLIENT_GONE) { 0 } else { response.status().as_u16() };
            if http.grpc {
                http.grpc_status = grpc_status(response.headers()).map(u32::from);
            }
            http.flags = flag;
            if let Some(why) = why {
                why.tell(flow);
            }
        });
    }

    /// Of gRPC, after the last message.
    pub fn trailers(&self, trailers: &HeaderMap) {
        self.with(|_, http| {
            if http.grpc {
                http.grpc_status = grpc_status(trailers).map(u32::from).or(http.grpc_status);
            }
        });
    }

    /// The answer came to its end, or what its connection has become did.
    pub fn whole(&self) {
        self.0.with(|making| making.whole = true);
    }

    /// The answer broke off in the midst of it, and not by its client.
    pub fn broken(&self, flag: &'static str) {
        let (code, why) = match flag {
            flag::TIMEOUT => (reason::TIMEOUT, "the route's time is over"),
            _ => (reason::RESET, "the answer broke off"),
        };
        self.with(|flow, http| {
            http.flags = Some(flag);
            flow.failed(code, why);
        });
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.end(|making| {
            let Making { flow, whole, .. } = making;
            // It is no fault of anybody's that a client has enough.
            if !*whole && !flow.verdict.is_bad() {
                flow.error.get_or_insert_with(|| "the client went before the answer was over".to_owned());
                if let Some(http) = &mut flow.http {
                    http.flags.get_or_insert(flag::CLIENT_GONE);
                }
            }
        });
    }
}

impl Record {
    fn with<T>(&self, change: impl FnOnce(&mut Making) -> T) -> Option<T> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner).as_deref_mut().map(change)
    }

    /// The request ends here and now, for the reason `code`; who carries it hears of that in another way.
    pub fn cut(&self, code: &str, tell: impl FnOnce(&mut Flow)) {
        self.end(|Making { flow, .. }| {
            if let Some(http) = &mut flow.http {
                let status = refusal(code).as_u16();
                http.flags = Some(flag::UNAUTHORIZED);
                if http.grpc {
                    http.grpc_status = Some(grpc_of(status).into());
                }
                // As it is answered, where the answer has not begun.
                if http.status == 0 {
                    http.status = if http.grpc { 200 } else { status };
                }
            }
            tell(flow);
        });
    }

    fn end(&self, change: impl FnOnce(&mut Making)) {
        let making = self.making.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut making) = making else { return };
        change(&mut making);
        let Making { mut flow, headers, whole: _ } = *making;
        let count = |of: &std::sync::atomic::AtomicU64| of.load(Ordering::Relaxed);
        let Live { sent, received, messages_sent, messages_received, .. } = &*self.passed;
        flow.end = SystemTime::now();
        (flow.sent, flow.received) = (count(sent), count(received));
        if let Some(http) = &mut flow.http {
            http.messages = (count(messages_sent), count(messages_received));
        }
        self.flows.write_seen(flow, headers);
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").finish_non_exhaustive()
    }
}

/// Whoever is there: by the configuration, or by the address alone.
pub fn party(workload: Option<&mesh_common::model::Workload>, address: SocketAddr) -> Party {
    workload.map_or_else(|| Party::stranger(address), |workload| Party::of(workload, address))
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

impl Why {
    /// `None`: nothing that anybody should look for befell it.
    pub fn of(flag: &'static str, text: &str) -> Option<Self> {
        let code = match flag {
            flag::NO_ROUTE => reason::NO_ROUTE,
            flag::NO_CLUSTER => reason::NO_BACKEND,
            flag::NO_HEALTHY_ENDPOINT => reason::NO_HEALTHY_ENDPOINT,
            flag::CONNECT => reason::CONNECT,
            flag::RESET => reason::RESET,
            flag::OVERFLOW => reason::OVERFLOW,
            flag::TIMEOUT => reason::TIMEOUT,
            flag::RETRIES => reason::RETRIES_EXHAUSTED,
            flag::ABORT => reason::FAULT_INJECTED,
            flag::RATE_LIMITED => reason::RATE_LIMITED,
            flag::UPSTREAM_PROTOCOL => reason::UPSTREAM_PROTOCOL,
            flag::PROTOCOL => reason::REQUEST_MALFORMED,
            _ => return None,
        };
        Some(Self { code, text: text.to_owned() })
    }

    fn tell(self, flow: &mut Flow) {
        let Self { code, text } = self;
        match code {
            // Something was tried.
            reason::CONNECT
            | reason::RESET
            | reason::TIMEOUT
            | reason::RETRIES_EXHAUSTED
            | reason::UPSTREAM_PROTOCOL
            | reason::UPSTREAM_TLS => flow.failed(code, text),
            code => {
                // No policy refused it, whichever permitted it.
                (flow.policy, flow.rule) = (None, None);
                flow.dropped(code, text);
            }
        }
    }
}
