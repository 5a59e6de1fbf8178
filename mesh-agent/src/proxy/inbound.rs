//! Connections that arrive at a pod of this node from elsewhere: tunnelled with an identity, or plaintext without.

use std::{net::SocketAddr, sync::Arc};

use http::StatusCode;
use mesh_common::model::{Connection, Denied, Permit, Workload};
use tokio::net::TcpStream;

use super::{
    Proxy, dial,
    forward::{forward, refuse, socket},
    live::Counted,
    own_party, party,
    reauthorize::denied_later,
    stranger,
};
use crate::{
    pods::Pod,
    telemetry::{Direction, OpenFlow, Party, Path, Security, reason},
    tunnel::{self, Inbound, Respond, ServerSettings},
};

/// An HBONE connection: mutual TLS, then a decision for each stream.
pub async fn tunnelled(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    counted: &Counted,
) {
    let refused = |reason, why: String| {
        let own = own_party(pod, local, proxy.store.snapshot().workload(&pod.uid).map(|w| &**w));
        let mut flow = proxy.flows.begin(Direction::Inbound, stranger(peer), own);
        flow.path = Some(Path::Tunnel);
        flow.dropped(reason, why);
    };
    let Some(certificate) = proxy.certificates.current(&pod.identity) else {
        refused(reason::NO_CERTIFICATE, format!("no valid certificate for {}", pod.identity));
        return refuse(&stream);
    };
    let handler = {
        let (proxy, pod) = (Arc::clone(proxy), Arc::clone(pod));
        move |inbound: Inbound, respond: Respond| {
            let (proxy, pod) = (Arc::clone(&proxy), Arc::clone(&pod));
            async move { one_stream(&proxy, &pod, local, inbound, respond).await }
        }
    };
    let settings = ServerSettings::default();
    let drain = async {
        tokio::select! { () = pod.unhooked() => {}, () = counted.drained() => {} }
    };
    let served = tunnel::serve(stream, certificate.server_config(), &settings, handler, drain).await;
    if let Err(e) = served {
        refused(e.code(), format!("{:#}", anyhow::Error::from(e)));
    }
}

async fn one_stream(proxy: &Arc<Proxy>, pod: &Arc<Pod>, local: SocketAddr, inbound: Inbound, mut respond: Respond) {
    let Inbound { peer, remote, authority, forwarded, baggage, tls } = inbound;
    tracing::debug!(peer = %peer.identity, %remote, %authority, ?forwarded, ?baggage, "a tunnelled stream");
    // The outer connection's address counts; the header may add the port, and only of that address.
    let client = forwarded
        .as_deref()
        .and_then(tunnel::parse_forwarded)
        .filter(|claimed| claimed.ip() == remote.ip())
        .unwrap_or(remote);
    let (mut flow, decided) = decide(proxy, pod, client, Some(peer.identity.clone()), authority);
    flow.path = Some(Path::Tunnel);
    flow.security = Security::MutualTls;
    flow.tls = Some((tls.version, tls.cipher));
    let misdirected = if authority.ip() != pod.ip || local.ip() != pod.ip {
        Some(reason::HBONE_ADDRESS_MISMATCH)
    } else if authority.port() == proxy.hbone_port {
        // A tunnel in a tunnel, from a source that policies cannot judge.
        Some(reason::HBONE_PORT)
    } else {
        None
    };
    if let Some(reason) = misdirected {
        // No policy decided that.
        (flow.policy, flow.rule) = (None, None);
        flow.dropped(reason, format!("{authority} was asked for at {local}"));
        return respond.refuse(StatusCode::BAD_REQUEST, reason);
    }
    let (permit, connection, workload) = match decided {
        Ok(decided) => decided,
        Err(Refusal { status, reason }) => return respond.refuse(status, reason),
    };
    let dialled = tokio::select! {
        dialled = dial::application(&proxy.datapath, pod, authority, client) => dialled,
        () = respond.cancelled() => return flow.failed(reason::RESET, "the peer gave up while the application was dialled"),
    };
    let server = match dialled {
        Ok(server) => server,
        Err(e) => {
            flow.failed(reason::CONNECT, e);
            return respond.refuse(StatusCode::SERVICE_UNAVAILABLE, reason::CONNECT);
        }
    };
    match respond.accept() {
        Ok(stream) => {
            let denied = denied_later(&proxy.store, workload.uid.clone(), connection);
            forward(&permit, stream, socket(server), denied, &mut flow).await;
        }
        Err(e) => {
            refuse(&server);
            flow.failed(reason::RESET, format!("the peer gave up: {e}"));
        }
    }
}

/// A client without identity: policies decide, STRICT refuses. To a pod that leaves the mesh it is as if it had left.
pub async fn plaintext(proxy: &Arc<Proxy>, pod: &Arc<Pod>, stream: TcpStream, peer: SocketAddr, local: SocketAddr) {
    if pod.leaves() {
        return outside_policy(proxy, pod, stream, peer, local).await;
    }
    let (mut flow, decided) = decide(proxy, pod, peer, None, local);
    flow.path = Some(Path::Passthrough);
    let (permit, connection, workload) = match decided {
        Ok(decided) => decided,
        Err(_) => return refuse(&stream),
    };
    match dial::application(&proxy.datapath, pod, local, peer).await {
        Ok(server) => {
            let denied = denied_later(&proxy.store, workload.uid.clone(), connection);
            forward(&permit, socket(stream), socket(server), denied, &mut flow).await;
        }
        Err(e) => {
            flow.failed(reason::CONNECT, e);
            refuse(&stream);
        }
    }
}

async fn outside_policy(proxy: &Arc<Proxy>, pod: &Arc<Pod>, stream: TcpStream, peer: SocketAddr, local: SocketAddr) {
    let snapshot = proxy.store.snapshot();
    let source = match snapshot.workload_by_address(peer.ip()) {
        Some(known) => Party { identity: None, ..party(known, peer) },
        None => stranger(peer),
    };
    let own = own_party(pod, local, snapshot.workload(&pod.uid).map(|w| &**w));
    let mut flow = proxy.flows.begin(Direction::Inbound, source, own);
    (flow.path, flow.generation) = (Some(Path::Passthrough), snapshot.generation());
    match dial::application(&proxy.datapath, pod, local, peer).await {
        Ok(server) => {
            let never = std::future::pending();
            forward(&Permit::outside_policy(), socket(stream), socket(server), never, &mut flow).await;
        }
        Err(e) => {
            flow.failed(reason::CONNECT, e);
            refuse(&stream);
        }
    }
}

/// How a refused stream is answered.
struct Refusal {
    status: StatusCode,
    reason: &'static str,
}

type Decided = Result<(Permit, Connection, Arc<Workload>), Refusal>;

/// Opens the record and asks the destination's policies.
fn decide(
    proxy: &Proxy,
    pod: &Pod,
    client: SocketAddr,
    identity: Option<mesh_common::model::Identity>,
    destination: SocketAddr,
) -> (OpenFlow, Decided) {
    let snapshot = proxy.store.snapshot();
    let workload = snapshot.workload(&pod.uid).cloned();
    let mut source = match snapshot.workload_by_address(client.ip()) {
        Some(known) => party(known, client),
        None => Party { address: Some(client), ..Party::default() },
    };
    // What the connection proved, not what the address suggests.
    source.identity = identity.clone();
    let own = own_party(pod, destination, workload.as_deref());
    let mut flow = proxy.flows.begin(Direction::Inbound, source, own);
    flow.generation = snapshot.generation();
    let Some(workload) = workload else {
        flow.dropped(reason::WORKLOAD_UNKNOWN, format!("{} is not in the configuration", pod.uid));
        return (flow, Err(Refusal { status: StatusCode::FORBIDDEN, reason: reason::WORKLOAD_UNKNOWN }));
    };
    let connection = Connection { source_identity: identity, source_ip: client.ip(), destination };
    match snapshot.authorize(&workload, &connection) {
        Ok(permit) => {
            flow.permitted(&permit);
            (flow, Ok((permit, connection, workload)))
        }
        Err(denied) => {
            flow.denied(&denied);
            let Denied { reason, .. } = denied;
            let status = StatusCode::FORBIDDEN;
            (flow, Err(Refusal { status, reason: reason.code() }))
        }
    }
}
