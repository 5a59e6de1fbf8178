//! A node's agent, run as an administrator would, and the pods that join it as a CNI plugin makes them join.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use anyhow::Result;

use crate::{Controller, Node, Pod, Process, config, controller, place};

/// Among an agent's options: what it may, as setpriv(1) writes it.
pub const CAPABILITIES: &str = "capabilities:";
const JOIN_LIMIT: Duration = Duration::from_secs(10);

/// A running mesh-agent.
#[derive(Debug)]
pub struct Agent {
    pub process: Arc<Process>,
}

impl Agent {
    /// Starts it; its sockets exist when this returns, whether or not the controller has accepted it.
    pub(crate) fn start(node: &Node, ca: &Path, token: &Path, options: &[String]) -> Result<Self> {
        let mut arguments = vec![
            "run".to_owned(),
            format!("--node={}", node.id.name()),
            format!("--controller={}", Controller::url()),
            format!("--controller-name={}", controller::SERVER_NAME),
            format!("--controller-ca={}", ca.display()),
            format!("--token={}", token.display()),
            format!("--cgroup={}", node.cgroup.display()),
            format!("--bpffs={}", node.bpffs.display()),
            format!("--run-dir={}", node.run_dir.display()),
            format!("--state-dir={}", node.state_dir().display()),
            "--log=info".to_owned(),
        ];
        if !options.iter().any(|option| option.starts_with("--kubelet-cgroup=")) {
            arguments.push(format!("--kubelet-cgroup={}", node.kubelet_cgroup().display()));
        }
        // A word to the harness, not to the agent.
        let (bounds, options): (Vec<_>, Vec<_>) = options.iter().partition(|option| option.starts_with(CAPABILITIES));
        // Two nodes have the same options, and folders of their own.
        arguments.extend(options.into_iter().map(|option| option.replace("{node}", node.id.name())));
        let mut program = config::built("mesh-agent")?;
        if let Some(bound) = bounds.first().and_then(|bound| bound.strip_prefix(CAPABILITIES)) {
            arguments.splice(0..0, [format!("--bounding-set={bound}"), program.display().to_string()]);
            program = config::installed("setpriv")?;
        }
        let name = format!("agent-{}", node.id.name());
        let process = Arc::new(node.host.start(&name, &program, &arguments)?);
        node.host.crew.join(&process);
        process.listens_at(&node.agent_socket())?;
        process.listens_at(&node.cni_socket())?;
        Ok(Self { process })
    }
}

/// What a CNI plugin does at ADD.
pub(crate) fn add_pod(node: &Node, pod: &Pod) -> Result<()> {
    join(node, pod, &pod.uid, &pod.cgroup)
}

/// The same, with another UID or cgroup than the pod's.
pub(crate) fn join(node: &Node, pod: &Pod, uid: &str, cgroup: &Path) -> Result<()> {
    let mut command = Command::new(config::built("mesh-agent")?);
    command.args(["pod", "add", "--socket"]).arg(node.cni_socket());
    command.args(["--namespace", &pod.namespace, "--name", &pod.name, "--pod-uid", uid]);
    command.arg("--netns").arg(&pod.netns).arg("--cgroup").arg(cgroup);
    place::succeed(command, JOIN_LIMIT).map(drop)
}

/// What a CNI plugin does at DEL.
pub(crate) fn remove_pod(node: &Node, pod: &Pod) -> Result<()> {
    let mut command = Command::new(config::built("mesh-agent")?);
    command.args(["pod", "remove", "--socket"]).arg(node.cni_socket());
    command.args(["--namespace", &pod.namespace, "--name", &pod.name]);
    place::succeed(command, JOIN_LIMIT).map(drop)
}

/// Removes what the node's agents left, running or not.
pub(crate) fn uninstall(node: &Node, options: &[String]) -> Result<()> {
    let mut command = Command::new(config::built("mesh-agent")?);
    command.arg("uninstall").arg("--cgroup").arg(&node.cgroup);
    command.arg("--bpffs").arg(&node.bpffs).arg("--run-dir").arg(&node.run_dir);
    command.arg("--state-dir").arg(node.state_dir()).args(options);
    place::succeed(command, JOIN_LIMIT).map(drop)
}
