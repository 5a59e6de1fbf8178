//! The redirected pods of this node, for the readers on the data path.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use mesh_common::model::Identity;
use tokio::sync::watch;

use super::Netns;

/// One redirected pod. It is immutable: another identity, address or life makes another one.
#[derive(Debug)]
pub struct Pod {
    /// The uid of its workload.
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub identity: Identity,
    pub ip: IpAddr,
    pub netns: Netns,
    /// Its slot in the kernel's maps, and which life of the slot it is.
    pub index: u32,
    pub epoch: u32,
    pub(super) cgroup: u64,
    pub(super) gone: watch::Sender<bool>,
}

impl Pod {
    /// Unique over pods and their lives on this node.
    pub fn key(&self) -> String {
        format!("{}#{}", self.uid, self.epoch)
    }

    /// Resolves once the pod is no longer redirected.
    pub async fn gone(&self) {
        let mut gone = self.gone.subscribe();
        // The sender lives in `self`.
        let _ = gone.wait_for(|gone| *gone).await;
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
