//! Kubernetes manifests as a user writes them: one file an object, in the folder that the controller reads.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{NodeId, Pod, Service};

/// The folder. Each file appears, changes and goes at once.
#[derive(Debug)]
pub struct Manifests {
    folder: PathBuf,
    /// Beside it, so that an unfinished file is never read.
    drafts: PathBuf,
}

impl Manifests {
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let manifests = Self { folder: root.join("manifests"), drafts: root.join("drafts") };
        for folder in [&manifests.folder, &manifests.drafts] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        Ok(manifests)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes `<name>.yaml`, new or instead of the old.
    pub fn write(&self, name: &str, yaml: &str) -> Result<()> {
        let (draft, file) = (self.drafts.join(name), self.folder.join(format!("{name}.yaml")));
        fs::write(&draft, yaml).with_context(|| format!("write {}", draft.display()))?;
        fs::rename(&draft, &file).with_context(|| format!("move {} to {}", draft.display(), file.display()))
    }

    /// Removes `<name>.yaml`.
    pub fn remove(&self, name: &str) -> Result<()> {
        let file = self.folder.join(format!("{name}.yaml"));
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))
    }

    fn put(&self, name: &str, object: &Value) -> Result<()> {
        let yaml = serde_yaml_ng::to_string(object).with_context(|| format!("write {name} as YAML"))?;
        self.write(name, &yaml)
    }

    pub(crate) fn namespace(&self, name: &str, labels: &BTreeMap<String, String>) -> Result<()> {
        let metadata = json!({ "name": name, "labels": labels });
        self.put(
            &format!("namespace-{name}"),
            &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }),
        )
    }

    pub(crate) fn node(&self, node: NodeId) -> Result<()> {
        let name = node.name();
        let addresses = json!([{ "type": "InternalIP", "address": node.address() }]);
        self.put(
            &format!("node-{name}"),
            &json!({
                "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "status": { "addresses": addresses },
            }),
        )
    }

    pub(crate) fn service_account(&self, namespace: &str, name: &str) -> Result<()> {
        let metadata = json!({ "name": name, "namespace": namespace });
        self.put(
            &format!("serviceaccount-{namespace}-{name}"),
            &json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata }),
        )
    }

    pub(crate) fn pod(&self, pod: &Pod, labels: &BTreeMap<String, String>) -> Result<()> {
        self.put(
            &format!("pod-{}-{}", pod.namespace, pod.name),
            &json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": { "name": pod.name, "namespace": pod.namespace, "uid": pod.uid, "labels": labels },
                "spec": {
                    "nodeName": pod.node.name(),
                    "serviceAccountName": pod.service_account,
                    "containers": [{ "name": "app", "image": "example.com/app" }],
                },
                "status": {
                    "phase": "Running",
                    "hostIP": pod.node.address(),
                    "podIP": pod.ip,
                    "podIPs": [{ "ip": pod.ip }],
                    "conditions": [{ "type": "Ready", "status": "True" }],
                },
            }),
        )
    }

    pub(crate) fn service(&self, service: &Service, pods: &[&Pod]) -> Result<()> {
        let Service { namespace, name, ip, port, target_port } = service;
        self.put(
            &format!("service-{namespace}-{name}"),
            &json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": name, "namespace": namespace },
                "spec": {
                    "type": "ClusterIP",
                    "clusterIP": ip,
                    "clusterIPs": [ip],
                    "ipFamilies": ["IPv4"],
                    "selector": { "service": name },
                    "ports": [{ "name": "tcp", "protocol": "TCP", "port": port, "targetPort": target_port }],
                },
            }),
        )?;
        let endpoints: Vec<Value> = pods.iter().map(|pod| endpoint(pod)).collect();
        self.put(
            &format!("endpointslice-{namespace}-{name}"),
            &json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{name}-1"),
                    "namespace": namespace,
                    "labels": { "kubernetes.io/service-name": name },
                },
                "addressType": "IPv4",
                "ports": [{ "name": "tcp", "protocol": "TCP", "port": target_port }],
                "endpoints": endpoints,
            }),
        )
    }
}

fn endpoint(pod: &Pod) -> Value {
    json!({
        "addresses": [pod.ip],
        "conditions": { "ready": true, "serving": true, "terminating": false },
        "nodeName": pod.node.name(),
        "targetRef": { "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid },
    })
}
