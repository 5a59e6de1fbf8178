//! Pods, put together from what all objects say of them. Those of which nothing is new are told as the same objects in
//! memory as before: that makes a publication cheap to compare, and to make.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_common::model::{
    LocalPod, Locality, Mode, PolicyName, SameNode, ServiceName, ServicePort, Tunnel, Workload,
    telemetry::Telemetry,
    traffic::{Inbound, Labels, Protocol, RateLimit, TokenRule},
};

use crate::translate::{Settings, pod::Pod, service::Service};

/// What one translation of a pod was last told as, and the limits of which that was made.
#[derive(Debug, Default)]
pub struct Made(Mutex<Option<(Told, Option<Limits>)>>);

/// Shared by all pods that no policy tells apart.
type Limits = Arc<Vec<RateLimit>>;

/// A pod as it is told to all, and to its node's agent if it has one.
type Told = (Arc<Workload>, Option<Arc<LocalPod>>);

/// One pod, before it is told.
pub struct Draft<'a> {
    pub pod: &'a Pod,
    pub made: &'a Made,
    /// Those that it owns.
    pub addresses: Vec<IpAddr>,
    pub tunnel: Tunnel,
    /// Its node's.
    pub locality: Option<&'a Locality>,
    pub healthy: bool,
    /// Sorted.
    pub policies: Vec<PolicyName>,
    pub services: BTreeMap<ServiceName, BTreeSet<ServicePort>>,
    /// Those of Kubernetes whose workload it is, ready or not, and its ports as they know them.
    pub belongs: Vec<(&'a Service, BTreeSet<ServicePort>)>,
    /// Namespace and name of each waypoint that it, or a service that it belongs to, says that it uses.
    pub waypoints: BTreeSet<(String, String)>,
    /// Those of its labels that rules of traffic ask for.
    pub labels: Labels,
    /// What its node's agent shall do with it; `None` for a pod that no agent has.
    pub local: Option<Local>,
}

pub struct Local {
    pub mode: Mode,
    pub same_node: SameNode,
    pub strict_by: Option<PolicyName>,
    /// Of its ports. Told whether or not somebody looks at what is passed there: whoever begins to must know at once.
    pub protocols: BTreeMap<u16, Protocol>,
    pub limits: Option<Limits>,
    pub tokens: Vec<TokenRule>,
    /// Shared by all pods of which the same is said.
    pub telemetry: Arc<Telemetry>,
}

impl Local {
    /// `telemetry` is of a pod of which nothing is said.
    pub fn new(mode: Mode, same_node: SameNode, telemetry: &Arc<Telemetry>) -> Self {
        let (protocols, tokens, telemetry) = (BTreeMap::new(), Vec::new(), telemetry.clone());
        Self { mode, same_node, strict_by: None, protocols, limits: None, tokens, telemetry }
    }
}

impl Draft<'_> {
    pub fn told(&self, settings: &Settings) -> Told {
        let mut made = self.made.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (told, limits) = made.take().unzip();
        let (workload, local) = told.unzip();
        let workload = workload.filter(|workload| self.is(workload));
        let workload = workload.unwrap_or_else(|| Arc::new(self.workload(settings)));
        let local = self.local.as_ref().map(|wanted| {
            let local = local.flatten().filter(|local| self.is_local(wanted, local, limits.flatten().as_ref()));
            local.unwrap_or_else(|| Arc::new(self.local_pod(wanted)))
        });
        let limits = self.local.as_ref().and_then(|wanted| wanted.limits.clone());
        made.insert(((workload, local), limits)).0.clone()
    }

    fn workload(&self, settings: &Settings) -> Workload {
        let locality = self.locality.cloned().unwrap_or_default();
        let services = self.services.iter().map(|(name, ports)| (name.clone(), ports.iter().copied().collect()));
        Workload {
            healthy: self.healthy,
            policies: self.policies.clone(),
            services: services.collect(),
            labels: self.labels.clone(),
            ..self.pod.workload(settings, self.addresses.clone(), self.tunnel, locality)
        }
    }

    /// Whether this workload, which was made of the same pod, says the same as this draft.
    fn is(&self, workload: &Workload) -> bool {
        let locality = match self.locality {
            Some(locality) => workload.locality == *locality,
            None => workload.locality == Locality::default(),
        };
        let serves = |((name, ports), (known, others)): ((_, &BTreeSet<_>), (_, &Vec<_>))| {
            name == known && ports.iter().eq(others)
        };
        locality
            && workload.addresses == self.addresses
            && workload.tunnel == self.tunnel
            && workload.healthy == self.healthy
            && workload.policies == self.policies
            && workload.labels == self.labels
            && workload.services.len() == self.services.len()
            && self.services.iter().zip(&workload.services).all(serves)
    }

    fn local_pod(&self, wanted: &Local) -> LocalPod {
        let Local { mode, same_node, strict_by, protocols, limits, tokens, telemetry } = wanted;
        let local = self.pod.local(self.addresses.clone(), *mode, *same_node);
        let limits = limits.as_ref().map(|limits| limits.to_vec()).unwrap_or_default();
        let inbound = Inbound { protocols: protocols.clone(), limits, tokens: tokens.clone(), unreadable: false };
        LocalPod { strict_by: strict_by.clone(), inbound, telemetry: (**telemetry).clone(), ..local }
    }

    /// `made_of` are the limits of which `known` was made: where they are the same in memory they are not compared.
    fn is_local(&self, wanted: &Local, known: &LocalPod, made_of: Option<&Limits>) -> bool {
        let Local { mode, same_node, strict_by, protocols, limits, tokens, telemetry } = wanted;
        let limited = match (limits, made_of) {
            (Some(limits), Some(made_of)) if Arc::ptr_eq(limits, made_of) => true,
            (limits, _) => limits.as_ref().map_or(&[][..], |limits| limits.as_slice()) == known.inbound.limits,
        };
        known.addresses == self.addresses
            && known.mode == *mode
            && known.same_node == *same_node
            && known.strict_by == *strict_by
            && known.inbound.protocols == *protocols
            && known.inbound.tokens == *tokens
            && known.telemetry == **telemetry
            && limited
    }
}
