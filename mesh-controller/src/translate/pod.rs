//! `v1 Pod` -> the facts of a workload.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::core::v1,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use mesh_common::model::{
    Identity, LocalPod, Locality, Mode, SameNode, Tunnel, Workload, WorkloadKind, telemetry::Telemetry,
    traffic::Inbound,
};

use super::{Labels, Settings, address, created, is_tcp, port, probe::probe_ports, telemetry::annotated::Said, usable};
use crate::status::Fault;

/// A pod that is not terminated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    /// The pod's UID on its node, and so in Kubernetes; empty where the source has none.
    pub pod_uid: String,
    /// Unique over clusters.
    pub uid: String,
    pub labels: Labels,
    /// Seconds since 1970.
    pub created: i64,
    /// Empty until it is scheduled.
    pub node: String,
    pub identity: Identity,
    /// Those of its status; who owns them is decided in the index.
    pub addresses: Vec<IpAddr>,
    pub host_network: bool,
    pub ready: bool,
    /// Named TCP ports of its containers.
    pub ports: BTreeMap<String, u16>,
    /// Those that its probes and lifecycle hooks name.
    pub probe_ports: Vec<u16>,
    /// How it shall be seen.
    pub said: Said,
    pub kind: WorkloadKind,
    pub workload_name: String,
}

/// `None` for a terminated pod (Succeeded, Failed): it owns no address, and nothing of it runs. Addresses and ports
/// that are none are left out and added to `faults`.
///
/// # Errors
/// If it has no identity: nothing can be said of such a pod.
pub fn pod(settings: &Settings, pod: &v1::Pod, faults: &mut Vec<Fault>) -> Result<Option<Pod>, Fault> {
    let v1::Pod { metadata, spec, status } = pod;
    let spec = spec.as_ref();
    let phase = status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    if matches!(phase, "Succeeded" | "Failed") {
        return Ok(None);
    }
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let name = metadata.name.clone().unwrap_or_default();
    let account = spec.and_then(|s| s.service_account_name.as_deref()).filter(|a| !a.is_empty()).unwrap_or("default");
    let identity = Identity::new(&settings.trust_domain, &namespace, account)
        .map_err(|e| Fault::new("spec.serviceAccountName", e))?;
    let labels = metadata.labels.clone().unwrap_or_default();
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let (kind, workload_name) = workload_of(&name, &labels, owner);
    let mut ports = BTreeMap::new();
    let containers = spec.into_iter().flat_map(|s| {
        let start = s.init_containers.iter().flatten().enumerate().map(|(i, c)| (format!("initContainers[{i}]"), c));
        s.containers.iter().enumerate().map(|(i, c)| (format!("containers[{i}]"), c)).chain(start)
    });
    for (place, container) in containers {
        for (i, p) in container.ports.iter().flatten().enumerate().filter(|(_, p)| is_tcp(p.protocol.as_ref())) {
            let number = port(format!("spec.{place}.ports[{i}].containerPort"), p.container_port);
            if let (Some(number), Some(name)) = (usable(number, faults), &p.name) {
                ports.insert(name.clone(), number);
            }
        }
    }
    let probe_ports = spec.map(|spec| probe_ports(spec, &ports, faults)).unwrap_or_default();
    Ok(Some(Pod {
        uid: format!("{}//Pod/{namespace}/{name}", settings.cluster),
        pod_uid: kubelets_uid(metadata).or(metadata.uid.as_deref()).unwrap_or_default().to_owned(),
        created: created(metadata),
        node: spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        addresses: status.as_ref().map_or(Vec::new(), |status| addresses(status, faults)),
        host_network: spec.and_then(|s| s.host_network).unwrap_or(false),
        ready: phase == "Running" && status.as_ref().is_some_and(is_ready),
        namespace,
        name,
        labels,
        identity,
        ports,
        probe_ports,
        said: Said::of(metadata, faults),
        kind,
        workload_name,
    }))
}

/// A static pod has another UID on its node than its mirror in the API, which says it: cgroup and CNI know no other.
fn kubelets_uid(metadata: &ObjectMeta) -> Option<&str> {
    let annotation = |key: &str| metadata.annotations.as_ref()?.get(key).map(String::as_str);
    let hash = annotation("kubernetes.io/config.mirror").filter(|hash| !hash.is_empty())?;
    (annotation("kubernetes.io/config.hash") == Some(hash)).then_some(hash)
}

fn addresses(status: &v1::PodStatus, faults: &mut Vec<Fault>) -> Vec<IpAddr> {
    let list = status.pod_ips.iter().flatten().enumerate();
    let mut found: Vec<_> =
        list.filter_map(|(i, pod_ip)| usable(address(&format!("status.podIPs[{i}].ip"), &pod_ip.ip), faults)).collect();
    let first = status.pod_ip.as_deref().filter(|text| !text.is_empty());
    if let Some(ip) = first.and_then(|text| usable(address("status.podIP", text), faults))
        && !found.contains(&ip)
    {
        found.insert(0, ip);
    }
    found
}

/// A status without any condition was written by hand, not by a kubelet: then the phase alone counts.
fn is_ready(status: &v1::PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten().peekable();
    conditions.peek().is_none() || conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Who made the pod: people know the Deployment, not its ReplicaSets.
fn workload_of(name: &str, labels: &Labels, owner: Option<&OwnerReference>) -> (WorkloadKind, String) {
    let Some(owner) = owner else { return (WorkloadKind::Pod, name.to_owned()) };
    match owner.kind.as_str() {
        "ReplicaSet" => {
            let hash = labels.get("pod-template-hash").map(String::as_str);
            match owner.name.rsplit_once('-') {
                Some((deployment, suffix)) if hash.is_none_or(|hash| hash == suffix) => {
                    (WorkloadKind::Deployment, deployment.to_owned())
                }
                // A ReplicaSet without Deployment.
                _ => (WorkloadKind::Pod, owner.name.clone()),
            }
        }
        // A CronJob names its Jobs by the minute at which they are due.
        "Job" => match owner.name.rsplit_once('-') {
            Some((cron, due)) if (8..=10).contains(&due.len()) && due.bytes().all(|b| b.is_ascii_digit()) => {
                (WorkloadKind::CronJob, cron.to_owned())
            }
            _ => (WorkloadKind::Job, owner.name.clone()),
        },
        // The wire has no word for the others; their name still says what they are.
        _ => (WorkloadKind::Pod, owner.name.clone()),
    }
}

impl Pod {
    /// The workload, as yet without services and policies. `addresses` are those that it owns, `locality` its node's.
    pub fn workload(
        &self,
        settings: &Settings,
        addresses: Vec<IpAddr>,
        tunnel: Tunnel,
        locality: Locality,
    ) -> Workload {
        let label = |keys: &[&str]| keys.iter().find_map(|key| self.labels.get(*key)).cloned();
        let name = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
        let revision = ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
        Workload {
            uid: self.uid.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            addresses,
            network: String::new(),
            tunnel,
            identity: self.identity.clone(),
            node: self.node.clone(),
            canonical_name: label(&name).unwrap_or_else(|| self.workload_name.clone()),
            canonical_revision: label(&revision).unwrap_or_else(|| "latest".to_owned()),
            kind: self.kind,
            workload_name: self.workload_name.clone(),
            policies: Vec::new(),
            healthy: self.ready,
            cluster: settings.cluster.clone(),
            host_network: self.host_network,
            locality,
            services: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    /// What its node's agent shall do with it. `addresses` are those that it owns.
    pub fn local(&self, addresses: Vec<IpAddr>, mode: Mode, same_node: SameNode) -> LocalPod {
        LocalPod {
            uid: self.uid.clone(),
            pod_uid: self.pod_uid.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            service_account: self.identity.service_account().to_owned(),
            addresses,
            strict_by: None,
            probe_ports: self.probe_ports.clone(),
            mode,
            same_node,
            inbound: Inbound::default(),
            telemetry: Telemetry::default(),
        }
    }
}
