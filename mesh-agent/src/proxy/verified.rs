//! Another agent asks this one whether its source may reach a port of a pod, and sends a marker (`meshctl verify`).
//! Policies decide as they would about a connection, and the application hears of neither.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;
use mesh_common::model::Connection;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{Proxy, inbound::source};
use crate::{
    pods::Pod,
    telemetry::{Direction, Path, Security, reason},
    tunnel::{self, Inbound, Respond, TunnelStream},
};

/// A marker is no longer.
const LONGEST: u64 = 64;
const PATIENCE: Duration = Duration::from_secs(5);

/// Nothing is recorded of what is permitted, since nothing reached the pod; what is denied is recorded as any denial.
pub async fn answer(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    local: SocketAddr,
    inbound: Inbound,
    port: u16,
    respond: Respond,
) {
    let Inbound { peer, remote, authority, forwarded, baggage: _, verify: _, tls } = inbound;
    let client = forwarded
        .as_deref()
        .and_then(tunnel::parse_forwarded)
        .filter(|claimed| claimed.ip() == remote.ip())
        .unwrap_or(remote);
    let destination = SocketAddr::new(authority.ip(), port);
    let snapshot = proxy.store.snapshot();
    let workload = snapshot.workload(&pod.uid).cloned();
    let begin = || {
        let own = pod.party(destination, workload.as_deref());
        let mut flow = proxy.flows.begin(Direction::Inbound, source(&snapshot, client, Some(&peer.identity)), own);
        flow.path = Some(Path::Tunnel);
        flow.security = Security::MutualTls;
        flow.tls = Some((tls.version, tls.cipher));
        flow.tunnel = Some(remote);
        flow.service = workload.as_ref().and_then(|workload| workload.service_to(port)).cloned().map(Arc::new);
        (flow.generation, flow.told) = (snapshot.generation(), snapshot.local_pod_by_uid(&pod.uid).cloned());
        flow
    };
    if authority.ip() != local.ip() || !pod.ips.owns(local.ip()) {
        begin().dropped(reason::HBONE_ADDRESS_MISMATCH, format!("{authority} was asked about at {local}"));
        return respond.refuse(StatusCode::BAD_REQUEST, reason::HBONE_ADDRESS_MISMATCH);
    }
    if port == proxy.hbone_port {
        begin().dropped(reason::HBONE_PORT, format!("{port} is the agents' own port"));
        return respond.refuse(StatusCode::BAD_REQUEST, reason::HBONE_PORT);
    }
    let Some(known) = &workload else {
        begin().dropped(reason::WORKLOAD_UNKNOWN, format!("{} is not in the configuration", pod.uid));
        return respond.refuse(StatusCode::FORBIDDEN, reason::WORKLOAD_UNKNOWN);
    };
    let connection = Connection { source_identity: Some(peer.identity.clone()), source_ip: client.ip(), destination };
    let decision = snapshot.decide(known, &connection, snapshot.passed_at_first(known, port));
    if let Err(denied) = &decision.outcome {
        begin().decided(&decision);
        return respond.refuse(StatusCode::FORBIDDEN, denied.reason.code());
    }
    let Ok(stream) = respond.accept() else { return };
    // Whoever asks gets no second chance; the stream is reset as it drops.
    if !matches!(timeout(PATIENCE, echo(stream, &peer.identity.to_string())).await, Ok(Ok(()))) {
        tracing::debug!(peer = %peer.identity, %remote, "a verification broke off");
    }
}

async fn echo(mut stream: TunnelStream, seen: &str) -> std::io::Result<()> {
    let mut marker = Vec::new();
    (&mut stream).take(LONGEST).read_to_end(&mut marker).await?;
    stream.write_all(&marker).await?;
    stream.write_all(seen.as_bytes()).await?;
    stream.shutdown().await?;
    // To its end: a stream that is dropped before is reset.
    match stream.read(&mut [0; 1]).await? {
        0 => Ok(()),
        _ => Err(std::io::Error::other("the marker is too long")),
    }
}
