//! What scrapes the agents. The kind is the Prometheus operator's, so it is there only if it is asked for.

use serde_json::{Value, json};

use crate::{AGENT, metadata, selector, when};

pub fn objects() -> Vec<Value> {
    vec![when("metrics.podMonitor", pod_monitor())]
}

fn pod_monitor() -> Value {
    json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(AGENT),
        "spec": {
            "selector": { "matchLabels": selector(AGENT) },
            // The agent declares no port (see its DaemonSet), so the address is put together here.
            "podMetricsEndpoints": [{
                "path": "/metrics",
                "relabelings": [
                    {
                        "sourceLabels": ["__meta_kubernetes_pod_ip"],
                        "regex": "([0-9.]+)",
                        "targetLabel": "__address__",
                        "replacement": "$1:15020",
                    },
                    {
                        "sourceLabels": ["__meta_kubernetes_pod_ip"],
                        "regex": "(.*:.*)",
                        "targetLabel": "__address__",
                        "replacement": "[$1]:15020",
                    },
                ],
            }],
        },
    })
}
