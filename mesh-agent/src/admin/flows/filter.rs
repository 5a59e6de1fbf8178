//! Which records a question is about. Read once, then asked of each record.

use std::{ops::RangeInclusive, time::SystemTime};

use mesh_common::proto::nodemesh::{self, FlowsQuery, flows_query::Only};
use tonic::Status;

use super::wire;
use crate::telemetry::{Flow, Party};

#[derive(Debug)]
pub struct Filter {
    namespace: String,
    pod: String,
    from: String,
    to: String,
    verdict: nodemesh::Verdict,
    direction: nodemesh::Direction,
    since: Option<SystemTime>,
    only: Only,
    status: Option<RangeInclusive<u16>>,
    method: String,
    path: String,
    service: String,
    reason: String,
    policy: String,
    trace: Option<u128>,
    passed: nodemesh::Path,
    security: nodemesh::Security,
    port: Option<u16>,
}

impl Filter {
    /// # Errors
    /// If a field has a value that no record can have, also one that this version does not know: an answer without it
    /// would look like one.
    pub fn new(query: &FlowsQuery) -> Result<Self, Status> {
        let FlowsQuery {
            follow: _,
            last: _,
            namespace,
            pod,
            from,
            to,
            verdict,
            direction,
            since,
            only,
            http_status,
            method,
            path,
            service,
            reason,
            policy,
            trace_id,
            passed,
            security,
            port,
        } = query;
        Ok(Self {
            namespace: namespace.clone(),
            pod: pod.clone(),
            from: from.clone(),
            to: to.clone(),
            verdict: known("verdict", *verdict)?,
            direction: known("direction", *direction)?,
            // A time that is none leaves nothing out.
            since: since.and_then(|since| SystemTime::try_from(since).ok()),
            only: known("only", *only)?,
            status: status(http_status)?,
            method: method.clone(),
            path: path.clone(),
            service: service.clone(),
            reason: reason.clone(),
            policy: policy.clone(),
            trace: trace(trace_id)?,
            passed: known("passed", *passed)?,
            security: known("security", *security)?,
            port: match *port {
                0 => None,
                port => Some(
                    u16::try_from(port).map_err(|_| Status::invalid_argument(format!("port: {port} is not a port")))?,
                ),
            },
        })
    }

    pub fn matches(&self, flow: &Flow) -> bool {
        let either = |test: &dyn Fn(&Party) -> bool| test(&flow.source) || test(&flow.destination);
        self.since.is_none_or(|since| flow.end >= since)
            && (self.verdict == nodemesh::Verdict::Unspecified || self.verdict == wire::verdict(flow.verdict))
            && (self.direction == nodemesh::Direction::Unspecified || self.direction == wire::direction(flow.direction))
            && (self.passed == nodemesh::Path::Unspecified || self.passed == wire::path(flow.path))
            && (self.security == nodemesh::Security::Unspecified || self.security == wire::security(flow.security))
            && (self.namespace.is_empty() || either(&|party| party.namespace == *self.namespace))
            && (self.pod.is_empty() || either(&|party| is_named(party, &self.pod)))
            && (self.from.is_empty() || is_named(&flow.source, &self.from))
            && (self.to.is_empty() || is_named(&flow.destination, &self.to) || is_service(flow, &self.to))
            && (self.service.is_empty() || is_service(flow, &self.service))
            && (self.reason.is_empty()
                || flow.reason.as_deref().is_some_and(|reason| reason.eq_ignore_ascii_case(&self.reason)))
            && (self.policy.is_empty() || flow.policy.as_ref().is_some_and(|policy| policy.to_string() == self.policy))
            && self.port.is_none_or(|port| either(&|party| party.address.is_some_and(|own| own.port() == port)))
            && self.http(flow)
    }

    /// What is asked of requests alone no connection has.
    fn http(&self, flow: &Flow) -> bool {
        let Some(http) = &flow.http else {
            let of_requests = [&self.method, &self.path].iter().any(|wanted| !wanted.is_empty());
            let kind = if flow.udp.is_some() { Only::Udp } else { Only::Tcp };
            return (self.only == Only::All || self.only == kind)
                && !of_requests
                && self.status.is_none()
                && self.trace.is_none();
        };
        let kind = match self.only {
            Only::All | Only::Http => true,
            Only::Tcp | Only::Udp => false,
            Only::Grpc => http.grpc,
        };
        kind && self.status.as_ref().is_none_or(|wanted| wanted.contains(&http.status))
            && (self.method.is_empty() || http.method.eq_ignore_ascii_case(&self.method))
            && http.path.starts_with(&self.path)
            && self.trace.is_none_or(|wanted| http.trace.is_some_and(|ids| ids.trace == wanted))
    }
}

/// `name` or `namespace/name`, of a pod or of its workload.
fn is_named(party: &Party, want: &str) -> bool {
    match want.split_once('/') {
        Some((namespace, name)) => *party.namespace == *namespace && (*party.pod == *name || *party.workload == *name),
        None => *party.pod == *want || *party.workload == *want,
    }
}

/// `name`, `namespace/name`, or the host with or without its namespace.
fn is_service(flow: &Flow, want: &str) -> bool {
    let Some(service) = &flow.service else { return false };
    let name = service.hostname.split('.').next().unwrap_or_default();
    let is_it = |want: &str| want == name || want == &*service.hostname;
    match want.split_once('/') {
        Some((namespace, want)) => *service.namespace == *namespace && is_it(want),
        None => is_it(want),
    }
}

fn known<T: TryFrom<i32>>(field: &str, value: i32) -> Result<T, Status> {
    let unknown = |_| Status::invalid_argument(format!("{field}: {value} is unknown to this agent; is meshctl newer?"));
    T::try_from(value).map_err(unknown)
}

/// One, or all of a hundred.
fn status(text: &str) -> Result<Option<RangeInclusive<u16>>, Status> {
    let wrong = || {
        Status::invalid_argument(format!("http_status: {text:?} is neither a status, as 503, nor a hundred, as 5xx"))
    };
    if text.is_empty() {
        return Ok(None);
    }
    let lower = text.to_ascii_lowercase();
    if !lower.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(wrong());
    }
    let (range, hundred) = match lower.strip_suffix("xx") {
        Some(hundred) => {
            let hundred: u16 = hundred.parse().map_err(|_| wrong())?;
            (hundred.saturating_mul(100)..=hundred.saturating_mul(100).saturating_add(99), hundred)
        }
        None => {
            let status: u16 = lower.parse().map_err(|_| wrong())?;
            (status..=status, status / 100)
        }
    };
    if (1..=5).contains(&hundred) { Ok(Some(range)) } else { Err(wrong()) }
}

fn trace(text: &str) -> Result<Option<u128>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let is_one = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u128::from_str_radix(text, 16).ok().filter(|_| is_one);
    id.map(Some).ok_or_else(|| Status::invalid_argument(format!("trace_id: {text:?} is not 32 hexadecimal digits")))
}

#[cfg(test)]
mod tests;
