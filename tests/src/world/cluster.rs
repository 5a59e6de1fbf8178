//! The objects of the cluster: namespaces, pods that run, services.

use std::{collections::BTreeMap, fs, net::Ipv4Addr, sync::Arc};

use anyhow::{Context, Result};

use super::World;
use crate::{NodeId, Place, Pod, Service, agent};

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
        self.namespace(namespace)?;
        self.manifests.service_account(namespace, account)?;
        // As a node does: an address is free again when its pod is gone.
        let taken = |ip: &Ipv4Addr| self.pods.iter().any(|pod| pod.ip == *ip);
        let ip = (0..200).map(|index| node.pod_address(index)).find(|ip| !taken(ip)).context("the node is full")?;
        self.born += 1;
        let netns = self.network.add_pod(node, name, ip)?;
        let cgroup = self.node(node).cgroup.join("pods").join(name);
        fs::create_dir_all(&cgroup).with_context(|| format!("create {}", cgroup.display()))?;
        let place = Place {
            netns: Some(netns.clone()),
            cgroup: cgroup.clone(),
            logs: self.root.join("logs"),
            crew: self.crew.clone(),
        };
        let pod = Arc::new(Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            service_account: account.to_owned(),
            node,
            ip,
            uid: format!("00000000-0000-4000-8000-{:012x}", self.born),
            netns,
            cgroup,
            place,
        });
        self.pods.push(Arc::clone(&pod));
        if self.agents[node.index()].is_some() {
            agent::add_pod(self.node(node), &pod)?;
        }
        self.write_pod(&pod)?;
        Ok(pod)
    }

    pub(super) fn write_pod(&self, pod: &Pod) -> Result<()> {
        let mut labels = BTreeMap::from([("app".to_owned(), pod.name.clone())]);
        labels.extend(self.pod_labels.get(&pod.name).cloned().unwrap_or_default());
        self.manifests.pod(pod, &labels)
    }

    /// Deletes a pod as Kubernetes and a CNI plugin do.
    pub fn delete_pod(&mut self, pod: &Pod) -> Result<()> {
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
        self.services += 1;
        let service = Service {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ip: [10, 96, 0, self.services].into(),
            port,
            target_port: target,
        };
        self.manifests.service(&service, pods)?;
        Ok(service)
    }
}
