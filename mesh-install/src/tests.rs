//! That the objects are what Kubernetes takes, and that the chart and the base are the same objects.

mod helm;

use std::fmt::Debug;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::{Namespace, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use serde::{Serialize, de::DeserializeOwned};

use super::*;
use crate::values::{Kind, SETTINGS};

/// Other than the defaults, each of them.
const CHANGED: &str = r#"
namespace: mesh
image: {repository: "registry.example:5000/a/b", tag: "2.1", pullPolicy: Always, pullSecrets: [{name: pull}]}
trustDomain: example.org
clusterName: East-1
clusterDomain: cluster.example
rootNamespace: mesh-root
sameNode: tls
certificateTtlSeconds: 1000000
caSecret: given
certManager: {issuer: own-ca, issuerKind: ClusterIssuer, issuerGroup: example.org, duration: 720h, renewBefore: 240h}
nodeTaint: false
metrics: {enabled: false}
monitoring: {enabled: true, release: prom, istioLabels: true}
controller:
  replicas: 3
  resources: {}
  log: mesh_controller=debug,info
  auditLog: "off"
  nodeSelector: {pool: "a b\"<c>"}
  tolerations: [{key: x, operator: Exists, effect: NoSchedule}]
agent:
  cgroup: /sys/fs/cgroup/kubepods
  kubeletCgroup: ""
  cni: {confDir: /var/lib/cni/conf, binDir: /var/lib/cni/bin}
  resources: {limits: {memory: 1Gi, cpu: "2"}}
  log: debug
  auditLog: /var/lib/nodemesh-agent/audit.json
  otlp: {endpoint: "https://collector.tools:4318/otlp", protocol: http}
  tracing: {sampling: 0.25}
  accessLog: {format: json, errors: true, sampling: 12.5, otlp: true}
  metrics: {series: 2000000, idleSeconds: 60}
  drainSeconds: 60
  maxSurge: 12
  nodeSelector: {}
  priorityClass: own
"#;

pub fn changed() -> Values {
    let mut values = Values::default();
    values.merge(CHANGED).unwrap();
    values
}

/// Fails on fields that the type does not have, which serde would leave out.
fn strictly<K: DeserializeOwned + Serialize + Debug>(object: &Value) {
    let typed: K = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object:#}"));
    let mut again = serde_json::to_value(typed).unwrap();
    // What Kubernetes takes for the same is not the same text.
    let mut object = object.clone();
    without_empty(&mut again);
    without_empty(&mut object);
    assert_eq!(again, object);
}

/// k8s-openapi writes no empty lists and maps.
fn without_empty(value: &mut Value) {
    let is_empty = |value: &Value| {
        value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(serde_json::Map::is_empty)
    };
    match value {
        Value::Object(entries) => {
            entries.values_mut().for_each(without_empty);
            entries.retain(|_, value| !is_empty(value));
        }
        Value::Array(items) => items.iter_mut().for_each(without_empty),
        // Bounds in schemas are floating there.
        Value::Number(number) => *value = number.as_f64().into(),
        _ => {}
    }
}

fn all(values: &Values) -> usize {
    let objects = objects(values);
    for object in &objects {
        match object["kind"].as_str().unwrap() {
            "Namespace" => strictly::<Namespace>(object),
            "ServiceAccount" => strictly::<ServiceAccount>(object),
            "ClusterRole" => strictly::<ClusterRole>(object),
            "ClusterRoleBinding" => strictly::<ClusterRoleBinding>(object),
            "Role" => strictly::<Role>(object),
            "RoleBinding" => strictly::<RoleBinding>(object),
            "Deployment" => strictly::<Deployment>(object),
            "DaemonSet" => strictly::<DaemonSet>(object),
            "Service" => strictly::<Service>(object),
            "CustomResourceDefinition" => strictly::<CustomResourceDefinition>(object),
            "PodDisruptionBudget" => strictly::<PodDisruptionBudget>(object),
            // Other projects' kinds, of which there is no type here.
            "PodMonitor" | "ServiceMonitor" | "PrometheusRule" | "Certificate" => {}
            other => panic!("{other}: nobody checks it"),
        }
    }
    objects.len()
}

#[test]
fn every_object_has_the_fields_of_its_kind() {
    // The namespace, the RateLimitPolicy's definition, two accounts, two roles and their bindings, Deployment, Service,
    // budget, DaemonSet.
    assert_eq!(all(&Values::default()), 12);
    assert_eq!(all(&changed()), 16, "and two monitors, the alerts, and the CA's Certificate");
}

#[test]
fn templates_name_settings_only_and_every_setting_is_used() {
    let parts = parts();
    let paths = parts.iter().flat_map(|part| &part.objects).flat_map(Template::paths).collect::<Vec<_>>();
    for (path, in_text) in &paths {
        let setting = SETTINGS.iter().find(|setting| setting.path == *path);
        let setting = setting.unwrap_or_else(|| panic!("{path} is no setting"));
        let can_be_text = !matches!(setting.kind, Kind::Flag | Kind::Map | Kind::List);
        assert!(!in_text || can_be_text, "{path} within a text");
    }
    for setting in SETTINGS {
        assert!(paths.iter().any(|(path, _)| *path == setting.path), "{}: nobody reads it", setting.path);
        assert_ne!(changed().at(setting.path), &setting.default(), "{}: the same in CHANGED", setting.path);
    }
}

#[test]
fn the_chart_renders_the_same_objects() {
    for values in [Values::default(), changed()] {
        let rendered = chart()
            .iter()
            .filter(|file| file.path.starts_with("templates/"))
            .flat_map(|file| helm::documents(&helm::render(&file.text, &values)))
            .collect::<Vec<_>>();
        // Helm applies by kind, whatever the files' order is.
        assert_eq!(rendered, objects(&values));
    }
}

#[test]
fn the_charts_values_are_the_defaults_and_its_schema_takes_them() {
    let files = chart();
    let text = |path: &str| &files.iter().find(|file| file.path == path).unwrap().text;
    let mut values = changed();
    values.merge(text("values.yaml")).unwrap();
    assert_eq!(values, Values::default());
    let schema: Value = serde_json::from_str(text("values.schema.json")).unwrap();
    for setting in SETTINGS {
        let names = setting.path.split('.');
        let at = names.fold(&schema, |schema, name| &schema["properties"][name]);
        assert_eq!(at["description"], setting.about);
        let default = setting.default();
        let fits = match (&at["type"], &at["enum"]) {
            (Value::String(kind), _) => match kind.as_str() {
                "string" => default.is_string() && at["pattern"].is_string(),
                "integer" => default.as_u64() >= at["minimum"].as_u64() && default.as_u64() <= at["maximum"].as_u64(),
                "number" => default.as_f64() >= at["minimum"].as_f64() && default.as_f64() <= at["maximum"].as_f64(),
                "boolean" => default.is_boolean(),
                "object" => default.is_object(),
                "array" => default.is_array(),
                other => panic!("{other}"),
            },
            (_, words) => words.as_array().unwrap().contains(&default),
        };
        assert!(fits, "{}: {at}", setting.path);
    }
}

#[test]
fn the_base_is_the_same_objects() {
    let base = base();
    let read = base.iter().filter(|file| file.path != "kustomization.yaml");
    let read = read.flat_map(|file| helm::documents(&file.text)).collect::<Vec<_>>();
    assert_eq!(read, objects(&Values::default()));
    assert!(base.iter().all(|file| !file.text.contains("{{")));
}

/// As cert-manager's documentation of `cert-manager.io/v1` has them.
#[test]
fn cert_manager_is_asked_for_a_ca_that_signs() {
    let objects = objects(&changed());
    let certificate = objects.iter().find(|object| object["kind"] == "Certificate").unwrap();
    let spec = &certificate["spec"];
    assert_eq!((&spec["isCA"], &spec["secretName"]), (&json!(true), &json!("mesh-ca")));
    assert_eq!(spec["privateKey"]["algorithm"], "ECDSA");
    assert_eq!(spec["issuerRef"], json!({ "name": "own-ca", "kind": "ClusterIssuer", "group": "example.org" }));
    assert_eq!((&spec["duration"], &spec["renewBefore"]), (&json!("720h"), &json!("240h")));
    let controller = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let arguments = controller["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
    assert!(arguments.contains(&json!("--ca-given")));
}

#[test]
fn an_agent_is_told_what_to_tell() {
    let told = |values: &Values| -> Vec<String> {
        let objects = objects(values);
        let agent = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
        let arguments = agent["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
        let arguments = arguments.iter().map(|argument| argument.as_str().unwrap().to_owned());
        arguments.skip_while(|argument| !argument.starts_with("--metrics-series")).collect()
    };
    let defaults = ["--metrics-series=50000", "--metrics-idle=900", "--otlp-protocol=grpc", "--tracing-sampling=1"];
    assert_eq!(told(&Values::default()), defaults);
    let all = [
        "--metrics-series=2000000",
        "--metrics-idle=60",
        "--otlp-endpoint=https://collector.tools:4318/otlp",
        "--otlp-protocol=http",
        "--tracing-sampling=0.25",
        "--access-log=json",
        "--access-log-errors",
        "--access-log-sampling=12.5",
        "--access-log-otlp",
    ];
    assert_eq!(told(&changed()), all);
    // What an agent would refuse to start with.
    let mut alone = Values::default();
    for set in ["agent.accessLog.errors=true", "agent.accessLog.sampling=5", "agent.accessLog.otlp=true"] {
        alone.set(set).unwrap();
    }
    assert_eq!(told(&alone), defaults);
}

#[test]
fn the_agent_may_nothing_at_the_api_and_is_not_privileged() {
    for values in [Values::default(), changed()] {
        let objects = objects(&values);
        let subjects = objects.iter().flat_map(|object| object["subjects"].as_array().into_iter().flatten());
        assert!(subjects.map(|subject| &subject["name"]).all(|name| name == CONTROLLER));
        let text = serde_json::to_string(&objects).unwrap();
        assert!(!text.contains("\"*\""), "a wildcard");
        assert!(!text.contains("\"privileged\":true"));
        let agent = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
        let pod = &agent["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert!(pod["containers"][0].get("ports").is_none(), "a second agent could not be scheduled beside it");
    }
}

#[test]
fn every_permission_says_what_it_is_for() {
    let table = table();
    assert!(table.lines().count() > 20);
    for line in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---")) {
        assert!(line.split('|').rev().nth(1).is_some_and(|why| why.trim().len() > 6), "{line}");
    }
}

/// The ServiceMonitor of the documentation's sample as it is written, where the mesh is in Istio's namespace.
#[test]
fn a_monitor_made_for_istios_control_plane_finds_the_controller() {
    let sample = include_str!("../../mesh-controller/src/analyze/tests/samples/003-4-observability.yaml");
    let monitor = helm::documents(sample).into_iter().find(|object| object["kind"] == "ServiceMonitor").unwrap();
    let found = |settings: &[&str]| {
        let mut values = Values::default();
        settings.iter().for_each(|setting| values.set(setting).unwrap());
        let wanted = &monitor["spec"]["selector"]["matchExpressions"][0];
        assert_eq!(wanted["operator"], "In");
        let fits = |object: &Value| {
            let namespaces = monitor["spec"]["namespaceSelector"]["matchNames"].as_array().unwrap();
            let label = &object["metadata"]["labels"][wanted["key"].as_str().unwrap()];
            object["kind"] == "Service"
                && namespaces.contains(&object["metadata"]["namespace"])
                && wanted["values"].as_array().unwrap().contains(label)
        };
        let ports = |object: &Value| object["spec"]["ports"].as_array().unwrap().clone();
        let names = objects(&values).iter().filter(|object| fits(object)).flat_map(ports).collect::<Vec<_>>();
        names.iter().any(|port| port["name"] == monitor["spec"]["endpoints"][0]["port"])
    };
    assert!(found(&["namespace=istio-system", "monitoring.istioLabels=true"]));
    assert!(!found(&["namespace=istio-system"]));
    assert!(!found(&["monitoring.istioLabels=true"]), "it looks in istio-system only");
}

#[test]
fn dashboards_have_a_name_and_a_place_for_each_panel() {
    for dashboard in monitoring::DASHBOARDS {
        let page = dashboard.render();
        let panels = page["panels"].as_array().unwrap();
        let mut taken = std::collections::BTreeSet::new();
        let number = |panel: &Value, field: &str| panel["gridPos"][field].as_u64().unwrap();
        for (place, panel) in panels.iter().enumerate() {
            assert_eq!(panel["id"], place + 1, "{}", dashboard.uid);
            assert!(!panel["title"].as_str().unwrap().is_empty(), "{}", dashboard.uid);
            assert!(number(panel, "x") + number(panel, "w") <= 24, "{panel:#}");
            for x in number(panel, "x")..number(panel, "x") + number(panel, "w") {
                for y in number(panel, "y")..number(panel, "y") + number(panel, "h") {
                    assert!(taken.insert((x, y)), "{}: two panels at {x}, {y}", dashboard.uid);
                }
            }
        }
        let chosen = dashboard.variables.iter().map(|variable| variable.name);
        let known = chosen.chain(["__rate_interval"]).collect::<Vec<_>>();
        for expression in dashboard.expressions() {
            for after in expression.split('$').skip(1) {
                let name = after.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
                assert!(known.contains(&name), "{}: ${name} in {expression}", dashboard.uid);
            }
        }
    }
}
