//! What scrapes agents and controller. The kind is the Prometheus operator's, so it is there only if it is asked for.

use serde_json::{Value, json};

use crate::{AGENT, CONTROLLER, controller::MONITORING_NAME, metadata, selector, when};

pub fn objects() -> Vec<Value> {
    vec![when("metrics.podMonitor", agents()), when("metrics.podMonitor", controller())]
}

/// The agent declares no port (see its DaemonSet), so the address is put together here.
fn agents() -> Value {
    let address = |ip: &str, replacement: &str| {
        json!({
            "sourceLabels": ["__meta_kubernetes_pod_ip"],
            "regex": ip,
            "targetLabel": "__address__",
            "replacement": replacement,
        })
    };
    let relabelings = [address("([0-9.]+)", "$1:15020"), address("(.*:.*)", "[$1]:15020")];
    monitor(AGENT, json!({ "path": "/metrics", "relabelings": relabelings }))
}

fn controller() -> Value {
    monitor(CONTROLLER, json!({ "path": "/metrics", "port": MONITORING_NAME }))
}

fn monitor(name: &str, endpoint: Value) -> Value {
    json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(name),
        "spec": { "selector": { "matchLabels": selector(name) }, "podMetricsEndpoints": [endpoint] },
    })
}
