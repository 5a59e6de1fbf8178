//! The objects of the cluster: namespaces, pods that run, services.

use std::{collections::BTreeMap, fs, net::Ipv4Addr, sync::Arc};

use anyhow::{Context, Result, ensure};

use super::World;
use crate::{Families, NodeId, Patience, Pod, Service, agent, eventually};

impl World {
    /// A namespace without labels, unless it exists.
    pub fn namespace(&mut self, name: &str) -> Result<()> {
        if self.namespaces.contains_key(name) {
            return Ok(());
        }
        self.namespaces.insert(name.to_owned(), BTreeMap::new());
        self.manifests.namespace(name, &BTreeMap::new())
    }

    /// A running pod whose service account has its own name.
    pub fn pod(&mut self, namespace: &str, name: &str, node: NodeId) -> Result<Arc<Pod>> {
        self.pod_as(namespace, name, name, node)
    }

    /// A running pod of that service account; once the mesh runs, the node's agent hears of it first.
    pub fn pod_as(&mut self, namespace: &str, name: &str, account: &str, node: NodeId) -> Result<Arc<Pod>> {
        self.pod_with(namespace, name, account, node, Families::V4)
    }

    /// The same, with addresses of these families.
    pub fn pod_with(
        &mut self,
        namespace: &str,
        name: &str,
        account: &str,
        node: NodeId,
        families: Families,
    ) -> Result<Arc<Pod>> {
        if let Some(api) = self.api.clone() {
            ensure!(families == Families::V4, "the nodes' CNI knows IPv4 only");
            return self.pod_by_cni(&api, (namespace, name), account, node);
        }
        let pod = self.place_pod(namespace, name, account, node, families, name)?;
        if self.agents[node.index()].is_some() {
            agent::add_pod(self.node(node), &pod)?;
        }
        self.write_pod(&pod)?;
        Ok(pod)
    }

    /// A pod as the kubelet makes one: its cgroup is named by its UID, nobody tells the agent of it, and it is in no
    /// manifest. Its service account has its own name.
    pub fn bare_pod(&mut self, namespace: &str, name: &str, node: NodeId) -> Result<Arc<Pod>> {
        let folder = format!("pod{}", uid(self.born + 1));
        self.place_pod(namespace, name, name, node, Families::V4, &folder)
    }

    /// The pod is scheduled: the API has it, and it has no address yet.
    pub fn schedule(&self, pod: &Pod) -> Result<()> {
        self.manifests.pod_without_status(pod, &self.labels_of(pod))
    }

    /// The kubelet writes its status.
    pub fn write_status(&self, pod: &Pod) -> Result<()> {
        self.write_pod(pod)
    }

    /// Namespace, links and cgroup of a pod, with its account.
    fn place_pod(
        &mut self,
        namespace: &str,
        name: &str,
        account: &str,
        node: NodeId,
        families: Families,
        cgroup: &str,
    ) -> Result<Arc<Pod>> {
        self.namespace(namespace)?;
        self.manifests.service_account(namespace, account)?;
        // As a node does: an address is free again when its pod is gone.
        let taken = |ip: &Ipv4Addr| self.pods.iter().any(|pod| pod.ip == *ip);
        let ip = (0..200).map(|index| node.pod_address(index)).find(|ip| !taken(ip)).context("the node is full")?;
        self.born += 1;
        let mut words = node.bridge6().segments();
        words[7] = u16::from(ip.octets()[3]);
        let ip6 = words.into();
        let netns = self.network.add_pod(node, name, ip, ip6, families)?;
        let cgroup = self.node(node).cgroup.join("pods").join(cgroup);
        let place = self.place_in(&netns, &cgroup)?;
        Ok(self.enlist(Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            service_account: account.to_owned(),
            node,
            ip,
            ip6,
            families,
            uid: uid(self.born),
            netns,
            cgroup,
            place,
        }))
    }

    /// The world knows the pod from now on.
    pub(super) fn enlist(&mut self, pod: Pod) -> Arc<Pod> {
        let pod = Arc::new(pod);
        self.pods.push(Arc::clone(&pod));
        pod
    }

    pub(super) fn write_pod(&self, pod: &Pod) -> Result<()> {
        self.manifests.pod(pod, &self.labels_of(pod), self.pod_probes.get(&pod.name).copied())
    }

    fn labels_of(&self, pod: &Pod) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from([("app".to_owned(), pod.name.clone())]);
        labels.extend(self.pod_labels.get(&pod.name).cloned().unwrap_or_default());
        labels
    }

    /// Everything of a pod goes but what the agent has of it: its programs, its cgroup, its namespace.
    pub fn vanish(&mut self, pod: &Pod) -> Result<()> {
        let kill = pod.cgroup.join("cgroup.kill");
        fs::write(&kill, "1").with_context(|| format!("write {}", kill.display()))?;
        let removed = || Ok(fs::remove_dir(&pod.cgroup).is_ok().then_some(()));
        eventually("its cgroup can be removed", Patience::SHORT, removed)?;
        self.pods.retain(|other| other.name != pod.name);
        self.network.remove_pod(pod.node, &pod.name, pod.ip)
    }

    /// The pod declares a readiness probe of this port, instead of any before.
    pub fn probe(&mut self, pod: &Pod, port: u16) -> Result<()> {
        self.pod_probes.insert(pod.name.clone(), port);
        self.write_pod(pod)
    }

    /// Deletes a pod as Kubernetes and a CNI plugin do.
    pub fn delete_pod(&mut self, pod: &Pod) -> Result<()> {
        if let Some(sandbox) = self.sandboxes.remove(&pod.name) {
            return self.remove_by_cni(pod, &sandbox);
        }
        self.manifests.remove(&format!("pod-{}-{}", pod.namespace, pod.name))?;
        if self.agents[pod.node.index()].is_some() {
            agent::remove_pod(self.node(pod.node), pod)?;
        }
        self.pods.retain(|other| other.name != pod.name);
        let kill = pod.cgroup.join("cgroup.kill");
        fs::write(&kill, "1").with_context(|| format!("write {}", kill.display()))?;
        self.network.remove_pod(pod.node, &pod.name, pod.ip)
    }

    /// A service with a cluster IP over these pods.
    pub fn service(&mut self, namespace: &str, name: &str, port: u16, target: u16, pods: &[&Pod]) -> Result<Service> {
        self.service_with(namespace, name, (port, target), pods, Families::V4)
    }

    /// The same, with cluster IPs of these families.
    pub fn service_with(
        &mut self,
        namespace: &str,
        name: &str,
        (port, target): (u16, u16),
        pods: &[&Pod],
        families: Families,
    ) -> Result<Service> {
        self.services += 1;
        let service = Service {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ip: [10, 96, 0, self.services].into(),
            ip6: [0xfd00, 0x10, 0x96, 0, 0, 0, 0, u16::from(self.services)].into(),
            families,
            port,
            target_port: target,
        };
        self.manifests.service(&service, pods, &[])?;
        Ok(service)
    }

    /// The service from now on: served by these pods, with these fields of its spec besides.
    pub fn change_service(&self, service: &Service, pods: &[&Pod], fields: &[(&str, &str)]) -> Result<()> {
        self.manifests.service(service, pods, fields)
    }

    /// Where a node is, by its labels.
    pub fn label_node(&self, node: NodeId, labels: &[(&str, &str)]) -> Result<()> {
        self.manifests.node(node, labels)
    }
}

/// Of the pod that is the nth of its world.
fn uid(born: u32) -> String {
    format!("00000000-0000-4000-8000-{born:012x}")
}
