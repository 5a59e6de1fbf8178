//! Which endpoint of a service a client keeps, where the kernel leaves the choice to the agent: after the service's
//! endpoints changed, and where the kernel has no list of them. The table is the kernel's, so that both choose alike.

use std::net::SocketAddr;

use mesh_common::{
    abi::{self, AffinityKey, SockAddr},
    model::Affinity,
    verdict,
};

use super::resolve::Endpoint;
use crate::{
    bpf::{Datapath, kernel_now},
    pods::Pod,
};

/// The place among the endpoints, of which there is one at least, of the one that `pod` keeps of the service that it
/// dialled, or keeps from now on. Without the kernel's table it is the one that a client gets first.
pub fn kept(
    datapath: &Datapath,
    pod: &Pod,
    dialled: SocketAddr,
    affinity: Affinity,
    endpoints: &[Endpoint<'_>],
) -> usize {
    let service = SockAddr::from(dialled);
    let key = AffinityKey { source: pod.index, service };
    let before = datapath.kept(&key).unwrap_or_else(|e| {
        tracing::warn!(error = %anyhow::Error::from(e), "cannot read which endpoint a client keeps");
        None
    });
    let before = before.filter(|before| verdict::keeps(before, pod.epoch, affinity.seconds(), kernel_now()));
    let client = pod.ips.like(dialled.ip()).map_or(abi::Ip::NONE, Into::into);
    let place = place(before.map(|before| before.endpoint.into()), endpoints)
        .unwrap_or_else(|| verdict::first(client, &service, endpoints.len() as u32) as usize);
    if let Err(e) = datapath.keep(&key, pod.epoch, endpoints[place].1.into(), place as u32) {
        tracing::warn!(error = %anyhow::Error::from(e), "cannot write which endpoint a client keeps");
    }
    place
}

/// `None`: it is none of them any more.
fn place(kept: Option<SocketAddr>, endpoints: &[Endpoint<'_>]) -> Option<usize> {
    kept.and_then(|kept| endpoints.iter().position(|(_, target)| *target == kept))
}
