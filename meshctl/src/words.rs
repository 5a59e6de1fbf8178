//! The stable words for the enums of the wire, in tables and JSON alike, and times and durations as people read them.

use std::time::Duration;

use clap::ValueEnum;
use jiff::Timestamp;
use mesh_common::proto::nodemesh;

/// How a connection ended, to filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VerdictFilter {
    Forwarded,
    Dropped,
    Audit,
    Error,
}

/// Which side of a connection the node saw, to filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DirectionFilter {
    #[value(alias = "in")]
    Inbound,
    #[value(alias = "out")]
    Outbound,
}

/// What a record is of, to filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProtocolFilter {
    Tcp,
    Http,
    Grpc,
    Udp,
}

/// Which way the bytes took, to filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PathFilter {
    Direct,
    Local,
    Tunnel,
    Passthrough,
}

/// How a connection was secured, to filter by: the words of tables, or what people type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SecurityFilter {
    #[value(alias = "plaintext")]
    None,
    #[value(name = "mutual_tls", alias = "mutual-tls", alias = "mtls")]
    MutualTls,
    #[value(name = "kernel_attested", alias = "kernel-attested", alias = "attested")]
    KernelAttested,
}

impl From<ProtocolFilter> for nodemesh::flows_query::Only {
    fn from(filter: ProtocolFilter) -> Self {
        match filter {
            ProtocolFilter::Tcp => Self::Tcp,
            ProtocolFilter::Http => Self::Http,
            ProtocolFilter::Grpc => Self::Grpc,
            ProtocolFilter::Udp => Self::Udp,
        }
    }
}

impl From<PathFilter> for nodemesh::Path {
    fn from(filter: PathFilter) -> Self {
        match filter {
            PathFilter::Direct => Self::Direct,
            PathFilter::Local => Self::Local,
            PathFilter::Tunnel => Self::Tunnel,
            PathFilter::Passthrough => Self::Passthrough,
        }
    }
}

impl From<SecurityFilter> for nodemesh::Security {
    fn from(filter: SecurityFilter) -> Self {
        match filter {
            SecurityFilter::None => Self::Plaintext,
            SecurityFilter::MutualTls => Self::MutualTls,
            SecurityFilter::KernelAttested => Self::KernelAttested,
        }
    }
}

impl From<VerdictFilter> for nodemesh::Verdict {
    fn from(filter: VerdictFilter) -> Self {
        match filter {
            VerdictFilter::Forwarded => Self::Forwarded,
            VerdictFilter::Dropped => Self::Dropped,
            VerdictFilter::Audit => Self::Audit,
            VerdictFilter::Error => Self::Error,
        }
    }
}

impl From<DirectionFilter> for nodemesh::Direction {
    fn from(filter: DirectionFilter) -> Self {
        match filter {
            DirectionFilter::Inbound => Self::Inbound,
            DirectionFilter::Outbound => Self::Outbound,
        }
    }
}

pub fn verdict(verdict: nodemesh::Verdict) -> &'static str {
    match verdict {
        nodemesh::Verdict::Unspecified => "UNKNOWN",
        nodemesh::Verdict::Forwarded => "FORWARDED",
        nodemesh::Verdict::Dropped => "DROPPED",
        nodemesh::Verdict::Audit => "AUDIT",
        nodemesh::Verdict::Error => "ERROR",
    }
}

pub fn direction(direction: nodemesh::Direction) -> &'static str {
    match direction {
        nodemesh::Direction::Unspecified => "unknown",
        nodemesh::Direction::Outbound => "outbound",
        nodemesh::Direction::Inbound => "inbound",
    }
}

/// The way that a connection's bytes took.
pub fn path(path: nodemesh::Path) -> &'static str {
    match path {
        nodemesh::Path::Unspecified => "unknown",
        nodemesh::Path::Direct => "direct",
        nodemesh::Path::Local => "local",
        nodemesh::Path::Tunnel => "tunnel",
        nodemesh::Path::Passthrough => "passthrough",
    }
}

/// As in the label `connection_security_policy`.
pub fn security(security: nodemesh::Security) -> &'static str {
    match security {
        nodemesh::Security::Unspecified => "unknown",
        nodemesh::Security::Plaintext => "none",
        nodemesh::Security::MutualTls => "mutual_tls",
        nodemesh::Security::KernelAttested => "kernel_attested",
    }
}

/// In what sense a policy that is not enforced spoke.
pub fn observed_as(observed_as: nodemesh::ObservedAs) -> &'static str {
    match observed_as {
        nodemesh::ObservedAs::Unspecified => "unknown",
        nodemesh::ObservedAs::DryRun => "dry_run",
        nodemesh::ObservedAs::Audited => "audited",
    }
}

/// What a record is of.
pub fn protocol(flow: &nodemesh::Flow) -> &'static str {
    match &flow.http {
        None if flow.udp.is_some() => "udp",
        None => "tcp",
        Some(http) if http.grpc => "grpc",
        Some(_) => "http",
    }
}

/// A request as lists show it: `GET /api/x 403`, without a status where there was no answer.
pub fn request(http: &nodemesh::HttpRequest) -> String {
    let nodemesh::HttpRequest { method, path, status, grpc_status, .. } = http;
    let status = if *status == 0 { String::new() } else { format!(" {status}") };
    let grpc = grpc_status.map(|code| format!(" grpc {code}")).unwrap_or_default();
    format!("{method} {path}{status}{grpc}")
}

/// With all that is known of it.
pub fn request_in_full(http: &nodemesh::HttpRequest) -> String {
    let nodemesh::HttpRequest {
        method,
        path,
        host,
        status,
        version,
        principal,
        flags,
        request_id,
        route,
        grpc_status,
        trace_id,
        ..
    } = http;
    let grpc = grpc_status.map(|code| format!(", gRPC {code}")).unwrap_or_default();
    let answer = if *status == 0 { "no answer".to_owned() } else { format!("answer {status}{grpc}") };
    let said = [
        ("at ", host),
        ("over ", version),
        ("token of ", principal),
        ("flag ", flags),
        ("id ", request_id),
        ("route ", route),
        ("trace ", trace_id),
    ];
    let said = said.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name}{value}"));
    let said = said.collect::<Vec<_>>().join(", ");
    format!("{method} {path}: {answer}; {said}").trim_end_matches("; ").to_owned()
}

/// A whole number and its unit: `30s`, `5m`, `2h`, `1d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (unit, seconds) = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)]
        .into_iter()
        .find(|(unit, _)| text.ends_with(*unit))
        .ok_or("a time is a whole number and one of s, m, h, d, as 5m")?;
    let number = text.strip_suffix(unit).and_then(|number| number.parse::<u32>().ok()).filter(|number| *number > 0);
    let number = number.ok_or("a time is a whole number above 0 and one of s, m, h, d, as 5m")?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

/// As in the label `nodemesh.io/mode`.
pub fn mode(mode: nodemesh::Mode) -> &'static str {
    match mode {
        nodemesh::Mode::None => "none",
        nodemesh::Mode::Mesh => "mesh",
        nodemesh::Mode::Observe => "observe",
    }
}

/// As in the annotation `nodemesh.io/redirection`.
pub fn redirection(redirection: nodemesh::Redirection) -> &'static str {
    match redirection {
        nodemesh::Redirection::Disabled => "disabled",
        nodemesh::Redirection::Pending => "pending",
        nodemesh::Redirection::Enabled => "enabled",
        nodemesh::Redirection::Failed => "failed",
    }
}

/// `namespace/service-account` of a SPIFFE id; any other text as it is.
pub fn short_identity(id: &str) -> String {
    id.parse::<mesh_common::model::Identity>()
        .map(|identity| format!("{}/{}", identity.namespace(), identity.service_account()))
        .unwrap_or_else(|_| id.to_string())
}

/// `namespace/name` of a Kubernetes service, whose host is `name.namespace.svc.<cluster domain>`; any other as it is.
pub fn short_service(service: &str) -> String {
    let short = service.split_once('/').and_then(|(namespace, host)| {
        let (name, rest) = host.split_once('.')?;
        let domain = rest.strip_prefix(namespace)?.strip_prefix(".svc.")?;
        (!name.is_empty() && !namespace.is_empty() && !domain.is_empty()).then(|| format!("{namespace}/{name}"))
    });
    short.unwrap_or_else(|| service.to_string())
}

/// RFC 3339 in UTC with milliseconds; nothing for a time that is absent or outside the calendar.
pub fn time(seconds_and_nanos: Option<(i64, i32)>) -> Option<String> {
    let (seconds, nanos) = seconds_and_nanos?;
    Some(format!("{:.3}", Timestamp::new(seconds, nanos).ok()?))
}

/// Milliseconds, or longer units where they read better: `0.4ms`, `12ms`, `3.2s`, `5m10s`, `3h04m`, `2d5h`.
pub fn span(milliseconds: f64) -> String {
    let seconds = milliseconds / 1000.0;
    // Rounded down: a span is never said to be longer than it was.
    let whole = seconds as u64;
    match whole {
        0 if milliseconds < 10.0 => format!("{milliseconds:.1}ms"),
        0 => format!("{milliseconds:.0}ms"),
        1..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d{}h", whole / 86_400, whole / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(time(Some((1_700_000_000, 123_456_789))).unwrap(), "2023-11-14T22:13:20.123Z");
        assert_eq!(time(Some((i64::MAX, 0))), None);
        assert_eq!(time(None), None);
    }

    #[test]
    fn spans_read_well() {
        let all = [0.4, 12.0, 3_200.0, 310_000.0, 11_040_000.0, 190_800_000.0].map(span);
        assert_eq!(all, ["0.4ms", "12ms", "3.2s", "5m10s", "3h04m", "2d5h"]);
    }

    #[test]
    fn only_services_of_kubernetes_are_short() {
        assert_eq!(short_service("shop/web.shop.svc.cluster.local"), "shop/web");
        for other in [
            "shop/web.other.svc.cluster.local",
            "shop/api.example.com",
            "shop/web.shop.svc.",
            "web.shop.svc.x",
            "",
            "/..",
        ] {
            assert_eq!(short_service(other), other);
        }
    }

    #[test]
    fn identities_are_short_only_if_they_are_identities() {
        assert_eq!(short_identity("spiffe://cluster.local/ns/shop/sa/web"), "shop/web");
        assert_eq!(short_identity("spiffe://elsewhere/vm"), "spiffe://elsewhere/vm");
        assert_eq!(short_identity(""), "");
    }
}
