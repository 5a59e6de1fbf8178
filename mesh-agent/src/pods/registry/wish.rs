//! What the configuration says of a pod of this node.

use std::sync::Arc;

use mesh_common::model::{Identity, LocalPod, Mode};

use super::{Joined, Key};
use crate::state::Snapshot;

/// What the configuration says of a pod.
pub enum Wish {
    Redirect(Arc<LocalPod>, Option<Identity>),
    Observe(Arc<LocalPod>),
    /// It says that the pod is not in the mesh.
    Leave,
    /// It does not name the pod. That is no reason to open what is closed.
    Unknown,
}

/// What the configuration says of the pod; a recreated one has the name only.
pub fn named<'a>(snapshot: &'a Snapshot, key: &Key, pod_uid: &str) -> Option<&'a Arc<LocalPod>> {
    let pod = snapshot.local_pod(&key.0, &key.1)?;
    (pod.pod_uid.is_empty() || pod_uid.is_empty() || pod.pod_uid == pod_uid).then_some(pod)
}

/// Of a pod that joined.
pub fn wish(snapshot: &Snapshot, key: &Key, joined: &Joined) -> Wish {
    let Some(pod) = named(snapshot, key, &joined.pod_uid) else { return Wish::Unknown };
    match pod.mode {
        Mode::None => Wish::Leave,
        Mode::Observe => Wish::Observe(Arc::clone(pod)),
        Mode::Mesh => {
            // A recreated pod must not speak as its predecessor: its workload may be the old one still.
            let identity = snapshot.workload(&pod.uid).map(|workload| &workload.identity);
            let own = |i: &&Identity| i.namespace() == pod.namespace && i.service_account() == pod.service_account;
            Wish::Redirect(Arc::clone(pod), identity.filter(own).cloned())
        }
    }
}
