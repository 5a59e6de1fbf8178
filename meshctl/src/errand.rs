//! A pod on one node that runs another verb of the agent, as the agent itself would run there: same image, folders and
//! capabilities. Pure.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::api::core::v1::Pod;
use mesh_install::{AGENT, PART_OF, PART_OF_LABEL, PROGRAMS};
use serde_json::{Value, json};

/// What runs instead of the agent.
pub struct Errand<'a> {
    /// Of the pods, and of their container.
    pub name: &'a str,
    pub verb: &'a str,
    /// Options of the agent that it takes too, by their beginnings.
    pub options: &'a [&'a str],
    /// As in `Never`.
    pub restart: &'a str,
}

impl Errand<'_> {
    /// Made of the agents' DaemonSet: its `spec.template.spec`.
    ///
    /// # Errors
    /// It is not one that meshctl has applied.
    pub fn pod(&self, template: &Value, namespace: &str, node: &str) -> Result<Pod, String> {
        let Self { name, verb, options, restart } = self;
        let mut spec = template.clone();
        let wrong = || format!("DaemonSet {AGENT} has no container {AGENT}");
        let containers = spec["containers"].as_array().ok_or_else(wrong)?;
        let mut container = containers.iter().find(|one| one["name"] == AGENT).cloned().ok_or_else(wrong)?;
        let arguments = container["args"].as_array().cloned().unwrap_or_default();
        let is_taken = |argument: &Value| {
            options.iter().any(|option| argument.as_str().is_some_and(|text| text.starts_with(option)))
        };
        container["args"] = arguments.into_iter().filter(is_taken).collect();
        container["command"] = json!([format!("{PROGRAMS}/{AGENT}"), verb]);
        container["name"] = (*name).into();
        // What it says at its end is read from its status.
        container["terminationMessagePolicy"] = "FallbackToLogsOnError".into();
        // Roots and token are nothing to it, and may not be there.
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
        spec["restartPolicy"] = (*restart).into();
        spec["terminationGracePeriodSeconds"] = 5.into();
        spec.as_object_mut().ok_or_else(wrong)?.remove("nodeSelector");
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.pod_name(node),
                "namespace": namespace,
                "labels": { "app.kubernetes.io/name": name, PART_OF_LABEL: PART_OF },
            },
            "spec": spec,
        });
        serde_json::from_value(pod).map_err(|error| format!("DaemonSet {AGENT}: {error}"))
    }

    /// A node's name may be as long as a pod's.
    fn pod_name(&self, node: &str) -> String {
        let mut hasher = DefaultHasher::new();
        node.hash(&mut hasher);
        let short = node.chars().take(40).collect::<String>();
        format!("{}-{}-{:08x}", self.name, short.trim_end_matches(['.', '-']), hasher.finish() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_long_nodes_stay_short_and_differ() {
        let errand = Errand { name: "mesh-uninstall", verb: "uninstall", options: &[], restart: "Never" };
        let name = |node: &str| errand.pod_name(node);
        let (one, other) = (name(&"n".repeat(250)), name(&"n".repeat(251)));
        assert!(one.len() <= 63 + 10 && one != other, "{one}");
        assert_eq!(name("a-b.c"), name("a-b.c"));
    }
}
