//! Records in the words of the wire.

use mesh_common::{
    model::{Observation, ObservedAs},
    proto::nodemesh,
};

use crate::telemetry::{Direction, Facts, Flow, HttpRequest, Party, Path, Security, Tcp, Udp, Verdict};

fn request(http: &HttpRequest) -> nodemesh::HttpRequest {
    let HttpRequest {
        method,
        path,
        host,
        status,
        version,
        principal,
        flags,
        request_id,
        route,
        retries,
        grpc,
        grpc_status,
        messages: (to_server, back),
        trace,
        // Told of spans.
        tags: _,
    } = http;
    let hex = |id: Option<u64>| id.map(|id| format!("{id:016x}")).unwrap_or_default();
    nodemesh::HttpRequest {
        method: method.clone(),
        path: path.clone(),
        host: host.clone(),
        status: (*status).into(),
        version: (*version).to_owned(),
        principal: principal.clone().unwrap_or_default(),
        flags: flags.unwrap_or_default().to_owned(),
        request_id: request_id.clone().unwrap_or_default(),
        route: route.as_deref().unwrap_or_default().to_owned(),
        retries: *retries,
        grpc: *grpc,
        grpc_status: *grpc_status,
        trace_id: trace.map(|trace| format!("{:032x}", trace.trace)).unwrap_or_default(),
        span_id: hex(trace.map(|trace| trace.span)),
        parent_span_id: hex(trace.and_then(|trace| trace.parent)),
        trace_sampled: trace.is_some_and(|trace| trace.sampled),
        request_messages: *to_server,
        response_messages: *back,
    }
}

/// In the words of the wire.
pub fn message(node: &str, flow: &Flow) -> nodemesh::Flow {
    let Flow {
        id,
        start,
        end,
        direction: way,
        verdict: decided,
        reason,
        source,
        destination,
        service,
        path: way_taken,
        security,
        sent,
        received,
        policy,
        rule,
        generation,
        error,
        tls,
        // Shown of open connections.
        tunnel: _,
        older: _,
        observations,
        // Explained on demand.
        asked: _,
        tcp,
        http,
        udp,
        told: _,
        told_there: _,
        // What metrics know already.
        counted: _,
    } = flow;
    let (tls_version, tls_cipher) = tls.unwrap_or_default();
    nodemesh::Flow {
        id: *id,
        start: Some((*start).into()),
        end: Some((*end).into()),
        node: node.to_owned(),
        direction: direction(*way).into(),
        verdict: verdict(*decided).into(),
        reason: reason.as_deref().unwrap_or_default().to_owned(),
        source: Some(endpoint(source)),
        destination: Some(endpoint(destination)),
        service: service.as_ref().map(ToString::to_string).unwrap_or_default(),
        path: self::path(*way_taken).into(),
        security: self::security(*security).into(),
        bytes_sent: *sent,
        bytes_received: *received,
        policy: policy.as_ref().map(ToString::to_string).unwrap_or_default(),
        rule: rule.and_then(|rule| i32::try_from(rule).ok()).unwrap_or(-1),
        generation: *generation,
        error: error.clone().unwrap_or_default(),
        tls_version: tls_version.to_owned(),
        tls_cipher: tls_cipher.to_owned(),
        observations: observations.iter().map(observation).collect(),
        http: http.as_deref().map(request),
        tcp: tcp.map(|Tcp { rtt, retransmits }| nodemesh::Tcp {
            rtt_us: u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX),
            retransmits,
        }),
        udp: udp.map(|Udp { sent, received }| nodemesh::Udp { datagrams_sent: sent, datagrams_received: received }),
    }
}

fn observation(seen: &Observation) -> nodemesh::Observation {
    let Observation { policy, observed_as, rule, would_refuse } = seen;
    let observed_as = match observed_as {
        ObservedAs::DryRun => nodemesh::ObservedAs::DryRun,
        ObservedAs::Audited => nodemesh::ObservedAs::Audited,
    };
    nodemesh::Observation {
        policy: policy.to_string(),
        observed_as: observed_as.into(),
        rule: rule.and_then(|rule| i32::try_from(rule).ok()).unwrap_or(-1),
        would_refuse: *would_refuse,
    }
}

fn endpoint(party: &Party) -> nodemesh::Endpoint {
    let Party { facts, identity, address } = party;
    let Facts { namespace, pod, workload, .. } = &**facts;
    nodemesh::Endpoint {
        namespace: namespace.clone(),
        pod: pod.clone(),
        workload: workload.clone(),
        identity: identity.as_ref().map(ToString::to_string).unwrap_or_default(),
        address: address.map(|a| a.to_string()).unwrap_or_default(),
        service_account: identity.as_ref().map(|i| i.service_account().to_owned()).unwrap_or_default(),
    }
}

pub fn verdict(verdict: Verdict) -> nodemesh::Verdict {
    match verdict {
        Verdict::Forwarded => nodemesh::Verdict::Forwarded,
        Verdict::Audit => nodemesh::Verdict::Audit,
        Verdict::Dropped => nodemesh::Verdict::Dropped,
        Verdict::Error => nodemesh::Verdict::Error,
    }
}

pub fn direction(direction: Direction) -> nodemesh::Direction {
    match direction {
        Direction::Outbound => nodemesh::Direction::Outbound,
        Direction::Inbound => nodemesh::Direction::Inbound,
    }
}

pub fn path(path: Option<Path>) -> nodemesh::Path {
    match path {
        None => nodemesh::Path::Unspecified,
        Some(Path::Local) => nodemesh::Path::Local,
        Some(Path::Tunnel) => nodemesh::Path::Tunnel,
        Some(Path::Passthrough) => nodemesh::Path::Passthrough,
        Some(Path::Direct) => nodemesh::Path::Direct,
    }
}

pub fn security(security: Security) -> nodemesh::Security {
    match security {
        Security::Plaintext => nodemesh::Security::Plaintext,
        Security::MutualTls => nodemesh::Security::MutualTls,
        Security::KernelAttested => nodemesh::Security::KernelAttested,
    }
}
