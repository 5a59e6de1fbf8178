//! What agents would be told of objects: compiled by the controller's own translation and index, in this process.

use std::{collections::BTreeMap, sync::Arc};

use mesh_common::model::{
    LocalPod, Mode, Policy, PolicyName, Scope, Service, ServiceName, Workload,
    traffic::{Inbound, Traffic},
};

use super::{Settings, difference::plain};
use crate::{
    index::{Redirection, World},
    source::{Object, Update},
    status::Problem,
};

/// A mesh as its objects describe it. Which pods agents have redirected says nothing here.
#[derive(Debug)]
pub struct Compiled {
    world: World,
    /// Workloads by namespace and name.
    pods: BTreeMap<(String, String), Arc<Workload>>,
}

/// One pod, and all that decides about who reaches it.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    pub workload: &'a Arc<Workload>,
    /// `None`: no agent has it.
    pub local: Option<&'a Arc<LocalPod>>,
    /// In the order in which agents ask them.
    pub policies: Vec<Arc<Policy>>,
    /// The first that it names and nobody has.
    pub unknown: Option<&'a PolicyName>,
}

impl Compiled {
    pub(super) fn new(settings: &Settings, objects: &[Arc<Object>]) -> Self {
        let update = Update::new(objects.iter().cloned(), Vec::new());
        let world = World::with(settings, &update, &Redirection::default(), &mut Default::default());
        let by_name =
            |workload: &Arc<Workload>| ((workload.namespace.clone(), workload.name.clone()), Arc::clone(workload));
        let pods = world.workloads.values().map(by_name).collect();
        Self { world, pods }
    }

    pub(super) fn problems(&self) -> &[Problem] {
        &self.world.problems
    }

    /// Every pod and every workload outside, by uid.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.world.workloads.values()
    }

    pub fn policies(&self) -> &BTreeMap<PolicyName, Arc<Policy>> {
        &self.world.policies
    }

    pub fn services(&self) -> &BTreeMap<ServiceName, Arc<Service>> {
        &self.world.services
    }

    /// Rules of services.
    pub fn traffic(&self) -> &BTreeMap<ServiceName, Arc<Traffic>> {
        &self.world.traffic
    }

    pub fn pod(&self, namespace: &str, name: &str) -> Option<Target<'_>> {
        let workload = self.pods.get(&(namespace.to_owned(), name.to_owned()))?;
        Some(self.target(workload))
    }

    pub fn target<'a>(&'a self, workload: &'a Arc<Workload>) -> Target<'a> {
        let local = self.world.local_pods.get(&workload.node).and_then(|pods| pods.get(&workload.uid));
        let of_scope = |scope: Scope| self.world.policies.values().filter(move |policy| policy.scope == scope);
        let own = of_scope(Scope::Namespace).filter(|policy| policy.name.namespace == workload.namespace);
        let mut policies: Vec<_> = of_scope(Scope::Global).chain(own).cloned().collect();
        let mut unknown = None;
        for name in &workload.policies {
            match self.world.policies.get(name) {
                // Named and in scope at once.
                Some(policy) if policies.iter().any(|known| Arc::ptr_eq(known, policy)) => {}
                Some(policy) => policies.push(Arc::clone(policy)),
                None => {
                    unknown.get_or_insert(name);
                }
            }
        }
        Target { workload, local, policies, unknown }
    }
}

impl Target<'_> {
    /// Its agent asks its policies.
    pub fn is_in_mesh(&self) -> bool {
        self.local.is_some_and(|local| local.mode == Mode::Mesh)
    }

    pub fn inbound(&self) -> &Inbound {
        static NOTHING: Inbound =
            Inbound { protocols: BTreeMap::new(), limits: Vec::new(), tokens: Vec::new(), unreadable: false };
        self.local.map_or(&NOTHING, |local| &local.inbound)
    }

    /// What connections to this port carry is looked into.
    pub fn reads(&self, port: u16) -> bool {
        let any = |asks: fn(&Policy) -> bool| self.policies.iter().any(|policy| asks(policy));
        self.inbound().reads(port, any(Policy::asks), any(Policy::asks_server_name))
    }

    /// The same tokens are right.
    pub fn takes_tokens_like(&self, other: &Self) -> bool {
        let (own, others) = (&self.inbound().tokens, &other.inbound().tokens);
        own == others || plain(own) == plain(others)
    }

    /// Whether all that decides is the same: the contents are compared, not how anybody wrote them.
    pub fn decides_like(&self, other: &Self) -> bool {
        let strict_by = |target: &Self| target.local.and_then(|local| local.strict_by.clone());
        self.is_in_mesh() == other.is_in_mesh()
            && self.unknown == other.unknown
            && self.policies == other.policies
            && self.takes_tokens_like(other)
            && strict_by(self) == strict_by(other)
    }
}
