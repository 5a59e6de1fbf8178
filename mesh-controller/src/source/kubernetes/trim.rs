//! What is kept of an object: what `translate` reads, and no more. A pod of a cluster is 10 to 30 kB, of which the mesh
//! needs one; and what changes in the rest is no change. Pure.

use serde_json::{Map, Value};

const METADATA: &[&str] =
    &["metadata.name", "metadata.namespace", "metadata.uid", "metadata.creationTimestamp", "metadata.labels"];
const POD: &[&str] = &[
    "metadata.annotations",
    "metadata.ownerReferences",
    "spec.nodeName",
    "spec.hostNetwork",
    "spec.serviceAccountName",
    "spec.containers.name",
    "spec.containers.ports",
    "spec.containers.livenessProbe",
    "spec.containers.readinessProbe",
    "spec.containers.startupProbe",
    "spec.containers.lifecycle",
    "spec.initContainers.name",
    "spec.initContainers.ports",
    "spec.initContainers.livenessProbe",
    "spec.initContainers.readinessProbe",
    "spec.initContainers.startupProbe",
    "spec.initContainers.lifecycle",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.conditions.type",
    "status.conditions.status",
];
const SLICE: &[&str] = &[
    "addressType",
    "ports",
    "endpoints.addresses",
    "endpoints.conditions",
    "endpoints.targetRef.kind",
    "endpoints.targetRef.name",
];
/// Other annotations say nothing to the mesh, and can be as long as the object itself.
const ANNOTATIONS: &[&str] = &["nodemesh.io/", "istio.io/"];

/// The part of an object of this kind that is read.
pub fn trim(kind: &str, value: Value) -> Value {
    let own: &[&str] = match kind {
        "Pod" => POD,
        "EndpointSlice" => SLICE,
        "Namespace" => &["metadata.annotations"],
        "Node" => &["spec.taints", "status.addresses"],
        "Service" => &["spec", "status.loadBalancer"],
        "ServiceAccount" => &[],
        "ConfigMap" => &["data.mesh"],
        // A policy: a field that it should not have is told, so nothing but its status goes.
        _ => return of_policy(value),
    };
    let paths: Vec<&str> = METADATA.iter().chain(own).copied().collect();
    let mut kept = keep(value, &paths);
    known_annotations(&mut kept);
    kept
}

fn of_policy(mut value: Value) -> Value {
    if let Value::Object(map) = &mut value {
        map.remove("status");
        if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
            metadata.remove("resourceVersion");
        }
    }
    known_annotations(&mut value);
    value
}

/// What the paths name; what is no object or list where they go on stays, so that it is found not to fit.
fn keep(value: Value, paths: &[&str]) -> Value {
    match value {
        Value::Array(list) => Value::Array(list.into_iter().map(|item| keep(item, paths)).collect()),
        Value::Object(map) => {
            let mut kept = Map::new();
            for (key, value) in map {
                let rest = paths.iter().filter_map(|path| path.strip_prefix(key.as_str()));
                let below: Vec<&str> = rest.clone().filter_map(|rest| rest.strip_prefix('.')).collect();
                if rest.clone().any(str::is_empty) {
                    kept.insert(key, value);
                } else if !below.is_empty() {
                    kept.insert(key, keep(value, &below));
                }
            }
            Value::Object(kept)
        }
        other => other,
    }
}

fn known_annotations(value: &mut Value) {
    if let Some(Value::Object(annotations)) = value.pointer_mut("/metadata/annotations") {
        annotations.retain(|key, _| ANNOTATIONS.iter().any(|known| key.starts_with(known)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_keeps_what_is_read_of_it() {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "shop", "resourceVersion": "7", "generation": 1,
                         "annotations": {"nodemesh.io/redirection": "enabled", "other": "x"}},
            "spec": {"nodeName": "a", "volumes": [{"name": "v"}], "hostNetwork": 7,
                     "containers": [{"name": "c", "image": "i", "env": [{"name": "E"}], "ports": [{"containerPort": 1}]}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "message": "m"}],
                       "containerStatuses": [{"restartCount": 3}]},
        });
        let kept = json!({
            "metadata": {"name": "p", "namespace": "shop", "annotations": {"nodemesh.io/redirection": "enabled"}},
            "spec": {"nodeName": "a", "hostNetwork": 7,
                     "containers": [{"name": "c", "ports": [{"containerPort": 1}]}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        assert_eq!(trim("Pod", pod), kept);
    }

    #[test]
    fn a_kubelet_s_heartbeat_is_no_change() {
        let node = |time: &str| {
            let status = json!({"conditions": [{"type": "Ready", "lastHeartbeatTime": time}]});
            json!({"metadata": {"name": "a", "resourceVersion": time, "labels": {"x": "y"}}, "status": status})
        };
        assert_eq!(trim("Node", node("1")), trim("Node", node("2")));
        assert_eq!(trim("Node", node("1")), json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "status": {}}));
    }

    #[test]
    fn addresses_of_nodes_and_load_balancers_stay() {
        let addresses = json!([{"type": "InternalIP", "address": "192.168.0.1"}]);
        let node = json!({"metadata": {"name": "a"}, "status": {"addresses": addresses, "images": []}});
        assert_eq!(trim("Node", node), json!({"metadata": {"name": "a"}, "status": {"addresses": addresses}}));
        let balancer = json!({"ingress": [{"ip": "203.0.113.1"}]});
        let service = json!({"metadata": {"name": "s"}, "status": {"loadBalancer": balancer, "conditions": []}});
        assert_eq!(trim("Service", service), json!({"metadata": {"name": "s"}, "status": {"loadBalancer": balancer}}));
    }

    #[test]
    fn a_policy_keeps_what_it_should_not_have() {
        let policy =
            json!({"metadata": {"name": "p", "resourceVersion": "7"}, "spec": {"a": 1}, "sepc": 1, "status": {}});
        let kept = json!({"metadata": {"name": "p"}, "spec": {"a": 1}, "sepc": 1});
        assert_eq!(trim("AuthorizationPolicy", policy), kept);
    }
}
