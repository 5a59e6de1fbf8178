//! Objects in, the mesh's state out. Pure: it is built anew from all objects and compared with the state before, so
//! that nothing can be forgotten by a missed event.

mod accounts;
mod ancestors;
mod cache;
mod claims;
mod delta;
mod draft;
mod endpoints;
pub mod entries;
mod limits;
mod policies;
pub mod redirection;
mod targets;
mod telemetry;
#[cfg(test)]
pub mod tests;
mod tokens;
pub mod traffic;

pub use accounts::account;
pub use cache::Cache;
pub use delta::Delta;
pub use redirection::{PodName, Redirected, Redirection, Report, annotated};
pub use tokens::wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::jiff::Timestamp;
use mesh_common::model::{
    Accounts, Identity, LocalPod, Locality, Mode, Policy, PolicyName, Service, ServiceName, Tunnel, Workload,
    traffic::{Labels as PodLabels, Traffic},
};

use cache::{Known, Translated, Value};
use draft::{Draft, Local, Made};

use crate::{
    jwks::Wanted,
    source::{Hidden, Key, Kind, Object, Update},
    status::{Problem, parents::ParentStatus},
    translate::{
        Labels, Settings, backend_tls_policy, destination_rule, endpoint_slice, gateway, join, mesh_config, node,
        peer_authentication, pod, rate_limit_policy, reference_grant, request_authentication, same_node, service,
        service_entry,
        telemetry::{Telemetry, annotated::Said},
        virtual_service,
    },
};

/// What agents are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// By uid.
    pub workloads: BTreeMap<String, Arc<Workload>>,
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    pub policies: BTreeMap<PolicyName, Arc<Policy>>,
    /// Of services of which something is said that agents must do.
    pub traffic: BTreeMap<ServiceName, Arc<Traffic>>,
    /// By node, then by uid.
    pub local_pods: BTreeMap<String, BTreeMap<String, Arc<LocalPod>>>,
    /// By namespace; none at all if the source does not say which ServiceAccounts exist.
    pub accounts: BTreeMap<String, Accounts>,
    /// Identities of the pods of a node that shall be in the mesh: its agent may ask for these and no others.
    pub identities: BTreeMap<String, BTreeSet<Identity>>,
    /// Pods that take HBONE, with their UIDs: to be remembered over a restart.
    pub redirected: BTreeMap<PodName, String>,
    /// Namespaces that are taken out of the mesh, and until when: this state is over then.
    pub bypassed: BTreeMap<String, Timestamp>,
    /// Pods that shall be in the mesh and cannot, since they are in their node's own network; with their UIDs.
    pub skipped: BTreeMap<PodName, String>,
    /// The policies as their authors wrote them, in the version of which all this is made.
    pub written: BTreeMap<Key, Written>,
    /// How routes of the Gateway API stand, and policies that are about services: for the list of their status.
    pub route_parents: BTreeMap<Key, Vec<ParentStatus>>,
    /// Every such object, in the version of which that holds.
    pub routes: BTreeMap<Key, Written>,
    /// Key sets of issuers of tokens that are to be fetched.
    pub key_sets: Wanted,
    /// What could not be honoured, in order.
    pub problems: Vec<Problem>,
}

/// Which version of an object it is: none is the same twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub uid: String,
    pub generation: i64,
}

/// An object in the form of its translation.
struct Read<'a, T> {
    object: &'a Object,
    value: &'a T,
}

/// The objects by kind, translated one by one.
#[derive(Default)]
struct Objects<'a> {
    /// Namespaces that have labels.
    namespaces: BTreeMap<&'a str, &'a Labels>,
    /// Namespaces that are taken out of the mesh, until when.
    bypassed: BTreeMap<&'a str, Timestamp>,
    /// Every namespace.
    existing: BTreeSet<&'a str>,
    /// Namespace and name of each ServiceAccount.
    accounts: BTreeSet<(&'a str, &'a str)>,
    /// Nodes that say where they are.
    nodes: BTreeMap<&'a str, Locality>,
    /// Whose an address is.
    node_addresses: BTreeMap<IpAddr, &'a str>,
    pods: Vec<Read<'a, pod::Pod>>,
    /// What each of them was last told as.
    made: Vec<&'a Made>,
    /// Pods that could not be translated.
    lost: Vec<Key>,
    services: Vec<Read<'a, service::Service>>,
    slices: Vec<Read<'a, endpoint_slice::Slice>>,
    peer_authentications: Vec<Read<'a, peer_authentication::PeerAuthentication>>,
    authorization_policies: Vec<Read<'a, crate::translate::authorization_policy::AuthorizationPolicy>>,
    virtual_services: Vec<Read<'a, virtual_service::VirtualService>>,
    destination_rules: Vec<Read<'a, destination_rule::DestinationRule>>,
    routes: Vec<Read<'a, gateway::Route>>,
    reference_grants: Vec<Read<'a, reference_grant::ReferenceGrant>>,
    backend_tls_policies: Vec<Read<'a, backend_tls_policy::BackendTlsPolicy>>,
    rate_limit_policies: Vec<Read<'a, rate_limit_policy::RateLimitPolicy>>,
    request_authentications: Vec<Read<'a, request_authentication::RequestAuthentication>>,
    /// The same.
    limiting: Vec<&'a Arc<Translated>>,
    /// Of services, and of all that speaks of traffic to them.
    traffic: Vec<&'a Arc<Translated>>,
    service_entries: Vec<Read<'a, service_entry::ServiceEntry>>,
    telemetries: Vec<Read<'a, Telemetry>>,
    mesh_configs: Vec<Read<'a, mesh_config::MeshConfig>>,
    /// What namespaces say of being seen, where they say something.
    said: BTreeMap<&'a str, Said>,
}

impl World {
    /// The state that these objects describe, given what agents have reported of their pods.
    #[cfg(test)]
    pub fn new(settings: &Settings, update: &Update, redirection: &Redirection) -> Self {
        Self::with(settings, update, redirection, &mut Cache::default())
    }

    /// The same. Whatever the cache holds, it changes nothing of it.
    pub fn with(settings: &Settings, update: &Update, redirection: &Redirection, cache: &mut Cache) -> Self {
        let mut problems = update.problems.clone();
        let mut told = std::mem::take(&mut cache.told);
        let mut limited = std::mem::take(&mut cache.limits);
        let translated = cache.translate(settings, &update.objects);
        let objects = Objects::gather(update, translated, &mut problems);
        let bypassed = objects.bypassed.iter().map(|(namespace, until)| ((*namespace).to_owned(), *until)).collect();
        let mut world = Self { bypassed, ..Self::default() };
        let mut drafts = world.draft_pods(settings, &objects, redirection, &mut problems);
        world.add_services(&objects, &mut problems);
        endpoints::connect(&mut drafts, &objects, &mut problems);
        let entries = entries::join(settings, &mut world, &mut drafts, &objects, &mut problems);
        policies::select(settings, &mut world, &mut drafts, &objects, &mut problems);
        telemetry::settle(&mut drafts, &objects, &world, &mut problems);
        let mut outside = traffic::tell(settings, &mut world, &mut drafts, &objects, entries, &mut told, &mut problems);
        let sets = &update.key_sets;
        let tokens =
            tokens::Rules::new(&objects.request_authentications, sets, &mut world.key_sets.sets, &mut problems);
        world.key_sets.nodes = Arc::new(objects.node_addresses.keys().copied().collect());
        limits::limit(&mut drafts, &objects, &tokens, &mut limited, &mut problems);
        targets::find(settings, &world, &objects, &mut problems);
        for (uid, draft) in drafts {
            let (workload, local) = draft.told(settings);
            if let Some(local) = local {
                world.local_pods.entry(draft.pod.node.clone()).or_default().insert(uid.to_owned(), local);
            }
            world.workloads.insert(uid.to_owned(), workload);
        }
        let mut hidden = update.hidden.clone();
        hidden.pods.extend(objects.lost.iter().cloned());
        world.remember_missing(&hidden, redirection);
        // After that: a name of theirs is no pod's.
        world.workloads.append(&mut outside);
        world.written = objects.written();
        let policies = objects.backend_tls_policies.iter().map(|read| read.object);
        world.routes = versions(objects.routes.iter().map(|read| read.object).chain(policies));
        if update.has_accounts {
            accounts::list(settings, &mut world, &objects, &mut problems);
        }
        problems.sort();
        problems.dedup();
        world.add_ancestors(&objects, &problems);
        world.problems = problems;
        (cache.told, cache.limits) = (told, limited);
        world
    }

    /// To be called when all problems are known.
    fn add_ancestors(&mut self, objects: &Objects<'_>, problems: &[Problem]) {
        for Read { object, value } in &objects.backend_tls_policies {
            let name = object.key().to_string();
            let own: Vec<_> = problems.iter().filter(|problem| problem.object == name).collect();
            self.route_parents.insert(object.key(), ancestors::of(value, &own));
        }
    }

    /// May the agent of this node speak for this identity?
    pub fn runs_on(&self, node: &str, identity: &Identity) -> bool {
        self.identities.get(node).is_some_and(|identities| identities.contains(identity))
    }

    /// The pods by their workloads' uids, as yet without services and policies.
    fn draft_pods<'a>(
        &mut self,
        settings: &Settings,
        objects: &'a Objects<'a>,
        redirection: &Redirection,
        problems: &mut Vec<Problem>,
    ) -> BTreeMap<&'a str, Draft<'a>> {
        let claims = objects.pods.iter().filter(|read| !read.value.host_network);
        let owned = claims::settle(
            claims.map(|read| (read.object, read.value.created, read.value.addresses.as_slice())),
            problems,
        );
        let (mut drafts, unsaid) = (BTreeMap::new(), Arc::default());
        for (Read { object, value: pod }, made) in objects.pods.iter().zip(&objects.made) {
            let mode = objects.mode(settings, pod);
            let name = || PodName { namespace: pod.namespace.clone(), name: pod.name.clone() };
            let mut draft = Draft {
                pod,
                made,
                addresses: pod.addresses.clone(),
                tunnel: Tunnel::None,
                locality: objects.nodes.get(pod.node.as_str()),
                healthy: pod.ready,
                policies: Vec::new(),
                services: BTreeMap::new(),
                belongs: Vec::new(),
                waypoints: BTreeSet::new(),
                labels: PodLabels::new(),
                local: None,
            };
            if pod.host_network {
                // Pods in the node's own network never join: their address is not theirs.
                if mode == Mode::Mesh {
                    self.skipped.insert(name(), pod.pod_uid.clone());
                }
            } else {
                draft.addresses.retain(|ip| owned.get(ip).is_some_and(|owner| std::ptr::eq(*owner, *object)));
                if mode == Mode::Mesh && redirection.is_redirected(&pod.node, &name(), &pod.pod_uid) {
                    self.redirected.insert(name(), pod.pod_uid.clone());
                    draft.tunnel = Tunnel::Hbone;
                }
                if !pod.node.is_empty() {
                    // Who only watches a pod, or leaves it alone, must not speak as it.
                    if mode == Mode::Mesh && !self.runs_on(&pod.node, &pod.identity) {
                        self.identities.entry(pod.node.clone()).or_default().insert(pod.identity.clone());
                    }
                    let namespace_labels = objects.namespaces.get(pod.namespace.as_str()).copied();
                    let same_node = same_node::same_node(settings, namespace_labels, &pod.labels);
                    draft.local = Some(Local::new(mode, same_node, &unsaid));
                }
            }
            drafts.insert(pod.uid.as_str(), draft);
        }
        drafts
    }

    /// A pod that is missing may be where something could not be read. To forget it would let plaintext through when
    /// it shows up again. All others are forgotten: what is remembered must not grow for ever.
    fn remember_missing(&mut self, hidden: &Hidden, redirection: &Redirection) {
        let known: BTreeSet<(&str, &str)> =
            self.workloads.values().map(|workload| (workload.namespace.as_str(), workload.name.as_str())).collect();
        let missing = redirection.remembered.iter().filter(|(pod, _)| hidden.may_hide(&pod.namespace, &pod.name));
        let missing = missing.filter(|(pod, _)| !known.contains(&(pod.namespace.as_str(), pod.name.as_str())));
        self.redirected.extend(missing.map(|(pod, uid)| (pod.clone(), uid.clone())));
    }

    fn add_services(&mut self, objects: &Objects<'_>, problems: &mut Vec<Problem>) {
        let claims = objects.services.iter();
        let owned = claims::settle(
            claims.map(|read| (read.object, read.value.created, read.value.service.addresses.as_slice())),
            problems,
        );
        for Read { object, value } in &objects.services {
            let mut service = value.service.clone();
            let is_owned = |ip: &IpAddr| owned.get(ip).is_some_and(|owner| std::ptr::eq(*owner, *object));
            if !service.addresses.iter().all(is_owned) {
                Arc::make_mut(&mut service).addresses.retain(is_owned);
            }
            self.services.insert(service.service_name(), service);
        }
    }
}

fn versions<'a>(objects: impl Iterator<Item = &'a Object>) -> BTreeMap<Key, Written> {
    let version = |object: &Object| {
        let metadata = object.metadata();
        let uid = metadata.uid.clone().unwrap_or_default();
        (object.key(), Written { uid, generation: metadata.generation.unwrap_or_default() })
    };
    objects.map(version).collect()
}

impl<'a> Objects<'a> {
    fn written(&self) -> BTreeMap<Key, Written> {
        let peers = self.peer_authentications.iter().map(|read| read.object);
        let all = peers.chain(self.authorization_policies.iter().map(|read| read.object));
        let all = all.chain(self.virtual_services.iter().map(|read| read.object));
        let all = all.chain(self.destination_rules.iter().map(|read| read.object));
        let all = all.chain(self.rate_limit_policies.iter().map(|read| read.object));
        let all = all.chain(self.request_authentications.iter().map(|read| read.object));
        let all = all.chain(self.service_entries.iter().map(|read| read.object));
        let all = all.chain(self.telemetries.iter().map(|read| read.object));
        versions(all)
    }

    fn mode(&self, settings: &Settings, pod: &pod::Pod) -> Mode {
        let namespace = pod.namespace.as_str();
        let mode = join::mode(settings, namespace, self.namespaces.get(namespace).copied(), &pod.labels);
        if self.bypassed.contains_key(namespace) { join::bypassed(mode) } else { mode }
    }

    /// Puts in order what was translated one by one.
    fn gather(update: &'a Update, translated: &'a [Known], problems: &mut Vec<Problem>) -> Self {
        let mut by_kind = Self::default();
        for (object, translated) in translated {
            problems.extend(translated.problems.iter().cloned());
            let mut faults = Vec::new();
            match &object.kind {
                Kind::Namespace(namespace) => {
                    by_kind.existing.extend(namespace.metadata.name.as_deref());
                    if let (Some(name), Some(labels)) = (&namespace.metadata.name, &namespace.metadata.labels) {
                        by_kind.namespaces.insert(name, labels);
                        faults.extend(join::check(labels).into_iter().chain(same_node::check(labels)));
                    }
                    let said = Said::of(&namespace.metadata, &mut faults);
                    if said != Said::default() {
                        by_kind.said.extend(namespace.metadata.name.as_deref().map(|name| (name, said)));
                    }
                    let annotations = namespace.metadata.annotations.as_ref();
                    match annotations.map_or(Ok(None), |annotations| join::bypass(annotations, update.now)) {
                        Ok(until) => by_kind.bypassed.extend(namespace.metadata.name.as_deref().zip(until)),
                        Err(fault) => faults.push(fault),
                    }
                }
                Kind::Node(v1) => {
                    by_kind.nodes.extend(v1.metadata.name.as_deref().map(|name| (name, node::locality(v1))));
                    let name = v1.metadata.name.as_deref();
                    by_kind
                        .node_addresses
                        .extend(name.into_iter().flat_map(|name| node::addresses(v1).map(move |ip| (ip, name))));
                }
                Kind::ServiceAccount(account) => {
                    let metadata = &account.metadata;
                    by_kind.accounts.extend(metadata.namespace.as_deref().zip(metadata.name.as_deref()));
                }
                Kind::Pod(_) | Kind::Service(_) | Kind::EndpointSlice(_) | Kind::ConfigMap(_) | Kind::Custom(..) => {}
            }
            problems.extend(faults.into_iter().map(|fault| object.problem(fault)));
            if translated.value.is_of_traffic() {
                by_kind.traffic.push(translated);
            }
            match &translated.value {
                Value::Nothing => {}
                Value::Lost => by_kind.lost.push(object.key()),
                Value::Pod(value, made) => {
                    by_kind.pods.push(Read { object, value });
                    by_kind.made.push(made);
                }
                Value::Service(value) => by_kind.services.push(Read { object, value }),
                Value::Slice(value) => by_kind.slices.push(Read { object, value }),
                Value::PeerAuthentication(value) => by_kind.peer_authentications.push(Read { object, value }),
                Value::AuthorizationPolicy(value) => by_kind.authorization_policies.push(Read { object, value }),
                Value::VirtualService(value) => by_kind.virtual_services.push(Read { object, value }),
                Value::DestinationRule(value) => by_kind.destination_rules.push(Read { object, value }),
                Value::Route(value) => by_kind.routes.push(Read { object, value }),
                Value::ReferenceGrant(value) => by_kind.reference_grants.push(Read { object, value }),
                Value::ServiceEntry(value) => by_kind.service_entries.push(Read { object, value }),
                Value::BackendTlsPolicy(value) => by_kind.backend_tls_policies.push(Read { object, value }),
                Value::Telemetry(value) => by_kind.telemetries.push(Read { object, value }),
                Value::MeshConfig(value) => by_kind.mesh_configs.push(Read { object, value }),
                Value::RequestAuthentication(value) => by_kind.request_authentications.push(Read { object, value }),
                Value::RateLimitPolicy(value) => {
                    by_kind.rate_limit_policies.push(Read { object, value });
                    by_kind.limiting.push(translated);
                }
            }
        }
        by_kind
    }
}
