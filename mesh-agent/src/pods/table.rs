//! The redirected and the observed pods of this node, for the readers on the data path.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use mesh_common::{
    abi::{Ip, PodEntry},
    model::{Identity, Workload},
};
use tokio::sync::{Notify, watch};

use super::{Netns, audit::Probes};
use crate::telemetry::{Facts, Party};

/// One redirected pod. It is immutable: another identity, address or life makes another one.
#[derive(Debug)]
pub struct Pod {
    /// The uid of its workload.
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub identity: Identity,
    pub ips: Addresses,
    pub netns: Arc<Netns>,
    /// Its slot in the kernel's maps, and which life of the slot it is.
    pub index: u32,
    pub epoch: u32,
    /// A listener of it closed; see [`super::listeners`].
    pub(super) listener_closed: Notify,
    pub(super) presence: watch::Sender<Presence>,
    pub(super) probes: Probes,
}

/// The published addresses of a pod: one of a family at most, and one at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// The first of each family; `None` if there is none at all. IPv4 in IPv6 clothes is IPv4.
    pub fn of(list: &[IpAddr]) -> Option<Self> {
        let mut ips = Self { v4: None, v6: None };
        for ip in list {
            match ip.to_canonical() {
                IpAddr::V4(ip) => ips.v4 = ips.v4.or(Some(ip)),
                IpAddr::V6(ip) => ips.v6 = ips.v6.or(Some(ip)),
            }
        }
        (ips.v4.is_some() || ips.v6.is_some()).then_some(ips)
    }

    pub fn v6(&self) -> Option<Ipv6Addr> {
        self.v6
    }

    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + Clone + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// What the kernel holds for a pod that has them.
    pub fn entry(&self, index: u32, epoch: u32) -> PodEntry {
        let word = |ip: Option<IpAddr>| ip.map_or(Ip::NONE, Ip::from);
        PodEntry { ip4: word(self.v4.map(IpAddr::V4)), ip6: word(self.v6.map(IpAddr::V6)), index, epoch, observed: 0 }
    }

    /// The one of the family of `other`.
    pub fn like(&self, other: IpAddr) -> Option<IpAddr> {
        match other.to_canonical() {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }

    /// `ip` is one of them.
    pub fn owns(&self, ip: IpAddr) -> bool {
        self.like(ip) == Some(ip.to_canonical())
    }
}

/// Where a pod is in its life on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Presence {
    Redirected,
    /// It is to leave the mesh: it dials past the agent, and what arrives is served for a moment yet.
    Leaving,
    /// It is redirected still, and another life of it is what is served: with another identity or address.
    Replaced,
    /// It left the mesh and lives on.
    Unhooked,
    /// It left the node.
    Removed,
}

impl Presence {
    /// The configuration says that it is not in the mesh. Neither a pod that is redirected anew nor one that is gone is
    /// such a pod.
    fn outside_policy(self) -> bool {
        matches!(self, Self::Leaving | Self::Unhooked)
    }
}

impl Pod {
    /// A pod that is redirected, or about to be, in this slot and life.
    pub(super) fn redirected(
        uid: &str,
        (namespace, name): (&str, &str),
        identity: Identity,
        ips: Addresses,
        netns: &Arc<Netns>,
        (index, epoch): (u32, u32),
    ) -> Arc<Self> {
        Arc::new(Self {
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity,
            ips,
            netns: Arc::clone(netns),
            index,
            epoch,
            listener_closed: Notify::new(),
            presence: watch::Sender::new(Presence::Redirected),
            probes: Default::default(),
        })
    }

    /// What the kernel holds for it.
    pub fn entry(&self) -> PodEntry {
        self.ips.entry(self.index, self.epoch)
    }

    /// Unique over pods and their lives on this node.
    pub fn key(&self) -> String {
        format!("{}#{}", self.uid, self.epoch)
    }

    /// How it shows in flows.
    pub fn party(&self, address: SocketAddr, workload: Option<&Workload>) -> Party {
        let known = workload.map(Facts::of).unwrap_or_default();
        let facts = Facts { namespace: self.namespace.clone(), pod: self.name.clone(), ..known };
        Party { facts: Arc::new(facts), identity: Some(Arc::new(self.identity.clone())), address: Some(address) }
    }

    /// The kernel says that a listener of the pod closed.
    pub fn listener_closed(&self) {
        self.listener_closed.notify_one();
    }

    /// It is to leave the mesh or has left it, and lives on: no policy is about it.
    pub fn leaves(&self) -> bool {
        self.presence.borrow().outside_policy()
    }

    /// Resolves once the pod is no longer redirected in this life.
    pub async fn unhooked(&self) {
        self.reaches(Presence::Replaced).await;
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
    now: ArcSwap<Tables>,
    changes: watch::Sender<()>,
}

/// One moment of a [`PodTable`].
#[derive(Debug, Default)]
struct Tables {
    by_ip: HashMap<IpAddr, Arc<Pod>>,
    by_index: HashMap<u32, Arc<Pod>>,
    by_uid: HashMap<String, Arc<Pod>>,
    /// By slot and life.
    observed: HashMap<(u32, u32), Arc<Netns>>,
}

impl PodTable {
    pub fn by_ip(&self, ip: IpAddr) -> Option<Arc<Pod>> {
        self.now.load().by_ip.get(&ip.to_canonical()).cloned()
    }

    pub fn by_index(&self, index: u32) -> Option<Arc<Pod>> {
        self.now.load().by_index.get(&index).cloned()
    }

    pub fn by_uid(&self, uid: &str) -> Option<Arc<Pod>> {
        self.now.load().by_uid.get(uid).cloned()
    }

    /// In no particular order.
    pub fn redirected(&self) -> Vec<Arc<Pod>> {
        self.now.load().by_uid.values().cloned().collect()
    }

    /// The namespace of the pod that is observed in this slot and life.
    pub fn observed(&self, index: u32, epoch: u32) -> Option<Arc<Netns>> {
        self.now.load().observed.get(&(index, epoch)).cloned()
    }

    /// Changes whenever a pod came, went or began another life.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    pub(super) fn publish<'a>(
        &self,
        pods: impl Iterator<Item = &'a Arc<Pod>>,
        observed: impl Iterator<Item = (&'a PodEntry, &'a Arc<Netns>)>,
    ) {
        let mut tables = Tables::default();
        for pod in pods {
            tables.by_ip.extend(pod.ips.iter().map(|ip| (ip, Arc::clone(pod))));
            tables.by_index.insert(pod.index, Arc::clone(pod));
            tables.by_uid.insert(pod.uid.clone(), Arc::clone(pod));
        }
        tables.observed = observed.map(|(entry, netns)| ((entry.index, entry.epoch), Arc::clone(netns))).collect();
        self.now.store(Arc::new(tables));
        self.changes.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pod_that_left_the_mesh_is_outside_policy() {
        use Presence::{Leaving, Redirected, Removed, Replaced, Unhooked};
        let outside = [Redirected, Leaving, Replaced, Unhooked, Removed].map(Presence::outside_policy);
        assert_eq!(outside, [false, true, false, true, false]);
        // What waits for the end of a life waits for each of these.
        assert!(Leaving < Replaced && Replaced < Unhooked && Unhooked < Removed);
    }

    #[test]
    fn a_pod_has_an_address_of_each_family_at_most() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(Addresses::of(&[]), None);
        let both = Addresses::of(&[ip("10.0.0.2"), ip("fd00::2"), ip("10.0.0.3"), ip("fd00::3")]).unwrap();
        assert_eq!(both.iter().collect::<Vec<_>>(), [ip("10.0.0.2"), ip("fd00::2")]);
        assert!(both.owns(ip("10.0.0.2")) && both.owns(ip("fd00::2")) && both.owns(ip("::ffff:10.0.0.2")));
        assert!(!both.owns(ip("10.0.0.3")) && !both.owns(ip("::")));
        assert_eq!(both.like(ip("2001:db8::1")), Some(ip("fd00::2")));
        let v6 = Addresses::of(&[ip("fd00::2")]).unwrap();
        assert_eq!((v6.like(ip("10.96.0.1")), v6.v4), (None, None));
        assert_eq!(Addresses::of(&[ip("::ffff:10.0.0.2")]).and_then(|ips| ips.v4), Some([10, 0, 0, 2].into()));
    }
}
