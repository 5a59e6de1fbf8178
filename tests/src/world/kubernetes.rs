//! A world on Kubernetes: the agents' own pods, and pods as a runtime and its CNI plugins make them.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use std::io::Write;

use anyhow::{Context, Result};
use serde_json::json;

use super::World;
use crate::{
    Controller, Families, KubeApi, NodeId, Pod, config, controller, network,
    runtime::{self, Runtime, Sandbox},
};

/// Where the mesh itself lives.
const OWN: &str = "nodemesh-system";
const AGENT: &str = "mesh-agent";
/// Whom agents' tokens are for.
const AUDIENCE: &str = "nodemesh";

impl World {
    /// The API, in a world that has one.
    pub fn api(&self) -> Result<Arc<KubeApi>> {
        self.api.clone().context("this world has no Kubernetes API")
    }

    /// What makes the node's pods, in a world on Kubernetes.
    pub fn runtime(&self, node: NodeId) -> Runtime<'_> {
        Runtime::new(self.node(node))
    }

    /// What the DaemonSet makes: the agent's pod of that node, and its token in this file.
    pub(super) fn agent_pod(&mut self, node: NodeId, token: &Path) -> Result<()> {
        let text = self.agent_tokens(&[node.name().to_owned()])?.pop().context("no token")?;
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(token);
        file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| format!("write {}", token.display()))
    }

    /// The agents' pods of these nodes, and a token of each.
    pub fn agent_tokens(&mut self, nodes: &[String]) -> Result<Vec<String>> {
        self.namespace(OWN)?;
        self.manifests.service_account(OWN, AGENT)?;
        let api = self.api()?;
        let named = |node: &String| format!("{AGENT}-{node}");
        let pod = |node: &String| {
            let container = json!({ "name": AGENT, "image": "example.com/mesh" });
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": { "name": named(node), "namespace": OWN },
                "spec": {
                    "nodeName": node, "serviceAccountName": AGENT, "hostNetwork": true, "containers": [container],
                },
                "status": { "phase": "Running" },
            })
        };
        api.apply_all(&nodes.iter().map(pod).collect::<Vec<_>>())?;
        api.tokens(OWN, AGENT, &nodes.iter().map(named).collect::<Vec<_>>(), AUDIENCE)
    }

    /// A pod from its scheduling on: the runtime makes its namespace and runs the node's CNI plugins, and only then
    /// something runs in it and its status says where it is.
    pub(super) fn pod_by_cni(
        &mut self,
        api: &KubeApi,
        (namespace, name): (&str, &str),
        account: &str,
        node: NodeId,
    ) -> Result<Arc<Pod>> {
        runtime::has_plugins()?;
        self.namespace(namespace)?;
        self.manifests.service_account(namespace, account)?;
        let uid = self.manifests.scheduled_pod(api, (namespace, name), account, node)?;
        let netns = self.network.add_empty_pod(name)?;
        let cgroup = self.node(node).cgroup.join("pods").join(format!("pod{uid}"));
        let place = self.place_in(&netns, &cgroup)?;
        self.born += 1;
        let sandbox = Sandbox {
            id: format!("{:016x}", self.born),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.clone(),
            netns: netns.clone(),
        };
        let ips = self.runtime(node).add(&sandbox)?;
        let ip = ips.iter().find_map(|ip| if let std::net::IpAddr::V4(v4) = ip { Some(*v4) } else { None });
        let pod = self.enlist(Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            service_account: account.to_owned(),
            node,
            ip: ip.context("the pod got no IPv4 address")?,
            ip6: std::net::Ipv6Addr::UNSPECIFIED,
            families: Families::V4,
            uid,
            netns,
            cgroup,
            place,
        });
        // As a runtime does: while there is a pod, there is a process of it. By that agents find it.
        let pause = Arc::new(pod.start("pause", &config::installed("sleep")?, &["infinity".to_owned()])?);
        self.crew.join(&pause);
        self.sandboxes.insert(name.to_owned(), sandbox);
        self.write_pod(&pod)?;
        Ok(pod)
    }

    /// As a kubelet: its processes end, then the runtime takes its network down, then the API forgets it.
    pub(super) fn remove_by_cni(&mut self, pod: &Pod, sandbox: &Sandbox) -> Result<()> {
        let kill = pod.cgroup.join("cgroup.kill");
        fs::write(&kill, "1").with_context(|| format!("write {}", kill.display()))?;
        self.runtime(pod.node).remove(sandbox)?;
        self.pods.retain(|other| other.name != pod.name);
        self.network.remove_empty_pod(&pod.name)?;
        self.manifests.remove(&format!("pod-{}-{}", pod.namespace, pod.name))
    }

    /// A second controller beside the first one, as of a Deployment with two. No agent is linked to it before
    /// [`World::lead_to_second`].
    pub fn second_controller(&self) -> Result<Controller> {
        let (place, state) = (self.place("c", "controller-2")?, self.root().join("controller-2"));
        let api = self.api()?;
        Controller::on_kubernetes(&place, &api, &state, controller::SECOND_PORT, &self.controller_options)
    }

    /// What the node's agent dials as the controller leads to the second one from now on, as kube-proxy does with a
    /// Service. Connections that are there stay.
    pub fn lead_to_second(&self, node: NodeId) -> Result<()> {
        let (from, to) = (network::to_controller(node), controller::SECOND_PORT);
        self.place("c", "controller")?.nft(&format!(
            "add table ip service; add chain ip service in {{ type nat hook prerouting priority -100; }}; \
             add rule ip service in ip saddr {from} tcp dport {} redirect to :{to}",
            controller::PORT
        ))
    }

    /// The cgroup that the controller alone is in.
    pub fn controller_cgroup(&self) -> PathBuf {
        self.cgroup.join("controller")
    }

    /// The pod as its runtime knows it.
    pub fn sandbox(&self, pod: &Pod) -> Result<&Sandbox> {
        self.sandboxes.get(&pod.name).with_context(|| format!("no CNI plugin made {}", pod.full_name()))
    }
}
