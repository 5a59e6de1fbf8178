//! The agent: one on each node, in the node's network, with listed capabilities instead of `privileged`.

use serde_json::{Value, json};

use crate::{AGENT, PROGRAMS, environment, labels, metadata, selector, when};

/// What it needs of the kernel. A scene runs agents with exactly these. BPF and PERFMON are not among them: SYS_ADMIN,
/// without which nobody enters another namespace, holds both.
pub const CAPABILITIES: &[(&str, &str)] = &[
    (
        "NET_ADMIN",
        "attaches programs to cgroups and namespaces; dials from a pod's address; ends connections that are denied",
    ),
    (
        "SYS_ADMIN",
        "enters the network namespaces of pods (setns); loads programs and maps; finds those of an agent before it",
    ),
    (
        "NET_RAW",
        "captures a connection of its own, and nothing else, when meshctl verify asks what is on the wire (AF_PACKET)",
    ),
    ("SYS_PTRACE", "opens /proc/PID/ns/net of pods that run as other users or with more capabilities"),
];

/// A folder of the node.
pub struct Mount {
    name: &'static str,
    /// May be the place of a value.
    path: &'static str,
    /// Mounts that the node makes later are seen.
    follows: bool,
    pub writes: bool,
    /// Made where the node lacks it.
    makes: bool,
    pub why: &'static str,
}

pub const MOUNTS: &[Mount] = &[
    Mount {
        name: "bpffs",
        path: "/sys/fs/bpf",
        follows: true,
        writes: true,
        makes: false,
        why: "maps and links outlive the agent there",
    },
    Mount {
        name: "cgroup",
        path: "/sys/fs/cgroup",
        follows: true,
        writes: true,
        makes: false,
        why: "the hooks are attached to the pods' cgroups",
    },
    Mount {
        name: "netns",
        path: "/run/netns",
        follows: true,
        writes: false,
        makes: true,
        why: "the namespaces of pods that are there already",
    },
    Mount {
        name: "run",
        path: "/run/nodemesh",
        follows: false,
        writes: true,
        makes: true,
        why: "sockets for the CNI plugin, meshctl and the next agent",
    },
    Mount {
        name: "state",
        path: "/var/lib/nodemesh-agent",
        follows: false,
        writes: true,
        makes: true,
        why: "the last configuration and which pods joined; never a key",
    },
    Mount {
        name: "cni-conf",
        path: "${agent.cni.confDir}",
        follows: false,
        writes: true,
        makes: true,
        why: "its own configuration file beside the others'",
    },
    Mount {
        name: "cni-bin",
        path: "${agent.cni.binDir}",
        follows: false,
        writes: true,
        makes: true,
        why: "its own plugin beside the others'",
    },
];

const TOKEN: &str = "/var/run/nodemesh/token";
const ROOTS: &str = "/var/run/nodemesh/roots";

impl Mount {
    fn volume(&self) -> Value {
        let kind = if self.makes { "DirectoryOrCreate" } else { "Directory" };
        json!({ "name": self.name, "hostPath": { "path": self.path, "type": kind } })
    }

    fn mount(&self) -> Value {
        let mut mount = json!({ "name": self.name, "mountPath": self.path });
        if self.follows {
            mount["mountPropagation"] = "HostToContainer".into();
        }
        if !self.writes {
            mount["readOnly"] = true.into();
        }
        mount
    }

    /// For people.
    pub fn shown(&self) -> String {
        match self.path.strip_prefix("${").and_then(|path| path.strip_suffix('}')) {
            Some(value) => format!("value {value}"),
            None => self.path.to_owned(),
        }
    }
}

pub fn objects() -> Vec<Value> {
    vec![daemon_set()]
}

fn daemon_set() -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata(AGENT),
        "spec": {
            "selector": { "matchLabels": selector(AGENT) },
            // The next agent starts beside this one and takes its pods over. Two agents on a node's network: that is
            // why none of their ports is declared, for the scheduler would keep the second one out.
            "updateStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": { "maxSurge": "${agent.maxSurge}", "maxUnavailable": 0 },
            },
            "template": {
                "metadata": {
                    "labels": labels(AGENT),
                    "annotations": when("metrics.enabled", json!({
                        "prometheus.io/scrape": "true",
                        "prometheus.io/port": "15020",
                        "prometheus.io/path": "/metrics",
                    })),
                },
                "spec": pod(),
            },
        },
    })
}

fn pod() -> Value {
    let mut volumes = MOUNTS.iter().map(Mount::volume).collect::<Vec<_>>();
    volumes.push(json!({ "name": "roots", "configMap": { "name": "mesh-ca-root" } }));
    volumes.push(json!({
        "name": "token",
        "projected": {
            "defaultMode": 0o600,
            "sources": [{ "serviceAccountToken": {
                "path": "token",
                "audience": "nodemesh",
                "expirationSeconds": 3600,
            } }],
        },
    }));
    json!({
        "serviceAccountName": AGENT,
        "automountServiceAccountToken": false,
        "hostNetwork": true,
        // Pods that are there already are found by their processes.
        "hostPID": true,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "priorityClassName": "${agent.priorityClass}",
        "nodeSelector": "${agent.nodeSelector}",
        "imagePullSecrets": when("image.pullSecrets", "${image.pullSecrets}".into()),
        // Every taint, nodemesh.io/agent-not-ready among them: a pod on a node without an agent is not in the mesh.
        "tolerations": [{ "operator": "Exists" }],
        // More than any agent.drainSeconds; an agent ends by itself.
        "terminationGracePeriodSeconds": 630,
        "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [container()],
        "volumes": volumes,
    })
}

fn container() -> Value {
    let capabilities = CAPABILITIES.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let mut mounts = MOUNTS.iter().map(Mount::mount).collect::<Vec<_>>();
    mounts.push(json!({ "name": "roots", "mountPath": ROOTS, "readOnly": true }));
    mounts.push(json!({ "name": "token", "mountPath": TOKEN, "readOnly": true }));
    json!({
        "name": AGENT,
        "image": "${image.repository}:${image.tag}",
        "imagePullPolicy": "${image.pullPolicy}",
        "command": [format!("{PROGRAMS}/{AGENT}"), "run"],
        "args": arguments(),
        "env": environment(),
        // While two agents are on a node, the port answers for either: the probe asks whether it is this container's.
        "readinessProbe": {
            "exec": { "command": [format!("{PROGRAMS}/{AGENT}"), "ready", "--health=127.0.0.1:15021"] },
            "periodSeconds": 5,
            "timeoutSeconds": 3,
        },
        "livenessProbe": {
            "httpGet": { "path": "/healthz/live", "port": 15021 },
            "initialDelaySeconds": 30,
            "periodSeconds": 10,
            "timeoutSeconds": 3,
            "failureThreshold": 6,
        },
        "resources": "${agent.resources}",
        "securityContext": {
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsUser": 0,
            "capabilities": { "drop": ["ALL"], "add": capabilities },
            // The default profile of runtimes lets nobody write to /sys/fs/bpf.
            "appArmorProfile": { "type": "Unconfined" },
            "seLinuxOptions": { "type": "spc_t" },
        },
        "volumeMounts": mounts,
    })
}

fn arguments() -> Value {
    json!([
        "--controller=https://mesh-controller.${namespace}.svc.${clusterDomain}:15012",
        "--controller-name=mesh-controller.${namespace}.svc",
        format!("--controller-ca={ROOTS}/root-cert.pem"),
        format!("--token={TOKEN}/token"),
        "--cgroup=${agent.cgroup}",
        when("agent.kubeletCgroup", "--kubelet-cgroup=${agent.kubeletCgroup}".into()),
        "--cni-conf-dir=${agent.cni.confDir}",
        "--cni-bin-dir=${agent.cni.binDir}",
        when("metrics.enabled", "--metrics=0.0.0.0:15020".into()),
        "--health=0.0.0.0:15021",
        "--cluster=${clusterName}",
        "--certificate-ttl=${certificateTtlSeconds}",
        "--drain-deadline=${agent.drainSeconds}",
        "--log=${agent.log}",
        "--audit-log=${agent.auditLog}",
        "--metrics-series=${agent.metrics.series}",
        "--metrics-idle=${agent.metrics.idleSeconds}",
        when("agent.otlp.endpoint", "--otlp-endpoint=${agent.otlp.endpoint}".into()),
        "--otlp-protocol=${agent.otlp.protocol}",
        "--tracing-sampling=${agent.tracing.sampling}",
        when("agent.accessLog.format", "--access-log=${agent.accessLog.format}".into()),
        // An agent refuses these without what they are about.
        when("agent.accessLog.format", when("agent.accessLog.errors", "--access-log-errors".into())),
        when("agent.accessLog.format", "--access-log-sampling=${agent.accessLog.sampling}".into()),
        when("agent.otlp.endpoint", when("agent.accessLog.otlp", "--access-log-otlp".into())),
    ])
}
