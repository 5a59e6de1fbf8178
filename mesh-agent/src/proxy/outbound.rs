//! A connection that a pod of this node opened: original destination, route, way to the endpoint, forward.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use super::{
    Proxy,
    affinity::kept,
    ask::whose,
    bounds::{Ends, Outdated},
    forward::{forward_until, refuse, socket},
    live::Counted,
    reauthorize::outdated,
    resolve::{Resolved, choose, resolve},
    ruled::{self, Dialler},
    upstream::{self, Upstream},
};
use crate::{
    pods::Pod,
    state::Snapshot,
    telemetry::{Direction, Party, reason},
};

/// `local` is the loopback address to which the kernel redirected the connection.
pub async fn redirected(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    counted: &Counted,
) {
    // Its own address as it would be without the redirection.
    let client = SocketAddr::new(pod.ips.like(local.ip()).unwrap_or(peer.ip()), peer.port());
    let source = |snapshot: &Snapshot| pod.party(client, snapshot.workload(&pod.uid).map(|own| &**own));
    let refused = |destination: SocketAddr| {
        let snapshot = proxy.store.snapshot();
        let mut flow = proxy.flows.begin(Direction::Outbound, source(&snapshot), Party::stranger(destination));
        flow.told = snapshot.local_pod_by_uid(&pod.uid).cloned();
        flow
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
    if let Some(service) = snapshot.service_by_address(destination.ip()).map(|service| service.service_name())
        && snapshot.workload(&pod.uid).is_some()
        && let Some(rules) = snapshot.ruled(&service)
    {
        let dialler = Dialler { proxy: Arc::clone(proxy), pod: Arc::clone(pod), client };
        return ruled::serve(dialler, stream, service, destination, rules, counted).await;
    }
    let own = snapshot.workload(&pod.uid).cloned();
    let dialled = match snapshot.workload_by_address(destination.ip()) {
        Some(workload) => Party::of(workload, destination),
        None => Party::stranger(destination),
    };
    let mut flow = proxy.flows.begin(Direction::Outbound, source(&snapshot), dialled);
    (flow.generation, flow.told) = (snapshot.generation(), snapshot.local_pod_by_uid(&pod.uid).cloned());
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
    flow.service = service.map(Arc::new);
    match upstream::connect(proxy, pod, &snapshot, client, route, flow).await {
        Ok(Upstream { link, permit, denied, mut flow }) => {
            let outdated = flow.service.as_deref().cloned().map(|service| {
                let (store, uid) = (Arc::clone(&proxy.store), pod.uid.clone());
                Box::pin(outdated(store, uid, service, destination.port())) as Outdated
            });
            let ends = Ends { outdated, ..Ends::default() };
            forward_until(ends, &permit, socket(stream), link, denied, &mut flow).await;
        }
        Err(_) => refuse(&stream),
    }
}
