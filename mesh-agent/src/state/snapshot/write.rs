//! How the store changes its copy of a snapshot. Each function keeps the table and its indices together and returns
//! whether anything changed; one that changes nothing copies nothing.

use std::{collections::HashMap, sync::Arc};

use mesh_common::model::{Accounts, LocalPod, Policy, PolicyName, Scope, Service, ServiceName, TrustBundle, Workload};

use super::Snapshot;
use crate::state::{Applicable, Rules, Unreadable};

impl Snapshot {
    pub(in crate::state) fn next_generation(&mut self) {
        self.generation += 1;
    }

    /// Gathers what applies to the pods of this node, after the last of a batch of changes. What has stayed as it was
    /// in `earlier`, the snapshot that this one was copied from, is the same in memory. Returns what is new.
    pub(in crate::state) fn gather_policies(&mut self, earlier: &Self) -> Vec<Arc<Applicable>> {
        let same_policies =
            Arc::ptr_eq(&self.policies, &earlier.policies) && Arc::ptr_eq(&self.unreadable, &earlier.unreadable);
        let same_workloads = Arc::ptr_eq(&self.workloads, &earlier.workloads) && Arc::ptr_eq(&self.pods, &earlier.pods);
        if same_policies && same_workloads {
            return Vec::new();
        }
        let mut new = Vec::new();
        let mut gathered: HashMap<(&str, &[PolicyName]), Arc<Applicable>> = HashMap::new();
        let mut all = HashMap::new();
        for workload in self.pods.keys().filter_map(|uid| self.workloads.get(uid)) {
            let known = earlier.applicable.get(&workload.uid);
            let unchanged = known.filter(|(own, _)| same_policies && Arc::ptr_eq(own, workload));
            let applicable = match unchanged {
                Some((_, applicable)) => Arc::clone(applicable),
                None => {
                    let same = gathered.entry((&workload.namespace, &workload.policies)).or_insert_with(|| {
                        let (policies, unknown) = self.gather(workload);
                        let now = Arc::new(Applicable::new(policies.into_iter().cloned().collect(), unknown.cloned()));
                        let mut others = earlier.applicable.values().map(|(_, known)| known);
                        if let Some(same) = others.find(|known| known.is_like(&now)) {
                            return Arc::clone(same);
                        }
                        new.push(Arc::clone(&now));
                        now
                    });
                    Arc::clone(same)
                }
            };
            all.insert(workload.uid.clone(), (Arc::clone(workload), applicable));
        }
        self.applicable = Arc::new(all);
        new
    }

    pub(in crate::state) fn pods_confirmed(&mut self) -> bool {
        !std::mem::replace(&mut self.pods_confirmed, true)
    }

    pub(in crate::state) fn tells_on_demand(&mut self, on_demand: bool) -> bool {
        std::mem::replace(&mut self.on_demand, on_demand) != on_demand
    }

    pub(in crate::state) fn policies_answered(&mut self) -> bool {
        !std::mem::replace(&mut self.policies_known, true)
    }

    /// The last good version of a policy stands for one that cannot be read.
    pub(in crate::state) fn put_unreadable(&mut self, policy: Unreadable) -> bool {
        let Unreadable { name, reach } = policy;
        if self.policies.contains_key(&name) || self.unreadable.get(&name) == Some(&reach) {
            return false;
        }
        Arc::make_mut(&mut self.unreadable).insert(name, reach);
        true
    }

    fn readable(&mut self, name: &PolicyName) -> bool {
        self.unreadable.contains_key(name) && Arc::make_mut(&mut self.unreadable).remove(name).is_some()
    }

    pub(in crate::state) fn put_workload(&mut self, workload: Workload) -> bool {
        if self.workloads.get(&workload.uid).is_some_and(|known| **known == workload) {
            return false;
        }
        self.remove_workload(&workload.uid);
        let workload = Arc::new(workload);
        if !workload.host_network {
            for address in &workload.addresses {
                self.by_address.insert(address.to_canonical(), &workload);
            }
        }
        self.by_name.insert((workload.namespace.clone(), workload.name.clone()), &workload);
        for service in workload.services.keys() {
            self.endpoints.insert(service.clone(), &workload);
        }
        Arc::make_mut(&mut self.workloads).insert(workload.uid.clone(), workload);
        true
    }

    pub(in crate::state) fn remove_workload(&mut self, uid: &str) -> bool {
        if !self.workloads.contains_key(uid) {
            return false;
        }
        let Some(old) = Arc::make_mut(&mut self.workloads).remove(uid) else { return false };
        for address in &old.addresses {
            self.by_address.remove(&address.to_canonical(), &old);
        }
        self.by_name.remove(&(old.namespace.clone(), old.name.clone()), &old);
        for service in old.services.keys() {
            self.endpoints.remove(service, &old);
        }
        true
    }

    pub(in crate::state) fn put_service(&mut self, service: Service) -> bool {
        let name = service.service_name();
        if self.services.get(&name).is_some_and(|known| **known == service) {
            return false;
        }
        self.remove_service(&name);
        let service = Arc::new(service);
        for address in &service.addresses {
            self.by_virtual_address.insert(address.to_canonical(), &service);
        }
        Arc::make_mut(&mut self.services).insert(name, service);
        true
    }

    pub(in crate::state) fn remove_service(&mut self, name: &ServiceName) -> bool {
        if !self.services.contains_key(name) {
            return false;
        }
        let Some(old) = Arc::make_mut(&mut self.services).remove(name) else { return false };
        for address in &old.addresses {
            self.by_virtual_address.remove(&address.to_canonical(), &old);
        }
        true
    }

    pub(in crate::state) fn put_policy(&mut self, policy: Policy) -> bool {
        if self.policies.get(&policy.name).is_some_and(|known| **known == policy) {
            return false;
        }
        self.remove_policy(&policy.name);
        let policy = Arc::new(policy);
        if let Some(key) = scope_key(&policy) {
            let scoped = Arc::make_mut(&mut self.scoped).entry(key).or_default();
            scoped.insert(policy.name.clone(), Arc::clone(&policy));
        }
        Arc::make_mut(&mut self.policies).insert(policy.name.clone(), policy);
        true
    }

    pub(in crate::state) fn remove_policy(&mut self, name: &PolicyName) -> bool {
        let was_unreadable = self.readable(name);
        if !self.policies.contains_key(name) {
            return was_unreadable;
        }
        let Some(old) = Arc::make_mut(&mut self.policies).remove(name) else { return was_unreadable };
        if let Some(key) = scope_key(&old) {
            let scoped = Arc::make_mut(&mut self.scoped);
            if let Some(names) = scoped.get_mut(&key) {
                names.remove(name);
                if names.is_empty() {
                    scoped.remove(&key);
                }
            }
        }
        true
    }

    pub(in crate::state) fn put_traffic(&mut self, rules: Arc<Rules>) -> bool {
        let name = rules.traffic().service.clone();
        if self.traffic.get(&name).is_some_and(|known| known.traffic() == rules.traffic()) {
            return false;
        }
        Arc::make_mut(&mut self.traffic).insert(name, rules);
        true
    }

    pub(in crate::state) fn remove_traffic(&mut self, name: &ServiceName) -> bool {
        self.traffic.contains_key(name) && Arc::make_mut(&mut self.traffic).remove(name).is_some()
    }

    pub(in crate::state) fn put_pod(&mut self, pod: LocalPod) -> bool {
        if self.pods.get(&pod.uid).is_some_and(|known| **known == pod) {
            return false;
        }
        Arc::make_mut(&mut self.pods).insert(pod.uid.clone(), Arc::new(pod));
        true
    }

    pub(in crate::state) fn remove_pod(&mut self, uid: &str) -> bool {
        self.pods.contains_key(uid) && Arc::make_mut(&mut self.pods).remove(uid).is_some()
    }

    pub(in crate::state) fn put_trust_bundle(&mut self, bundle: TrustBundle) -> bool {
        if self.trust_bundles.get(&bundle.trust_domain) == Some(&bundle) {
            return false;
        }
        Arc::make_mut(&mut self.trust_bundles).insert(bundle.trust_domain.clone(), bundle);
        true
    }

    pub(in crate::state) fn remove_trust_bundle(&mut self, trust_domain: &str) -> bool {
        self.trust_bundles.contains_key(trust_domain)
            && Arc::make_mut(&mut self.trust_bundles).remove(trust_domain).is_some()
    }

    pub(in crate::state) fn put_accounts(&mut self, accounts: Accounts) -> bool {
        if self.accounts.get(&accounts.namespace).is_some_and(|known| **known == accounts) {
            return false;
        }
        Arc::make_mut(&mut self.accounts).insert(accounts.namespace.clone(), Arc::new(accounts));
        true
    }

    pub(in crate::state) fn remove_accounts(&mut self, namespace: &str) -> bool {
        self.accounts.contains_key(namespace) && Arc::make_mut(&mut self.accounts).remove(namespace).is_some()
    }
}

/// Where a policy that nobody needs to name is found.
fn scope_key(policy: &Policy) -> Option<Option<String>> {
    match policy.scope {
        Scope::Global => Some(None),
        Scope::Namespace => Some(Some(policy.name.namespace.clone())),
        Scope::WorkloadSelector => None,
    }
}
