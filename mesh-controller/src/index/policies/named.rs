//! AuthorizationPolicies by the pods that they are about. Each pod is asked for by one of its labels, never each policy
//! for each pod: it is done at every publication.
//!
//! A pod that a Service or an entry selects stays one of its workloads while it is not ready: connections to its
//! address reach it all the same, and must not escape the policies.

use std::collections::{BTreeMap, HashMap};

use mesh_common::model::{PolicyName, ServiceName};

use crate::{
    index::{Objects, Read, World, draft::Draft},
    status::{Extent, Fault, Problem},
    translate::{
        Labels, Settings,
        authorization_policy::{AuthorizationPolicy, Target, TargetKind, Workloads},
        selects,
        service::Service,
        waypoint,
    },
};

/// What is known by labels: those that are wanted, and the policy.
type Labelled<'a> = HashMap<(&'a str, &'a str), Vec<(&'a Labels, &'a AuthorizationPolicy)>>;

#[derive(Default)]
pub struct Named<'a> {
    /// By namespace (`None`: any), then by one of the wanted labels.
    labelled: BTreeMap<Option<&'a str>, Labelled<'a>>,
    /// By the namespace and name of a Service.
    services: BTreeMap<(&'a str, &'a str), Vec<&'a AuthorizationPolicy>>,
    /// By namespace and name of a waypoint; and those of all waypoints.
    waypoints: BTreeMap<(&'a str, &'a str), Vec<&'a AuthorizationPolicy>>,
    every_waypoint: Vec<&'a AuthorizationPolicy>,
    /// By a service of an entry.
    entries: BTreeMap<&'a ServiceName, Vec<&'a AuthorizationPolicy>>,
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
        for Read { object, value: policy } in &objects.authorization_policies {
            let policy: &'a AuthorizationPolicy = policy;
            let namespace = policy.policy.name.namespace.as_str();
            match &policy.workloads {
                Workloads::All => {}
                Workloads::Labelled(labels) => {
                    let is_root = namespace == settings.root_namespace;
                    named.labelled((!is_root).then_some(namespace), labels, policy);
                }
                Workloads::Targets(targets) => {
                    let (mut missing, mut gateways) = (Vec::new(), Vec::new());
                    for target in targets {
                        let at = (namespace, target.name.as_str());
                        match (target.kind, known.services.get(&at), known.entries.get(&at)) {
                            (TargetKind::Service, Some(_), _) => named.services.entry(at).or_default().push(policy),
                            (TargetKind::ServiceEntry, _, Some(services)) => {
                                for service in services {
                                    named.entries.entry(*service).or_default().push(policy);
                                }
                            }
                            (TargetKind::Gateway, ..) => {
                                named.waypoints.entry(at).or_default().push(policy);
                                gateways.push(target);
                            }
                            (TargetKind::GatewayClass, ..) => {
                                if namespace == settings.root_namespace && target.name == waypoint::CLASS {
                                    named.every_waypoint.push(policy);
                                }
                                gateways.push(target);
                            }
                            (TargetKind::Service, None, _) | (TargetKind::ServiceEntry, _, None) => {
                                missing.push(target)
                            }
                        }
                    }
                    let found = targets.len() - missing.len() - gateways.len();
                    let behind = !gateways.is_empty() && drafts.values().any(|draft| named.is_behind(draft, policy));
                    let (whom, extent) = match (behind, found) {
                        (true, _) => ("the workloads that use it as their waypoint", Extent::Part),
                        (false, 0) => ("nobody", Extent::Whole),
                        (false, _) => ("its other targets", Extent::Part),
                    };
                    problems.extend(gateways.into_iter().map(|target| {
                        let why = format!(
                            "there are no gateways here; the policy holds for {whom} (label {})",
                            waypoint::USE
                        );
                        object.problem(Fault::new(target.field.as_str(), why).of_extent(extent))
                    }));
                    problems.extend(missing.into_iter().map(|target| object.problem(absent(namespace, target, found))));
                }
            }
        }
        named
    }

    fn labelled(&mut self, namespace: Option<&'a str>, wanted: &'a Labels, policy: &'a AuthorizationPolicy) {
        let Some((key, value)) = wanted.iter().next() else { return };
        let by_label = self.labelled.entry(namespace).or_default();
        by_label.entry((key, value)).or_default().push((wanted, policy));
    }

    fn is_behind(&self, draft: &Draft<'_>, policy: &AuthorizationPolicy) -> bool {
        draft.waypoints.iter().any(|(namespace, name)| {
            let own = self.waypoints.get(&(namespace.as_str(), name.as_str())).into_iter().flatten();
            own.chain(&self.every_waypoint).any(|known| std::ptr::eq(*known, policy))
        })
    }

    /// Those that a pod is to name, some of them maybe twice.
    pub fn of(&self, draft: &Draft<'_>) -> Vec<PolicyName> {
        let (namespace, labels) = (draft.pod.namespace.as_str(), &draft.pod.labels);
        let mut found: Vec<&AuthorizationPolicy> = Vec::new();
        for by_label in [None, Some(namespace)].into_iter().filter_map(|scope| self.labelled.get(&scope)) {
            let candidates = labels.iter().filter_map(|(key, value)| by_label.get(&(key.as_str(), value.as_str())));
            let selecting = candidates.flatten().filter(|(wanted, _)| selects(wanted, labels));
            found.extend(selecting.map(|(_, policy)| *policy));
        }
        if !self.services.is_empty() {
            let services = draft.belongs.iter().map(|(service, _)| &service.service);
            let services = services.map(|service| (service.namespace.as_str(), service.name.as_str()));
            found.extend(services.filter_map(|at| self.services.get(&at)).flatten());
        }
        for (namespace, name) in &draft.waypoints {
            found.extend(self.waypoints.get(&(namespace.as_str(), name.as_str())).into_iter().flatten());
            found.extend(&self.every_waypoint);
        }
        if !self.entries.is_empty() {
            let serves = draft.services.keys().filter_map(|service| self.entries.get(service));
            // An entry's endpoints are of its own namespace.
            found.extend(serves.flatten().filter(|policy| policy.policy.name.namespace == namespace));
        }
        found.into_iter().map(|policy| policy.policy.name.clone()).collect()
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
