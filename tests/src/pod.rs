//! A pod: a network namespace on a node's bridge, a cgroup below the node's, and programs in them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Deref,
    path::PathBuf,
};

use crate::{NodeId, Place};

/// A pod of the cluster. Programs run in it through [`Place`]'s methods.
#[derive(Debug)]
pub struct Pod {
    pub namespace: String,
    /// Unique in its world, because the network namespace bears it.
    pub name: String,
    pub service_account: String,
    pub node: NodeId,
    /// Its IPv4 address; an IPv6-only pod does not have it.
    pub ip: Ipv4Addr,
    /// Its IPv6 address; an IPv4-only pod does not have it.
    pub ip6: Ipv6Addr,
    pub families: Families,
    /// The UID in Kubernetes' sense: another pod of this name has another one.
    pub uid: String,
    /// The network namespace's file.
    pub netns: PathBuf,
    pub cgroup: PathBuf,
    pub(crate) place: Place,
}

/// The address families of a pod or a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    V4,
    V6,
    Dual,
}

/// A service with a cluster IP that nothing routes: only the mesh can reach it.
#[derive(Clone, Debug)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub ip: Ipv4Addr,
    pub ip6: Ipv6Addr,
    pub families: Families,
    pub port: u16,
    pub target_port: u16,
}

impl Pod {
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.ip, port))
    }

    /// The published addresses, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.families.of(IpAddr::from(self.ip), IpAddr::from(self.ip6))
    }

    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.ip6, port))
    }

    /// "namespace/name", as meshctl names pods.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The SPIFFE id that it has in the mesh.
    pub fn identity(&self) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{}", self.namespace, self.service_account)
    }
}

impl Families {
    /// Of a pair, IPv4 first, those that there are.
    pub(crate) fn of<T>(self, v4: T, v6: T) -> Vec<T> {
        match self {
            Self::V4 => vec![v4],
            Self::V6 => vec![v6],
            Self::Dual => vec![v4, v6],
        }
    }
}

impl Deref for Pod {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Service {
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((self.ip, self.port))
    }

    pub fn addr6(&self) -> SocketAddr {
        SocketAddr::from((self.ip6, self.port))
    }

    /// "namespace/hostname", as flows name services.
    pub fn full_name(&self) -> String {
        format!("{0}/{1}.{0}.svc.cluster.local", self.namespace, self.name)
    }
}
