//! What the agent of a pod's node is told of requests to it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use mesh_common::model::{
    ServiceName, ServicePort,
    traffic::{Protocol, RateLimit},
};

use super::{Objects, Read, cache::Translated, draft::Draft, tokens::Rules, traffic};
use crate::{
    source::Key,
    status::{Extent, Fault, Problem},
    translate::{
        Labels,
        rate_limit_policy::{RateLimitPolicy, Workloads},
        service::Service,
    },
};

/// Policies of one namespace, and of the root namespace, that are looked at, the oldest ones: each may be asked for
/// each pod.
const POLICIES: usize = 500;

/// What was settled last: it holds as long as the policies are the same.
#[derive(Debug, Default)]
pub struct Settled {
    /// In the order of their objects, of which each is another one after a change.
    made_of: Vec<Arc<Translated>>,
    known: HashMap<Alike, Arc<Limited>>,
}

/// Pods that no policy tells apart: a namespace, and those of their labels and services that policies ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Alike {
    namespace: String,
    labels: Labels,
    services: BTreeSet<ServiceName>,
}

/// What holds for all that are alike.
#[derive(Debug)]
struct Limited {
    limits: Arc<Vec<RateLimit>>,
    /// Policies that select them and for which they have no room.
    left_out: Vec<Key>,
}

/// The policies that may be about pods of a namespace, and what they ask for.
#[derive(Default)]
struct Scope<'a> {
    /// The oldest first.
    policies: Vec<&'a RateLimitPolicy>,
    labels: BTreeSet<&'a str>,
    services: BTreeSet<&'a ServiceName>,
}

/// Fills the limits and the rules for tokens of the pods that have an agent, and what is spoken at their ports: an
/// agent that was told of that only with the first policy would have to end all that is open. To be called when the
/// pods' services are known.
pub fn limit(
    drafts: &mut BTreeMap<&str, Draft<'_>>,
    objects: &Objects<'_>,
    rules: &Rules<'_>,
    settled: &mut Settled,
    problems: &mut Vec<Problem>,
) {
    settled.of(&objects.limiting);
    let mut faults: BTreeMap<Key, Fault> = BTreeMap::new();
    let scopes = scopes(objects, &mut faults);
    let mut before = std::mem::take(&mut settled.known);
    let mut left_out: BTreeMap<Key, usize> = BTreeMap::new();
    for draft in drafts.values_mut() {
        if draft.local.is_none() {
            continue;
        }
        if let Some(scope) = scopes.get(draft.pod.namespace.as_str()).or_else(|| scopes.get(EVERYWHERE)) {
            let alike = scope.alike(draft);
            let limited = match settled.known.get(&alike) {
                Some(limited) => limited,
                None => {
                    let limited = before.remove(&alike).unwrap_or_else(|| Arc::new(scope.settle(&alike)));
                    settled.known.entry(alike).or_insert(limited)
                }
            };
            for policy in &limited.left_out {
                *left_out.entry(policy.clone()).or_default() += 1;
            }
            if let Some(local) = draft.local.as_mut().filter(|_| !limited.limits.is_empty()) {
                local.limits = Some(Arc::clone(&limited.limits));
            }
        }
        let tokens = rules.of(draft, problems);
        let protocols = protocols(&draft.belongs);
        if let Some(local) = draft.local.as_mut() {
            (local.tokens, local.protocols) = (tokens, protocols);
        }
    }
    faults.extend(left_out.into_iter().map(|(policy, pods)| {
        let most = traffic::POD;
        let why = format!(
            "does not hold for {pods} of the pods that it selects: with older policies they would have more than {} \
             limits, {} regular expressions or {} bytes",
            most.rules, most.patterns, most.bytes
        );
        (policy, Fault::new("spec", why))
    }));
    for Read { object, value } in &objects.rate_limit_policies {
        problems.extend(faults.remove(&value.object).map(|fault| object.problem(fault)));
    }
}

/// The scope of namespaces without policies of their own: no namespace has this name.
const EVERYWHERE: &str = "";

/// By namespace. What is beyond the bound is reported and in none.
fn scopes<'a>(objects: &Objects<'a>, faults: &mut BTreeMap<Key, Fault>) -> BTreeMap<&'a str, Scope<'a>> {
    let mut policies: Vec<&RateLimitPolicy> = objects.rate_limit_policies.iter().map(|read| read.value).collect();
    policies.sort_by_key(|policy| (policy.created, &policy.object));
    let (mut scopes, mut root): (BTreeMap<_, Scope<'a>>, _) = (BTreeMap::new(), Scope::default());
    for policy in policies {
        let own = if policy.is_root { &mut root } else { scopes.entry(&*policy.object.namespace).or_default() };
        if own.policies.len() == POLICIES {
            let why =
                format!("its namespace has {POLICIES} older policies, which are the most: this one limits nobody");
            faults.insert(policy.object.clone(), Fault::new("metadata.namespace", why).of_extent(Extent::Whole));
        } else {
            own.add(policy);
        }
    }
    for scope in scopes.values_mut() {
        root.policies.iter().for_each(|policy| scope.add(policy));
        scope.policies.sort_by_key(|policy| (policy.created, &policy.object));
    }
    if !root.policies.is_empty() {
        scopes.insert(EVERYWHERE, root);
    }
    scopes
}

impl Settled {
    /// Forgets what was made of others.
    fn of(&mut self, policies: &[&Arc<Translated>]) {
        let same = self.made_of.len() == policies.len()
            && self.made_of.iter().zip(policies).all(|(known, new)| Arc::ptr_eq(known, new));
        if !same {
            self.known.clear();
            self.made_of = policies.iter().copied().cloned().collect();
        }
    }
}

impl<'a> Scope<'a> {
    fn add(&mut self, policy: &'a RateLimitPolicy) {
        self.policies.push(policy);
        match &policy.workloads {
            Workloads::Labelled(labels) => self.labels.extend(labels.keys().map(String::as_str)),
            Workloads::Serving(services) => self.services.extend(services),
            Workloads::All | Workloads::Nobody => {}
        }
    }

    fn alike(&self, draft: &Draft<'_>) -> Alike {
        let labels = draft.pod.labels.iter().filter(|(key, _)| self.labels.contains(key.as_str()));
        let services = draft.services.keys().filter(|name| self.services.contains(name));
        Alike {
            namespace: draft.pod.namespace.clone(),
            labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
            services: services.cloned().collect(),
        }
    }

    fn settle(&self, Alike { namespace, labels, services }: &Alike) -> Limited {
        let found = traffic::limits(self.policies.iter().copied(), namespace, labels, services.iter());
        let left_out = found.left_out.into_iter().map(|policy| policy.object.clone()).collect();
        Limited { limits: Arc::new(found.limits), left_out }
    }
}

/// What services say of the pod's own ports. Where they contradict each other, nobody says.
fn protocols(belongs: &[(&Service, BTreeSet<ServicePort>)]) -> BTreeMap<u16, Protocol> {
    let mut said: BTreeMap<u16, Protocol> = BTreeMap::new();
    for (service, ports) in belongs {
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
    use mesh_common::model::traffic::Inbound;

    use super::*;
    use crate::index::{
        Cache, Redirection, World,
        tests::{CART, SHOP, world},
    };

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
    fn who_is_not_selected_has_no_limits() {
        let other = policy("other", &format!("selector: {{matchLabels: {{app: pay}}}}, {LOCAL}"));
        for text in [SHOP.to_owned(), [SHOP, &other].concat()] {
            let world = world(&text);
            let limits: Vec<_> = world.local_pods.values().flat_map(|pods| pods.values()).collect();
            assert!(limits.len() == 2 && limits.iter().all(|pod| pod.inbound.limits.is_empty()));
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

    /// The pod of `cart` so many times, each with a label that the others do not have.
    fn carts(count: usize) -> String {
        let pod = &SHOP[SHOP.find("apiVersion: v1\nkind: Pod").expect("a pod")..];
        let pod = &pod[..pod.find("---").expect("its end")];
        let copy = |i: usize| {
            let pod = pod.replace("cart-6f5d8-x1", &format!("cart-{i}")).replace("u-cart", &format!("u{i}"));
            let pod = pod
                .replace("10.0.0.1", &format!("10.1.{}.{}", i / 250, i % 250 + 1))
                .replace("fd00::1", &format!("fd00::1:{i}"));
            format!("---\n{}", pod.replace("labels: {", &format!("labels: {{index: '{i}', ")))
        };
        (0..count).map(copy).collect()
    }

    #[test]
    fn pods_that_no_policy_tells_apart_are_settled_once_and_not_again() {
        let one = policy("one", &format!("selector: {{matchLabels: {{app: cart}}}}, {LOCAL}"));
        let text = [SHOP, &carts(50), &one].concat();
        let (mut cache, settings) = (Cache::default(), crate::index::tests::settings());
        let update = crate::index::tests::objects(&text);
        let world = World::with(&settings, &update, &Redirection::default(), &mut cache);
        assert_eq!(world.local_pods["a"].values().filter(|pod| pod.inbound.limits.len() == 1).count(), 51);
        let known: Vec<Arc<Limited>> = cache.limits.known.values().cloned().collect();
        assert_eq!(known.len(), 2, "the carts, and the client");
        World::with(&settings, &update, &Redirection::default(), &mut cache);
        assert!(known.iter().all(|limited| cache.limits.known.values().any(|again| Arc::ptr_eq(limited, again))));
        // Another policy, another answer.
        let two = text.replace("requests: 5", "requests: 6");
        let mut changed = update.clone();
        let is_policy = |object: &&mut Arc<crate::source::Object>| object.key().kind == "RateLimitPolicy";
        let new = Arc::make_mut(&mut crate::index::tests::objects(&two).objects).iter_mut().find(is_policy).cloned();
        let old = Arc::make_mut(&mut changed.objects).iter_mut().find(is_policy);
        *old.expect("a policy") = new.expect("a policy");
        let world = World::with(&settings, &changed, &Redirection::default(), &mut cache);
        let limit = &world.local_pods["a"][CART].inbound.limits[0];
        assert_eq!(limit.total.as_ref().map(|bucket| bucket.requests), Some(6));
        assert_eq!(cache.limits.known.len(), 2);
    }

    #[test]
    fn a_policy_for_which_pods_have_no_room_is_told_of_once_and_not_of_their_names() {
        let many: String = (0..66).map(|i| policy(&format!("p{i:02}"), LOCAL)).collect();
        let world = world(&[SHOP, &carts(9), &many].concat());
        let said: Vec<_> = world.problems.iter().map(ToString::to_string).collect();
        let why = "spec: does not hold for 11 of the pods that it selects: with older policies they would have more than \
                   64 limits, 1000 regular expressions or 262144 bytes";
        assert_eq!(said, ["p64", "p65"].map(|name| format!("all.yaml: RateLimitPolicy shop/{name}: {why}")));
    }

    #[test]
    fn of_one_namespace_so_many_policies_are_looked_at() {
        let many: String = (0..=POLICIES)
            .map(|i| policy(&format!("p{i:03}"), "selector: {matchLabels: {app: x}}, local: {total: {requests: 1}}"))
            .collect();
        let world = world(&[SHOP, &many].concat());
        let [problem] = world.problems.as_slice() else { panic!("{:?}", world.problems.len()) };
        assert!(
            problem.to_string().contains("RateLimitPolicy shop/p500: metadata.namespace: its namespace has 500 older"),
            "{problem}"
        );
    }
}
