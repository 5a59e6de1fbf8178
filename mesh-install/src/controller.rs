//! The controller: any number of replicas, no privileges, no disk.

use serde_json::{Value, json};

use crate::{CONTROLLER, PROGRAMS, environment, labels, metadata, monitoring::service_labels, selector, when};

/// Of the image's user `nonroot`.
const NONROOT: u32 = 65532;
/// The agents' port.
const PORT: u16 = 15012;
/// On loopback only.
const ADMIN_PORT: u16 = 15000;
/// That of Prometheus, and its name.
const MONITORING: u16 = 15014;
pub const MONITORING_NAME: &str = "http-monitoring";

pub fn objects() -> Vec<Value> {
    vec![deployment(), service(), budget()]
}

fn deployment() -> Value {
    // A tenth of the patience that an agent has with its controller.
    let probe = |period: u32| json!({ "tcpSocket": { "port": "grpc-agents" }, "periodSeconds": period });
    let spread = |key: &str| {
        json!({
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": selector(CONTROLLER) },
        })
    };
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(CONTROLLER),
        "spec": {
            "replicas": "${controller.replicas}",
            "selector": { "matchLabels": selector(CONTROLLER) },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": {
                "metadata": { "labels": labels(CONTROLLER) },
                "spec": {
                    "serviceAccountName": CONTROLLER,
                    "automountServiceAccountToken": true,
                    "priorityClassName": "system-cluster-critical",
                    "nodeSelector": "${controller.nodeSelector}",
                    "tolerations": when("controller.tolerations", "${controller.tolerations}".into()),
                    "imagePullSecrets": when("image.pullSecrets", "${image.pullSecrets}".into()),
                    "topologySpreadConstraints": [
                        spread("kubernetes.io/hostname"),
                        spread("topology.kubernetes.io/zone"),
                    ],
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": NONROOT,
                        "runAsGroup": NONROOT,
                        "fsGroup": NONROOT,
                        "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "containers": [{
                        "name": CONTROLLER,
                        "image": "${image.repository}:${image.tag}",
                        "imagePullPolicy": "${image.pullPolicy}",
                        "command": [format!("{PROGRAMS}/{CONTROLLER}")],
                        "args": arguments(),
                        "env": variables(),
                        "ports": [
                            { "name": "grpc-agents", "containerPort": PORT, "protocol": "TCP" },
                            when("metrics.enabled", json!({
                                "name": MONITORING_NAME,
                                "containerPort": MONITORING,
                                "protocol": "TCP",
                            })),
                        ],
                        "readinessProbe": probe(5),
                        "livenessProbe": probe(20),
                        "resources": "${controller.resources}",
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "readOnlyRootFilesystem": true,
                            "capabilities": { "drop": ["ALL"] },
                        },
                        "volumeMounts": [{ "name": "state", "mountPath": "/run/nodemesh" }],
                    }],
                    // The admin socket alone: nothing in it must survive.
                    "volumes": [{ "name": "state", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } }],
                },
            },
        },
    })
}

fn arguments() -> Value {
    json!([
        "--source=kubernetes",
        // Below the volume, whose own mode is not the controller's to change.
        "--state=/run/nodemesh/state",
        format!("--listen=0.0.0.0:{PORT}"),
        // For meshctl, by a port-forward.
        format!("--admin-listen=127.0.0.1:{ADMIN_PORT}"),
        "--namespace=${namespace}",
        "--root-namespace=${rootNamespace}",
        "--trust-domain=${trustDomain}",
        "--cluster=${clusterName}",
        "--cluster-domain=${clusterDomain}",
        "--server-name=mesh-controller.${namespace}.svc",
        "--same-node=${sameNode}",
        "--certificate-ttl=${certificateTtlSeconds}s",
        when("caSecret", "--ca-secret=${caSecret}".into()),
        when("certManager.issuer", "--ca-given".into()),
        when("metrics.enabled", format!("--metrics=0.0.0.0:{MONITORING}").into()),
        "--log=${controller.log}",
        "--audit-log=${controller.auditLog}",
    ])
}

/// `kubectl exec deploy/mesh-controller -- meshctl status` needs no more words.
fn variables() -> Value {
    let mut variables = environment();
    let socket = json!({ "name": "MESH_CONTROLLER_SOCKET", "value": "/run/nodemesh/state/admin.sock" });
    variables.as_array_mut().expect("a list").push(socket);
    variables
}

fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": CONTROLLER,
            "namespace": "${namespace}",
            "labels": service_labels(),
        },
        "spec": {
            "type": "ClusterIP",
            "ipFamilyPolicy": "PreferDualStack",
            "selector": selector(CONTROLLER),
            "ports": [
                { "name": "grpc-agents", "port": PORT, "targetPort": "grpc-agents", "protocol": "TCP" },
                when("metrics.enabled", json!({
                    "name": MONITORING_NAME,
                    "port": MONITORING,
                    "targetPort": MONITORING_NAME,
                    "protocol": "TCP",
                })),
            ],
        },
    })
}

/// One at a time; of a single one too, since a node that cannot be drained is worse than a minute without changes.
fn budget() -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(CONTROLLER),
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": selector(CONTROLLER) } },
    })
}
