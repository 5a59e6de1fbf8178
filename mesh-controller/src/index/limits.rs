//! What the agent of a pod's node is told of requests to it.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::model::{
    ServiceName, ServicePort,
    traffic::{Inbound, Protocol},
};

use super::{Objects, Read, draft::Draft, tokens::Rules, traffic};
use crate::{status::Problem, translate::service::Service};

/// Fills the limits and the rules for tokens of the pods that have an agent, and what is spoken at their ports. Of a pod
/// that has neither, and of which no policy asks what is passed, nothing is said: nobody looks at its requests. To be
/// called when the pods' services and policies are known.
pub fn limit(
    drafts: &mut BTreeMap<&str, Draft<'_>>,
    objects: &Objects<'_>,
    rules: &Rules<'_>,
    problems: &mut Vec<Problem>,
) {
    let asks = |draft: &Draft<'_>| draft.local.as_ref().is_some_and(|local| local.asks);
    if objects.rate_limit_policies.is_empty() && rules.is_empty() && !drafts.values().any(asks) {
        return;
    }
    let policies: Vec<_> = objects.rate_limit_policies.iter().map(|read| read.value).collect();
    let services = objects.services.iter().map(|read| (read.value.service.service_name(), read.value));
    let services: BTreeMap<_, _> = services.collect();
    for draft in drafts.values_mut() {
        let Some(local) = &mut draft.local else { continue };
        let (limits, faults) = traffic::limits(&policies, draft.pod, draft.services.keys());
        for (key, fault) in faults {
            let policy = objects.rate_limit_policies.iter().find(|read| read.value.object == key);
            problems.extend(policy.map(|Read { object, value: _ }| object.problem(fault)));
        }
        let tokens = rules.of(draft.pod, draft.services.keys(), problems);
        if !limits.is_empty() || !tokens.is_empty() || local.asks {
            local.inbound = Inbound { protocols: protocols(&draft.services, &services), limits, tokens };
        }
    }
}

/// What services say of the pod's own ports. Where they contradict each other, nobody says.
fn protocols(
    serves: &BTreeMap<ServiceName, BTreeSet<ServicePort>>,
    services: &BTreeMap<ServiceName, &Service>,
) -> BTreeMap<u16, Protocol> {
    let mut said: BTreeMap<u16, Protocol> = BTreeMap::new();
    for (name, ports) in serves {
        let Some(service) = services.get(name) else { continue };
        for served in ports {
            let port = service.ports.iter().find(|port| port.port == served.port);
            let Some(protocol) = port.map(|port| port.protocol).filter(|protocol| *protocol != Protocol::Auto) else {
                continue;
            };
            let known = said.entry(served.target).or_insert(protocol);
            if *known != protocol {
                *known = Protocol::Auto;
            }
        }
    }
    said.retain(|_, protocol| *protocol != Protocol::Auto);
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::{CART, SHOP, world};

    fn policy(name: &str, spec: &str) -> String {
        format!(
            "---\n{{apiVersion: nodemesh.io/v1alpha1, kind: RateLimitPolicy, metadata: {{name: {name}, namespace: shop}}, \
             spec: {{{spec}}}}}\n"
        )
    }

    const LOCAL: &str = "local: {total: {requests: 5}}";

    #[test]
    fn a_pod_is_told_of_the_limits_that_select_it_and_no_others() {
        let one = policy("one", &format!("selector: {{matchLabels: {{app: cart}}}}, {LOCAL}"));
        let two = policy("two", &format!("targetRefs: [{{name: cart}}], {LOCAL}, ports: [8080]"));
        let other = policy("other", &format!("selector: {{matchLabels: {{app: pay}}}}, {LOCAL}"));
        let world = world(&[SHOP, &one, &two, &other].concat());
        assert_eq!(world.problems, []);
        let inbound = &world.local_pods["a"][CART].inbound;
        let origins: Vec<_> = inbound.limits.iter().map(|limit| limit.origin.object.as_str()).collect();
        assert_eq!(origins, ["RateLimitPolicy shop/one", "RateLimitPolicy shop/two"]);
        assert_eq!(inbound.limits[1].ports, [8080]);
        assert_eq!(inbound.protocols, [(8080, Protocol::Http)].into(), "the service's port is named http");
        let client = world.local_pods["b"].values().next().expect("the client");
        assert_eq!(client.inbound, Inbound::default());
    }

    #[test]
    fn without_limits_nothing_is_said_of_requests() {
        let other = policy("other", &format!("selector: {{matchLabels: {{app: pay}}}}, {LOCAL}"));
        for text in [SHOP.to_owned(), [SHOP, &other].concat()] {
            let world = world(&text);
            assert!(
                world.local_pods.values().flat_map(|pods| pods.values()).all(|pod| pod.inbound == Inbound::default())
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_reported() {
        let world = world(&[SHOP, &policy("one", "local: {total: {requests: -1}}")].concat());
        assert!(world.problems.iter().any(|problem| problem.to_string().contains("requests")), "{:?}", world.problems);
        assert!(world.local_pods["a"][CART].inbound.limits.is_empty());
    }

    #[test]
    fn of_what_services_say_in_contradiction_nothing_counts() {
        let second =
            SHOP[SHOP.find("apiVersion: v1\nkind: Service").expect("a service")..].replace("name: cart,", "name: b,");
        let second = second.replace("name: cart-1", "name: b-1").replace("service-name: cart", "service-name: b");
        let second = second.replace("10.96.0.1", "10.96.0.2").replace("name: http", "name: tcp");
        let text = [SHOP, "---\n", &second, &policy("one", LOCAL)].concat();
        let world = world(&text);
        assert_eq!(world.workloads[CART].services.len(), 2);
        assert_eq!(world.local_pods["a"][CART].inbound.protocols, BTreeMap::new());
    }
}
