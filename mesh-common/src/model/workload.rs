//! Workloads: what the mesh knows of one pod.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    Identity, Locality, PolicyName, ServiceName, ServicePort,
    telemetry::Telemetry,
    traffic::{Inbound, Labels},
};

/// One pod (later also a VM) with its addresses and facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Unique over clusters: `cluster//Pod/namespace/name`.
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub addresses: Vec<IpAddr>,
    /// Empty: the default network.
    pub network: String,
    pub tunnel: Tunnel,
    pub identity: Identity,
    pub node: String,
    pub canonical_name: String,
    pub canonical_revision: String,
    pub kind: WorkloadKind,
    /// Name of the Deployment, Job … that owns the pod, or the pod's own.
    pub workload_name: String,
    /// Policies that select this workload by label; mesh-wide and namespace policies are found by their scope.
    pub policies: Vec<PolicyName>,
    pub healthy: bool,
    pub cluster: String,
    pub host_network: bool,
    /// Its node's.
    pub locality: Locality,
    /// The services that it serves, each with the ports as this workload answers them.
    pub services: BTreeMap<ServiceName, Vec<ServicePort>>,
    /// Those of the pod's labels that some rule of traffic asks for.
    pub labels: Labels,
}

impl Workload {
    /// The services that lead to this port of its own, in the order of their names.
    pub fn services_to(&self, port: u16) -> impl Iterator<Item = &ServiceName> {
        let leads = move |ports: &[ServicePort]| ports.iter().any(|service| service.target == port);
        self.services.iter().filter(move |(_, ports)| leads(ports)).map(|(name, _)| name)
    }

    /// The service that leads to this port, if it is one alone: of two nobody knows which one a client dialled.
    pub fn service_to(&self, port: u16) -> Option<&ServiceName> {
        let mut leads = self.services_to(port);
        leads.next().filter(|_| leads.next().is_none())
    }
}

/// How to reach a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// Plaintext, as dialled: the workload is not (yet) redirected.
    None,
    /// mTLS to port 15008 of the workload's own address.
    Hbone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    Deployment,
    CronJob,
    Pod,
    Job,
}

/// What a node's agent shall do with one pod of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// The uid of its [`Workload`].
    pub uid: String,
    /// The pod's own UID in Kubernetes; empty where the source has none.
    pub pod_uid: String,
    pub namespace: String,
    pub name: String,
    pub service_account: String,
    pub addresses: Vec<IpAddr>,
    pub mode: Mode,
    /// The PeerAuthentication that asks its clients for a mesh identity, on some port at least.
    pub strict_by: Option<PolicyName>,
    /// Ports that the pod declares in a probe or a lifecycle hook: the kubelet may reach them.
    pub probe_ports: Vec<u16>,
    pub same_node: SameNode,
    /// What the agent does with requests to it.
    pub inbound: Inbound,
    /// What the agent tells of it.
    pub telemetry: Telemetry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Leave the pod alone.
    None,
    /// Redirect, authenticate, authorise.
    Mesh,
    /// Record its connections and redirect nothing: for its peers it is no pod of the mesh.
    Observe,
}

/// How a pod of the mesh speaks to others of its own node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SameNode {
    /// Directly where it may, in plaintext on the pods' own links, attested by the kernel.
    #[default]
    Direct,
    /// In TLS, as between nodes.
    Tls,
}
