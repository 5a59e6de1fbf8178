//! What the agent of a pod's node tells of it: which requests are read, traced, logged, and how they are counted. One
//! form for Telemetry, the mesh's settings and annotations; the controller compiles into it. Plain data, with the names
//! of its fields as they travel (JSON, camelCase). What is not said is what the agent's own settings say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::traffic::Percent;

/// Of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Telemetry {
    /// Requests to it are read where it speaks HTTP, also if no rule and no policy asks for that.
    #[serde(skip_serializing_if = "Requests::is_default")]
    pub requests: Requests,
    /// As what serves requests.
    #[serde(skip_serializing_if = "Tracing::is_default")]
    pub traced_server: Tracing,
    /// As what asks.
    #[serde(skip_serializing_if = "Tracing::is_default")]
    pub traced_client: Tracing,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logged_server: Option<AccessLog>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logged_client: Option<AccessLog>,
    /// By the name of the metric, as in `istio_requests_total`; "" stands for all. The own name's entry holds whole.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics_server: BTreeMap<String, MetricChange>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics_client: BTreeMap<String, MetricChange>,
}

/// When requests to a pod are read for the sake of being seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Requests {
    /// Where rules or policies ask for them.
    #[default]
    AsNeeded,
    /// Wherever HTTP is spoken.
    Seen,
}

/// Spans of one pod's requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Tracing {
    /// No span is told. What came of a trace is passed on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Of requests that bring no decision with them. `None`: the agent's setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampled: Option<Percent>,
    /// Where spans go; `None`: where the agent's setting says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collector: Option<Collector>,
    /// More attributes of spans, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, Tag>,
}

/// What takes OTLP.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Collector {
    /// A name of a service as users write it ("collector.observability.svc.cluster.local"), any DNS name, or an
    /// address.
    pub host: String,
    pub port: u16,
    pub protocol: OtlpProtocol,
}

/// <https://opentelemetry.io/docs/specs/otlp/>
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OtlpProtocol {
    Grpc,
    /// Protobuf, to /v1/traces and /v1/logs.
    Http,
}

/// An attribute of a span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Tag {
    Literal(String),
    /// Of the request. A header that is secret (authorization, cookies) is never told.
    Header {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        default: Option<String>,
    },
}

/// Which connections and requests have a line. `None` where this stands: what the agent's setting says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AccessLog {
    Off,
    On {
        /// All of them must hold.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        only: Vec<LogCondition>,
        /// Of those that they hold for; `None`: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sampled: Option<Percent>,
        /// Where they go by OTLP, beside the agent's own output; `None`: where the agent's setting says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        collector: Option<Collector>,
    },
}

/// Of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LogCondition {
    /// Refused, failed, or answered with 4xx or 5xx.
    Errors,
    /// `response.code` is in this range, both ends included; false for what has none.
    Status {
        from: u16,
        to: u16,
    },
    /// Any of them holds.
    Any(Vec<LogCondition>),
    Not(Box<LogCondition>),
    /// TLS was on the wire, or the kernel attested it.
    Authenticated,
    /// The text of an attribute is this one; false where there is none.
    Is {
        attribute: LogAttribute,
        value: String,
    },
    /// It begins so.
    Begins {
        attribute: LogAttribute,
        value: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LogAttribute {
    Method,
    /// Without the query.
    Path,
    Host,
    SourceWorkload,
    SourceNamespace,
    DestinationWorkload,
    DestinationNamespace,
    ResponseFlags,
}

/// What is different about a metric.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct MetricChange {
    /// It is not counted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Labels that it has otherwise, and then has with the value "".
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
}

impl Requests {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Tracing {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
