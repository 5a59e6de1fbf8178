//! Who speaks to whom, and which connections are open now.

use std::{
    net::{IpAddr, UdpSocket},
    sync::Arc,
};

use mesh_common::{
    model::Tunnel,
    proto::nodemesh::{ConnectionInfo, EdgeInfo, EdgesQuery, Origin, item},
};

use super::{Admin, flows};
use crate::{
    state::Snapshot,
    telemetry::{Edge, Flow, Party, Totals},
};

/// By source and destination.
pub fn answer(admin: &Admin, query: &EdgesQuery) -> Vec<item::Kind> {
    let mut edges: Vec<(Edge, Totals, u64)> = admin
        .flows
        .edges(admin.direct.open())
        .into_iter()
        .filter(|(edge, ..)| concerns(&query.namespace, &edge.0) && (query.udp || edge.0.udp.is_none()))
        .collect();
    let name = |party: &Party| (party.namespace.clone(), party.pod.clone(), party.address);
    edges.sort_by_cached_key(|(Edge(flow), ..)| (name(&flow.source), name(&flow.destination)));
    let snapshot = admin.store.snapshot();
    let told = |(edge, totals, open): (Edge, Totals, u64)| {
        let origin = origin(&snapshot, &edge.0.source);
        item::Kind::Edge(EdgeInfo { origin: origin.into(), ..message(&edge.0, totals, open) })
    };
    edges.into_iter().map(told).collect()
}

/// Whose the source is now: by its name, and without one by its address.
fn origin(snapshot: &Snapshot, source: &Party) -> Origin {
    let Some(ip) = source.address.map(|address| address.ip().to_canonical()) else { return Origin::Unspecified };
    let known = match source.pod.as_str() {
        "" => snapshot.workload_by_address(ip),
        pod => snapshot.workload_by_name(&source.namespace, pod),
    };
    match known {
        Some(known) if known.tunnel == Tunnel::Hbone => Origin::MeshedPod,
        Some(_) => Origin::UnmeshedPod,
        // It was a pod; without a workload it is in no mesh.
        None if !source.pod.is_empty() => Origin::UnmeshedPod,
        None if is_own(ip) => Origin::OwnNode,
        None => Origin::Elsewhere,
    }
}

/// An address of the node: only to one of these the kernel binds.
fn is_own(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

fn message(flow: &Arc<Flow>, totals: Totals, open: u64) -> EdgeInfo {
    let Totals { connections, refused, failed, sent, received, datagrams, last } = totals;
    // One connection's facts stand for all: what differs between them does not belong to the edge.
    let facts = flows::wire::message("", flow);
    let mut source = facts.source.unwrap_or_default();
    source.address = flow.source.address.map(|address| address.ip().to_string()).unwrap_or_default();
    EdgeInfo {
        source: Some(source),
        destination: facts.destination,
        service: facts.service,
        path: facts.path,
        security: facts.security,
        direction: facts.direction,
        connections,
        refused,
        failed,
        open,
        bytes_sent: sent,
        bytes_received: received,
        last: Some(last.into()),
        origin: Origin::Unspecified.into(),
        older: flow.older,
        datagrams,
    }
}

/// Those that are forwarded now, oldest first.
pub fn connections(admin: &Admin, namespace: &str) -> Vec<item::Kind> {
    let mut all = admin.flows.connections();
    all.extend(admin.direct.open());
    all.sort_unstable_by_key(|flow| flow.id);
    let all = all.into_iter().filter(|flow| concerns(namespace, flow));
    all.map(|flow| {
        let tunnel = flow.tunnel.map(|address| address.to_string()).unwrap_or_default();
        item::Kind::Connection(ConnectionInfo { flow: Some(flows::wire::message(&admin.node, &flow)), tunnel })
    })
    .collect()
}

fn concerns(namespace: &str, flow: &Flow) -> bool {
    namespace.is_empty() || [&flow.source, &flow.destination].iter().any(|party| party.namespace == namespace)
}
