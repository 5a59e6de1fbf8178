//! What changed between two states.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::model::{PolicyName, ServiceName};

use super::World;

/// Keys that are new or different, and keys that are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes<K> {
    pub changed: Vec<K>,
    pub removed: Vec<K>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    pub workloads: Changes<String>,
    pub services: Changes<ServiceName>,
    pub policies: Changes<PolicyName>,
    pub traffic: Changes<ServiceName>,
    /// By namespace.
    pub accounts: Changes<String>,
    /// By node; nodes without changes are absent.
    pub local_pods: BTreeMap<String, Changes<String>>,
    /// Which policies there are, or in which version, is another.
    pub written: bool,
}

impl World {
    /// What leads from `before` to this state.
    pub fn since(&self, before: &Self) -> Delta {
        let nothing = BTreeMap::new();
        let nodes: BTreeSet<_> = self.local_pods.keys().chain(before.local_pods.keys()).collect();
        let local_pods = nodes
            .into_iter()
            .map(|node| {
                let old = before.local_pods.get(node).unwrap_or(&nothing);
                let new = self.local_pods.get(node).unwrap_or(&nothing);
                (node.clone(), Changes::between(old, new))
            })
            .filter(|(_, changes)| !changes.is_empty())
            .collect();
        Delta {
            workloads: Changes::between(&before.workloads, &self.workloads),
            services: Changes::between(&before.services, &self.services),
            policies: Changes::between(&before.policies, &self.policies),
            traffic: Changes::between(&before.traffic, &self.traffic),
            accounts: Changes::between(&before.accounts, &self.accounts),
            local_pods,
            written: self.written != before.written,
        }
    }
}

impl<K: Ord + Clone> Changes<K> {
    fn between<V: PartialEq>(before: &BTreeMap<K, V>, after: &BTreeMap<K, V>) -> Self {
        let (mut changed, mut removed) = (Vec::new(), Vec::new());
        let mut before = before.iter().peekable();
        for (key, value) in after {
            while let Some((gone, _)) = before.next_if(|(known, _)| *known < key) {
                removed.push(gone.clone());
            }
            // Values that are the same in memory are not looked at.
            if before.next_if(|(known, _)| *known == key).is_none_or(|(_, known)| known != value) {
                changed.push(key.clone());
            }
        }
        removed.extend(before.map(|(gone, _)| gone.clone()));
        Self { changed, removed }
    }

    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        let Self { workloads, services, policies, traffic, accounts, local_pods, written } = self;
        workloads.is_empty()
            && services.is_empty()
            && policies.is_empty()
            && traffic.is_empty()
            && accounts.is_empty()
            && local_pods.is_empty()
            && !written
    }
}
