//! Records of requests to which the agent gave an answer of its own, and why it did.

use std::{net::SocketAddr, time::SystemTime};

use http::{HeaderName, HeaderValue, Method, Uri, Version, header, request::Parts, uri::Authority};

use super::answer::flag;
use crate::telemetry::{Flow, HttpRequest, reason};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Of an id that goes into a record, bytes.
const LONGEST_ID: usize = 128;

/// What of a request its record has. Making one copies nothing.
#[derive(Clone, Debug)]
pub struct Head {
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    authority: Option<Authority>,
    version: Version,
    id: Option<HeaderValue>,
    begun: SystemTime,
}

/// Why the agent answered itself.
#[derive(Clone, Debug)]
pub struct Why {
    /// A stable one.
    pub code: &'static str,
    /// For people.
    pub text: String,
    /// That was tried, the last of several.
    pub endpoint: Option<SocketAddr>,
}

impl Head {
    /// As it came.
    pub fn of(parts: &Parts) -> Self {
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            host: parts.headers.get(header::HOST).cloned(),
            authority: None,
            version: parts.version,
            id: parts.headers.get(REQUEST_ID).cloned(),
            begun: SystemTime::now(),
        }
    }

    /// As it was read.
    pub fn read(&mut self, parts: &Parts, authority: &Authority) {
        self.uri = parts.uri.clone();
        self.authority = Some(authority.clone());
    }

    /// Makes `flow` this request's record.
    pub fn fill(self, flow: &mut Flow, why: Why, status: u16, flag: Option<&'static str>) {
        let Self { method, uri, host, authority, version, id, begun } = self;
        let authority = authority.or_else(|| uri.authority().cloned());
        let host = match authority {
            Some(authority) => authority.as_str().to_ascii_lowercase(),
            None => host.map(|host| lossy(&host).to_ascii_lowercase()).unwrap_or_default(),
        };
        (flow.start, flow.end) = (begun, SystemTime::now());
        flow.http = Some(Box::new(HttpRequest {
            method: method.as_str().to_owned(),
            path: uri.path().to_owned(),
            host,
            status,
            version: if version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
            principal: None,
            flags: flag,
            request_id: id.filter(|id| id.len() <= LONGEST_ID).map(|id| lossy(&id)),
        }));
        let Why { code, text, endpoint: _ } = why;
        match code {
            // Something was tried.
            reason::CONNECT
            | reason::RESET
            | reason::TIMEOUT
            | reason::RETRIES_EXHAUSTED
            | reason::UPSTREAM_PROTOCOL
            | reason::UPSTREAM_TLS => flow.failed(code, text),
            code => flow.dropped(code, text),
        }
    }
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
        Some(Self { code, text: text.to_owned(), endpoint: None })
    }
}
