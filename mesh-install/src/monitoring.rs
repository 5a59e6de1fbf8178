//! What scrapes agents and controller, what wakes people, and what they look at then. The kinds are the Prometheus
//! operator's, so they are there only if they are asked for; the same is in files for who has no operator.

mod dashboards;
mod grafana;
mod rules;

use serde_json::{Value, json};

pub use dashboards::DASHBOARDS;
pub use grafana::{Dashboard, Kind, Panel, Row, Variable};
pub use rules::{Alert, GROUPS, Group, Severity};

use crate::{
    AGENT, CONTROLLER, File, controller::MONITORING_NAME, labels, metadata, selector, template::Template, when,
    yaml::documents,
};

/// Of the sample of the mesh's documentation; agents and controller have nothing that changes faster.
const INTERVAL: &str = "15s";

pub fn objects() -> Vec<Value> {
    vec![
        when("monitoring.enabled", agents()),
        when("monitoring.enabled", controller()),
        when("monitoring.enabled", alerts()),
    ]
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
    let node = json!({ "sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node" });
    let relabelings = [address("([0-9.]+)", "$1:15020"), address("(.*:.*)", "[$1]:15020"), node];
    json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": monitored(AGENT),
        "spec": {
            "selector": { "matchLabels": selector(AGENT) },
            "podMetricsEndpoints": [{ "path": "/metrics", "interval": INTERVAL, "relabelings": relabelings }],
        },
    })
}

fn controller() -> Value {
    json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": monitored(CONTROLLER),
        "spec": {
            "selector": { "matchLabels": selector(CONTROLLER) },
            "endpoints": [{ "path": "/metrics", "interval": INTERVAL, "port": MONITORING_NAME }],
        },
    })
}

fn alerts() -> Value {
    json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": monitored("nodemesh"),
        "spec": rules::groups(),
    })
}

/// With the label by which a Prometheus chooses what it reads (`serviceMonitorSelector` and its likes).
fn monitored(name: &str) -> Value {
    let mut metadata = metadata(name);
    metadata["labels"]["release"] = when("monitoring.release", "${monitoring.release}".into());
    metadata
}

/// Files below manifests/monitoring, for a Prometheus without the operator and for Grafana.
pub fn files() -> Vec<File> {
    let rules = documents(&[Template::literal(&rules::groups())]);
    let scraped = documents(&[Template::literal(&scraping())]);
    let of = |path: &str, text: String| File { path: path.to_owned(), text };
    let mut files = vec![of("rules.yaml", rules), of("prometheus.yaml", scraped)];
    for dashboard in DASHBOARDS {
        files.push(of(&format!("grafana/{}.json", dashboard.uid), format!("{:#}\n", dashboard.render())));
    }
    files
}

/// A whole configuration of a Prometheus in the cluster.
fn scraping() -> Value {
    let keep = |label: &str, name: &str| json!({ "source_labels": [label], "regex": name, "action": "keep" });
    let job = |name: &str, port: u16| {
        let pod =
            |of: &str, to: &str| json!({ "source_labels": [format!("__meta_kubernetes_{of}")], "target_label": to });
        let address = |ip: &str, to: String| {
            json!({
                "source_labels": ["__meta_kubernetes_pod_ip"],
                "regex": ip,
                "target_label": "__address__",
                "replacement": to,
            })
        };
        json!({
            "job_name": name,
            "scrape_interval": INTERVAL,
            "kubernetes_sd_configs": [{ "role": "pod", "namespaces": { "names": ["nodemesh-system"] } }],
            "relabel_configs": [
                keep("__meta_kubernetes_pod_label_app_kubernetes_io_name", name),
                // A target for each declared port would be several of one pod: all become one.
                address("([0-9.]+)", format!("$1:{port}")),
                address("(.*:.*)", format!("[$1]:{port}")),
                pod("pod_name", "pod"),
                pod("namespace", "namespace"),
                pod("pod_node_name", "node"),
            ],
        })
    };
    json!({
        "global": { "scrape_interval": INTERVAL, "evaluation_interval": INTERVAL },
        "rule_files": ["rules.yaml"],
        "scrape_configs": [job(AGENT, 15020), job(CONTROLLER, 15014)],
    })
}

/// Labels of the controller's Service: with Istio's, monitors made for its control plane find it.
pub fn service_labels() -> Value {
    let mut labels = labels(CONTROLLER);
    labels["istio"] = when("monitoring.istioLabels", "pilot".into());
    labels
}
