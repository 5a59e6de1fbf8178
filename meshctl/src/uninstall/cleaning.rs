//! The pod that takes an agent's traces from a node. It is made of the DaemonSet as the cluster has it, so that image
//! and folders are those of the agent that ran. Pure.

use k8s_openapi::api::core::v1::Pod;
use kube::api::DynamicObject;

use crate::errand::Errand;

pub const NAME: &str = "mesh-uninstall";
/// A label that no node has, so that agents end while their DaemonSet stays.
pub const NOWHERE: &str = "nodemesh.io/uninstalled";
/// Options of the agent that say where it left what.
const PLACES: &[&str] = &["--cgroup=", "--bpffs=", "--run-dir=", "--state-dir=", "--cni-conf-dir=", "--cni-bin-dir="];

/// # Errors
/// The DaemonSet is not one that meshctl has applied.
pub fn pod(agents: &DynamicObject, node: &str) -> Result<Pod, String> {
    let errand = Errand { name: NAME, verb: "uninstall", options: PLACES, restart: "OnFailure" };
    let namespace = agents.metadata.namespace.as_deref().unwrap_or_default();
    errand.pod(&agents.data["spec"]["template"]["spec"], namespace, node)
}

/// Which nodes had an agent, as a selector of labels.
pub fn selector(agents: &DynamicObject) -> String {
    let labels = agents.data["spec"]["template"]["spec"]["nodeSelector"].as_object().into_iter().flatten();
    let labels = labels.filter(|(name, _)| *name != NOWHERE);
    labels.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use mesh_install::{Values, objects};
    use serde_json::json;

    use super::*;

    #[test]
    fn it_runs_where_and_as_the_agent_ran() {
        let mut values = Values::default();
        values.set("agent.cni.binDir=/x/bin").unwrap();
        let agents = objects(&values).into_iter().find(|object| object["kind"] == "DaemonSet").unwrap();
        let agents: DynamicObject = serde_json::from_value(agents).unwrap();
        let pod = serde_json::to_value(pod(&agents, "a.example").unwrap()).unwrap();
        let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
        assert_eq!(container["command"], json!(["/usr/local/bin/mesh-agent", "uninstall"]));
        assert_eq!(
            container["args"],
            json!(["--cgroup=/sys/fs/cgroup/kubepods.slice", "--cni-conf-dir=/etc/cni/net.d", "--cni-bin-dir=/x/bin"])
        );
        assert_eq!(spec["nodeName"], "a.example");
        assert!(spec.get("nodeSelector").is_none() && container.get("livenessProbe").is_none());
        assert!(spec["volumes"].as_array().unwrap().iter().all(|volume| volume["hostPath"].is_object()));
        assert_eq!(container["volumeMounts"].as_array().unwrap().len(), spec["volumes"].as_array().unwrap().len());
        assert_eq!(pod["metadata"]["namespace"], "nodemesh-system");
        let mut agents = agents;
        assert_eq!(selector(&agents), "kubernetes.io/os=linux");
        agents.data["spec"]["template"]["spec"]["nodeSelector"][NOWHERE] = "true".into();
        assert_eq!(selector(&agents), "kubernetes.io/os=linux", "the same when it is interrupted");
    }
}
