//! AuthorizationPolicies by the pods that they are about. Each pod is asked for by one of its labels, never each policy
//! for each pod: it is done at every publication.
//!
//! A pod that a Service or an entry selects stays one of its workloads while it is not ready: connections to its
//! address reach it all the same, and must not escape the policies.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mesh_common::model::{PolicyName, Scope, ServiceName};

use crate::{
    index::{Objects, Read, World, draft::Draft},
    status::{Extent, Fault, Problem},
    translate::{
        Labels, Settings,
        authorization_policy::{AuthorizationPolicy, Target, TargetKind, Workloads},
        endpoint_slice::Slice,
        selects,
        service::Service,
    },
};

/// What is known by labels: those that are wanted, and the policy.
type Labelled<'a> = HashMap<(&'a str, &'a str), Vec<(&'a Labels, &'a AuthorizationPolicy)>>;

#[derive(Default)]
pub struct Named<'a> {
    /// By namespace (`None`: any), then by one of the wanted labels.
    labelled: BTreeMap<Option<&'a str>, Labelled<'a>>,
    /// By the pod's namespace and name: whom slices name.
    pods: BTreeMap<(&'a str, &'a str), Vec<&'a AuthorizationPolicy>>,
    /// By a service of an entry.
    entries: BTreeMap<&'a ServiceName, Vec<&'a AuthorizationPolicy>>,
    /// Some policy without selector or targets asks for more than L4: of the mesh, and by namespace.
    all_asked: bool,
    asked: BTreeSet<&'a str>,
}

/// What targets are looked up in.
struct Targets<'a> {
    services: BTreeMap<(&'a str, &'a str), &'a Service>,
    /// With their services.
    entries: BTreeMap<(&'a str, &'a str), Vec<&'a ServiceName>>,
}

impl<'a> Named<'a> {
    /// Targets that are not there are problems.
    pub fn new(
        settings: &'a Settings,
        world: &World,
        drafts: &BTreeMap<&'a str, Draft<'a>>,
        objects: &Objects<'a>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut named = Self::default();
        let is_by_target = |policy: &AuthorizationPolicy| matches!(policy.workloads, Workloads::Targets(_));
        let has_targets = objects.authorization_policies.iter().any(|read| is_by_target(read.value));
        let known = if has_targets { Targets::new(world, objects) } else { Targets::none() };
        let mut sliced: BTreeMap<(&str, &str), Vec<&AuthorizationPolicy>> = BTreeMap::new();
        for Read { object, value: policy } in &objects.authorization_policies {
            let policy: &'a AuthorizationPolicy = policy;
            let namespace = policy.policy.name.namespace.as_str();
            match &policy.workloads {
                Workloads::All => named.everybody(policy),
                Workloads::Labelled(labels) => {
                    let is_root = namespace == settings.root_namespace;
                    named.labelled((!is_root).then_some(namespace), labels, policy);
                }
                Workloads::Targets(targets) => {
                    let mut missing = Vec::new();
                    for target in targets {
                        let at = (namespace, target.name.as_str());
                        match (target.kind, known.services.get(&at), known.entries.get(&at)) {
                            (TargetKind::Service, Some(service), _) => {
                                if !service.selector.is_empty() {
                                    named.labelled(Some(namespace), &service.selector, policy);
                                }
                                sliced.entry(at).or_default().push(policy);
                            }
                            (TargetKind::ServiceEntry, _, Some(services)) => {
                                for service in services {
                                    named.entries.entry(*service).or_default().push(policy);
                                }
                            }
                            (TargetKind::Service, None, _) | (TargetKind::ServiceEntry, _, None) => {
                                missing.push(target)
                            }
                        }
                    }
                    let found = targets.len() - missing.len();
                    problems.extend(missing.into_iter().map(|target| object.problem(absent(namespace, target, found))));
                }
            }
        }
        if !sliced.is_empty() {
            named.add_slices(&sliced, drafts, objects);
        }
        named
    }

    fn everybody(&mut self, policy: &'a AuthorizationPolicy) {
        match policy.policy.scope {
            _ if !policy.asks => {}
            Scope::Global => self.all_asked = true,
            Scope::Namespace => {
                self.asked.insert(&policy.policy.name.namespace);
            }
            Scope::WorkloadSelector => {}
        }
    }

    fn labelled(&mut self, namespace: Option<&'a str>, wanted: &'a Labels, policy: &'a AuthorizationPolicy) {
        let Some((key, value)) = wanted.iter().next() else { return };
        let by_label = self.labelled.entry(namespace).or_default();
        by_label.entry((key, value)).or_default().push((wanted, policy));
    }

    /// Whom slices name, in whatever state: of a service without selector nobody else says it.
    fn add_slices(
        &mut self,
        sliced: &BTreeMap<(&str, &str), Vec<&'a AuthorizationPolicy>>,
        drafts: &BTreeMap<&'a str, Draft<'a>>,
        objects: &Objects<'a>,
    ) {
        let slices = objects.slices.iter().map(|read| read.value);
        let slices = slices.filter_map(|slice: &'a Slice| {
            Some((slice, sliced.get(&(slice.namespace.as_str(), slice.service.as_str()))?))
        });
        let slices: Vec<_> = slices.collect();
        let endpoints = || slices.iter().flat_map(|(slice, _)| &slice.endpoints);
        if endpoints().next().is_none() {
            return;
        }
        // Slices lag behind pods: an address that is not the pod's any more makes it nobody's workload.
        let mut owners: BTreeMap<_, &Draft<'_>> = BTreeMap::new();
        for draft in drafts.values().filter(|draft| !draft.pod.host_network) {
            owners.extend(draft.addresses.iter().map(|ip| (*ip, draft)));
        }
        let by_name: BTreeMap<(&str, &str), &Draft<'_>> =
            drafts.values().map(|draft| ((draft.pod.namespace.as_str(), draft.pod.name.as_str()), draft)).collect();
        for (slice, policies) in &slices {
            for endpoint in &slice.endpoints {
                let draft = match &endpoint.pod {
                    Some(name) => by_name.get(&(slice.namespace.as_str(), name.as_str())),
                    None => endpoint.addresses.iter().find_map(|ip| owners.get(ip)),
                };
                let owns = |draft: &Draft<'_>| endpoint.addresses.iter().any(|ip| draft.addresses.contains(ip));
                let own = draft.filter(|draft| draft.pod.namespace == slice.namespace && owns(draft));
                if let Some(draft) = own {
                    let pod = (draft.pod.namespace.as_str(), draft.pod.name.as_str());
                    self.pods.entry(pod).or_default().extend(policies.iter().copied());
                }
            }
        }
    }

    /// Those that a pod is to name, some of them maybe twice; and whether one that holds for it asks for more than L4.
    pub fn of(&self, draft: &Draft<'_>) -> (Vec<PolicyName>, bool) {
        let (namespace, labels) = (draft.pod.namespace.as_str(), &draft.pod.labels);
        let mut asks = self.all_asked || self.asked.contains(namespace);
        let mut names = Vec::new();
        let mut add = |policy: &AuthorizationPolicy| {
            asks |= policy.asks;
            names.push(policy.policy.name.clone());
        };
        for by_label in [None, Some(namespace)].into_iter().filter_map(|scope| self.labelled.get(&scope)) {
            let candidates = labels.iter().filter_map(|(key, value)| by_label.get(&(key.as_str(), value.as_str())));
            let selecting = candidates.flatten().filter(|(wanted, _)| selects(wanted, labels));
            selecting.for_each(|(_, policy)| add(policy));
        }
        self.pods.get(&(namespace, draft.pod.name.as_str())).into_iter().flatten().for_each(|policy| add(policy));
        if !self.entries.is_empty() {
            let serves = draft.services.keys().filter_map(|service| self.entries.get(service));
            // An entry's endpoints are of its own namespace.
            let own = serves.flatten().filter(|policy| policy.policy.name.namespace == namespace);
            own.for_each(|policy| add(policy));
        }
        (names, asks)
    }
}

impl<'a> Targets<'a> {
    fn none() -> Self {
        Self { services: BTreeMap::new(), entries: BTreeMap::new() }
    }

    fn new(world: &World, objects: &Objects<'a>) -> Self {
        let services = objects.services.iter().map(|read| {
            let service: &'a Service = read.value;
            ((service.service.namespace.as_str(), service.service.name.as_str()), service)
        });
        let services: BTreeMap<_, _> = services.collect();
        let entries = objects.service_entries.iter().map(|read| {
            let entry = read.value;
            // A host that the entry does not get is another's.
            let is_own = |name: &&ServiceName| {
                world.services.get(*name).is_some_and(|service| {
                    let at = (service.namespace.as_str(), service.name.as_str());
                    at == (entry.object.namespace.as_str(), entry.object.name.as_str())
                        && services.get(&at).is_none_or(|kubernetes| kubernetes.service.hostname != service.hostname)
                })
            };
            let own: Vec<_> = entry.hosts.iter().map(|(_, name)| name).filter(is_own).collect();
            ((entry.object.namespace.as_str(), entry.object.name.as_str()), own)
        });
        let entries = entries.collect();
        Self { services, entries }
    }
}

fn absent(namespace: &str, target: &Target, found: usize) -> Fault {
    let Target { field, kind, name } = target;
    let kind = kind.name();
    let fault = |rest: &str| Fault::new(field.as_str(), format_args!("there is no {kind} {namespace}/{name}; {rest}"));
    match found {
        0 => fault("the policy holds for nobody until it is there").of_extent(Extent::Whole),
        _ => fault("the policy holds for its other targets"),
    }
}
