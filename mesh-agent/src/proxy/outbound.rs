//! A connection that a pod of this node opened: original destination, route, decision or tunnel, forward.

use std::{net::SocketAddr, sync::Arc};

use mesh_common::model::{Connection, Permit, Workload};
use tokio::net::TcpStream;

use super::{
    Proxy,
    affinity::kept,
    ask::whose,
    dial,
    forward::{End, Socket, forward, refuse, socket},
    reauthorize::{denied_later, forgotten},
    resolve::{Resolved, Route, choose, resolve},
};
use crate::{
    pods::Pod,
    state::Snapshot,
    telemetry::{Direction, OpenFlow, Party, Path, Security, reason},
    tunnel::{ConnectRequest, PoolKey, TunnelError},
};

/// `local` is the loopback address to which the kernel redirected the connection.
pub async fn redirected(proxy: &Arc<Proxy>, pod: &Arc<Pod>, stream: TcpStream, peer: SocketAddr, local: SocketAddr) {
    // Its own address as it would be without the redirection.
    let client = SocketAddr::new(pod.ips.like(local.ip()).unwrap_or(peer.ip()), peer.port());
    let source = |snapshot: &Snapshot| pod.party(client, snapshot.workload(&pod.uid).map(|own| &**own));
    let refused = |destination: SocketAddr| {
        let source = source(&proxy.store.snapshot());
        proxy.flows.begin(Direction::Outbound, source, Party::stranger(destination))
    };
    let (destination, hint) = match proxy.datapath.accepted(&stream) {
        Ok(Some(accepted)) if (accepted.pod, accepted.epoch) == (pod.index, pod.epoch) => {
            (accepted.original_destination, accepted.backend)
        }
        // Nothing was redirected by the kernel: never take the local address for what was dialled.
        Ok(_) => {
            refused(local)
                .dropped(reason::ORIGINAL_DESTINATION_UNKNOWN, "the connection was not redirected by the kernel");
            return refuse(&stream);
        }
        Err(e) => {
            refused(local).failed(reason::INTERNAL, format!("{:#}", anyhow::Error::from(e)));
            return refuse(&stream);
        }
    };
    let snapshot = match whose(&proxy.store, &pod.uid, destination.ip(), proxy.ask_timeout).await {
        Ok(snapshot) => snapshot,
        Err(why) => {
            refused(destination).dropped(reason::DESTINATION_UNKNOWN, why);
            return refuse(&stream);
        }
    };
    let own = snapshot.workload(&pod.uid).cloned();
    let dialled = match snapshot.workload_by_address(destination.ip()) {
        Some(workload) => Party::of(workload, destination),
        None => Party::stranger(destination),
    };
    let mut flow = proxy.flows.begin(Direction::Outbound, source(&snapshot), dialled);
    flow.generation = snapshot.generation();
    // Its certificate lasts longer than its right to it.
    if own.is_none() {
        flow.dropped(reason::WORKLOAD_UNKNOWN, format!("{} is not in the configuration", pod.uid));
        return refuse(&stream);
    }
    let Resolved { service, route } = resolve(
        &snapshot,
        &pod.uid,
        destination,
        |ip| pod.ips.like(ip).is_some(),
        |ip| proxy.pods.by_ip(ip).is_some(),
        |service, endpoints| {
            choose(hint, endpoints, || match service.affinity {
                Some(affinity) => kept(&proxy.datapath, pod, destination, affinity, endpoints),
                None => proxy.balancer.next(&service.service_name(), endpoints.len()),
            })
        },
        proxy.hbone_port,
    );
    flow.service = service;
    match route {
        Route::Refuse { reason, why } => {
            flow.dropped(reason, why);
            refuse(&stream);
        }
        // TLS within the node too: as between nodes, and the agent's other hand decides.
        Route::Local { workload, target }
            if [&pod.uid, &workload.uid].iter().any(|uid| snapshot.same_node_tls(uid)) =>
        {
            flow.destination = Party::of(&workload, target);
            tunnel(proxy, pod, stream, own.as_deref(), &workload, target, flow).await;
        }
        Route::Local { workload, target } => {
            flow.destination = Party::of(&workload, target);
            local_pod(proxy, pod, &snapshot, stream, &workload, target, flow).await;
        }
        Route::Tunnel { workload, target } => {
            flow.destination = Party::of(&workload, target);
            tunnel(proxy, pod, stream, own.as_deref(), &workload, target, flow).await;
        }
        Route::Own { workload, target } => {
            flow.destination = Party::of(&workload, target);
            flow.path = Some(Path::Local);
            flow.security = Security::KernelAttested;
            let client = SocketAddr::new(pod.ips.like(target.ip()).unwrap_or(client.ip()), client.port());
            let dialled = dial::application(&proxy.datapath, pod, target, client).await;
            outside_policy(proxy, pod, stream, dialled, flow).await;
        }
        Route::Passthrough { workload, target } => {
            if let Some(workload) = workload {
                flow.destination = Party::of(&workload, target);
                // Nobody proves it, and nobody checks it.
                flow.destination.identity = None;
            }
            flow.path = Some(Path::Passthrough);
            let dialled = dial::from_pod(pod, target).await;
            outside_policy(proxy, pod, stream, dialled, flow).await;
        }
    }
}

/// To a redirected pod of this node: this agent is the destination's too and decides.
async fn local_pod(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    snapshot: &Arc<Snapshot>,
    stream: TcpStream,
    workload: &Arc<Workload>,
    target: SocketAddr,
    mut flow: OpenFlow,
) {
    flow.path = Some(Path::Local);
    flow.security = Security::KernelAttested;
    let Some(target_pod) = proxy.pods.by_ip(target.ip()) else {
        flow.failed(reason::CONNECT, "the destination pod left");
        return refuse(&stream);
    };
    // The decision is about the workload, the connection enters the pod: an address that was handed on must not let
    // one stand for the other.
    if target_pod.uid != workload.uid {
        let why = format!("{target} is {} here and {} in the configuration", target_pod.uid, workload.uid);
        flow.dropped(reason::WORKLOAD_UNKNOWN, why);
        return refuse(&stream);
    }
    let Some(source_ip) = pod.ips.like(target.ip()) else {
        flow.failed(reason::CONNECT, "the source pod has no address of that family");
        return refuse(&stream);
    };
    let connection = Connection { source_identity: Some(pod.identity.clone()), source_ip, destination: target };
    let decision = snapshot.decide(workload, &connection);
    flow.decided(&decision);
    // The kernel shall know it of those to come.
    proxy.direct.learn(pod, &target_pod, target);
    let Ok(permit) = decision.outcome else { return refuse(&stream) };
    match dial::attested(&proxy.datapath, pod, &target_pod, target).await {
        Ok(server) => {
            let denied = denied_later(&proxy.store, Arc::clone(snapshot), workload.uid.clone(), connection);
            let denied = async {
                tokio::select! {
                    denied = denied => denied,
                    denied = forgotten(&proxy.store, &pod.uid) => denied,
                }
            };
            forward(&permit, socket(stream), server, denied, &mut flow).await;
        }
        // The kernel attests for redirected pods only. It goes on as it would have, had the pod left a moment before.
        Err(_) if pod.leaves() => {
            (flow.path, flow.security) = (Some(Path::Passthrough), Security::Plaintext);
            (flow.policy, flow.rule) = (None, None);
            let dialled = dial::from_pod(pod, target).await;
            outside_policy(proxy, pod, stream, dialled, flow).await;
        }
        Err(e) => {
            flow.failed(reason::CONNECT, e);
            refuse(&stream);
        }
    }
}

/// To a mesh workload elsewhere: its own agent decides.
async fn tunnel(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    stream: TcpStream,
    own: Option<&Workload>,
    workload: &Arc<Workload>,
    target: SocketAddr,
    mut flow: OpenFlow,
) {
    flow.path = Some(Path::Tunnel);
    let Some(certificate) = proxy.certificates.current(&pod.identity) else {
        flow.failed(reason::NO_CERTIFICATE, format!("no valid certificate for {}", pod.identity));
        return refuse(&stream);
    };
    let key = PoolKey {
        source_pod: pod.key(),
        source: pod.identity.clone(),
        destination: workload.identity.clone(),
        address: SocketAddr::new(target.ip(), proxy.hbone_port),
    };
    let request = ConnectRequest { authority: target, forwarded: flow.source.address, baggage: own.map(baggage) };
    let hbone = key.address;
    flow.tunnel = Some(hbone);
    let dialler = Arc::clone(pod);
    let dial = move || {
        let pod = Arc::clone(&dialler);
        async move { dial::tunnel_from_pod(&pod, hbone).await }
    };
    match proxy.pool.open(&key, &certificate, dial, &request).await {
        Ok((server, tls)) => {
            flow.security = Security::MutualTls;
            flow.tls = Some((tls.version, tls.cipher));
            outside_policy_of(proxy, pod, stream, server, flow).await;
        }
        Err(TunnelError::Refused { status, reason, .. }) => {
            let why = format!("the destination's agent refused: {status} {reason}");
            // It said so over mutual TLS.
            flow.security = Security::MutualTls;
            // Only words of ours become codes: the text is a peer's, and codes are labels of metrics.
            flow.failed(reason::known(&reason).unwrap_or(reason::PEER_REFUSED), why);
            // Whether it was a decision or a failure over there, the status tells.
            if matches!(status.as_u16(), 401 | 403) {
                flow.verdict = crate::telemetry::Verdict::Dropped;
            }
            refuse(&stream);
        }
        Err(e) => {
            flow.failed(e.code(), &e);
            refuse(&stream);
        }
    }
}

/// Connections on which this agent has no decision to make: their destination is outside the mesh or decides itself.
async fn outside_policy(
    proxy: &Proxy,
    pod: &Pod,
    stream: TcpStream,
    dialled: std::io::Result<Socket>,
    mut flow: OpenFlow,
) {
    match dialled {
        Ok(server) => outside_policy_of(proxy, pod, stream, server, flow).await,
        Err(e) => {
            flow.failed(reason::CONNECT, e);
            refuse(&stream);
        }
    }
}

async fn outside_policy_of(proxy: &Proxy, pod: &Pod, stream: TcpStream, server: impl End, mut flow: OpenFlow) {
    let denied = forgotten(&proxy.store, &pod.uid);
    forward(&Permit::outside_policy(), socket(stream), server, denied, &mut flow).await;
}

/// W3C baggage as the ambient ecosystem writes it: a hint for telemetry.
fn baggage(own: &Workload) -> String {
    format!(
        "k8s.cluster.name={},k8s.namespace.name={},k8s.pod.name={},service.name={},service.version={}",
        own.cluster, own.namespace, own.name, own.canonical_name, own.canonical_revision
    )
}
