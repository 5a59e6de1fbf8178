//! What came of one try of a request.

use std::{net::SocketAddr, time::Instant};

use http::{Response, StatusCode};
use hyper::body::Incoming;
use mesh_common::route::{Outcome, grpc_status};

use super::{
    super::{
        Destination,
        answer::flag,
        pool::{Lease, NoConnection},
        record::Why,
    },
    Understood,
};
use crate::{balance, telemetry::reason};

/// A try without an answer.
pub struct Failed {
    pub outcome: Outcome,
    pub balance: balance::Outcome,
    pub flag: &'static str,
    pub status: StatusCode,
    pub why: String,
    /// Where the flag does not say enough.
    pub code: Option<&'static str>,
    /// Never tried again: a bound is reached.
    pub last: bool,
}

/// A try with one.
pub struct Got {
    /// There were as many tries as there may be, and it is an answer after which there would be another.
    pub exhausted: Option<Why>,
    pub response: Response<Incoming>,
    pub lease: Lease,
    pub picked: balance::Picked,
}

impl Failed {
    pub fn connect(flag: &'static str, why: String, last: bool) -> Self {
        let (outcome, balance) = (Outcome::ConnectFailed, balance::Outcome::ConnectFailed);
        Self { outcome, balance, flag, status: StatusCode::SERVICE_UNAVAILABLE, why, code: None, last }
    }

    pub fn because(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// After the first try and so many more. Its code is that of the last try: what to mend.
    pub fn exhausted(self, more: u32) -> Self {
        let code = self.code.or_else(|| Why::of(self.flag, "").map(|why| why.code));
        let why = format!("{}; tried {} times", self.why, more + 1);
        Self { flag: flag::RETRIES, code, why, ..self }
    }

    pub fn late() -> Self {
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

    pub fn no_connection(why: NoConnection, address: SocketAddr) -> Self {
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
    pub fn reset(address: SocketAddr, error: Option<hyper::Error>, broken: bool) -> Self {
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
    pub fn exhausted(self, more: u32) -> Self {
        let text = format!("the answer is {}; tried {} times", self.response.status(), more + 1);
        Self { exhausted: Some(Why { code: reason::RETRIES_EXHAUSTED, text }), ..self }
    }
}

/// Why nobody can be asked.
pub fn nobody(destination: &Destination) -> String {
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
pub fn was_closing(error: &hyper::Error, request: &Understood) -> bool {
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
pub fn status_for(response: &Response<Incoming>) -> u16 {
    match grpc_status(response.headers()) {
        Some(14) => 503,
        Some(13 | 2 | 15) => 500,
        Some(4) => 504,
        _ => response.status().as_u16(),
    }
}
