//! The API server: version, permissions, clock, kinds, and who else does what a mesh does.

use super::{Finding, facts::Facts};

/// Of pods' `appArmorProfile`, without which the agent cannot write to bpffs on nodes with AppArmor.
const OLDEST: (u32, u32) = (1, 30);
const CLOCK_WARNING: i64 = 10;
const CLOCK_ERROR: i64 = 120;

const KINDS: &[&str] = &["authorizationpolicies.security.istio.io", "peerauthentications.security.istio.io"];

/// A workload by the start of its name, and what it means for the mesh.
const RIVALS: &[(&str, &str, &str)] = &[
    ("istiod", "Istio", "a namespace is for one mesh: leave Istio's labels away where nodemesh.io/mode is"),
    ("ztunnel", "Istio ambient", "it redirects port 15008 too: never label a namespace for both"),
    ("istio-cni-node", "Istio's CNI plugin", "it may redirect the pods of namespaces that carry Istio's labels"),
    ("linkerd-destination", "Linkerd", "a namespace is for one mesh: leave linkerd.io/inject away"),
    ("linkerd-cni", "Linkerd's CNI plugin", "it may redirect pods that carry Linkerd's annotations"),
    (
        "cilium",
        "Cilium",
        "its eBPF hooks connect too where it replaces kube-proxy: set socketLB.hostNamespaceOnly=true, so that services \
         are chosen by the mesh, and cni.exclusive=false, so that it leaves other CNI files alone",
    ),
    ("calico-node", "Calico", "with its eBPF data plane set bpfConnectTimeLoadBalancing: Disabled"),
    ("kuma-control-plane", "Kuma", "a namespace is for one mesh: leave kuma.io/sidecar-injection away"),
    ("consul-connect-injector", "Consul", "a pod is for one mesh: leave consul.hashicorp.com/connect-inject away"),
];

pub fn judge(facts: &Facts, pre: bool) -> Vec<Finding> {
    let mut findings = vec![version(facts)];
    if pre {
        findings.push(permissions(facts));
    }
    findings.extend(clock(facts));
    findings.push(kinds(facts));
    findings.extend(rivals(facts));
    findings.extend(facts.unread.iter().map(|what| {
        Finding::warning("reading", format!("cannot be read: {what}"), "what depends on it was not looked at")
    }));
    findings
}

fn version(facts: &Facts) -> Finding {
    let text = format!("Kubernetes {}", facts.version_text);
    match facts.version >= OLDEST {
        true => Finding::ok("version", text),
        false => Finding::error("version", text, format!("{}.{} or newer is needed", OLDEST.0, OLDEST.1)),
    }
}

fn permissions(facts: &Facts) -> Finding {
    match &facts.denied {
        Some(denied) if denied.is_empty() => Finding::ok("permissions", "this account may install the mesh"),
        Some(denied) => Finding::error(
            "permissions",
            format!("this account may not {}", denied.join(", ")),
            "install with an account that has cluster-admin",
        ),
        None => Finding::warning("permissions", "the server does not answer who may do what", "installing will tell"),
    }
}

pub fn clock(facts: &Facts) -> Option<Finding> {
    let (own, server) = facts.clocks?;
    let seconds = own.duration_since(server).as_secs();
    let text = format!("this machine and the API server are {} s apart", seconds.abs());
    let hint = "certificates are good from a moment to a moment: set the clocks, of nodes too, by NTP";
    Some(match seconds.abs() {
        0..=CLOCK_WARNING => Finding::ok("clock", text),
        apart if apart <= CLOCK_ERROR => Finding::warning("clock", text, hint),
        _ => Finding::error("clock", text, hint),
    })
}

fn kinds(facts: &Facts) -> Finding {
    let Some(kinds) = &facts.kinds else {
        return Finding::warning("kinds", "which kinds are installed cannot be read", "ask somebody who may");
    };
    let missing = KINDS.iter().filter(|kind| !kinds.iter().any(|known| known == *kind)).copied().collect::<Vec<_>>();
    let gateway = kinds.iter().any(|kind| kind.ends_with(".gateway.networking.k8s.io"));
    let gateway = if gateway { "; the Gateway API is there" } else { "" };
    match missing.is_empty() {
        true => Finding::ok("kinds", format!("AuthorizationPolicy and PeerAuthentication are there{gateway}")),
        false => Finding::warning(
            "kinds",
            format!("not installed: {}", missing.join(", ")),
            "without them every connection of the mesh is permitted; install Istio's CRDs from its project (base chart)",
        ),
    }
}

fn rivals(facts: &Facts) -> Vec<Finding> {
    let daemon_sets = facts.daemon_sets.iter().map(|set| ("DaemonSet", &set.metadata));
    let deployments = facts.deployments.iter().map(|one| ("Deployment", &one.metadata));
    let mut findings = Vec::new();
    for (kind, metadata) in daemon_sets.chain(deployments) {
        let name = metadata.name.as_deref().unwrap_or_default();
        let is = |start: &str| name == start || name.strip_prefix(start).is_some_and(|rest| rest.starts_with('-'));
        // The operator, Hubble and Envoy of Cilium hook nothing.
        let exact = |start: &str| start != "cilium" || name == start;
        if let Some((_, who, hint)) = RIVALS.iter().find(|(start, ..)| is(start) && exact(start)) {
            let namespace = metadata.namespace.as_deref().unwrap_or_default();
            findings.push(Finding::warning("others", format!("{who} is here: {kind} {namespace}/{name}"), *hint));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("others", "no other mesh, and no other known eBPF at connect"));
    }
    findings
}
