//! The settings, each with its kind, its default and what it is for.

use serde_json::{Value, json};

/// One value that can be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Dotted, as in values.yaml.
    pub path: &'static str,
    pub kind: Kind,
    /// As YAML.
    default: &'static str,
    pub about: &'static str,
}

/// What a value must be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Characters that a text may have. They go into other texts, so quotes are never among them.
    Text(Characters),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// From the first to the second.
    Number(u64, u64),
    Flag,
    /// From 0 to 100, also broken.
    Percent,
    /// Of a collector, as in `http://name:4317`; or empty.
    Url,
    /// Anything that Kubernetes takes there.
    Map,
    List,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Characters {
    /// Beside letters and digits.
    marks: &'static str,
    empty: bool,
}

const NAME: Kind = Kind::Text(Characters { marks: ".-", empty: false });
const PATH: Kind = Kind::Text(Characters { marks: "/._-", empty: false });
const MAY_BE_EMPTY: Kind = Kind::Text(Characters { marks: "/._-", empty: true });
const IMAGE: Kind = Kind::Text(Characters { marks: "/._-:@", empty: false });
const WHERE: Kind = Kind::Text(Characters { marks: "/._-", empty: false });
const FILTER: Kind = Kind::Text(Characters { marks: "=,_:-", empty: false });

pub const SETTINGS: &[Setting] = &[
    setting("namespace", NAME, "nodemesh-system", "The namespace of the mesh itself; its pods never join"),
    setting("image.repository", IMAGE, "nodemesh", "The image with all programs, as `cargo xtask image` makes it"),
    setting("image.tag", IMAGE, env!("CARGO_PKG_VERSION"), "The tag of the image"),
    setting(
        "image.pullPolicy",
        Kind::Choice(&["IfNotPresent", "Always", "Never"]),
        "IfNotPresent",
        "When it is pulled",
    ),
    setting("image.pullSecrets", Kind::List, "[]", "Secrets to pull it with, as in [{name: registry}]"),
    setting("trustDomain", NAME, "cluster.local", "The trust domain of identities"),
    setting("clusterName", NAME, "Kubernetes", "The name of the cluster"),
    setting("clusterDomain", NAME, "cluster.local", "The suffix of service names"),
    setting("rootNamespace", NAME, "istio-system", "The namespace whose policies hold for the whole mesh"),
    setting(
        "sameNode",
        Kind::Choice(&["direct", "tls"]),
        "direct",
        "How two pods of one node speak where no label nodemesh.io/same-node says so: direct (plaintext on the pods' own \
         links, attested by the kernel) or tls",
    ),
    setting("certificateTtlSeconds", Kind::Number(600, 2_592_000), "86400", "The life of a workload's certificate"),
    setting(
        "caSecret",
        MAY_BE_EMPTY,
        "",
        "Secret with a given CA (cacerts, or of type kubernetes.io/tls); empty: own CA",
    ),
    setting(
        "certManager.issuer",
        MAY_BE_EMPTY,
        "",
        "Issuer of cert-manager that issues the CA: a Certificate mesh-ca is made instead of a root of the mesh's own. \
         Needs cert-manager's CRD; not with caSecret; empty: own CA",
    ),
    setting("certManager.issuerKind", Kind::Choice(&["Issuer", "ClusterIssuer"]), "Issuer", "Its kind"),
    setting("certManager.issuerGroup", NAME, "cert-manager.io", "The API group of its kind"),
    setting("certManager.duration", NAME, "8760h", "The life of the CA's certificate"),
    setting(
        "certManager.renewBefore",
        NAME,
        "2190h",
        "How long before its end it is renewed; two lives of a workload's certificate at least",
    ),
    setting(
        "nodeTaint",
        Kind::Flag,
        "true",
        "Whether the controller may take the taint nodemesh.io/agent-not-ready from nodes whose agent is ready",
    ),
    setting(
        "metrics.enabled",
        Kind::Flag,
        "true",
        "Whether agents serve metrics on port 15020 of their nodes, and the controller on 15014",
    ),
    setting(
        "monitoring.enabled",
        Kind::Flag,
        "false",
        "PodMonitor for agents, ServiceMonitor for the controller, and alerts; needs the Prometheus operator's CRDs",
    ),
    setting(
        "monitoring.release",
        MAY_BE_EMPTY,
        "",
        "Their label release, by which many a Prometheus chooses what it reads, as in kube-prometheus-stack",
    ),
    setting(
        "monitoring.istioLabels",
        Kind::Flag,
        "false",
        "Label istio: pilot on the controller's Service: monitors made for Istio's control plane find it, those that \
         look in istio-system if that is the mesh's namespace",
    ),
    setting("controller.replicas", Kind::Number(1, 9), "2", "How many controllers; all serve, one writes"),
    setting(
        "controller.resources",
        Kind::Map,
        "{requests: {cpu: 50m, memory: 128Mi}, limits: {memory: 512Mi}}",
        "What a controller may use",
    ),
    setting("controller.log", FILTER, "info,kube_leader_election=warn", "What it logs, as in mesh_controller=debug"),
    setting(
        "controller.auditLog",
        WHERE,
        "stdout",
        "Where its audit stream goes: off, stdout (the log is stderr) or stderr",
    ),
    setting("controller.nodeSelector", Kind::Map, "{kubernetes.io/os: linux}", "On which nodes it may run"),
    setting("controller.tolerations", Kind::List, "[]", "Which taints it tolerates"),
    setting("agent.cgroup", PATH, "/sys/fs/cgroup/kubepods.slice", "Cgroup folder below which all pods of a node run"),
    setting(
        "agent.kubeletCgroup",
        MAY_BE_EMPTY,
        "/sys/fs/cgroup/system.slice/kubelet.service",
        "The kubelet's own cgroup folder: its probes pass under STRICT; empty: policies decide about them",
    ),
    setting("agent.cni.confDir", PATH, "/etc/cni/net.d", "Where nodes keep their CNI configuration"),
    setting("agent.cni.binDir", PATH, "/opt/cni/bin", "Where nodes keep their CNI plugins"),
    setting(
        "agent.resources",
        Kind::Map,
        "{requests: {cpu: 100m, memory: 128Mi}}",
        "What an agent may use. No limit by default: the pods of a node whose agent is killed are refused",
    ),
    setting("agent.log", FILTER, "info", "What it logs, as in info or mesh_agent=debug"),
    setting(
        "agent.auditLog",
        WHERE,
        "stdout",
        "Where its audit stream goes: off, stdout (the log is stderr), stderr, or a file below /var/lib/nodemesh-agent",
    ),
    setting(
        "agent.otlp.endpoint",
        Kind::Url,
        "",
        "Collector of spans, as in http://collector.observability:4317: a service of the mesh, another DNS name or an \
         address; https:// by the image's trusted roots. Empty: only what a Telemetry names",
    ),
    setting(
        "agent.otlp.protocol",
        Kind::Choice(&["grpc", "http"]),
        "grpc",
        "What the collector takes: OTLP over gRPC, or protobuf over HTTP",
    ),
    setting(
        "agent.tracing.sampling",
        Kind::Percent,
        "1",
        "Percent of the traces that begin in the mesh that are told, where no Telemetry says it",
    ),
    setting(
        "agent.accessLog.format",
        Kind::Choice(&["", "json", "text", "off"]),
        "",
        "A line on standard output for each connection and each request: json, text or off. Empty: what was refused or \
         failed has one among the agent's own logs",
    ),
    setting(
        "agent.accessLog.errors",
        Kind::Flag,
        "false",
        "Only of what was refused, failed, or answered with 4xx or 5xx; needs agent.accessLog.format",
    ),
    setting(
        "agent.accessLog.sampling",
        Kind::Percent,
        "100",
        "Percent of connections and requests that have a line, where no Telemetry says it; needs agent.accessLog.format",
    ),
    setting(
        "agent.accessLog.otlp",
        Kind::Flag,
        "false",
        "Lines of the access log go to the collector too; needs agent.otlp.endpoint",
    ),
    setting(
        "agent.metrics.series",
        Kind::Number(1000, 10_000_000),
        "50000",
        "Time series that an agent's metrics may have; what goes beyond is counted under labels \"overflow\"",
    ),
    setting(
        "agent.metrics.idleSeconds",
        Kind::Number(1, 86_400),
        "900",
        "Time series to which nothing was added for so long are told no more",
    ),
    setting("agent.drainSeconds", Kind::Number(1, 600), "30", "How long connections may go on when it is replaced"),
    setting("agent.maxSurge", Kind::Number(1, 1000), "1", "On how many nodes it is replaced at once"),
    setting("agent.nodeSelector", Kind::Map, "{kubernetes.io/os: linux}", "On which nodes it runs"),
    setting("agent.priorityClass", NAME, "system-node-critical", "So that nothing else takes its place"),
];

const fn setting(path: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Setting {
    Setting { path, kind, default, about }
}

impl Setting {
    pub fn default(&self) -> Value {
        match self.kind {
            Kind::Text(_) | Kind::Choice(_) | Kind::Url => self.default.into(),
            _ => serde_yaml_ng::from_str(self.default).expect("the table holds YAML: a test reads each"),
        }
    }
}

impl Kind {
    /// What is wrong with the value.
    pub fn check(self, value: &Value) -> Result<(), String> {
        match self {
            Self::Text(Characters { marks, empty }) => {
                let text = value.as_str().ok_or_else(|| format!("{value} is no text"))?;
                if text.is_empty() && !empty {
                    return Err("must not be empty".into());
                }
                match text.chars().find(|c| !c.is_ascii_alphanumeric() && !marks.contains(*c)) {
                    Some(c) => Err(format!("{value} has {c:?}; may have letters, digits and {marks}")),
                    None => Ok(()),
                }
            }
            Self::Choice(words) => match value.as_str().is_some_and(|word| words.contains(&word)) {
                true => Ok(()),
                false => {
                    let words = words.iter().map(|word| if word.is_empty() { "\"\"" } else { *word });
                    Err(format!("{value} is none of {}", words.collect::<Vec<_>>().join(", ")))
                }
            },
            Self::Number(least, most) => match value.as_u64() {
                None => Err(format!("{value} is no whole number")),
                Some(number) if number < least => Err(format!("{number} is less than {least}")),
                Some(number) if number > most => Err(format!("{number} is more than {most}")),
                Some(_) => Ok(()),
            },
            Self::Percent => match value.as_f64() {
                None => Err(format!("{value} is no number")),
                Some(percent) if (0.0..=100.0).contains(&percent) => Ok(()),
                Some(_) => Err(format!("{value} is not from 0 to 100")),
            },
            Self::Url => match value.as_str() {
                None => Err(format!("{value} is no text")),
                Some("") => Ok(()),
                Some(url) => collector(url).map_err(|why| format!("{value} {why}")),
            },
            Self::Flag => value.as_bool().map(drop).ok_or_else(|| format!("{value} is neither true nor false")),
            Self::Map => value.as_object().map(drop).ok_or_else(|| format!("{value} is no map")),
            Self::List => value.as_array().map(drop).ok_or_else(|| format!("{value} is no list")),
        }
    }

    /// As JSON Schema, draft 7.
    pub fn schema(self) -> Value {
        match self {
            Self::Text(Characters { marks, empty }) => {
                let marks = marks.replace('-', "\\-");
                json!({ "type": "string", "pattern": format!("^[A-Za-z0-9{marks}]{}$", if empty { '*' } else { '+' }) })
            }
            Self::Choice(words) => json!({ "enum": words }),
            Self::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
            Self::Percent => json!({ "type": "number", "minimum": 0, "maximum": 100 }),
            Self::Url => {
                let host = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.\-]+)";
                json!({ "type": "string", "pattern": format!("^(https?://{host}:[0-9]{{1,5}}(/[A-Za-z0-9/._\\-]*)?)?$") })
            }
            Self::Flag => json!({ "type": "boolean" }),
            Self::Map => json!({ "type": "object" }),
            Self::List => json!({ "type": "array" }),
        }
    }
}

/// What agents take as a collector, and no quotes.
fn collector(url: &str) -> Result<(), String> {
    let form = "is not of the form http://HOST:PORT or https://HOST:PORT";
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).ok_or(form)?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = authority.rsplit_once(':').ok_or(form)?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let known = |text: &str, marks: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c));
    let is_host = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && known(host, ".-"),
    };
    if !is_host || !port.parse::<u16>().is_ok_and(|port| port > 0) || !port.chars().all(|c| c.is_ascii_digit()) {
        return Err(form.into());
    }
    if known(path, "/._-") {
        Ok(())
    } else {
        Err("has a path with other characters than letters, digits and /._-".into())
    }
}
