//! Who may do what at the API server. Every rule says why it is there; the table of manifests/README.md is made of the
//! same list. The agent may do nothing there at all: it speaks to the controller only.

use serde_json::{Value, json};

use crate::{AGENT, CONTROLLER, metadata, when};

/// A rule for the controller.
struct Rule {
    group: &'static str,
    resources: &'static [&'static str],
    /// Only objects of these names; none: any.
    names: &'static [&'static str],
    verbs: &'static [&'static str],
    /// Only if this value is set.
    when: Option<&'static str>,
    why: &'static str,
}

const READ: &[&str] = &["get", "list", "watch"];
const UNREAD: &str = "names objects that the mesh does not read, so that nobody relies on them";

/// In the whole cluster.
const CLUSTER: &[Rule] = &[
    Rule {
        resources: &["namespaces", "nodes", "pods", "services", "serviceaccounts"],
        verbs: READ,
        why: "who runs where, under which identity and address, and which labels join it",
        ..Rule::NONE
    },
    Rule {
        group: "discovery.k8s.io",
        resources: &["endpointslices"],
        verbs: READ,
        why: "which pods are behind a service",
        ..Rule::NONE
    },
    Rule {
        group: "security.istio.io",
        resources: &["authorizationpolicies", "peerauthentications", "requestauthentications"],
        verbs: READ,
        why: "the policies",
        ..Rule::NONE
    },
    Rule {
        group: "security.istio.io",
        resources: &["authorizationpolicies/status", "peerauthentications/status", "requestauthentications/status"],
        verbs: &["patch"],
        why: "says on a policy whether it is accepted, and on how many nodes it is in force",
        ..Rule::NONE
    },
    Rule {
        group: "networking.istio.io",
        resources: &["destinationrules", "serviceentries", "virtualservices"],
        verbs: READ,
        why: "how requests are routed, and services outside of Kubernetes",
        ..Rule::NONE
    },
    Rule {
        group: "networking.istio.io",
        resources: &["destinationrules/status", "serviceentries/status", "virtualservices/status"],
        verbs: &["patch"],
        why: "says on a rule whether it is accepted, and on how many nodes it is in force",
        ..Rule::NONE
    },
    Rule {
        group: "gateway.networking.k8s.io",
        resources: &["backendtlspolicies", "grpcroutes", "httproutes", "referencegrants", "tcproutes", "tlsroutes"],
        verbs: READ,
        why: "how requests to services are routed, and who may refer to what",
        ..Rule::NONE
    },
    Rule {
        group: "gateway.networking.k8s.io",
        resources: &["grpcroutes/status", "httproutes/status", "tcproutes/status", "tlsroutes/status"],
        verbs: &["patch"],
        why: "says on a route how each service that it names as its parent takes it",
        ..Rule::NONE
    },
    Rule {
        group: "gateway.networking.k8s.io",
        resources: &["backendtlspolicies/status"],
        verbs: &["patch"],
        why: "says on a policy how each service that it is about takes it",
        ..Rule::NONE
    },
    Rule {
        group: "nodemesh.io",
        resources: &["ratelimitpolicies"],
        verbs: READ,
        why: "how many requests workloads take",
        ..Rule::NONE
    },
    Rule {
        group: "nodemesh.io",
        resources: &["ratelimitpolicies/status"],
        verbs: &["patch"],
        why: "says on a policy whether it is accepted, and on how many nodes it is in force",
        ..Rule::NONE
    },
    Rule {
        group: "telemetry.istio.io",
        resources: &["telemetries"],
        verbs: READ,
        why: "what is traced, logged and counted of workloads",
        ..Rule::NONE
    },
    Rule {
        group: "telemetry.istio.io",
        resources: &["telemetries/status"],
        verbs: &["patch"],
        why: "says on it whether it is accepted, and on how many nodes it is in force",
        ..Rule::NONE
    },
    Rule {
        group: "install.istio.io",
        resources: &["istiooperators"],
        verbs: READ,
        why: "what the mesh's own settings say of telemetry",
        ..Rule::NONE
    },
    Rule {
        resources: &["configmaps"],
        names: &["istio"],
        verbs: READ,
        why: "the same; of the root namespace only",
        ..Rule::NONE
    },
    Rule {
        group: "networking.istio.io",
        resources: &["envoyfilters", "gateways", "proxyconfigs", "sidecars", "workloadentries", "workloadgroups"],
        verbs: &["list"],
        why: UNREAD,
        ..Rule::NONE
    },
    Rule { group: "extensions.istio.io", resources: &["wasmplugins"], verbs: &["list"], why: UNREAD, ..Rule::NONE },
    Rule {
        group: "apiextensions.k8s.io",
        resources: &["customresourcedefinitions"],
        verbs: READ,
        why: "which kinds of policy are installed, also later",
        ..Rule::NONE
    },
    Rule {
        resources: &["pods/status"],
        verbs: &["patch"],
        why: "writes the annotation nodemesh.io/redirection; the subresource cannot change what a pod runs",
        ..Rule::NONE
    },
    Rule {
        resources: &["nodes"],
        verbs: &["patch"],
        when: Some("nodeTaint"),
        why: "takes the taint nodemesh.io/agent-not-ready away once the node's agent is ready (value nodeTaint)",
        ..Rule::NONE
    },
    Rule {
        group: "authentication.k8s.io",
        resources: &["tokenreviews"],
        verbs: &["create"],
        why: "whose token an agent presents, and on which node it runs",
        ..Rule::NONE
    },
    Rule {
        group: "events.k8s.io",
        resources: &["events"],
        verbs: &["create", "patch"],
        why: "tells on a pod that it joined, or why it did not",
        ..Rule::NONE
    },
];

/// In the mesh's own namespace.
const OWN: &[Rule] = &[
    Rule {
        resources: &["secrets"],
        names: &["mesh-ca"],
        verbs: &["get", "list", "watch", "update", "patch"],
        why: "the key of the CA: read, reloaded live, rotated (or, of cert-manager's, taken into use)",
        ..Rule::NONE
    },
    Rule {
        resources: &["secrets"],
        names: &["${caSecret}"],
        verbs: READ,
        when: Some("caSecret"),
        why: "a given CA (value caSecret)",
        ..Rule::NONE
    },
    Rule {
        resources: &["configmaps"],
        names: &["mesh-ca-root"],
        verbs: &["get", "list", "watch", "update", "patch"],
        why: "the roots that agents trust",
        ..Rule::NONE
    },
    Rule {
        resources: &["secrets", "configmaps"],
        verbs: &["create"],
        why: "makes the two at the first start; creating cannot be limited to a name",
        ..Rule::NONE
    },
    Rule {
        group: "coordination.k8s.io",
        resources: &["leases"],
        verbs: &["get", "list", "watch", "create", "update", "patch"],
        why: "which controller writes, and which node's agent is linked to which controller",
        ..Rule::NONE
    },
];

impl Rule {
    const NONE: Self = Self { group: "", resources: &[], names: &[], verbs: &[], when: None, why: "" };

    fn object(&self) -> Value {
        let Self { group, resources, names, verbs, when: condition, why: _ } = self;
        let mut rule = json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
        if !names.is_empty() {
            rule["resourceNames"] = json!(names);
        }
        match condition {
            Some(path) => when(path, rule),
            None => rule,
        }
    }

    /// A line of the table.
    fn line(&self, scope: &str) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(" ({})", self.group) };
        let names = match self.names {
            [] => String::new(),
            names => format!(", only {}", names.join(" and ").replace("${caSecret}", "the one named")),
        };
        let (resources, verbs) = (self.resources.join(", "), self.verbs.join(", "));
        format!("| {scope} | {resources}{group}{names} | {verbs} | {} |\n", self.why)
    }
}

pub fn objects() -> Vec<Value> {
    let account = |name| {
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata(name),
            "automountServiceAccountToken": false,
        })
    };
    let cluster = json!({ "name": CONTROLLER, "labels": crate::labels(CONTROLLER) });
    let rbac = |kind: &str, metadata: Value, rest: Value| {
        let mut object = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata });
        for (key, value) in rest.as_object().into_iter().flatten() {
            object[key] = value.clone();
        }
        object
    };
    let rules = |rules: &[Rule]| json!({ "rules": rules.iter().map(Rule::object).collect::<Vec<_>>() });
    let binding = |kind: &str| {
        json!({
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": CONTROLLER },
            "subjects": [{ "kind": "ServiceAccount", "name": CONTROLLER, "namespace": "${namespace}" }],
        })
    };
    vec![
        account(CONTROLLER),
        account(AGENT),
        rbac("ClusterRole", cluster.clone(), rules(CLUSTER)),
        rbac("ClusterRoleBinding", cluster, binding("ClusterRole")),
        rbac("Role", metadata(CONTROLLER), rules(OWN)),
        rbac("RoleBinding", metadata(CONTROLLER), binding("Role")),
    ]
}

/// For manifests/README.md: what each permission at the API server is for, and each capability on the node.
pub fn table() -> String {
    let mut text = String::from("| where | what | verbs | what for |\n| --- | --- | --- | --- |\n");
    text.extend(CLUSTER.iter().map(|rule| rule.line("cluster")));
    text.extend(OWN.iter().map(|rule| rule.line("own namespace")));
    text.push_str("\n| capability of the agent | what for |\n| --- | --- |\n");
    text.extend(crate::agent::CAPABILITIES.iter().map(|(name, why)| format!("| {name} | {why} |\n")));
    text.push_str("\n| folder of the node | what for |\n| --- | --- |\n");
    text.extend(crate::agent::MOUNTS.iter().map(|mount| {
        let access = if mount.writes { "" } else { " (read only)" };
        format!("| {}{access} | {} |\n", mount.shown(), mount.why)
    }));
    text
}
