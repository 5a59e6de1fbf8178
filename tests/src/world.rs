//! Two nodes, what runs on them, and the mesh on top.

mod changes;
mod cluster;
mod dashboard;
mod kubernetes;
mod mesh;
mod questions;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};

use crate::{
    A, Agent, B, Capture, Controller, KubeApi, Manifests, Node, NodeId, Place, Pod,
    cleanup::{self, WorldId},
    network::{self, Network},
    process::Crew,
    runtime::{Runtime, Sandbox},
};

/// A small cluster of its own. Dropping it removes everything, after a panic too.
#[derive(Debug)]
pub struct World {
    id: String,
    title: String,
    root: PathBuf,
    cgroup: PathBuf,
    network: Network,
    nodes: [Node; 2],
    pub manifests: Manifests,
    /// Where the configuration is, if it is not a folder.
    api: Option<Arc<KubeApi>>,
    /// Pods that CNI plugins made, by name.
    sandboxes: BTreeMap<String, Sandbox>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pods: Vec<Arc<Pod>>,
    pod_labels: BTreeMap<String, BTreeMap<String, String>>,
    pod_probes: BTreeMap<String, u16>,
    /// Pods ever made, for their UIDs.
    born: u32,
    services: u8,
    settled: u32,
    controller: Option<Controller>,
    agents: [Option<Agent>; 2],
    /// More arguments for mesh-controller.
    pub controller_options: Vec<String>,
    /// More arguments for `mesh-agent run`.
    pub agent_options: Vec<String>,
    crew: Crew,
    quiet: bool,
}

/// Making it.
impl World {
    /// Two nodes without a mesh. `title` is for messages.
    pub fn new(title: &str) -> Result<Self> {
        Self::make(title, false)
    }

    /// The same with a Kubernetes API, to which all manifests are applied, and with nodes whose pods are made by CNI
    /// plugins. See [`kube_folder`](crate::kube_folder).
    pub fn on_kubernetes(title: &str) -> Result<Self> {
        Self::make(title, true)
    }

    fn make(title: &str, kubernetes: bool) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "a world needs root: it makes network namespaces and cgroups");
        cleanup::sweep_dead()?;
        cleanup::hire_janitor()?;
        cleanup::mount_bpffs()?;
        let id = WorldId::next()?.to_string();
        let made = Self::build(&id, title, kubernetes);
        if made.is_err() {
            // The first error is the one to tell.
            let _ = cleanup::remove(&id);
        }
        made
    }

    fn build(id: &str, title: &str, kubernetes: bool) -> Result<Self> {
        let (root, cgroup) = cleanup::places(id)?;
        for folder in [&root.join("logs"), &cgroup] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let network = Network::new(id)?;
        let crew = Crew::default();
        let nodes =
            [Node::new(A, id, &network, &root, &cgroup, &crew)?, Node::new(B, id, &network, &root, &cgroup, &crew)?];
        let api = match kubernetes {
            true => {
                let place = place_of(network::file(&network.name("c")), &cgroup.join("kube-api"), &root, &crew)?;
                nodes.iter().try_for_each(|node| Runtime::new(node).install_bridge())?;
                Some(Arc::new(KubeApi::start(&place, &network.name("c"), &root.join("kube-api"))?))
            }
            false => None,
        };
        let manifests = Manifests::new(&root, api.clone())?;
        manifests.node(A, &[])?;
        manifests.node(B, &[])?;
        Ok(Self {
            id: id.to_owned(),
            title: title.to_owned(),
            root,
            cgroup,
            network,
            nodes,
            manifests,
            api,
            sandboxes: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            pods: Vec::new(),
            controller_options: Vec::new(),
            agent_options: Vec::new(),
            pod_labels: BTreeMap::new(),
            pod_probes: BTreeMap::new(),
            born: 0,
            services: 0,
            settled: 0,
            controller: None,
            agents: [None, None],
            crew,
            quiet: false,
        })
    }

    /// Do not write the programs' last words to standard error at the end.
    pub fn quiet(&mut self) {
        self.quiet = true;
    }

    /// The id that all of its names bear.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its folder, with manifests and logs.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node.index()]
    }

    /// A folder of the cgroup tree and a namespace for what is no pod of the cluster.
    fn place(&self, part: &str, cgroup: &str) -> Result<Place> {
        place_of(network::file(&self.network.name(part)), &self.cgroup.join(cgroup), &self.root, &self.crew)
    }

    /// This cgroup, made if it is not there, and this namespace.
    fn place_in(&self, netns: &Path, cgroup: &Path) -> Result<Place> {
        place_of(netns.to_owned(), cgroup, &self.root, &self.crew)
    }

    /// A host outside the cluster, and its address.
    pub fn outside(&self, port: u16) -> Result<(Place, SocketAddr)> {
        Ok((self.place("x", "outside")?, SocketAddr::from((network::OUTSIDE, port))))
    }

    /// Captures the link between the nodes.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(self.node(A))
    }
}

fn place_of(netns: PathBuf, cgroup: &Path, root: &Path, crew: &Crew) -> Result<Place> {
    fs::create_dir_all(cgroup).with_context(|| format!("create {}", cgroup.display()))?;
    Ok(Place { netns: Some(netns), cgroup: cgroup.to_owned(), logs: root.join("logs"), crew: crew.clone() })
}

impl Drop for World {
    fn drop(&mut self) {
        let programs = self.crew.take();
        // A test's output is shown only if it fails: then this is what one wants to read.
        if !self.quiet {
            eprintln!("world {} ({}), last words:", self.title, self.id);
            for words in programs.iter().filter_map(|program| program.last_words()) {
                eprintln!("{words}");
            }
        }
        for program in programs {
            // It may have ended by itself.
            let _ = program.kill();
        }
        self.agents = [None, None];
        if let Err(error) = cleanup::remove(&self.id) {
            eprintln!("world {} ({}): {error:#}", self.title, self.id);
        }
    }
}
