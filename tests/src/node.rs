//! A node: the namespace that stands for a machine, and the folders that its agent gets.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{Place, network, network::Network, process::Crew};

/// Which of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodeId {
    A,
    B,
}

/// What a node consists of.
#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    /// The network namespace's name.
    pub netns: String,
    /// The node's own cgroup; the agent hangs its hooks here.
    pub cgroup: PathBuf,
    /// The agent's folder in the BPF file system; the agent makes it.
    pub bpffs: PathBuf,
    /// The agent's folder for its sockets; the agent makes it.
    pub run_dir: PathBuf,
    /// Node-level programs that are no pods: the agent, a capture, host processes.
    pub host: Place,
}

impl NodeId {
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// The node's address on the network between the nodes.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 18, 0, self as u8 + 1)
    }

    /// Its IPv6 address there.
    pub fn address6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, self as u16 + 1)
    }

    /// The bridge's address in the pods' network, their default route.
    pub(crate) fn bridge(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self as u8 + 1, 1)
    }

    pub(crate) fn pods(self) -> String {
        format!("10.244.{}.0/24", self as u8 + 1)
    }

    pub(crate) fn bridge6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, 0x244, self as u16 + 1, 0, 0, 0, 1)
    }

    pub(crate) fn pods6(self) -> String {
        format!("fd00:10:244:{}::/64", self as u8 + 1)
    }

    /// The address of its pod number `index`, from 0.
    pub(crate) fn pod_address(self, index: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self as u8 + 1, 10 + index)
    }
}

impl Node {
    /// Folders and cgroups; the namespace exists already.
    pub(crate) fn new(
        id: NodeId,
        world: &str,
        network: &Network,
        root: &Path,
        cgroup: &Path,
        crew: &Crew,
    ) -> Result<Self> {
        let netns = network.name(id.name());
        let cgroup = cgroup.join(id.name());
        let host_cgroup = cgroup.join("host");
        let run_dir = root.join(format!("node-{}", id.name()));
        for dir in [&host_cgroup, &cgroup.join("pods")] {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        let host = Place {
            netns: Some(network::file(&netns)),
            cgroup: host_cgroup,
            logs: root.join("logs"),
            crew: crew.clone(),
        };
        let bpffs = Path::new("/sys/fs/bpf").join(format!("nodemesh-{world}-{}", id.name()));
        Ok(Self { id, netns, cgroup, bpffs, run_dir, host })
    }

    /// Network namespaces that the node's agents hooked.
    pub fn hooked_pods(&self) -> Result<usize> {
        Ok(self.links("ingress-")?.len())
    }

    /// The pinned links of the node's agents whose names begin so, of every layout.
    pub fn links(&self, prefix: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for layout in fs::read_dir(&self.bpffs).with_context(|| format!("read {}", self.bpffs.display()))? {
            let links = layout?.path().join("links");
            for link in fs::read_dir(&links).with_context(|| format!("read {}", links.display()))? {
                let link = link?;
                if link.file_name().to_string_lossy().starts_with(prefix) {
                    found.push(link.path());
                }
            }
        }
        Ok(found)
    }

    /// The kubelet of the node, in a cgroup of its own beside the node's; it is there from now on.
    pub fn kubelet(&self) -> Result<Place> {
        let cgroup = self.kubelet_cgroup();
        fs::create_dir_all(&cgroup).with_context(|| format!("create {}", cgroup.display()))?;
        Ok(Place { cgroup, ..self.host.clone() })
    }

    pub(crate) fn kubelet_cgroup(&self) -> PathBuf {
        self.cgroup.with_file_name(format!("kubelet-{}", self.id.name()))
    }

    /// The socket at which meshctl asks this node's agent.
    pub fn agent_socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// The folder of CNI configurations of a node whose agent installs the plugin.
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.run_dir.with_extension("net.d")
    }

    /// The folder of its CNI plugins.
    pub fn cni_bin_dir(&self) -> PathBuf {
        self.run_dir.with_extension("bin")
    }

    /// What the agent keeps over a restart.
    pub fn state_dir(&self) -> PathBuf {
        self.run_dir.with_extension("state")
    }

    /// What a runtime keeps of its pods' networks.
    pub fn cni_folder(&self) -> PathBuf {
        self.run_dir.with_extension("cni")
    }

    /// The socket at which pods join.
    pub fn cni_socket(&self) -> PathBuf {
        self.run_dir.join("cni.sock")
    }
}
