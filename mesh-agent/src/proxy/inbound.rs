//! Connections that arrive at a pod of this node from elsewhere: tunnelled with an identity, or plaintext without.

use std::{net::SocketAddr, sync::Arc};

use http::StatusCode;
use mesh_common::model::{Connection, Identity, Passed, Permit, Workload};
use tokio::net::TcpStream;

use super::{
    Proxy, dial,
    forward::{End, Socket, forward, refuse, socket},
    live::Counted,
    read,
    reauthorize::{answers, denied_later, read_later},
    verified,
};
use crate::{
    pods::Pod,
    state::Snapshot,
    telemetry::{Direction, OpenFlow, Party, Path, Security, reason},
    tunnel::{self, Inbound, Malformed, Respond, ServerSettings},
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
        let own = pod.party(local, proxy.store.snapshot().workload(&pod.uid).map(|w| &**w));
        let mut flow = proxy.flows.begin(Direction::Inbound, Party::stranger(peer), own);
        flow.told = proxy.store.snapshot().local_pod_by_uid(&pod.uid).cloned();
        flow.path = Some(Path::Tunnel);
        flow.dropped(reason, why);
    };
    // Another agent dials from a pod's own address, and never from the pod to itself.
    if pod.ips.owns(peer.ip()) || peer.ip().is_loopback() {
        refused(reason::HBONE_PORT, format!("{local} is the agents' own; an application of the pod dialled it"));
        return refuse(&stream);
    }
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
    // No policy was asked: whoever it was did not say what they want.
    let malformed = |Malformed { peer, remote, reason, why, tls }: Malformed| {
        let snapshot = proxy.store.snapshot();
        let own = pod.party(local, snapshot.workload(&pod.uid).map(|w| &**w));
        let mut flow = proxy.flows.begin(Direction::Inbound, source(&snapshot, remote, Some(&peer.identity)), own);
        flow.path = Some(Path::Tunnel);
        flow.security = Security::MutualTls;
        flow.tls = Some((tls.version, tls.cipher));
        (flow.generation, flow.told) = (snapshot.generation(), snapshot.local_pod_by_uid(&pod.uid).cloned());
        flow.dropped(reason, why);
    };
    let settings = ServerSettings::default();
    let drain = async {
        tokio::select! { () = pod.unhooked() => {}, () = counted.drained() => {} }
    };
    let served = tunnel::serve(stream, peer, certificate.serving(), &settings, handler, malformed, drain).await;
    if let Err(e) = served {
        refused(e.code(), format!("{:#}", anyhow::Error::from(e)));
    }
}

async fn one_stream(proxy: &Arc<Proxy>, pod: &Arc<Pod>, local: SocketAddr, inbound: Inbound, mut respond: Respond) {
    if let Some(port) = inbound.verify.filter(|_| inbound.authority.port() == proxy.hbone_port) {
        return verified::answer(proxy, pod, local, inbound, port, respond).await;
    }
    let Inbound { peer, remote, authority, forwarded, baggage, verify: _, tls } = inbound;
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
    flow.tunnel = Some(remote);
    let misdirected = if authority.ip() != local.ip() || !pod.ips.owns(local.ip()) {
        Some(reason::HBONE_ADDRESS_MISMATCH)
    } else if authority.port() == proxy.hbone_port {
        // A tunnel in a tunnel, from a source that policies cannot judge.
        Some(reason::HBONE_PORT)
    } else {
        None
    };
    if let Some(reason) = misdirected {
        // No policy decided that.
        flow.undecided();
        flow.dropped(reason, format!("{authority} was asked for at {local}"));
        return respond.refuse(StatusCode::BAD_REQUEST, reason);
    }
    let permitted = match decided {
        Ok(permitted) => permitted,
        Err(Refusal { heard: Some(denied), .. }) => {
            // Otherwise the peer is gone.
            if let Ok(stream) = respond.accept() {
                read::refuse(proxy, pod, &denied, client, stream, flow).await;
            }
            return;
        }
        Err(Refusal { status, reason, heard: None }) => return respond.refuse(status, reason),
    };
    let dialled = tokio::select! {
        dialled = dial::application(&proxy.datapath, pod, authority, client) => dialled,
        () = respond.cancelled() => return flow.failed(reason::RESET, "the peer gave up while the application was dialled"),
    };
    let mut server = match dialled {
        Ok(server) => server,
        Err(e) => {
            flow.failed(reason::CONNECT, e);
            return respond.refuse(StatusCode::SERVICE_UNAVAILABLE, reason::CONNECT);
        }
    };
    match respond.accept() {
        Ok(stream) => pass(proxy, pod, permitted, client, (stream, server), flow).await,
        Err(e) => {
            server.reset();
            flow.failed(reason::RESET, format!("the peer gave up: {e}"));
        }
    }
}

/// A client without identity: policies decide, STRICT refuses. To a pod that leaves the mesh it is as if it had left.
pub async fn plaintext(proxy: &Arc<Proxy>, pod: &Arc<Pod>, stream: TcpStream, peer: SocketAddr, local: SocketAddr) {
    if pod.leaves() {
        return outside_policy(proxy, pod, stream, peer, local).await;
    }
    let (client, path, security) = match late(proxy, &stream, peer) {
        Some(source) => (Some(source.identity.clone()), Path::Local, Security::KernelAttested),
        None => (None, Path::Passthrough, Security::Plaintext),
    };
    let (mut flow, decided) = decide(proxy, pod, peer, client, local);
    (flow.path, flow.security) = (Some(path), security);
    let permitted = match decided {
        Ok(permitted) => permitted,
        Err(Refusal { heard: Some(denied), .. }) => {
            return read::refuse(proxy, pod, &denied, peer, socket(stream), flow).await;
        }
        Err(_) => return refuse(&stream),
    };
    match dial::application(&proxy.datapath, pod, local, peer).await {
        Ok(server) => pass(proxy, pod, permitted, peer, (socket(stream), server), flow).await,
        Err(e) => {
            // Its listener closed unseen: it was older than the agent.
            if e.kind() == std::io::ErrorKind::ConnectionRefused {
                pod.listener_closed();
            }
            flow.failed(reason::CONNECT, e);
            refuse(&stream);
        }
    }
}

/// Forwards what was permitted: as bytes, or by requests if they are to be looked at.
async fn pass(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    permitted: Permitted,
    client: SocketAddr,
    (downstream, server): (impl End + 'static, Socket),
    mut flow: OpenFlow,
) {
    let Permitted { permit, connection, workload, snapshot } = permitted;
    let uid = workload.uid.as_str();
    if snapshot.reads(&workload, connection.destination.port()) {
        let permitted = Permitted { permit, connection, workload, snapshot };
        return read::serve(proxy, pod, &permitted, client, (downstream, server), flow).await;
    }
    let ends = async {
        tokio::select! {
            // What is read from now on is not denied: its client opens another.
            biased;
            read = read_later(&proxy.store, uid, &connection) => read,
            denied = denied_later(&proxy.store, Arc::clone(&snapshot), (uid, &connection), Passed::BYTES) => denied,
        }
    };
    forward(&permit, downstream, server, ends, &mut flow).await;
}

/// The pod of this node behind a connection that was to be direct: the decision changed while it was dialled, so it
/// came here. The kernel proves who dialled.
fn late(proxy: &Proxy, stream: &TcpStream, peer: SocketAddr) -> Option<Arc<Pod>> {
    let (index, epoch) = match proxy.datapath.attested_late(stream) {
        Ok(late) => late?,
        Err(e) => {
            tracing::error!(error = %anyhow::Error::from(e), "cannot ask who dialled; it has no identity");
            return None;
        }
    };
    proxy.pods.by_index(index).filter(|source| source.epoch == epoch && source.ips.owns(peer.ip()))
}

async fn outside_policy(proxy: &Arc<Proxy>, pod: &Arc<Pod>, stream: TcpStream, peer: SocketAddr, local: SocketAddr) {
    let snapshot = proxy.store.snapshot();
    let source = match snapshot.workload_by_address(peer.ip()) {
        Some(known) => Party { identity: None, ..Party::of(known, peer) },
        None => Party::stranger(peer),
    };
    let workload = snapshot.workload(&pod.uid).map(|workload| &**workload);
    let own = pod.party(local, workload);
    let mut flow = proxy.flows.begin(Direction::Inbound, source, own);
    flow.service = workload.and_then(|workload| workload.service_to(local.port())).cloned().map(Arc::new);
    (flow.path, flow.generation) = (Some(Path::Passthrough), snapshot.generation());
    flow.told = snapshot.local_pod_by_uid(&pod.uid).cloned();
    match dial::application(&proxy.datapath, pod, local, peer).await {
        Ok(server) => {
            let never = std::future::pending();
            forward(&Permit::outside_policy(), socket(stream), server, never, &mut flow).await;
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
    /// If it is heard in answers to requests.
    heard: Option<Box<Refused>>,
}

/// A connection on which nothing may be asked for.
pub(super) struct Refused {
    pub connection: Connection,
    pub workload: Arc<Workload>,
    pub snapshot: Arc<Snapshot>,
}

/// What was permitted, and by what.
pub(super) struct Permitted {
    pub permit: Permit,
    pub connection: Connection,
    pub workload: Arc<Workload>,
    pub snapshot: Arc<Snapshot>,
}

type Decided = Result<Permitted, Refusal>;

/// Who is at the other end: by its address, but for the identity, which is what the connection proved.
pub(super) fn source(snapshot: &Snapshot, client: SocketAddr, identity: Option<&Identity>) -> Party {
    let known = snapshot.workload_by_address(client.ip()).map(|known| Party::of(known, client));
    Party { identity: identity.cloned().map(Arc::new), ..known.unwrap_or_else(|| Party::stranger(client)) }
}

/// Opens the record and asks the destination's policies.
fn decide(
    proxy: &Proxy,
    pod: &Pod,
    client: SocketAddr,
    identity: Option<Identity>,
    destination: SocketAddr,
) -> (OpenFlow, Decided) {
    let snapshot = proxy.store.snapshot();
    let workload = snapshot.workload(&pod.uid).cloned();
    if identity.is_some() && snapshot.must_ask(client.ip()) {
        // Nothing waits for the name: only records bear it, and the next one will.
        proxy.store.questions().ask(client.ip());
    }
    let source = source(&snapshot, client, identity.as_ref());
    let own = pod.party(destination, workload.as_deref());
    let mut flow = proxy.flows.begin(Direction::Inbound, source, own);
    (flow.generation, flow.told) = (snapshot.generation(), snapshot.local_pod_by_uid(&pod.uid).cloned());
    let Some(workload) = workload else {
        flow.dropped(reason::WORKLOAD_UNKNOWN, format!("{} is not in the configuration", pod.uid));
        let (status, reason) = (StatusCode::FORBIDDEN, reason::WORKLOAD_UNKNOWN);
        return (flow, Err(Refusal { status, reason, heard: None }));
    };
    flow.service = workload.service_to(destination.port()).cloned().map(Arc::new);
    let connection = Connection { source_identity: identity, source_ip: client.ip(), destination };
    let passed = snapshot.passed_at_first(&workload, destination.port());
    let decision = snapshot.decide(&workload, &connection, passed);
    flow.decided(&decision);
    match decision.outcome {
        Ok(permit) => (flow, Ok(Permitted { permit, connection, workload, snapshot })),
        Err(denied) => {
            let (status, reason) = (StatusCode::FORBIDDEN, denied.reason.code());
            let heard = answers(&snapshot, &workload, destination.port(), &denied);
            let heard = heard.then(|| Box::new(Refused { connection, workload, snapshot }));
            (flow, Err(Refusal { status, reason, heard }))
        }
    }
}
