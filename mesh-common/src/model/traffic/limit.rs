//! How many requests a workload takes, counted by the agent of its own node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Millis, Origin, Protocol, RequestMatch, TokenRule};

/// What the agent of a workload's node does with requests to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Inbound {
    /// What is spoken at the workload's own ports; a port that is not listed: [`Protocol::Auto`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub protocols: BTreeMap<u16, Protocol>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<RateLimit>,
    /// Which tokens requests may bear. None: nobody looks for tokens, and no request has a principal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<TokenRule>,
    /// There are rules for tokens that this reader does not understand: every request is refused. Nobody tells it.
    #[serde(skip)]
    pub unreadable: bool,
}

/// One limit; all that are about a workload hold at once. Above it the answer is 429 with `Retry-After`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RateLimit {
    pub origin: Origin,
    /// Of the workload; none: every port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// Requests that count; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<RequestMatch>,
    /// Of all clients together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<TokenBucket>,
    /// Of each client identity; those without one are one client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<TokenBucket>,
    /// The first that names a client's identity counts for it, in place of `identity`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<LimitOverride>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LimitOverride {
    /// SPIFFE ids, without `spiffe://`; they share the bucket.
    pub identities: Vec<String>,
    pub bucket: TokenBucket,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenBucket {
    /// In each interval.
    pub requests: u32,
    pub interval: Millis,
    /// At once, after a pause.
    pub burst: u32,
}

impl Inbound {
    /// Whether requests to this port of the workload are limited.
    pub fn limits_port(&self, port: u16) -> bool {
        self.limits.iter().any(|limit| limit.is_about(port))
    }

    /// Whether it matters which token a request bears.
    pub fn judges_tokens(&self) -> bool {
        self.unreadable || !self.tokens.is_empty()
    }

    /// Requests' tokens are judged alike.
    pub fn judges_tokens_as(&self, other: &Self) -> bool {
        self.tokens == other.tokens && self.unreadable == other.unreadable
    }

    pub fn protocol(&self, port: u16) -> Protocol {
        self.protocols.get(&port).copied().unwrap_or_default()
    }

    /// Whether what a connection to this port carries must be looked into: to count requests, to read tokens, or
    /// because one of the workload's policies asks for more than a connection tells by itself ([`Policy::asks`],
    /// [`Policy::asks_server_name`](crate::model::Policy::asks_server_name)).
    ///
    /// [`Policy::asks`]: crate::model::Policy::asks
    pub fn reads(&self, port: u16, asks: bool, asks_server_name: bool) -> bool {
        self.limits_port(port)
            || match self.protocol(port) {
                Protocol::Tcp | Protocol::Tls => asks_server_name,
                Protocol::Auto | Protocol::Http | Protocol::Http2 => asks || self.judges_tokens(),
            }
    }
}

impl RateLimit {
    pub fn is_about(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }
}
