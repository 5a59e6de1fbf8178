//! How the endpoints of a service are chosen, spoken to and given up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Labels, Millis, Origin, Percent};

/// What holds for the endpoints of a service, for one group of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DestinationPolicy {
    /// All of which it was made, the most important first.
    pub origins: Vec<Origin>,
    pub all: TrafficPolicy,
    /// By the service's port, whole: nothing is added from `all`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<u16, TrafficPolicy>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subsets: BTreeMap<String, Subset>,
}

/// Some of a service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Subset {
    /// All of which an endpoint's pod must have; none: every endpoint.
    pub labels: Labels,
    /// Whole: nothing is added from the service's own.
    pub all: TrafficPolicy,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<u16, TrafficPolicy>,
}

impl DestinationPolicy {
    /// Every policy in it.
    pub fn all(&self) -> impl Iterator<Item = &TrafficPolicy> {
        let Self { origins: _, all, ports, subsets } = self;
        let subsets = subsets.values().flat_map(|subset| [&subset.all].into_iter().chain(subset.ports.values()));
        [all].into_iter().chain(ports.values()).chain(subsets)
    }

    /// What holds for a port of the service, or of one of its subsets; `None`: it has no such subset.
    pub fn of(&self, subset: Option<&str>, port: u16) -> Option<(&TrafficPolicy, Option<&Labels>)> {
        match subset {
            None => Some((self.ports.get(&port).unwrap_or(&self.all), None)),
            Some(name) => {
                let subset = self.subsets.get(name)?;
                Some((subset.ports.get(&port).unwrap_or(&subset.all), Some(&subset.labels)))
            }
        }
    }

    /// Labels' keys by which endpoints are near to a client.
    pub fn failover_keys(&self) -> impl Iterator<Item = &str> {
        let subsets = self.subsets.values().flat_map(|subset| subset.ports.values().chain([&subset.all]));
        let policies = self.ports.values().chain([&self.all]).chain(subsets);
        let localities = policies.filter_map(|policy| policy.balancing.locality.as_ref());
        let named = localities.flat_map(|locality| &locality.failover_priority);
        named.map(|label| label.split_once('=').map_or(label.as_str(), |(key, _)| key))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    pub balancing: Balancing,
    pub pool: ConnectionPool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier: Option<Outlier>,
    /// The agent itself speaks TLS to endpoints, as a client of theirs; none: what the mesh makes of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<ActiveCheck>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Balancing {
    pub algorithm: Algorithm,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<LocalityPolicy>,
    /// New endpoints get their share little by little.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Algorithm {
    /// Of two drawn by chance the one with fewer requests under way.
    #[default]
    LeastRequest,
    RoundRobin,
    Random,
    /// Of two drawn by chance the one with the lower product of peak latency (exponentially weighted) and requests
    /// under way.
    PeakEwma,
    /// The same endpoint for the same key, and for most keys still if endpoints come and go (ring hash).
    Hash(HashOn),
    /// The endpoint that was dialled by its own address; by a service's address: by chance.
    Passthrough,
}

/// What a key is made of. A request without it gets an endpoint by chance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HashOn {
    /// In lower case.
    Header(String),
    Query(String),
    SourceIp,
    /// Set by the agent where the request has none, if `ttl` is said (0: for the session).
    #[serde(rename_all = "camelCase")]
    Cookie {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl: Option<Millis>,
    },
}

/// Localities are `region/zone/subzone`, with `*` for any at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LocalityPolicy {
    pub enabled: bool,
    /// How clients of a locality spread over others; the first that has the client's counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distribute: Vec<LocalityWeights>,
    /// Where clients of a region go if their own has too few healthy endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<LocalityFailover>,
    /// Labels, or `key=value`, that client and endpoint share, in this order: the more of them, the nearer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover_priority: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LocalityWeights {
    pub from: String,
    pub to: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LocalityFailover {
    pub from: String,
    pub to: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Warmup {
    pub duration: Millis,
    /// Of its full weight, at the beginning.
    pub minimum: Percent,
    /// In thousandths: 1000 grows in a straight line, more grows fast first (Envoy's `aggression`).
    pub aggression: u32,
}

/// Bounds, each for one client pod; none: no bound but the agent's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ConnectionPool {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Millis>,
    /// A connection of bytes without traffic ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_idle_timeout: Option<Millis>,
    /// A connection takes nothing new after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connection_duration: Option<Millis>,
    /// Requests that wait for a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pending: Option<u32>,
    /// Requests under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests_per_connection: Option<u32>,
    /// Retries under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// Streams of one HTTP/2 connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_streams: Option<u32>,
    /// A connection without requests ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_idle_timeout: Option<Millis>,
    pub upgrade: HttpUpgrade,
}

/// Whether HTTP/1.1 requests are sent on as HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HttpUpgrade {
    /// As the port's protocol has it, else as the client speaks.
    #[default]
    Default,
    Never,
    Always,
}

/// When an endpoint is left alone for a while. Counted by each client pod for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Outlier {
    /// In a row; none: not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_5xx: Option<u32>,
    /// 502, 503 and 504 in a row; failed connections count as 503, timeouts as 504.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_gateway_errors: Option<u32>,
    /// Failures of connections alone, if they are told from errors that an endpoint answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_local_failures: Option<u32>,
    /// Between two looks at who may come back.
    pub interval: Millis,
    /// Times the number of ejections in a row.
    pub base_ejection: Millis,
    pub max_ejected: Percent,
    /// Below this share of healthy endpoints all of them are used.
    pub min_health: Percent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UpstreamTls {
    /// Also what the certificate must be for, unless `names` says otherwise; none: the request's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Other names, one of which the certificate must have: DNS names, or URIs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    pub roots: TrustedRoots,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TrustedRoots {
    /// Those of the agent's image or host.
    System,
    /// PEM.
    Pem(String),
    /// Said so by the user: anybody.
    Unverified,
    /// What the user asks for cannot be had: every connection is refused, and this says why.
    Unusable(String),
}

/// How many retries there may be beside all requests under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RetryBudget {
    pub percent: Percent,
    /// Always allowed, at the same time.
    pub min_concurrency: u32,
}

/// The agent asks endpoints by itself whether they are well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ActiveCheck {
    pub kind: CheckKind,
    pub interval: Millis,
    pub timeout: Millis,
    /// In a row, until an endpoint counts as healthy again.
    pub healthy_threshold: u32,
    /// In a row, until it does not.
    pub unhealthy_threshold: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CheckKind {
    Tcp,
    /// GET; 200 to 299 is well.
    #[serde(rename_all = "camelCase")]
    Http {
        path: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
    /// `grpc.health.v1.Health/Check` of a service; empty: of the server.
    #[serde(rename_all = "camelCase")]
    Grpc {
        service: String,
    },
}
