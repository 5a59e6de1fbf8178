//! Flow records on the wire, filtered.

use std::time::SystemTime;

use mesh_common::{
    abi::Counter,
    model::{Observation, ObservedAs},
    proto::nodemesh::{self, FlowsQuery, FlowsWindow, item},
};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Admin, Answer, QUEUE};
use crate::telemetry::{Direction, Flow, HttpRequest, Party, Path, Security, Tcp, Verdict, flows_lost};

/// The kept records that match, and with `follow` those that come after them.
pub fn answer(admin: &Admin, query: FlowsQuery) -> Answer {
    let (node, log) = (admin.node.clone(), &admin.flows);
    // Subscribed before the kept ones are read, so that none falls between; ids tell which came twice.
    let mut feed = log.follow();
    let mut kept: Vec<_> = log.newest().into_iter().filter(|flow| matches(flow, &query)).collect();
    // After the records were read: what made room before is known to it.
    let window = query.since.map(|_| window(admin));
    if query.last > 0 {
        kept.drain(..kept.len().saturating_sub(query.last as usize));
    }
    let seen: std::collections::HashSet<u64> = kept.iter().map(|flow| flow.id).collect();
    let (send, receive) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        for flow in kept {
            if send.send(Ok(wire(&node, &flow))).await.is_err() {
                return;
            }
        }
        if !query.follow {
            if let Some(window) = window {
                let _ = send.send(Ok(nodemesh::Item { node, kind: Some(item::Kind::Window(window)) })).await;
            }
            return;
        }
        loop {
            let flow = tokio::select! {
                flow = feed.recv() => flow,
                () = send.closed() => return,
            };
            let item = match flow {
                Ok(flow) if seen.contains(&flow.id) => continue,
                Ok(flow) if matches(&flow, &query) => Ok(wire(&node, &flow)),
                Ok(_) => continue,
                // An error ends the stream: better than a gap that nobody sees.
                Err(RecvError::Lagged(lost)) => {
                    flows_lost("slow_reader", lost);
                    let told = Status::data_loss(format!("the reader was too slow; {lost} flows were lost"));
                    let _ = send.send(Err(told)).await;
                    return;
                }
                Err(RecvError::Closed) => return,
            };
            if send.send(item).await.is_err() {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(receive))
}

/// How far back the records reach.
fn window(admin: &Admin) -> FlowsWindow {
    let replaced = admin.flows.replaced();
    FlowsWindow {
        from: Some(replaced.map_or(admin.started, |replaced| replaced.newest).into()),
        replaced: replaced.map_or(0, |replaced| replaced.count),
        lost: [Counter::ClosedLost, Counter::EventsLost].map(|of| admin.datapath.counter(of)).iter().sum(),
    }
}

fn matches(flow: &Flow, query: &FlowsQuery) -> bool {
    let FlowsQuery { follow: _, last: _, namespace, pod, from, to, verdict: _, direction: _, since, .. } = query;
    // A time that is none leaves nothing out.
    let since = since.and_then(|since| SystemTime::try_from(since).ok());
    let named = |party: &Party, want: &str| match want.split_once('/') {
        Some((namespace, name)) => party.namespace == namespace && (party.pod == name || party.workload == name),
        None => party.pod == want || party.workload == want,
    };
    let either = |test: &dyn Fn(&Party) -> bool| test(&flow.source) || test(&flow.destination);
    since.is_none_or(|since| flow.end >= since)
        && (namespace.is_empty() || either(&|party| party.namespace == *namespace))
        && (pod.is_empty() || either(&|party| named(party, pod)))
        && (from.is_empty() || named(&flow.source, from))
        && (to.is_empty()
            || named(&flow.destination, to)
            || flow.service.as_ref().is_some_and(|s| {
                let name = s.hostname.split('.').next().unwrap_or_default();
                to == name || *to == format!("{}/{name}", s.namespace)
            }))
        && (query.verdict() == nodemesh::Verdict::Unspecified || query.verdict() == verdict(flow.verdict))
        && (query.direction() == nodemesh::Direction::Unspecified || query.direction() == direction(flow.direction))
}

fn wire(node: &str, flow: &Flow) -> nodemesh::Item {
    nodemesh::Item { node: node.to_owned(), kind: Some(item::Kind::Flow(message(node, flow))) }
}

fn request(http: &HttpRequest) -> nodemesh::HttpRequest {
    let HttpRequest { method, path, host, status, version, principal, flags, request_id } = http;
    nodemesh::HttpRequest {
        method: method.clone(),
        path: path.clone(),
        host: host.clone(),
        status: (*status).into(),
        version: (*version).to_owned(),
        principal: principal.clone().unwrap_or_default(),
        flags: flags.unwrap_or_default().to_owned(),
        request_id: request_id.clone().unwrap_or_default(),
        ..nodemesh::HttpRequest::default()
    }
}

/// In the words of the wire.
pub(super) fn message(node: &str, flow: &Flow) -> nodemesh::Flow {
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
        path,
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
    } = flow;
    let path = match path {
        None => nodemesh::Path::Unspecified,
        Some(Path::Local) => nodemesh::Path::Local,
        Some(Path::Tunnel) => nodemesh::Path::Tunnel,
        Some(Path::Passthrough) => nodemesh::Path::Passthrough,
        Some(Path::Direct) => nodemesh::Path::Direct,
    };
    let security = match security {
        Security::Plaintext => nodemesh::Security::Plaintext,
        Security::MutualTls => nodemesh::Security::MutualTls,
        Security::KernelAttested => nodemesh::Security::KernelAttested,
    };
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
        path: path.into(),
        security: security.into(),
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
    let Party { namespace, pod, workload, identity, address } = party;
    nodemesh::Endpoint {
        namespace: namespace.clone(),
        pod: pod.clone(),
        workload: workload.clone(),
        identity: identity.as_ref().map(ToString::to_string).unwrap_or_default(),
        address: address.map(|a| a.to_string()).unwrap_or_default(),
        service_account: identity.as_ref().map(|i| i.service_account().to_owned()).unwrap_or_default(),
    }
}

fn verdict(verdict: Verdict) -> nodemesh::Verdict {
    match verdict {
        Verdict::Forwarded => nodemesh::Verdict::Forwarded,
        Verdict::Audit => nodemesh::Verdict::Audit,
        Verdict::Dropped => nodemesh::Verdict::Dropped,
        Verdict::Error => nodemesh::Verdict::Error,
    }
}

fn direction(direction: Direction) -> nodemesh::Direction {
    match direction {
        Direction::Outbound => nodemesh::Direction::Outbound,
        Direction::Inbound => nodemesh::Direction::Inbound,
    }
}
