//! What passes on a connection, as far as policies may ask.

use std::sync::Arc;

use http::HeaderMap;

use super::Token;

#[derive(Clone, Copy, Debug)]
pub enum Passing<'a> {
    /// It may become requests, and none is known: what some request could be permitted is permitted. It is asked again,
    /// with each request or as bytes.
    Open,
    /// No requests. An ALLOW or AUDIT rule with conditions on requests never matches, a DENY rule matches by its other
    /// conditions alone. `server_name` is that of TLS of the application's own (RFC 6066), in lower case.
    Bytes {
        server_name: Option<&'a str>,
    },
    /// No requests but, perhaps, TLS of which nobody could read what name it asks for: a DENY or AUDIT rule matches
    /// whatever it says about the name, an ALLOW rule that says something about it does not.
    Unnamed,
    Request(&'a Requested<'a>),
}

/// One request, in the form in which it is passed on: what is decided and what the application reads is the same.
#[derive(Clone, Copy, Debug)]
pub struct Requested<'a> {
    pub method: &'a str,
    /// Without its query.
    pub path: &'a str,
    /// In lower case, with its port if the client names one.
    pub host: &'a str,
    pub headers: &'a HeaderMap,
    /// The one that was verified.
    pub token: Option<&'a Token>,
}

/// What is kept of a request to explain a decision later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    pub method: String,
    pub path: String,
    pub host: String,
    /// Only those that some policy asks for.
    pub headers: HeaderMap,
    pub token: Option<Arc<Token>>,
}

impl Passing<'_> {
    /// Bytes of which nothing more is known.
    pub const BYTES: Self = Self::Bytes { server_name: None };
}

impl RequestFacts {
    pub fn requested(&self) -> Requested<'_> {
        let Self { method, path, host, headers, token } = self;
        Requested { method, path, host, headers, token: token.as_deref() }
    }
}
