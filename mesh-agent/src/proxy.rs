//! The story of one connection: accepted, resolved, authorised, forwarded, recorded.

mod affinity;
mod ask;
mod balance;
mod bounds;
mod buffer;
mod dial;
mod forward;
mod inbound;
mod live;
mod outbound;
mod read;
mod reauthorize;
mod resolve;
mod ruled;
mod upstream;
mod verified;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use mesh_common::abi::Counter;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

use crate::{
    bpf::{Datapath, KernelEvent},
    direct::Direct,
    http::Http,
    identity::Certificates,
    pods::{Pod, PodTable, Start},
    state::Store,
    telemetry::{Direction, FlowLog, Party, Path, Security},
    tunnel::Pool,
};
use balance::Balancer;
pub use dial::bound_for_tunnel;
use live::Counted;
pub use live::Live;

/// What every connection needs; one for the whole agent.
pub struct Proxy {
    pub datapath: Arc<Datapath>,
    pub store: Arc<Store>,
    pub certificates: Arc<Certificates>,
    pub pods: Arc<PodTable>,
    pub pool: Arc<Pool>,
    pub flows: Arc<FlowLog>,
    pub direct: Arc<Direct>,
    pub balancer: Balancer,
    pub http: Arc<Http>,
    pub live: Arc<Live>,
    /// How long a connection waits to hear whose an address is.
    pub ask_timeout: Duration,
    /// Port of the tunnel between nodes.
    pub hbone_port: u16,
}

impl Proxy {
    /// A refusal that only the kernel saw becomes a record like any other.
    pub fn kernel_refused(&self, event: &KernelEvent) {
        let index = event.pod.filter(|_| self.datapath.is_of_this_life(event));
        let known = index.and_then(|index| self.pods.by_index(index));
        if event.counter == Counter::ListenerClosed {
            // No refusal: the table of open ports is to be looked at.
            if let Some(pod) = known {
                pod.listener_closed();
            }
            return;
        }
        let outside = known.as_ref().is_some_and(|pod| event.netns != 0 && event.netns != pod.netns.cookie());
        let Refused { direction, client, server } = Refused::of(event.counter, outside, event.local, event.remote);
        let decided = (event.decision != 0).then(|| self.direct.known(event.decision)).flatten();
        let own = |address| match &known {
            Some(pod) => pod.party(address, self.store.snapshot().workload(&pod.uid).map(|w| &**w)),
            None => Party::stranger(address),
        };
        let (source, destination) = match direction {
            Direction::Inbound => (Party::stranger(client), own(server)),
            Direction::Outbound => (own(client), Party::stranger(server)),
        };
        let destination = match &decided {
            Some(decided) => decided.target.clone(),
            None => destination,
        };
        let mut flow = self.flows.begin(direction, source, destination);
        flow.happened(event.at());
        flow.told = known.as_ref().and_then(|pod| self.store.snapshot().local_pod_by_uid(&pod.uid).cloned());
        match event.counter {
            Counter::ConnectDenied => {
                (flow.path, flow.security) = (Some(Path::Direct), Security::KernelAttested);
                match &decided {
                    Some(decided) => flow.decided(&decided.decision),
                    // The agent that decided it is gone.
                    None => flow.dropped(event.counter.name(), "refused in the kernel, as an earlier agent decided"),
                }
            }
            Counter::NoHealthyEndpoint => {
                let snapshot = self.store.snapshot();
                flow.service = snapshot.service_by_address(server.ip()).map(|service| Arc::new(service.service_name()));
                let name = flow.service.as_ref().map(ToString::to_string).unwrap_or_default();
                let port = server.port();
                flow.dropped(event.counter.name(), format!("service {name} has no healthy endpoint for port {port}"));
            }
            counter => flow.dropped(counter.name(), "refused in the kernel"),
        }
    }
}

/// Who dialled whom in what the kernel refused.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    /// Of the pod that the event names.
    direction: Direction,
    client: SocketAddr,
    server: SocketAddr,
}

impl Refused {
    /// `outside`: the socket is not in the pod's namespace, and `local` is the pod's end all the same.
    fn of(counter: Counter, outside: bool, local: SocketAddr, remote: SocketAddr) -> Self {
        let (direction, client, server) = match counter {
            // An accepting end: on a loopback address it is the agent's, for what the pod dials.
            Counter::AgentDown | Counter::TakenStorageFull if local.ip().is_loopback() => {
                (Direction::Outbound, remote, local)
            }
            Counter::AgentDown | Counter::TakenStorageFull => (Direction::Inbound, remote, local),
            // The agent dials the pod's application.
            Counter::PendingFull if local.ip().is_loopback() && !remote.ip().is_loopback() => {
                (Direction::Inbound, local, remote)
            }
            // A probe of the kubelet
            _ if outside => (Direction::Inbound, remote, local),
            _ => (Direction::Outbound, local, remote),
        };
        Self { direction, client, server }
    }
}

/// Starts the accept loop of each pod.
pub struct Server(pub Arc<Proxy>);

impl Start for Server {
    fn start(&self, pod: Arc<Pod>, listener: TcpListener) -> AbortHandle {
        tokio::spawn(accept(Arc::clone(&self.0), pod, listener)).abort_handle()
    }

    fn stopped(&self, pod: &Pod, in_order: bool) {
        self.0.http.forget(&pod.key());
        match in_order {
            true => self.0.pool.retire_source(&pod.key()),
            false => self.0.pool.forget_source(&pod.key()),
        }
    }
}

async fn accept(proxy: Arc<Proxy>, pod: Arc<Pod>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((_, peer)) if pod.answers_probe(canonical(peer)) => {}
            Ok((stream, peer)) => {
                let peer = canonical(peer);
                let (proxy, pod) = (Arc::clone(&proxy), Arc::clone(&pod));
                // Here and not in the task: a drain from now on is about this connection too.
                let counted = proxy.live.enter();
                tokio::spawn(async move {
                    tokio::select! {
                        () = serve(&proxy, &pod, stream, peer, &counted) => {}
                        () = pod.removed() => {}
                    }
                });
            }
            // EMFILE and the like pass; a closed listener is an aborted task, not an error.
            Err(e) => {
                tracing::warn!(namespace = pod.namespace, pod = pod.name, error = %e, "accept failed");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    }
}

/// The local address tells what the connection is: `sk_lookup` left it as it was dialled.
async fn serve(proxy: &Arc<Proxy>, pod: &Arc<Pod>, stream: TcpStream, peer: SocketAddr, counted: &Counted) {
    // Both fail only for sockets that are gone already.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&dial::keepalive());
    match stream.local_addr().map(canonical) {
        Ok(local) if local.port() == proxy.hbone_port => {
            inbound::tunnelled(proxy, pod, stream, peer, local, counted).await;
        }
        Ok(local) if local.ip().is_loopback() => outbound::redirected(proxy, pod, stream, peer, local, counted).await,
        Ok(local) => inbound::plaintext(proxy, pod, stream, peer, local).await,
        Err(e) => tracing::debug!(error = %e, "a connection was gone before it was served"),
    }
}

/// The listener is one of IPv6 and shows IPv4 addresses as mapped ones. The scope of a link-local address stays: it
/// cannot be dialled without.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_refuses_has_a_client_and_a_server() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (pod, app, peer) = (at("10.0.0.2:40000"), at("10.0.0.2:80"), at("10.0.0.9:41000"));
        let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
        let service = at("10.96.0.1:80");
        for (counter, outside, local, remote, direction, client, server) in [
            (Counter::AgentDown, false, app, peer, inbound, peer, app),
            // What the pod dialled itself
            (
                Counter::AgentDown,
                false,
                at("127.64.0.9:15001"),
                at("127.0.0.1:40000"),
                outbound,
                at("127.0.0.1:40000"),
                at("127.64.0.9:15001"),
            ),
            (
                Counter::AgentDown,
                false,
                at("[::1]:20000"),
                at("[::1]:40000"),
                outbound,
                at("[::1]:40000"),
                at("[::1]:20000"),
            ),
            (Counter::TakenStorageFull, false, app, at("127.128.0.9:40000"), inbound, at("127.128.0.9:40000"), app),
            (
                Counter::TakenStorageFull,
                false,
                at("127.64.0.9:15001"),
                at("127.0.0.1:40000"),
                outbound,
                at("127.0.0.1:40000"),
                at("127.64.0.9:15001"),
            ),
            (Counter::BoundDevice, false, pod, service, outbound, pod, service),
            (
                Counter::PendingFull,
                false,
                at("127.0.0.1:40000"),
                at("127.64.0.9:15001"),
                outbound,
                at("127.0.0.1:40000"),
                at("127.64.0.9:15001"),
            ),
            (Counter::PendingFull, false, at("127.128.0.9:40000"), app, inbound, at("127.128.0.9:40000"), app),
            (Counter::AttestFull, false, pod, peer, outbound, pod, peer),
            // A probe of the kubelet, in the node's namespace
            (Counter::AttestFull, true, app, peer, inbound, peer, app),
        ] {
            let refused = Refused::of(counter, outside, local, remote);
            assert_eq!(refused, Refused { direction, client, server }, "{}", counter.name());
        }
    }
}
