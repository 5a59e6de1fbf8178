//! NetworkPolicies that keep the tunnel out: between nodes the mesh speaks to port 15008 of the other pod, whatever
//! port the application listens on. Whom a rule lets in is not looked at, only through which port.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::networking::v1::{NetworkPolicy, NetworkPolicyPort},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{Finding, facts::Facts};

const TUNNEL: i32 = 15008;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut by_namespace: BTreeMap<&str, Vec<&NetworkPolicy>> = BTreeMap::new();
    for policy in &facts.policies {
        by_namespace.entry(policy.metadata.namespace.as_deref().unwrap_or_default()).or_default().push(policy);
    }
    let mut findings = Vec::new();
    for (namespace, policies) in by_namespace {
        let meshed = facts.namespaces.iter().any(|one| {
            one.metadata.name.as_deref() == Some(namespace)
                && one
                    .metadata
                    .labels
                    .as_ref()
                    .and_then(|labels| labels.get("nodemesh.io/mode"))
                    .is_some_and(|mode| mode == "mesh")
        });
        for way in [Way::In, Way::Out] {
            for policy in blocking(&policies, way) {
                let (verb, list) =
                    if way == Way::In { ("lets nobody in", "ingress") } else { ("lets nobody out", "egress") };
                let what = format!("NetworkPolicy {namespace}/{policy} {verb} at port {TUNNEL}");
                let hint =
                    format!("add TCP {TUNNEL} to the {list} ports of the policy, beside those of the application");
                findings.push(match meshed {
                    true => Finding::error("network", what, hint),
                    false => Finding::warning("network", what, format!("before {namespace} joins: {hint}")),
                });
            }
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("network", format!("no NetworkPolicy blocks port {TUNNEL}")));
    }
    findings
}

/// Policies that isolate pods and let nobody through at the tunnel's port, where no other policy for the same pods, or
/// for all of the namespace, does.
fn blocking(policies: &[&NetworkPolicy], way: Way) -> Vec<String> {
    let (open, closed): (Vec<_>, Vec<_>) =
        policies.iter().copied().filter(|policy| isolates(policy, way)).partition(|policy| lets_through(policy, way));
    let selector =
        |policy: &NetworkPolicy| policy.spec.as_ref().and_then(|spec| spec.pod_selector.clone()).unwrap_or_default();
    let all = LabelSelector::default();
    let covered = |policy: &NetworkPolicy| {
        let own = selector(policy);
        open.iter().map(|other| selector(other)).any(|other| is_empty(&other) || other == own || other == all)
    };
    let closed = closed.into_iter().filter(|policy| !covered(policy));
    closed.map(|policy| policy.metadata.name.clone().unwrap_or_default()).collect()
}

fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// As `policyTypes` has it, and without it: Ingress always, Egress if there are egress rules.
fn isolates(policy: &NetworkPolicy, way: Way) -> bool {
    let Some(spec) = &policy.spec else { return false };
    match (&spec.policy_types, way) {
        (Some(types), Way::In) if !types.is_empty() => types.iter().any(|kind| kind == "Ingress"),
        (Some(types), Way::Out) if !types.is_empty() => types.iter().any(|kind| kind == "Egress"),
        (_, Way::In) => true,
        (_, Way::Out) => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
    }
}

fn lets_through(policy: &NetworkPolicy, way: Way) -> bool {
    let Some(spec) = &policy.spec else { return true };
    let ports = |ports: &Option<Vec<NetworkPolicyPort>>| {
        ports.as_ref().is_none_or(|ports| ports.is_empty() || ports.iter().any(holds))
    };
    match way {
        Way::In => spec.ingress.iter().flatten().any(|rule| ports(&rule.ports)),
        Way::Out => spec.egress.iter().flatten().any(|rule| ports(&rule.ports)),
    }
}

/// A port by name is the application's, never the tunnel's.
fn holds(port: &NetworkPolicyPort) -> bool {
    port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
        && match (&port.port, port.end_port) {
            (None, _) => true,
            (Some(IntOrString::Int(from)), None) => *from == TUNNEL,
            (Some(IntOrString::Int(from)), Some(to)) => (*from..=to).contains(&TUNNEL),
            (Some(IntOrString::String(_)), _) => false,
        }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(name: &str, spec: Value) -> NetworkPolicy {
        serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": spec })).unwrap()
    }

    fn blocked(way: Way, specs: &[Value]) -> Vec<String> {
        let policies = specs.iter().enumerate().map(|(number, spec)| policy(&number.to_string(), spec.clone()));
        let policies = policies.collect::<Vec<_>>();
        blocking(&policies.iter().collect::<Vec<_>>(), way)
    }

    #[test]
    fn what_keeps_the_tunnel_out_is_found() {
        let all = json!({});
        let port = |port: Value| json!({ "podSelector": {}, "ingress": [{ "ports": [port] }] });
        assert_eq!(blocked(Way::In, &[json!({ "podSelector": all })]), ["0"], "nothing is let in");
        assert_eq!(blocked(Way::In, &[port(json!({ "port": 80 }))]), ["0"]);
        assert_eq!(blocked(Way::In, &[port(json!({ "port": "http" }))]), ["0"]);
        assert_eq!(blocked(Way::In, &[port(json!({ "port": 15008, "protocol": "UDP" }))]), ["0"]);
        assert_eq!(blocked(Way::In, &[port(json!({ "port": 15000, "endPort": 15007 }))]), ["0"]);
        assert_eq!(blocked(Way::In, &[port(json!({ "port": 15000, "endPort": 15008 }))]), [""; 0]);
        assert_eq!(blocked(Way::In, &[port(json!({ "port": 15008 }))]), [""; 0]);
        assert_eq!(blocked(Way::In, &[json!({ "podSelector": all, "ingress": [{}] })]), [""; 0], "every port");
        assert_eq!(blocked(Way::Out, &[json!({ "podSelector": all })]), [""; 0], "it says nothing of egress");
        let closed = json!({ "podSelector": all, "policyTypes": ["Egress"] });
        assert_eq!(blocked(Way::Out, &[closed]), ["0"]);
        let dns = json!({ "podSelector": all, "egress": [{ "ports": [{ "port": 53, "protocol": "UDP" }] }] });
        assert_eq!(blocked(Way::Out, &[dns]), ["0"]);
    }

    #[test]
    fn policies_for_the_same_pods_add_up() {
        let web = json!({ "matchLabels": { "app": "web" } });
        let closed = json!({ "podSelector": web, "ingress": [{ "ports": [{ "port": 80 }] }] });
        let tunnel =
            |selector: Value| json!({ "podSelector": selector, "ingress": [{ "ports": [{ "port": 15008 }] }] });
        assert_eq!(blocked(Way::In, &[closed.clone(), tunnel(web)]), [""; 0]);
        assert_eq!(blocked(Way::In, &[closed.clone(), tunnel(json!({}))]), [""; 0]);
        assert_eq!(blocked(Way::In, &[closed, tunnel(json!({ "matchLabels": { "app": "db" } }))]), ["0"]);
    }
}
