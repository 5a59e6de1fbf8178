//! The one writer of the mesh's state. It publishes immutable snapshots; readers watch or take the newest.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_common::model::{Accounts, LocalPod, Policy, PolicyName, Service, ServiceName, TrustBundle, Workload};
use tokio::sync::watch;

use super::{Rules, Snapshot, applicable::Compiler, questions::Questions};

/// A batch of changes that becomes visible at once. Removals come first, so a name that stands in both ends up held.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    pub removals: Vec<(Kind, String)>,
    /// Resource name and content.
    pub upserts: Vec<(String, Object)>,
    /// Policies that exist and could not be read.
    pub unreadable: Vec<Unreadable>,
    /// The batch answers what policies there are: before the first such answer nothing is permitted.
    pub policies_answered: bool,
    /// The controller answered which pods this node has, and all of it could be read. What was kept on the disk is
    /// less: it may be older than what the kernel holds.
    pub pods_confirmed: bool,
}

/// A policy that exists and could not be read. Unless an earlier version of it is held, whomever it may be about is
/// unreachable until it can be read: it may be a DENY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub name: PolicyName,
    pub reach: Reach,
}

/// Whom a policy is about, as far as could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    Everybody,
    Namespace(String),
    /// Workloads that name it; they find it missing.
    Named,
}

/// The spaces of resource names: the same name in two of them is two resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Workloads, named by their uid, and services, named `namespace/hostname`.
    Address,
    /// Named `namespace/name`.
    Policy,
    /// Named as their services: `namespace/hostname`.
    Traffic,
    /// Named by the uid of the pod's workload.
    LocalPod,
    /// Named by their namespace.
    Accounts,
    /// Named by their trust domain.
    TrustBundle,
    /// One, named [`ON_DEMAND`].
    OnDemand,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Workload(Workload),
    Service(Service),
    Policy(Policy),
    Traffic(Arc<Rules>),
    LocalPod(LocalPod),
    Accounts(Accounts),
    TrustBundle(TrustBundle),
    /// Addresses are told to those who ask.
    OnDemand,
}

const ON_DEMAND: &str = "addresses";

/// Why a batch was refused; nothing of it was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("resource `{resource}`: its content is named `{content}`")]
    NameMismatch { resource: String, content: String },
}

/// The writer. Changes are applied in the order of the calls.
pub struct Store {
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// Held while the next snapshot is made.
    writer: Mutex<()>,
    questions: Questions,
    compiler: Compiler,
}

impl Object {
    /// The only name under which this may be stored.
    pub fn resource_name(&self) -> String {
        match self {
            Self::Workload(workload) => workload.uid.clone(),
            Self::Service(service) => service.service_name().to_string(),
            Self::Policy(policy) => policy.name.to_string(),
            Self::Traffic(rules) => rules.traffic().service.to_string(),
            Self::LocalPod(pod) => pod.uid.clone(),
            Self::Accounts(accounts) => accounts.namespace.clone(),
            Self::TrustBundle(bundle) => bundle.trust_domain.clone(),
            Self::OnDemand => ON_DEMAND.to_owned(),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            snapshots: watch::Sender::new(Arc::default()),
            writer: Mutex::default(),
            questions: Questions::default(),
            compiler: Compiler::default(),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("generation", &self.snapshot().generation()).finish_non_exhaustive()
    }
}

impl Store {
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Changed once a generation; a slow reader sees the newest only.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    /// What the controller is asked for, where it tells on demand.
    pub fn questions(&self) -> &Questions {
        &self.questions
    }

    /// Applies the whole batch or nothing, and returns the state after it. The generation rises by one if the batch
    /// changed anything; otherwise nobody is woken. Removing a name that is not held changes nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::NameMismatch`] if a resource's name is not that of its content.
    pub fn apply(&self, delta: Delta) -> Result<Arc<Snapshot>, StoreError> {
        let Delta { removals, upserts, unreadable, policies_answered, pods_confirmed } = delta;
        for (name, object) in &upserts {
            let content = object.resource_name();
            if content != *name {
                return Err(StoreError::NameMismatch { resource: name.clone(), content });
            }
        }

        // A writer that panicked has published nothing.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot();
        let mut next = Snapshot::clone(&before);
        let mut changed = false;
        for (kind, name) in &removals {
            changed |= remove(&mut next, *kind, name);
        }
        for (name, object) in upserts {
            changed |= match object {
                // One name is one address: the other type that held it is gone.
                Object::Workload(workload) => remove_service(&mut next, &name) | next.put_workload(workload),
                Object::Service(service) => next.remove_workload(&name) | next.put_service(service),
                Object::Policy(policy) => next.put_policy(policy),
                Object::Traffic(rules) => next.put_traffic(rules),
                Object::LocalPod(pod) => next.put_pod(pod),
                Object::Accounts(accounts) => next.put_accounts(accounts),
                Object::TrustBundle(bundle) => next.put_trust_bundle(bundle),
                Object::OnDemand => next.tells_on_demand(true),
            };
        }
        for policy in unreadable {
            changed |= next.put_unreadable(policy);
        }
        changed |= policies_answered && next.policies_answered();
        changed |= pods_confirmed && next.pods_confirmed();
        if changed {
            next.next_generation();
            let new = next.gather_policies(&before);
            self.snapshots.send_replace(Arc::new(next));
            new.iter().filter(|applicable| applicable.is_slow()).for_each(|slow| self.compiler.compile(slow));
        }
        Ok(self.snapshot())
    }
}

/// The names of what is held are those of the contents, so a name leads to its object without a table of names.
fn remove(snapshot: &mut Snapshot, kind: Kind, name: &str) -> bool {
    match kind {
        Kind::Address => snapshot.remove_workload(name) | remove_service(snapshot, name),
        Kind::Policy => name.parse().is_ok_and(|name| snapshot.remove_policy(&name)),
        Kind::Traffic => name.parse().is_ok_and(|name| snapshot.remove_traffic(&name)),
        Kind::LocalPod => snapshot.remove_pod(name),
        Kind::Accounts => snapshot.remove_accounts(name),
        Kind::TrustBundle => snapshot.remove_trust_bundle(name),
        Kind::OnDemand => name == ON_DEMAND && snapshot.tells_on_demand(false),
    }
}

fn remove_service(snapshot: &mut Snapshot, name: &str) -> bool {
    name.parse::<ServiceName>().is_ok_and(|name| snapshot.remove_service(&name))
}
