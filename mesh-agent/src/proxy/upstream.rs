//! A way to an endpoint: decided, attested or tunnelled, and recorded, whatever is sent on it.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use mesh_common::model::{Connection, Decision, Passed, Permit, Workload};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::{
    Proxy, dial,
    forward::{End, Socket},
    reauthorize::{denied_later, forgotten, read_later},
    resolve::Route,
};
use crate::{
    pods::Pod,
    state::Snapshot,
    telemetry::{OpenFlow, Party, Path, Security, Verdict, reason},
    tunnel::{ConnectRequest, PoolKey, TunnelError, TunnelStream},
};

/// A connection from a pod of this node to an endpoint.
pub struct Upstream {
    pub link: Link,
    pub permit: Permit,
    /// Resolves if a later change denies it.
    pub denied: Denied,
    /// Written when it drops.
    pub flow: OpenFlow,
}

pub type Denied = Pin<Box<dyn Future<Output = Decision> + Send>>;

/// Its bytes.
pub enum Link {
    Socket(Socket),
    Tunnel(TunnelStream),
    /// One of these, and TLS that the agent speaks to the endpoint itself.
    Tls(Box<TlsStream<Link>>),
}

/// There is none, as the record says that was written of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

/// Goes the way of `route` for a connection of `pod`, which its application opened from `client`. `flow` is the record
/// that was begun of it.
pub async fn connect(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    snapshot: &Arc<Snapshot>,
    client: SocketAddr,
    route: Route,
    mut flow: OpenFlow,
) -> Result<Upstream, Refused> {
    // Who gives up waiting drops it half way.
    flow.pending();
    let mut way = gone(proxy, pod, snapshot, client, route, flow).await?;
    way.flow.settled();
    Ok(way)
}

async fn gone(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    snapshot: &Arc<Snapshot>,
    client: SocketAddr,
    route: Route,
    mut flow: OpenFlow,
) -> Result<Upstream, Refused> {
    match route {
        Route::Refuse { reason, why } => {
            flow.dropped(reason, why);
            Err(Refused(reason))
        }
        // TLS within the node too, or requests to look at: as between nodes, and the agent's other hand decides.
        Route::Local { workload, target }
            if [&pod.uid, &workload.uid].iter().any(|uid| snapshot.same_node_tls(uid))
                || snapshot.reads(&workload, target.port()) =>
        {
            flow.destination = Party::of(&workload, target);
            tunnel(proxy, pod, snapshot, &workload, target, flow).await
        }
        Route::Local { workload, target } => {
            flow.destination = Party::of(&workload, target);
            local_pod(proxy, pod, snapshot, &workload, target, flow).await
        }
        Route::Tunnel { workload, target } => {
            flow.destination = Party::of(&workload, target);
            tunnel(proxy, pod, snapshot, &workload, target, flow).await
        }
        Route::Own { workload, target } => {
            flow.destination = Party::of(&workload, target);
            flow.path = Some(Path::Local);
            flow.security = Security::KernelAttested;
            flow.told_there = flow.told.clone();
            let client = SocketAddr::new(pod.ips.like(target.ip()).unwrap_or(client.ip()), client.port());
            let dialled = dial::application(&proxy.datapath, pod, target, client).await;
            outside_policy(proxy, pod, dialled, flow)
        }
        Route::Passthrough { workload, target } => {
            if let Some(workload) = workload {
                flow.destination = Party::of(&workload, target);
                // Nobody proves it, and nobody checks it.
                flow.destination.identity = None;
            }
            flow.path = Some(Path::Passthrough);
            let dialled = dial::from_pod(pod, target).await;
            outside_policy(proxy, pod, dialled, flow)
        }
    }
}

/// To a redirected pod of this node: this agent is the destination's too and decides.
async fn local_pod(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    snapshot: &Arc<Snapshot>,
    workload: &Arc<Workload>,
    target: SocketAddr,
    mut flow: OpenFlow,
) -> Result<Upstream, Refused> {
    flow.path = Some(Path::Local);
    flow.security = Security::KernelAttested;
    flow.told_there = snapshot.local_pod_by_uid(&workload.uid).cloned();
    let Some(target_pod) = proxy.pods.by_ip(target.ip()) else {
        flow.failed(reason::CONNECT, "the destination pod left");
        return Err(Refused(reason::CONNECT));
    };
    // The decision is about the workload, the connection enters the pod: an address that was handed on must not let
    // one stand for the other.
    if target_pod.uid != workload.uid {
        let why = format!("{target} is {} here and {} in the configuration", target_pod.uid, workload.uid);
        flow.dropped(reason::WORKLOAD_UNKNOWN, why);
        return Err(Refused(reason::WORKLOAD_UNKNOWN));
    }
    let Some(source_ip) = pod.ips.like(target.ip()) else {
        flow.failed(reason::CONNECT, "the source pod has no address of that family");
        return Err(Refused(reason::CONNECT));
    };
    let connection = Connection { source_identity: Some(pod.identity.clone()), source_ip, destination: target };
    let decision = snapshot.decide(workload, &connection, Passed::BYTES);
    flow.decided(&decision);
    // The kernel shall know it of those to come.
    proxy.direct.learn(pod, &target_pod, target);
    let permit = decision.outcome.map_err(|denied| Refused(denied.reason.code()))?;
    match dial::attested(&proxy.datapath, pod, &target_pod, target).await {
        Ok(server) => {
            let (proxy, decided) = (Arc::clone(proxy), Arc::clone(snapshot));
            let (source, target) = (pod.uid.clone(), workload.uid.clone());
            let denied = Box::pin(async move {
                tokio::select! {
                    // What is read from now on is not denied: its client opens another.
                    biased;
                    read = read_later(&proxy.store, &target, &connection) => read,
                    denied = denied_later(&proxy.store, decided, (&target, &connection), Passed::BYTES) => denied,
                    denied = forgotten(&proxy.store, &source) => denied,
                }
            });
            Ok(Upstream { link: Link::Socket(server), permit, denied, flow })
        }
        // The kernel attests for redirected pods only. It goes on as it would have, had the pod left a moment before.
        Err(_) if pod.leaves() => {
            (flow.path, flow.security) = (Some(Path::Passthrough), Security::Plaintext);
            (flow.policy, flow.rule, flow.told_there) = (None, None, None);
            let dialled = dial::from_pod(pod, target).await;
            outside_policy(proxy, pod, dialled, flow)
        }
        Err(e) => {
            flow.failed(reason::CONNECT, e);
            Err(Refused(reason::CONNECT))
        }
    }
}

/// To a mesh workload elsewhere: its own agent decides.
async fn tunnel(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    snapshot: &Snapshot,
    workload: &Arc<Workload>,
    target: SocketAddr,
    mut flow: OpenFlow,
) -> Result<Upstream, Refused> {
    flow.path = Some(Path::Tunnel);
    let Some(certificate) = proxy.certificates.current(&pod.identity) else {
        flow.failed(reason::NO_CERTIFICATE, format!("no valid certificate for {}", pod.identity));
        return Err(Refused(reason::NO_CERTIFICATE));
    };
    let key = PoolKey {
        source_pod: pod.key(),
        source: pod.identity.clone(),
        destination: workload.identity.clone(),
        address: SocketAddr::new(target.ip(), proxy.hbone_port),
    };
    let own = snapshot.workload(&pod.uid).map(|own| &**own);
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
            Ok(without_decision(proxy, pod, Link::Tunnel(server), flow))
        }
        Err(TunnelError::Refused { status, reason, .. }) => {
            let why = format!("the destination's agent refused: {status} {reason}");
            // It said so over mutual TLS.
            flow.security = Security::MutualTls;
            // Only words of ours become codes: the text is a peer's, and codes are labels of metrics.
            let code = reason::known(&reason).unwrap_or(reason::PEER_REFUSED);
            flow.failed(code, why);
            // Whether it was a decision or a failure over there, the status tells.
            if matches!(status.as_u16(), 401 | 403) {
                flow.verdict = Verdict::Dropped;
            }
            Err(Refused(code))
        }
        Err(e) => {
            flow.failed(e.code(), &e);
            Err(Refused(e.code()))
        }
    }
}

/// Connections on which this agent has no decision to make: their destination is outside the mesh or decides itself.
fn outside_policy(
    proxy: &Arc<Proxy>,
    pod: &Pod,
    dialled: io::Result<Socket>,
    mut flow: OpenFlow,
) -> Result<Upstream, Refused> {
    match dialled {
        Ok(server) => Ok(without_decision(proxy, pod, Link::Socket(server), flow)),
        Err(e) => {
            flow.failed(reason::CONNECT, e);
            Err(Refused(reason::CONNECT))
        }
    }
}

fn without_decision(proxy: &Arc<Proxy>, pod: &Pod, link: Link, flow: OpenFlow) -> Upstream {
    let (proxy, uid) = (Arc::clone(proxy), pod.uid.clone());
    let denied = Box::pin(async move { forgotten(&proxy.store, &uid).await });
    Upstream { link, permit: Permit::outside_policy(), denied, flow }
}

/// W3C baggage as the ambient ecosystem writes it: a hint for telemetry.
fn baggage(own: &Workload) -> String {
    format!(
        "k8s.cluster.name={},k8s.namespace.name={},k8s.pod.name={},service.name={},service.version={}",
        own.cluster, own.namespace, own.name, own.canonical_name, own.canonical_revision
    )
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(end) => Pin::new(end).poll_read(cx, buf),
            Self::Tunnel(end) => Pin::new(end).poll_read(cx, buf),
            Self::Tls(end) => Pin::new(&mut **end).poll_read(cx, buf),
        }
    }
}

impl AsyncBufRead for Link {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        match self.get_mut() {
            Self::Socket(end) => Pin::new(end).poll_fill_buf(cx),
            Self::Tunnel(end) => Pin::new(end).poll_fill_buf(cx),
            Self::Tls(end) => Pin::new(&mut **end).poll_fill_buf(cx),
        }
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        match self.get_mut() {
            Self::Socket(end) => Pin::new(end).consume(amount),
            Self::Tunnel(end) => Pin::new(end).consume(amount),
            Self::Tls(end) => Pin::new(&mut **end).consume(amount),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Socket(end) => Pin::new(end).poll_write(cx, buf),
            Self::Tunnel(end) => Pin::new(end).poll_write(cx, buf),
            Self::Tls(end) => Pin::new(&mut **end).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(end) => Pin::new(end).poll_flush(cx),
            Self::Tunnel(end) => Pin::new(end).poll_flush(cx),
            Self::Tls(end) => Pin::new(&mut **end).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(end) => Pin::new(end).poll_shutdown(cx),
            Self::Tunnel(end) => Pin::new(end).poll_shutdown(cx),
            Self::Tls(end) => Pin::new(&mut **end).poll_shutdown(cx),
        }
    }
}

impl End for Link {
    fn arm(&mut self, on: bool) {
        match self {
            Self::Socket(end) => end.arm(on),
            Self::Tunnel(end) => end.arm(on),
            Self::Tls(end) => end.arm(on),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Socket(end) => end.reset(),
            Self::Tunnel(end) => End::reset(end),
            Self::Tls(end) => End::reset(&mut **end),
        }
    }

    fn is_sent(&self) -> bool {
        match self {
            Self::Socket(end) => end.is_sent(),
            Self::Tunnel(end) => End::is_sent(end),
            Self::Tls(end) => end.is_sent(),
        }
    }

    fn gather(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Socket(end) => end.gather(cx),
            Self::Tunnel(end) => End::gather(end, cx),
            Self::Tls(end) => end.gather(cx),
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Socket(end) => end.poll_gone(cx),
            Self::Tunnel(end) => end.poll_gone(cx),
            Self::Tls(end) => end.poll_gone(cx),
        }
    }
}
