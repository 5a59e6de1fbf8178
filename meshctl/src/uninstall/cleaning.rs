//! The pod that takes an agent's traces from a node. It is made of the DaemonSet as the cluster has it, so that image
//! and folders are those of the agent that ran. Pure.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::api::core::v1::Pod;
use kube::api::DynamicObject;
use mesh_install::{AGENT, PART_OF, PART_OF_LABEL, PROGRAMS};
use serde_json::{Value, json};

pub const NAME: &str = "mesh-uninstall";
/// A label that no node has, so that agents end while their DaemonSet stays.
pub const NOWHERE: &str = "nodemesh.io/uninstalled";
/// Options of the agent that say where it left what.
const PLACES: &[&str] = &["--cgroup=", "--bpffs=", "--run-dir=", "--state-dir=", "--cni-conf-dir=", "--cni-bin-dir="];

/// # Errors
/// The DaemonSet is not one that meshctl has applied.
pub fn pod(agents: &DynamicObject, node: &str) -> Result<Pod, String> {
    let mut spec = agents.data["spec"]["template"]["spec"].clone();
    let wrong = || format!("DaemonSet {AGENT} has no container {AGENT}");
    let containers = spec["containers"].as_array().ok_or_else(wrong)?;
    let mut container = containers.iter().find(|one| one["name"] == AGENT).cloned().ok_or_else(wrong)?;
    let arguments = container["args"].as_array().cloned().unwrap_or_default();
    let is_place =
        |argument: &Value| PLACES.iter().any(|place| argument.as_str().is_some_and(|text| text.starts_with(place)));
    container["args"] = arguments.into_iter().filter(is_place).collect();
    container["command"] = json!([format!("{PROGRAMS}/{AGENT}"), "uninstall"]);
    container["name"] = NAME.into();
    // Roots and token are nothing to it, and may be gone.
    let is_folder = |name: &Value, volumes: &Value| {
        volumes.as_array().into_iter().flatten().any(|one| one["name"] == *name && one["hostPath"].is_object())
    };
    let volumes = spec["volumes"].clone();
    for list in [&mut container["volumeMounts"], &mut spec["volumes"]] {
        if let Some(list) = list.as_array_mut() {
            list.retain(|one| is_folder(&one["name"], &volumes));
        }
    }
    for of_a_server in ["readinessProbe", "livenessProbe", "startupProbe"] {
        container.as_object_mut().ok_or_else(wrong)?.remove(of_a_server);
    }
    spec["containers"] = json!([container]);
    // Past the scheduler, as the node may be cordoned.
    spec["nodeName"] = node.into();
    spec["restartPolicy"] = "OnFailure".into();
    spec["terminationGracePeriodSeconds"] = 5.into();
    spec.as_object_mut().ok_or_else(wrong)?.remove("nodeSelector");
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name(node),
            "namespace": agents.metadata.namespace,
            "labels": { "app.kubernetes.io/name": NAME, PART_OF_LABEL: PART_OF },
        },
        "spec": spec,
    });
    serde_json::from_value(pod).map_err(|error| format!("DaemonSet {AGENT}: {error}"))
}

/// Which nodes had an agent, as a selector of labels.
pub fn selector(agents: &DynamicObject) -> String {
    let labels = agents.data["spec"]["template"]["spec"]["nodeSelector"].as_object().into_iter().flatten();
    let labels = labels.filter(|(name, _)| *name != NOWHERE);
    labels.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
}

/// A node's name may be as long as a pod's.
fn name(node: &str) -> String {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    let short = node.chars().take(40).collect::<String>();
    format!("{NAME}-{}-{:08x}", short.trim_end_matches(['.', '-']), hasher.finish() as u32)
}

#[cfg(test)]
mod tests {
    use mesh_install::{Values, objects};

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

    #[test]
    fn names_of_long_nodes_stay_short_and_differ() {
        let (one, other) = (name(&"n".repeat(250)), name(&"n".repeat(251)));
        assert!(one.len() <= 63 + 10 && one != other, "{one}");
        assert_eq!(name("a-b.c"), name("a-b.c"));
    }
}
