//! The redirected pods of this node, for the readers on the data path.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use mesh_common::model::Identity;
use tokio::sync::watch;

use super::{Netns, audit::Probes};

/// One redirected pod. It is immutable: another identity, address or life makes another one.
#[derive(Debug)]
pub struct Pod {
    /// The uid of its workload.
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub identity: Identity,
    pub ip: IpAddr,
    pub netns: Arc<Netns>,
    /// Its slot in the kernel's maps, and which life of the slot it is.
    pub index: u32,
    pub epoch: u32,
    pub(super) presence: watch::Sender<Presence>,
    pub(super) probes: Probes,
}

/// Where a pod is in its life on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Presence {
    Redirected,
    /// It is to leave the mesh: it dials past the agent, and what arrives is served for a moment yet.
    Leaving,
    /// It left the mesh and lives on.
    Unhooked,
    /// It left the node.
    Removed,
}

impl Pod {
    /// Unique over pods and their lives on this node.
    pub fn key(&self) -> String {
        format!("{}#{}", self.uid, self.epoch)
    }

    /// The configuration says that it is not in the mesh, or it is not redirected any more: no policy is about it.
    pub fn leaves(&self) -> bool {
        *self.presence.borrow() >= Presence::Leaving
    }

    /// Resolves once the pod is no longer redirected.
    pub async fn unhooked(&self) {
        self.reaches(Presence::Unhooked).await;
    }

    /// Resolves once the pod is gone from the node: nothing of it may be kept, its namespace least of all.
    pub async fn removed(&self) {
        self.reaches(Presence::Removed).await;
    }

    async fn reaches(&self, presence: Presence) {
        let mut seen = self.presence.subscribe();
        // The sender lives in `self`.
        let _ = seen.wait_for(|now| *now >= presence).await;
    }
}

/// Readers take a snapshot without waiting; the registry alone writes.
#[derive(Debug, Default)]
pub struct PodTable {
    by_ip: ArcSwap<HashMap<IpAddr, Arc<Pod>>>,
}

impl PodTable {
    pub fn by_ip(&self, ip: IpAddr) -> Option<Arc<Pod>> {
        self.by_ip.load().get(&ip.to_canonical()).cloned()
    }

    pub fn by_index(&self, index: u32) -> Option<Arc<Pod>> {
        self.by_ip.load().values().find(|pod| pod.index == index).cloned()
    }

    pub(super) fn publish<'a>(&self, pods: impl Iterator<Item = &'a Arc<Pod>>) {
        let by_ip = pods.map(|pod| (pod.ip, Arc::clone(pod))).collect();
        self.by_ip.store(Arc::new(by_ip));
    }
}
