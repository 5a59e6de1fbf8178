//! What becomes of a request.

use serde::{Deserialize, Serialize};

use super::{Millis, RequestMatch, TextMatch};
use crate::model::ServiceName;

/// A rule for requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpRoute {
    /// `namespace/object/rule`, where the rule has its own name or its number: for counters and logs.
    pub name: String,
    pub origin: Origin,
    /// One of them must match; none: every request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<RequestMatch>,
    pub action: Action,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<HeaderChanges>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// From the request's end to the answer's end, retries and all; none: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// Of each try, to the head of its answer; none: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub try_timeout: Option<Millis>,
    /// None: those that every route has, see [`Retries::default`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
}

impl HttpRoute {
    /// It takes every request, and does nothing but this.
    pub fn new(name: impl Into<String>, origin: Origin, action: Action) -> Self {
        Self {
            name: name.into(),
            origin,
            matches: Vec::new(),
            action,
            headers: None,
            rewrite: None,
            cors: None,
            timeout: None,
            try_timeout: None,
            retries: None,
            fault: None,
            mirrors: Vec::new(),
        }
    }
}

/// What the user wrote, of which this was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Origin {
    /// As in `VirtualService shop/cart`.
    pub object: String,
    /// As in `spec.http[0]`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// By weight; of none, or if all weigh nothing: 500.
    Forward(Vec<WeightedBackend>),
    Redirect(Redirect),
    Respond(DirectResponse),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WeightedBackend {
    pub weight: u32,
    pub target: Target,
    /// After the route's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<HeaderChanges>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    Backend(Backend),
    /// Something that is none, or may not be used from there: what is sent to it is answered so (a connection:
    /// refused).
    #[serde(rename_all = "camelCase")]
    Invalid {
        status: u16,
        why: String,
    },
}

/// A service, or some of its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Backend {
    pub service: ServiceName,
    /// None: that which was dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// One of [`super::DestinationPolicy::subsets`] of the service; if it has none of that name: 503, flag NC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
}

/// What is done to the headers of requests and responses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HeaderChanges {
    #[serde(default, skip_serializing_if = "HeaderEdit::is_nothing")]
    pub request: HeaderEdit,
    #[serde(default, skip_serializing_if = "HeaderEdit::is_nothing")]
    pub response: HeaderEdit,
}

/// In this order: removed, set, added. Names in lower case; `host` in `set` is the authority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HeaderEdit {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<(String, String)>,
}

impl HeaderEdit {
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rewrite {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathRewrite>,
}

/// What becomes of the path; its query stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathRewrite {
    /// All of it.
    Full(String),
    /// What the condition on the path matched: its prefix or elements, otherwise all of it. Where nothing is said of
    /// the path: as if `Elements("/")` were.
    Matched(String),
    /// Every occurrence of a pattern (RE2); `\1` stands for a group, `\0` for all that matched, `\\` for a backslash.
    #[serde(rename_all = "camelCase")]
    Regex { pattern: String, with: String },
}

/// An answer that sends the client elsewhere; what it does not say stays as in the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Redirect {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// Without a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    pub port: RedirectPort,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathRewrite>,
    pub status: u16,
}

/// The port in a redirect; one that is its scheme's own is not written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RedirectPort {
    /// That of the scheme, if the redirect names one, otherwise that which was dialled (Gateway API).
    Dialled,
    /// That of the scheme.
    Scheme,
    /// That of the request's authority (VirtualService).
    Request,
    Number(u16),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DirectResponse {
    pub status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// Cross-origin requests (Fetch standard).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Cors {
    pub allow_origins: Vec<TextMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_methods: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_headers: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_credentials: Option<bool>,
    /// A preflight of another origin goes to the backend too; otherwise it is answered without permissions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forward_unmatched_preflights: bool,
}

/// Another try after a failure, if the request may be sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Retries {
    /// Beside the first try; 0: none.
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub try_timeout: Option<Millis>,
    pub on: Vec<RetryOn>,
    /// Before the first retry at most; twice as long for each further one, by chance down to nothing.
    pub backoff: Millis,
    pub max_backoff: Millis,
    /// Endpoints that were tried already are tried again only if there is no other.
    pub avoid_tried: bool,
}

impl Default for Retries {
    /// What a route has that says nothing: what was never processed, as Istio has it.
    fn default() -> Self {
        Self { attempts: 2, ..Self::of(RetryOn::DEFAULT.to_vec()) }
    }
}

impl Retries {
    /// With what is usual for everything else.
    pub fn of(on: Vec<RetryOn>) -> Self {
        Self { attempts: 1, try_timeout: None, on, backoff: Millis(25), max_backoff: Millis(250), avoid_tried: true }
    }
}

/// A failure after which another try may help, in Envoy's terms (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// Any status from 500, and no answer at all.
    #[serde(rename = "5xx")]
    ServerError,
    /// 502, 503, 504.
    GatewayError,
    /// No answer: the connection ended, or the try's time did.
    Reset,
    /// The same, before anything of the request was sent.
    ResetBeforeRequest,
    ConnectFailure,
    /// 409.
    #[serde(rename = "retriable-4xx")]
    RetriableClientError,
    /// HTTP/2's REFUSED_STREAM: surely not processed.
    RefusedStream,
    /// This status.
    Status(u16),
    /// This gRPC status, in the head of the answer.
    Grpc(u8),
}

impl RetryOn {
    /// gRPC statuses (grpc/doc/statuscodes.md).
    pub const GRPC: [(&str, u8); 5] =
        [("cancelled", 1), ("deadline-exceeded", 4), ("resource-exhausted", 8), ("internal", 13), ("unavailable", 14)];

    /// Where a user asks for retries and does not say after what.
    pub const DEFAULT: [Self; 4] = [Self::ConnectFailure, Self::RefusedStream, Self::Grpc(14), Self::Grpc(1)];

    /// As users write it: words and statuses (100 to 599) between commas; each once, in their order.
    /// `retriable-status-codes` says nothing beyond the statuses beside it, and is unknown without any.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, RetryWordError> {
        let mut on = Vec::new();
        let mut codes_asked = false;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let parsed = match word {
                "5xx" => Self::ServerError,
                "gateway-error" => Self::GatewayError,
                "reset" => Self::Reset,
                "reset-before-request" => Self::ResetBeforeRequest,
                "connect-failure" => Self::ConnectFailure,
                "retriable-4xx" => Self::RetriableClientError,
                "refused-stream" => Self::RefusedStream,
                "retriable-status-codes" => {
                    codes_asked = true;
                    continue;
                }
                word => Self::status(word)
                    .or_else(|| Self::GRPC.iter().find(|(name, _)| *name == word).map(|(_, code)| Self::Grpc(*code)))
                    .ok_or_else(|| RetryWordError { word: word.into() })?,
            };
            if !on.contains(&parsed) {
                on.push(parsed);
            }
        }
        if codes_asked && !on.iter().any(|on| matches!(on, Self::Status(_))) {
            return Err(RetryWordError { word: "retriable-status-codes".into() });
        }
        Ok(on)
    }

    fn status(word: &str) -> Option<Self> {
        let digits = word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit());
        word.parse().ok().filter(|status| digits && (100..600).contains(status)).map(Self::Status)
    }
}

/// A word in a list of failures to retry after that says nothing the mesh honours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is no failure after which the mesh retries")]
pub struct RetryWordError {
    pub word: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Fault {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    /// After the delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
}

/// A fault that another object than the route's lays over requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OverlaidFault {
    pub origin: Origin,
    /// One of them must match; none: every request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<RequestMatch>,
    pub fault: Fault,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Delay {
    pub percent: Percent,
    pub fixed: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Abort {
    pub percent: Percent,
    /// Of a request that is not gRPC, or where no gRPC status is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mirror {
    pub backend: Backend,
    pub percent: Percent,
}

/// A share in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Percent(pub u32);

impl Percent {
    pub const ALL: Self = Self(1_000_000);

    /// Whether a number that was drawn by chance from all of `u32` falls into the share.
    pub fn has(self, drawn: u32) -> bool {
        (u64::from(drawn) * 1_000_000) >> 32 < u64::from(self.0)
    }

    /// From 0 to 100.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::RetryOn::{self, *};

    #[test]
    fn failures_to_retry_after_are_read_as_users_write_them() {
        let read = |text| RetryOn::parse_list(text);
        assert_eq!(
            read("5xx,connect-failure,retriable-4xx").unwrap(),
            [ServerError, ConnectFailure, RetriableClientError]
        );
        assert_eq!(
            read("gateway-error, reset ,reset-before-request,refused-stream").unwrap(),
            [GatewayError, Reset, ResetBeforeRequest, RefusedStream]
        );
        assert_eq!(
            read("cancelled,deadline-exceeded,internal,resource-exhausted,unavailable").unwrap(),
            [Grpc(1), Grpc(4), Grpc(13), Grpc(8), Grpc(14)]
        );
        assert_eq!(read("retriable-status-codes,503,,503,100,599").unwrap(), [Status(503), Status(100), Status(599)]);
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn a_word_that_is_not_honoured_is_named() {
        for (list, word) in [
            ("5xx,envoy-ratelimited", "envoy-ratelimited"),
            ("retriable-status-codes,5xx", "retriable-status-codes"),
            ("retriable-headers", "retriable-headers"),
            ("600", "600"),
            ("099", "099"),
            ("+50", "+50"),
            ("5XX", "5XX"),
        ] {
            assert_eq!(RetryOn::parse_list(list).unwrap_err().word, word, "{list}");
        }
    }
}
