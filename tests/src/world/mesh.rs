//! Running the mesh, and putting namespaces and pods into it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};

use super::{World, questions};
use crate::{
    A, Agent, B, Controller, NodeId, Patience, Pod, Process, agent, controller, ctl, eventually, runtime::Runtime,
};

const MODE: &str = "nodemesh.io/mode";

/// Running it.
impl World {
    /// Controller, a token for each node, both agents; the pods that run already join. Nothing is in the mesh before
    /// it is labelled.
    pub fn start(&mut self) -> Result<()> {
        self.start_controller()?;
        self.start_agent(A)?;
        self.start_agent(B)
    }

    pub fn start_controller(&mut self) -> Result<()> {
        let place = self.place("c", "controller")?;
        let state = self.root().join("controller");
        self.controller = Some(match &self.api {
            Some(api) => Controller::on_kubernetes(&place, api, &state, controller::PORT, &self.controller_options)?,
            None => Controller::start(&place, self.manifests.folder(), &state, &self.controller_options)?,
        });
        Ok(())
    }

    /// With a token made for it now.
    pub fn start_agent(&mut self, node: NodeId) -> Result<()> {
        let token = self.root().join(format!("token-{}", node.name()));
        match &self.api {
            Some(_) => self.agent_pod(node, &token)?,
            None => self.controller()?.join_token(node, &token)?,
        }
        self.start_agent_with(node, token)?;
        eventually(format_args!("agent {} is connected", node.name()), Patience::LONG, || {
            Ok((self.status(node)?["controller_connected"] == true).then_some(()))
        })
    }

    /// With the token in this file; does not wait for the controller.
    pub fn start_agent_with(&mut self, node: NodeId, token: PathBuf) -> Result<()> {
        let started = self.run_agent(node, &token)?;
        self.agents[node.index()] = Some(started);
        // On Kubernetes it finds those that are there by itself.
        for pod in self.pods.iter().filter(|pod| pod.node == node && self.api.is_none()) {
            agent::add_pod(self.node(node), pod)?;
        }
        Ok(())
    }

    fn run_agent(&self, node: NodeId, token: &Path) -> Result<Agent> {
        let mut options = self.agent_options.clone();
        if self.api.is_some() {
            let runtime = Runtime::new(self.node(node));
            options.push(format!("--cni-conf-dir={}", runtime.conf_dir().display()));
            options.push(format!("--cni-bin-dir={}", runtime.bin_dir().display()));
        }
        Agent::start(self.node(node), &self.controller()?.ca_file(), token, &options)
    }

    /// As a node's supervisor does: with the token that it had, and nobody tells it of any pod. The controller need not
    /// be there.
    pub fn restart_agent(&mut self, node: NodeId) -> Result<()> {
        let token = self.root().join(format!("token-{}", node.name()));
        self.agents[node.index()] = Some(self.run_agent(node, &token)?);
        Ok(())
    }

    /// SIGTERM; does not wait. The world still asks it.
    pub fn tell_agent_to_end(&self, node: NodeId) -> Result<Arc<Process>> {
        let process = &self.agent(node)?.process;
        process.ask_to_end()?;
        Ok(Arc::clone(process))
    }

    /// A second agent, which is about to take over.
    pub fn successor(&self, node: NodeId) -> Result<Agent> {
        let token = self.root().join(format!("token-{}", node.name()));
        self.run_agent(node, &token)
    }

    /// A second agent takes over from the one that runs, and serves when this returns. Gives the old one, which ends
    /// when its connections have.
    pub fn replace_agent(&mut self, node: NodeId) -> Result<Agent> {
        let old = self.agents[node.index()].take().with_context(|| format!("agent {} does not run", node.name()))?;
        self.restart_agent(node)?;
        self.agent(node)?.process.says("took over", Patience::LONG)?;
        Ok(old)
    }

    /// Every pod of the node is announced once more, as a CNI plugin may.
    pub fn join_again(&self, node: NodeId) -> Result<()> {
        self.pods.iter().filter(|pod| pod.node == node).try_for_each(|pod| agent::add_pod(self.node(node), pod))
    }

    /// A pod that is there is announced with this UID, as another plugin may know it, or another pod of its name has
    /// it.
    pub fn join_as(&self, pod: &Pod, uid: &str) -> Result<()> {
        agent::join(self.node(pod.node), pod, uid, &pod.cgroup)
    }

    /// SIGKILL: nothing is configured and nothing signed until it is started again.
    pub fn kill_controller(&self) -> Result<()> {
        self.controller()?.process.kill()
    }

    /// SIGKILL: it cannot say good-bye.
    pub fn kill_agent(&mut self, node: NodeId) -> Result<()> {
        let agent = self.agents[node.index()].take().with_context(|| format!("agent {} does not run", node.name()))?;
        agent.process.kill()
    }

    /// `mesh-agent uninstall`, after the agent ended in order.
    pub fn uninstall(&mut self, node: NodeId) -> Result<()> {
        if let Some(agent) = self.agents[node.index()].take() {
            agent.process.terminate(Patience::LONG)?;
        }
        agent::uninstall(self.node(node), &[])
    }

    /// `mesh-agent uninstall` with more options, where no agent runs.
    pub fn uninstall_with(&self, node: NodeId, options: &[String]) -> Result<()> {
        agent::uninstall(self.node(node), options)
    }

    /// `mesh-agent uninstall` while the agent runs.
    pub fn uninstall_under_way(&self, node: NodeId) -> Result<()> {
        self.agent(node)?;
        agent::uninstall(self.node(node), &[])
    }

    pub fn controller(&self) -> Result<&Controller> {
        self.controller.as_ref().context("the controller does not run")
    }

    pub fn agent(&self, node: NodeId) -> Result<&Agent> {
        self.agents[node.index()].as_ref().with_context(|| format!("agent {} does not run", node.name()))
    }
}

/// Labels.
impl World {
    /// Puts a namespace into the mesh by its label, and waits until all its pods are redirected and both agents know
    /// them as HBONE peers.
    pub fn mesh(&mut self, namespace: &str) -> Result<()> {
        self.label_namespace(namespace, Some("mesh"))?;
        let pods: Vec<Arc<Pod>> = self.pods_of(namespace);
        self.wait_for(&pods, true)
    }

    /// Takes a namespace out of the mesh by removing its label, and waits until it is.
    pub fn unmesh(&mut self, namespace: &str) -> Result<()> {
        self.label_namespace(namespace, None)?;
        let pods: Vec<Arc<Pod>> = self.pods_of(namespace);
        self.wait_for(&pods, false)
    }

    /// Writes the namespace with the mode's label, or without it.
    pub fn label_namespace(&mut self, namespace: &str, mode: Option<&str>) -> Result<()> {
        let labels = self.namespaces.get_mut(namespace).with_context(|| format!("no namespace {namespace}"))?;
        match mode {
            Some(mode) => labels.insert(MODE.to_owned(), mode.to_owned()),
            None => labels.remove(MODE),
        };
        self.manifests.namespace(namespace, labels)
    }

    /// Writes the pod with the mode's label, or without it.
    pub fn label_pod(&mut self, pod: &Pod, mode: Option<&str>) -> Result<()> {
        let labels = self.pod_labels.entry(pod.name.clone()).or_default();
        match mode {
            Some(mode) => labels.insert(MODE.to_owned(), mode.to_owned()),
            None => labels.remove(MODE),
        };
        self.write_pod(pod)
    }

    /// Writes the pod with this label of its own.
    pub fn label(&mut self, pod: &Pod, key: &str, value: &str) -> Result<()> {
        self.pod_labels.entry(pod.name.clone()).or_default().insert(key.to_owned(), value.to_owned());
        self.write_pod(pod)
    }

    fn pods_of(&self, namespace: &str) -> Vec<Arc<Pod>> {
        self.pods.iter().filter(|pod| pod.namespace == namespace).cloned().collect()
    }

    /// Until these pods are redirected, or are not, and every agent says so of them.
    pub fn wait_for(&self, pods: &[Arc<Pod>], meshed: bool) -> Result<()> {
        let wanted = if meshed { "in the mesh" } else { "out of the mesh" };
        let mut open = String::new();
        let outcome = eventually(format_args!("all pods are {wanted}"), Patience::LONG, || {
            open = self.unfinished(pods, meshed)?.unwrap_or_default();
            Ok(open.is_empty().then_some(()))
        });
        outcome.with_context(|| format!("{}: still waiting for {open}", self.title))
    }

    /// What is not yet as it should be; `None`: nothing.
    fn unfinished(&self, pods: &[Arc<Pod>], meshed: bool) -> Result<Option<String>> {
        for node in [A, B].into_iter().filter(|node| self.agents[node.index()].is_some()) {
            let status = self.status(node)?;
            for pod in pods.iter().filter(|pod| pod.node == node) {
                let state = questions::redirection(&status, pod);
                if (state == "enabled") != meshed {
                    let why = questions::message(&status, pod);
                    let (pod, node) = (pod.full_name(), node.name());
                    return Ok(Some(format!("{pod} on {node}: redirection is {state:?}: {why}")));
                }
            }
            let workloads = self.ask_agent(node, &["config", "workloads"])?;
            // Of other nodes' pods it may be told on demand alone.
            let on_demand = !status["addresses_asked"].is_null();
            for pod in pods.iter().filter(|pod| !on_demand || pod.node == node) {
                let known = workloads.iter().find(|workload| questions::is_pod(workload, pod));
                let protocol = known.map(|workload| ctl::word(workload, "protocol")).unwrap_or_default();
                if known.is_none() || (protocol == "hbone") != meshed {
                    return Ok(Some(format!("{} seen by {}: protocol {protocol:?}", pod.full_name(), node.name())));
                }
            }
        }
        Ok(None)
    }
}
