//! Questions to agents and controller, asked by meshctl.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::World;
use crate::{Denial, Flow, NodeId, Patience, Pod, ctl, eventually, expect_flow};

const METRICS: &str = "127.0.0.1:15020";

impl World {
    /// The agent's own status.
    pub fn status(&self, node: NodeId) -> Result<Value> {
        self.ask_agent(node, &["status"])?.into_iter().next().context("meshctl status says nothing")
    }

    pub fn ask_agent(&self, node: NodeId, arguments: &[&str]) -> Result<Vec<Value>> {
        ctl::ask("--agent", &self.node(node).agent_socket(), arguments)
    }

    pub fn ask_controller(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        ctl::ask("--controller", &self.controller()?.admin_socket(), arguments)
    }

    /// All flows that the node's agent keeps, oldest first.
    pub fn flows(&self, node: NodeId) -> Result<Vec<Flow>> {
        Ok(self.ask_agent(node, &["flows"])?.iter().map(Flow::of).collect())
    }

    /// The first flow of that node that matches; waits for it, because a flow is written when its connection ends.
    pub fn flow(&self, node: NodeId, what: &str, matches: impl Fn(&Flow) -> bool) -> Result<Flow> {
        eventually(format_args!("node {}: a flow {what}", node.name()), Patience::LONG, || {
            expect_flow(&self.flows(node)?, what, &matches).map(Some)
        })
    }

    /// `meshctl authz check` at the destination's own agent.
    pub fn authz(&self, source: &str, destination: &Pod, port: u16) -> Result<Denial> {
        let (port, name) = (port.to_string(), destination.full_name());
        let socket = self.node(destination.node).agent_socket();
        let (code, answers) =
            ctl::ask_with_code("--agent", &socket, &["authz", "check", source, &name, "--port", &port])?;
        let answer = Denial::of(answers.first().context("meshctl authz check says nothing")?);
        let permitted = answer.verdict == "forwarded" && !answer.depends_on_request;
        ensure!((code == 0) == permitted, "exit code {code} for {answer:?}");
        Ok(answer)
    }

    /// A counter of the node's eBPF programs, as `STEERED_AGENT`.
    pub fn counter(&self, node: NodeId, name: &str) -> Result<u64> {
        self.status(node)?["counters"][name].as_u64().with_context(|| format!("no counter {name}"))
    }

    /// Entries of an eBPF map as the agent's metrics tell; it must run with [`World::metrics`].
    pub fn entries(&self, node: NodeId, map: &str) -> Result<usize> {
        self.metric(node, &format!("mesh_bpf_map_entries{{map=\"{map}\"}}"))
    }

    /// The sum of the node's metrics whose names begin with `name` and that have these labels, as in
    /// `reporter="source"`; it must run with [`World::metrics`].
    pub fn metrics_sum(&self, node: NodeId, name: &str, labels: &[&str]) -> Result<u64> {
        let text = self.node(node).host.curl(&format!("http://{METRICS}/metrics"))?;
        let fits = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
        let values = text.lines().filter(fits).filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        Ok(values.sum())
    }

    /// A metric of the node's agent, by its name and labels; it must run with [`World::metrics`].
    pub fn metric(&self, node: NodeId, name: &str) -> Result<usize> {
        let text = self.node(node).host.curl(&format!("http://{METRICS}/metrics"))?;
        let prefix = format!("{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        Ok(line.with_context(|| format!("no metric {prefix}in:\n{text}"))?.parse()?)
    }

    /// The agents started from now on have metrics, on the node's own loopback device.
    pub fn metrics(&mut self) {
        self.agent_options.push(format!("--metrics={METRICS}"));
    }

    /// The pods that an agent redirects now, "namespace/name".
    pub fn redirected(&self, node: NodeId) -> Result<BTreeSet<String>> {
        let status = self.status(node)?;
        let pods = self.pods.iter().filter(|pod| pod.node == node && redirection(&status, pod) == "enabled");
        Ok(pods.map(|pod| pod.full_name()).collect())
    }
}

pub(super) fn redirection(status: &Value, pod: &Pod) -> String {
    state(status, pod).map(|state| ctl::word(state, "redirection")).unwrap_or_default()
}

/// What the agent says of the pod, for people.
pub(super) fn message(status: &Value, pod: &Pod) -> String {
    state(status, pod).map_or_else(|| "the agent does not know it".to_owned(), |state| ctl::text(state, "message"))
}

fn state<'a>(status: &'a Value, pod: &Pod) -> Option<&'a Value> {
    status["pods"].as_array()?.iter().find(|state| is_pod(state, pod))
}

pub(super) fn is_pod(value: &Value, pod: &Pod) -> bool {
    ctl::text(value, "namespace") == pod.namespace && ctl::text(value, "pod") == pod.name
}
