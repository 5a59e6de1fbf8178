//! Kubernetes manifests as a user writes them: one file an object, in the folder that the controller reads, or applied
//! to a Kubernetes API.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    Families, KubeApi, NodeId, Pod, Service,
    kube_api::{Reference, documents},
};

/// The folder. Each file appears, changes and goes at once, and its objects with it.
#[derive(Debug)]
pub struct Manifests {
    folder: PathBuf,
    /// Beside it, so that an unfinished file is never read.
    drafts: PathBuf,
    /// Where files are applied, and which objects each of them has there.
    applied: Option<Applied>,
}

/// By file.
#[derive(Debug)]
struct Applied {
    api: Arc<KubeApi>,
    files: Mutex<BTreeMap<String, Vec<Reference>>>,
}

impl Manifests {
    pub(crate) fn new(root: &Path, api: Option<Arc<KubeApi>>) -> Result<Self> {
        let applied = api.map(|api| Applied { api, files: Mutex::default() });
        let manifests = Self { folder: root.join("manifests"), drafts: root.join("drafts"), applied };
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
        fs::rename(&draft, &file).with_context(|| format!("move {} to {}", draft.display(), file.display()))?;
        match &self.applied {
            Some(applied) => applied.bring(name, &documents(yaml)?),
            None => Ok(()),
        }
    }

    /// Removes `<name>.yaml`.
    pub fn remove(&self, name: &str) -> Result<()> {
        let file = self.folder.join(format!("{name}.yaml"));
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
        self.applied.as_ref().map_or(Ok(()), |applied| applied.bring(name, &[]))
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

    pub(crate) fn node(&self, node: NodeId, labels: &[(&str, &str)]) -> Result<()> {
        let name = node.name();
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let metadata = json!({ "name": name, "labels": labels });
        let addresses = json!([{ "type": "InternalIP", "address": node.address() }]);
        self.put(
            &format!("node-{name}"),
            &json!({
                "apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": { "addresses": addresses },
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

    /// A pod that was scheduled, and of which nothing runs yet; the UID that the API gives it.
    pub(crate) fn scheduled_pod(
        &self,
        api: &KubeApi,
        (namespace, name): (&str, &str),
        account: &str,
        node: NodeId,
    ) -> Result<String> {
        let container = json!({ "name": "app", "image": "example.com/app" });
        let applied = api.apply(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
            "spec": { "nodeName": node.name(), "serviceAccountName": account, "containers": [container] },
        }))?;
        Ok(applied["metadata"]["uid"].as_str().context("a pod without UID")?.to_owned())
    }

    pub(crate) fn pod(&self, pod: &Pod, labels: &BTreeMap<String, String>, probe: Option<u16>) -> Result<()> {
        let mut container = json!({ "name": "app", "image": "example.com/app" });
        if let Some(port) = probe {
            container["readinessProbe"] = json!({ "tcpSocket": { "port": port } });
        }
        let ips: Vec<Value> = pod.addresses().iter().map(|ip| json!({ "ip": ip })).collect();
        self.put(
            &format!("pod-{}-{}", pod.namespace, pod.name),
            &json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": { "name": pod.name, "namespace": pod.namespace, "uid": pod.uid, "labels": labels },
                "spec": {
                    "nodeName": pod.node.name(),
                    "serviceAccountName": pod.service_account,
                    "containers": [container],
                },
                "status": {
                    "phase": "Running",
                    "hostIP": pod.node.address(),
                    "podIP": ips[0]["ip"],
                    "podIPs": ips,
                    "conditions": [{ "type": "Ready", "status": "True" }],
                },
            }),
        )
    }

    /// A pod that is scheduled and has no status yet: its network is being made.
    pub(crate) fn pod_without_status(&self, pod: &Pod, labels: &BTreeMap<String, String>) -> Result<()> {
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
                "status": { "phase": "Pending" },
            }),
        )
    }

    /// With these fields of its spec besides, each with its value in YAML.
    pub(crate) fn service(&self, service: &Service, pods: &[&Pod], fields: &[(&str, &str)]) -> Result<()> {
        let Service { namespace, name, ip, ip6, families, port, target_port } = service;
        let ips = families.of(IpAddr::from(*ip), IpAddr::from(*ip6));
        let mut spec = json!({
            "type": "ClusterIP",
            "clusterIP": ips[0],
            "clusterIPs": ips,
            "ipFamilies": families.of("IPv4", "IPv6"),
            "selector": { "service": name },
            "ports": [{ "name": "tcp", "protocol": "TCP", "port": port, "targetPort": target_port }],
        });
        for (field, value) in fields {
            spec[field] = serde_yaml_ng::from_str(value).with_context(|| format!("read {field}"))?;
        }
        let metadata = json!({ "name": name, "namespace": namespace });
        self.put(
            &format!("service-{namespace}-{name}"),
            &json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec }),
        )?;
        // A slice for each family, as Kubernetes makes them.
        for family in families.of(Families::V4, Families::V6) {
            let (kind, suffix) = if family == Families::V6 { ("IPv6", "-6") } else { ("IPv4", "") };
            let endpoints: Vec<Value> = pods.iter().filter_map(|pod| endpoint(pod, family)).collect();
            self.put(
                &format!("endpointslice-{namespace}-{name}{suffix}"),
                &json!({
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {
                        "name": format!("{name}-1{suffix}"),
                        "namespace": namespace,
                        "labels": { "kubernetes.io/service-name": name },
                    },
                    "addressType": kind,
                    "ports": [{ "name": "tcp", "protocol": "TCP", "port": target_port }],
                    "endpoints": endpoints,
                }),
            )?;
        }
        Ok(())
    }
}

impl Applied {
    /// The API has these objects of the file and no others.
    fn bring(&self, name: &str, objects: &[Value]) -> Result<()> {
        let references = objects.iter().map(Reference::of).collect::<Result<Vec<_>>>()?;
        for object in objects {
            self.api.apply(object)?;
        }
        let before =
            self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), references.clone());
        let mut gone = before.into_iter().flatten().filter(|reference| !references.contains(reference));
        gone.try_for_each(|reference| self.api.delete(&reference))
    }
}

/// `None` if it has no address of the slice's family.
fn endpoint(pod: &Pod, family: Families) -> Option<Value> {
    let ip = pod.addresses().into_iter().find(|ip| ip.is_ipv6() == (family == Families::V6))?;
    Some(json!({
        "addresses": [ip],
        "conditions": { "ready": true, "serving": true, "terminating": false },
        "nodeName": pod.node.name(),
        "targetRef": { "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid },
    }))
}
