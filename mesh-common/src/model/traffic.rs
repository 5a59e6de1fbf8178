//! Traffic rules: how requests and connections to one service are routed, and how its endpoints are treated. One form
//! for every kind that users write (VirtualService, DestinationRule, HTTPRoute, …); the controller compiles into it,
//! agents act on it. Plain data, with the names of its fields as they travel (JSON, camelCase).
//!
//! A reader refuses fields that it does not know: a condition or a limit that an older agent left out would make a rule
//! mean something else.

mod limit;
mod policy;
mod request;
mod route;
mod token;

pub use limit::{Inbound, LimitOverride, RateLimit, TokenBucket};
pub use policy::{
    ActiveCheck, Algorithm, Balancing, CheckKind, ConnectionPool, DestinationPolicy, HashOn, HttpUpgrade,
    LocalityFailover, LocalityPolicy, LocalityWeights, Outlier, RetryBudget, Subset, TrafficPolicy, TrustedRoots,
    UpstreamTls, Warmup,
};
pub use request::{HeaderMatch, PathMatch, QueryMatch, RequestMatch, TextMatch};
pub use route::{
    Abort, Action, Backend, Cors, Delay, DirectResponse, Fault, HeaderChanges, HeaderEdit, HttpRoute, Mirror, Origin,
    OverlaidFault, PathRewrite, Percent, Redirect, RedirectPort, Retries, RetryOn, RetryWordError, Rewrite, Target,
    WeightedBackend,
};

pub use token::{
    CLIENT_HEADERS, ClaimHeader, MAX_TOKEN_RULES, TokenHeader, TokenRule, is_read_as, output_header, token_header,
};

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::ServiceName;

pub type Labels = BTreeMap<String, String>;

/// All that is said of traffic to one service. Its resource is named as the service's is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Traffic {
    pub service: ServiceName,
    /// What is spoken at the service's ports; a port that is not listed: [`Protocol::Auto`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub protocols: BTreeMap<u16, Protocol>,
    /// The first that is for a client's namespace holds for that client, whole; others do not add to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<For<Routes>>,
    /// Likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<For<DestinationPolicy>>,
    /// Requests to it are read by the client's agent, also if no rule asks for that: so that they are seen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub seen: bool,
}

/// Something that holds for some clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct For<T> {
    pub clients: Clients,
    pub value: T,
}

/// Whose pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Clients {
    Everybody,
    Namespaces(BTreeSet<String>),
}

/// What is spoken at a port, from `appProtocol` or the port's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// Nobody says: the first bytes tell.
    #[default]
    Auto,
    /// Bytes: never looked into.
    Tcp,
    /// TLS of the application's own: its server name may be looked at.
    Tls,
    /// HTTP/1.1; a client that speaks HTTP/2 by prior knowledge is understood too.
    Http,
    /// HTTP/2 by prior knowledge, gRPC too: endpoints are spoken to in it whatever the client speaks.
    Http2,
}

/// Where requests and connections go, for one group of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Routes {
    /// The first that matches takes the request. If there is one for a port and none matches, the answer is 404.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<HttpRoute>,
    /// Laid over all requests, whichever route takes them; the first that matches counts, beside the route's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<OverlaidFault>,
    /// The first that matches takes the connection.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<TlsRoute>,
    /// Likewise, for what is neither HTTP nor taken by a TLS route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tcp: Vec<TcpRoute>,
}

/// A route for connections as bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TcpRoute {
    /// As in [`HttpRoute::name`].
    pub name: String,
    pub origin: Origin,
    /// One of them must match; none: every connection.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<ConnectionMatch>,
    pub backends: Vec<WeightedBackend>,
}

/// A route for TLS connections of applications, by the server name in the client's hello (RFC 6066).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TlsRoute {
    pub name: String,
    pub origin: Origin,
    /// Lower-case host names, `*.example.com` for all below it, `*` for any; one at least.
    pub server_names: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<ConnectionMatch>,
    pub backends: Vec<WeightedBackend>,
}

/// All that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConnectionMatch {
    /// That was dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Prefixes, one of which has the address that was dialled; none: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destination_subnets: Vec<ipnet::IpNet>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub source_labels: Labels,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_namespace: Option<String>,
}

/// A time span, whole milliseconds on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl From<Millis> for Duration {
    fn from(Millis(millis): Millis) -> Self {
        Self::from_millis(millis)
    }
}

impl<T> For<T> {
    pub fn everybody(value: T) -> Self {
        Self { clients: Clients::Everybody, value }
    }
}

impl Clients {
    pub fn has(&self, namespace: &str) -> bool {
        match self {
            Self::Everybody => true,
            Self::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }
}

impl Traffic {
    pub fn protocol(&self, port: u16) -> Protocol {
        self.protocols.get(&port).copied().unwrap_or_default()
    }

    /// Connections to the service itself need none of it: it has no routes, and of its endpoints only subsets are said,
    /// for routes of other services.
    pub fn is_for_others(&self) -> bool {
        let usual = TrafficPolicy::default();
        let mut policies = self.policies.iter().map(|policy| &policy.value);
        self.routes.is_empty()
            && policies.all(|policy| policy.all == usual && policy.ports.values().all(|of_port| *of_port == usual))
    }

    /// What holds for clients of this namespace.
    pub fn routes_for(&self, namespace: &str) -> Option<&Routes> {
        self.routes.iter().find(|routes| routes.clients.has(namespace)).map(|routes| &routes.value)
    }

    /// Likewise.
    pub fn policy_for(&self, namespace: &str) -> Option<&DestinationPolicy> {
        self.policies.iter().find(|policy| policy.clients.has(namespace)).map(|policy| &policy.value)
    }

    /// Keys of pods' labels that these rules ask for: agents are told of no others.
    pub fn label_keys(&self) -> BTreeSet<&str> {
        let routes = self.routes.iter().map(|routes| &routes.value);
        let requests = routes.clone().flat_map(|routes| &routes.http).flat_map(|route| &route.matches);
        let faults = routes.clone().flat_map(|routes| &routes.faults).flat_map(|fault| &fault.matches);
        let requests = requests.chain(faults).map(|matched| &matched.source_labels);
        let tcp = routes.clone().flat_map(|routes| &routes.tcp).flat_map(|route| &route.matches);
        let tls = routes.flat_map(|routes| &routes.tls).flat_map(|route| &route.matches);
        let connections = tcp.chain(tls).map(|matched| &matched.source_labels);
        let subsets = self.policies.iter().flat_map(|policy| policy.value.subsets.values());
        let subsets = subsets.map(|subset| &subset.labels);
        let named = requests.chain(connections).chain(subsets).flat_map(BTreeMap::keys).map(String::as_str);
        named.chain(self.policies.iter().flat_map(|policy| policy.value.failover_keys())).collect()
    }
}
