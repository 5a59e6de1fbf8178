//! One consistent view of the mesh, and the questions asked of it. Pure: no I/O, nothing waits.

mod write;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use mesh_common::model::{
    Accounts, Asked, Connection, Decision, Denied, Identity, LocalPod, Mode, Passed, Policy, PolicyName, Reason,
    SameNode, Service, ServiceName, TrustBundle, Tunnel, Workload,
    telemetry::Requests,
    traffic::{Inbound, Protocol},
};

use super::{
    Applicable, Reach, Rules,
    index::{Group, Index},
};
#[cfg(test)]
use mesh_common::model::Permit;

/// The mesh at one generation. It never changes; readers hold it as long as they like.
///
/// Tables are shared between generations: one applied batch copies the tables it touches (keys and pointers, never
/// the objects), so it costs time in the size of these tables, at most the number of workloads, services or policies
/// of the mesh, and not in the number of readers. Lookups take constant time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    generation: u64,
    workloads: Arc<HashMap<String, Arc<Workload>>>,
    services: Arc<HashMap<ServiceName, Arc<Service>>>,
    policies: Arc<HashMap<PolicyName, Arc<Policy>>>,
    traffic: Arc<HashMap<ServiceName, Arc<Rules>>>,
    pods: Arc<BTreeMap<String, Arc<LocalPod>>>,
    /// By namespace.
    accounts: Arc<HashMap<String, Arc<Accounts>>>,
    /// By trust domain.
    trust_bundles: Arc<BTreeMap<String, TrustBundle>>,

    // Indices of the above; `write` keeps them.
    by_address: Index<IpAddr, Workload>,
    by_name: Index<(String, String), Workload>,
    endpoints: Index<ServiceName, Workload>,
    by_virtual_address: Index<IpAddr, Service>,
    /// Policies with [`mesh_common::model::Scope::Global`] under `None`, with [`mesh_common::model::Scope::Namespace`]
    /// under their namespace.
    scoped: Arc<HashMap<Option<String>, PoliciesByName>>,

    /// Of the addresses of other nodes only those are here that were asked for.
    on_demand: bool,
    /// It was said what policies there are.
    policies_known: bool,
    /// The controller said which pods this node has.
    pods_confirmed: bool,
    /// Policies that exist, of which no version could be read, with whom they are about.
    unreadable: Arc<BTreeMap<PolicyName, Reach>>,
    /// What applies to the pods of this node, by uid; `write` keeps it.
    applicable: Arc<HashMap<String, Gathered>>,
}

type PoliciesByName = BTreeMap<PolicyName, Arc<Policy>>;

/// Of a workload of this node, as it was when they were gathered.
type Gathered = (Arc<Workload>, Arc<Applicable>);

impl Snapshot {
    /// Rises by one with each accepted change; 0 is the empty state before the first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The workload that owns an address; an IPv4-mapped IPv6 address is the IPv4 one. The node's own address, which
    /// host-network workloads share, belongs to none of them.
    ///
    /// While two claim one address (a pod's address handed on before its removal arrives), one that is reached by
    /// mTLS wins, since its peer must still prove its identity; then the first by uid.
    pub fn workload_by_address(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        let claimants = self.by_address.of(&address.to_canonical());
        claimants.iter().find(|w| w.tunnel == Tunnel::Hbone).or(claimants.first())
    }

    /// Whose address this is, is known to those who ask, and nobody asked for it.
    pub fn must_ask(&self, address: IpAddr) -> bool {
        self.on_demand && self.workload_by_address(address).is_none() && self.service_by_address(address).is_none()
    }

    /// Of the addresses of other nodes only those are here that were asked for.
    pub fn is_on_demand(&self) -> bool {
        self.on_demand
    }

    /// The pod of that name; of several clusters' pods the first by uid.
    pub fn workload_by_name(&self, namespace: &str, pod: &str) -> Option<&Arc<Workload>> {
        self.by_name.of(&(namespace.to_owned(), pod.to_owned())).first()
    }

    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// The rules of traffic to a service; `None`: it goes as bytes to any endpoint. Rules that cannot be read are
    /// rules, see [`Rules::why_unreadable`].
    pub fn rules(&self, service: &ServiceName) -> Option<&Arc<Rules>> {
        self.traffic.get(service)
    }

    /// The rules of a service, if connections to it need them or are to be seen; otherwise the kernel may choose an
    /// endpoint.
    pub fn ruled(&self, service: &ServiceName) -> Option<&Arc<Rules>> {
        self.rules(service).filter(|rules| rules.traffic().seen || !rules.traffic().is_for_others())
    }

    /// Whether connections that clients of this namespace open to a port of the service are looked into, as far as it
    /// does not take their first bytes to tell. Those that are looked into only to be seen go past nothing as bytes.
    pub fn looks_into(&self, service: &ServiceName, namespace: &str, port: u16) -> bool {
        let rules = self.rules(service).filter(|rules| !rules.traffic().is_for_others());
        rules.is_some_and(|rules| match rules.traffic().protocol(port) {
            Protocol::Http | Protocol::Http2 => true,
            Protocol::Tcp | Protocol::Tls => false,
            Protocol::Auto => rules.routes_requests(namespace, port) || rules.why_unreadable().is_some(),
        })
    }

    /// The rules are those of `other`, which must be alive. Pointers are compared.
    pub fn has_rules_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.traffic, &other.traffic)
    }

    /// All of them, in no particular order.
    pub fn all_rules(&self) -> impl ExactSizeIterator<Item = &Arc<Rules>> {
        self.traffic.values()
    }

    /// The service of a virtual address, in either form of an IPv4 address; of several the first by name.
    pub fn service_by_address(&self, address: IpAddr) -> Option<&Arc<Service>> {
        self.by_virtual_address.of(&address.to_canonical()).first()
    }

    /// The workloads that serve a service, healthy or not, by uid. They may be known before the service itself is.
    pub fn endpoints(&self, service: &ServiceName) -> &[Arc<Workload>] {
        self.endpoints.of(service)
    }

    /// The same list as it is shared: the same in memory means that nothing of it has changed.
    pub fn shared_endpoints(&self, service: &ServiceName) -> Option<&Group<Workload>> {
        self.endpoints.group(service)
    }

    /// The controller has said which pods this node has, and not only an earlier agent.
    pub fn confirms_pods(&self) -> bool {
        self.pods_confirmed
    }

    /// The pods of this node, by uid.
    pub fn local_pods(&self) -> impl ExactSizeIterator<Item = &Arc<LocalPod>> {
        self.pods.values()
    }

    /// A node has few pods: this searches them.
    pub fn local_pod(&self, namespace: &str, name: &str) -> Option<&Arc<LocalPod>> {
        self.pods.values().find(|pod| pod.namespace == namespace && pod.name == name)
    }

    /// The pod of this node with that uid.
    pub fn local_pod_by_uid(&self, uid: &str) -> Option<&Arc<LocalPod>> {
        self.pods.get(uid)
    }

    pub fn policy(&self, name: &PolicyName) -> Option<&Arc<Policy>> {
        self.policies.get(name)
    }

    /// In no particular order.
    pub fn workloads(&self) -> impl ExactSizeIterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// In no particular order.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// In no particular order.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Arc<Policy>> {
        self.policies.values()
    }

    /// The policies are those of `other`, which must be alive. Pointers are compared.
    pub fn has_policies_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.policies, &other.policies)
    }

    /// In no particular order; none if nobody says which ServiceAccounts exist.
    pub fn trust_bundles(&self) -> &Arc<BTreeMap<String, TrustBundle>> {
        &self.trust_bundles
    }

    pub fn accounts(&self) -> impl ExactSizeIterator<Item = &Arc<Accounts>> {
        self.accounts.values()
    }

    /// What the namespace says of its pods that say nothing themselves; `None`: nobody told.
    pub fn namespace_mode(&self, namespace: &str) -> Option<Mode> {
        self.accounts.get(namespace).map(|accounts| accounts.mode)
    }

    /// The services are those of `other`, which must be alive. Pointers are compared.
    pub fn has_services_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.services, &other.services)
    }

    /// The pod of this node with that uid is to be reached in TLS also from this node.
    pub fn same_node_tls(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|pod| pod.same_node == SameNode::Tls)
    }

    /// What is done with requests to the pod of this node with that uid.
    pub fn inbound(&self, uid: &str) -> &Inbound {
        static NOTHING: Inbound =
            Inbound { protocols: BTreeMap::new(), limits: Vec::new(), tokens: Vec::new(), unreadable: false };
        self.pods.get(uid).map_or(&NOTHING, |pod| &pod.inbound)
    }

    /// By the name that the user gave it, the PeerAuthentication that makes the pod of this node with that uid STRICT.
    pub fn strict_by(&self, uid: &str) -> Option<&PolicyName> {
        self.pods.get(uid).and_then(|pod| pod.strict_by.as_ref())
    }

    /// The same is done with requests to the pod of this node with that uid, and they are seen alike.
    pub fn has_inbound_of(&self, other: &Self, uid: &str) -> bool {
        match (self.pods.get(uid), other.pods.get(uid)) {
            (Some(now), Some(then)) => {
                Arc::ptr_eq(now, then)
                    || (now.inbound == then.inbound && now.telemetry.requests == then.telemetry.requests)
            }
            (now, then) => now.is_none() == then.is_none(),
        }
    }

    /// Whether what a connection to this port carries is looked into: it must be, or somebody wants to see it.
    pub fn reads(&self, workload: &Workload, port: u16) -> bool {
        self.must_read(workload, port) || self.sees(&workload.uid, port)
    }

    /// Whether requests to this port of the pod of this node are to be seen. Whether they pass does not depend on it.
    fn sees(&self, uid: &str, port: u16) -> bool {
        self.pods.get(uid).is_some_and(|pod| {
            pod.telemetry.requests == Requests::Seen
                && matches!(pod.inbound.protocol(port), Protocol::Auto | Protocol::Http | Protocol::Http2)
        })
    }

    /// Whether what a connection to this port carries must be looked into: something depends on it.
    pub fn must_read(&self, workload: &Workload, port: u16) -> bool {
        let policies = self.policies_of(workload);
        self.inbound(&workload.uid).reads(port, policies.asks, policies.asks_server_name)
    }

    /// Whether policies decide about each request to this port: who may ask for nothing is told so in an answer.
    pub fn decides_requests(&self, workload: &Workload, port: u16) -> bool {
        let inbound = self.inbound(&workload.uid);
        !matches!(inbound.protocol(port), Protocol::Tcp | Protocol::Tls)
            && (inbound.judges_tokens() || self.policies_of(workload).asks)
    }

    /// What is known of a connection to this port before it carries anything.
    pub fn passed_at_first(&self, workload: &Workload, port: u16) -> Passed {
        if self.must_read(workload, port) { Passed::Open } else { Passed::BYTES }
    }

    /// The policies that decide on connections to it. Those of this node's own pods are at hand.
    pub fn policies_of(&self, workload: &Workload) -> Arc<Applicable> {
        match self.applicable.get(&workload.uid) {
            Some((own, applicable)) if std::ptr::eq(&raw const **own, workload) => Arc::clone(applicable),
            _ => {
                let (policies, unknown) = self.gather(workload);
                Arc::new(Applicable::new(policies.into_iter().cloned().collect(), unknown.cloned()))
            }
        }
    }

    /// As [`Self::policies_of`]; `None`: it was not said yet what policies there are, or there is no such workload.
    pub fn known_policies_of(&self, uid: &str) -> Option<Arc<Applicable>> {
        let workload = self.workload(uid).filter(|_| self.policies_known)?;
        Some(self.policies_of(workload))
    }

    /// Those in scope, and those that it names.
    fn gather<'a>(&'a self, workload: &'a Workload) -> (Vec<&'a Arc<Policy>>, Option<&'a PolicyName>) {
        let scoped = |key: Option<String>| self.scoped.get(&key).into_iter().flat_map(BTreeMap::values);
        let mut policies: Vec<_> = scoped(None).chain(scoped(Some(workload.namespace.clone()))).collect();
        let mut present: HashSet<_> = policies.iter().map(|policy| Arc::as_ptr(policy)).collect();
        let mut unknown = None;
        for name in &workload.policies {
            match self.policies.get(name) {
                // Named and in scope at once, or named twice.
                Some(policy) if !present.insert(Arc::as_ptr(policy)) => {}
                Some(policy) => policies.push(policy),
                None => {
                    unknown.get_or_insert(name);
                }
            }
        }
        let about_it = |reach: &Reach| match reach {
            Reach::Everybody => true,
            Reach::Namespace(namespace) => *namespace == workload.namespace,
            Reach::Named => false,
        };
        let unreadable = self.unreadable.iter().find(|(_, reach)| about_it(reach)).map(|(name, _)| name);
        (policies, unknown.or(unreadable))
    }

    /// Whether the ServiceAccount behind an identity exists. If no namespace's accounts are known, nobody said which
    /// exist, and every one does; if some are, a namespace without accounts has none.
    pub fn account_exists(&self, identity: &Identity) -> bool {
        let has = |accounts: &Arc<Accounts>| accounts.names.contains(identity.service_account());
        self.accounts.is_empty() || self.accounts.get(identity.namespace()).is_some_and(has)
    }

    /// May this connection reach this workload? See [`mesh_common::model::authorize`]. Nothing is permitted before it
    /// was said what policies there are, nor to an identity whose ServiceAccount is gone. Accounts are of the
    /// destination's own trust domain; about others nothing is known.
    pub fn decide(&self, destination: &Workload, connection: &Connection, passed: Passed) -> Decision {
        let refused = |denied| Decision {
            outcome: Err(denied),
            observations: Vec::new(),
            asked: None,
            generation: self.generation,
        };
        if !self.policies_known {
            return refused(Denied::without_policy(Reason::PolicyUnknown));
        }
        if let Some(source) = &connection.source_identity
            && source.trust_domain() == destination.identity.trust_domain()
            && !self.account_exists(source)
        {
            return refused(Denied::revoked(source));
        }
        let applicable = self.policies_of(destination);
        let (outcome, observations) = passed.with(|passing| {
            let outcome = applicable.authorize(connection, passing);
            let observations = applicable.observe(&outcome, connection, passing);
            (outcome, observations)
        });
        let asked = Asked {
            policies: Arc::clone(&applicable.policies),
            unknown: applicable.unknown.clone(),
            // By the name that the user gave it, where this node is told.
            strict_by: self.strict_by(&destination.uid).cloned(),
            connection: connection.clone(),
            passed,
        };
        asked.decided(outcome, observations, self.generation)
    }

    /// As [`Snapshot::decide`], without what explains it.
    #[cfg(test)]
    pub fn authorize(&self, destination: &Workload, connection: &Connection) -> Result<Permit, Denied> {
        self.decide(destination, connection, Passed::BYTES).outcome
    }

    /// Whether decisions about this workload and `source` are what they were: neither it, nor a policy that applies to
    /// it or the name that STRICT has for users, nor the accounts of the source's namespace changed. Pointers are
    /// compared; a change elsewhere in the mesh costs a live connection no decision.
    pub fn decides_like(&self, earlier: &Self, uid: &str, source: Option<&Identity>) -> bool {
        let (Some(now), Some(then)) = (self.workload(uid), earlier.workload(uid)) else { return false };
        if !Arc::ptr_eq(now, then) || self.policies_known != earlier.policies_known {
            return false;
        }
        if source.is_some_and(|source| !self.knows_accounts_like(earlier, source.namespace())) {
            return false;
        }
        let strict_by = |pods: &BTreeMap<String, Arc<LocalPod>>| pods.get(uid).and_then(|pod| pod.strict_by.clone());
        if !Arc::ptr_eq(&self.pods, &earlier.pods) && strict_by(&self.pods) != strict_by(&earlier.pods) {
            return false;
        }
        // The usual change is of a workload elsewhere, and leaves the tables of policies alone.
        let tables =
            Arc::ptr_eq(&self.policies, &earlier.policies) && Arc::ptr_eq(&self.unreadable, &earlier.unreadable);
        tables || {
            let (now, then) = (self.policies_of(now), earlier.policies_of(then));
            Arc::ptr_eq(&now, &then) || now.is_like(&then)
        }
    }

    fn knows_accounts_like(&self, earlier: &Self, namespace: &str) -> bool {
        Arc::ptr_eq(&self.accounts, &earlier.accounts)
            || self.accounts.is_empty() == earlier.accounts.is_empty()
                && match (self.accounts.get(namespace), earlier.accounts.get(namespace)) {
                    (Some(now), Some(then)) => Arc::ptr_eq(now, then),
                    (now, then) => now.is_none() && then.is_none(),
                }
    }
}
