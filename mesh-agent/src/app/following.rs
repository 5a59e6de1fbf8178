//! What changes in the configuration is told in the audit stream, as this node takes it over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_common::{
    audit::{Change, Passage},
    model::{LocalPod, Mode},
};
use tokio::sync::watch;

use crate::{
    state::{Snapshot, Store},
    telemetry::audit::{self, Stream},
};

/// What was told, and of what.
pub struct Following {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// False while another agent of this node tells.
    speaking: watch::Receiver<bool>,
    audit: Stream,
    told: Arc<Snapshot>,
    /// Uids of pods of which it was told that they go past the mesh.
    bypassing: BTreeSet<String>,
}

impl Following {
    /// Tells of what will differ from what is in the store now: before the controller has said anything, that is what the
    /// last agent of this node has told of, so nothing is missed that changed while there was none.
    pub fn new(store: &Store, speaking: watch::Receiver<bool>, audit: Stream) -> Self {
        let (snapshots, told) = (store.subscribe(), store.snapshot());
        let observed = told.local_pods().filter(|pod| pod.mode == Mode::Observe);
        let bypassing = observed.map(|pod| pod.uid.clone()).collect();
        Self { snapshots, speaking, audit, told, bypassing }
    }

    pub async fn run(mut self) {
        loop {
            self.tell();
            let changed = tokio::select! {
                changed = self.snapshots.changed() => changed,
                changed = self.speaking.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn tell(&mut self) {
        let now = self.snapshots.borrow_and_update().clone();
        let speaks = *self.speaking.borrow_and_update();
        if speaks {
            self.tell_policies(&now);
        }
        self.tell_pods(&now, speaks);
        self.told = now;
    }

    fn tell_policies(&self, now: &Snapshot) {
        let before = &self.told;
        if now.has_policies_of(before) {
            return;
        }
        for policy in now.policies() {
            let change = match before.policy(&policy.name) {
                None => Change::Added,
                Some(earlier) if earlier == policy => continue,
                Some(_) => Change::Changed,
            };
            self.audit.tell(audit::policy(change, policy, now.generation()));
        }
        for policy in before.policies().filter(|policy| now.policy(&policy.name).is_none()) {
            self.audit.tell(audit::policy(Change::Removed, policy, now.generation()));
        }
    }

    /// Of pods that were in the mesh and are not any more, or are watched only.
    fn tell_pods(&mut self, now: &Snapshot, speaks: bool) {
        let pods = |snapshot: &Snapshot| -> BTreeMap<String, Arc<LocalPod>> {
            snapshot.local_pods().map(|pod| (pod.uid.clone(), Arc::clone(pod))).collect()
        };
        let (before, after) = (pods(&self.told), pods(now));
        for (uid, pod) in &after {
            let earlier = before.get(uid).map(|pod| pod.mode);
            let change = match (earlier, pod.mode) {
                (Some(earlier), mode) if earlier == mode => continue,
                (_, Mode::Observe) | (Some(Mode::Mesh), Mode::None) => Passage::Begun,
                // Whoever watched it left it alone: it is as unprotected as before.
                (_, Mode::None) => continue,
                (_, Mode::Mesh) if self.bypassing.contains(uid) => Passage::Ended,
                (_, Mode::Mesh) => continue,
            };
            match change {
                Passage::Begun => self.bypassing.insert(uid.clone()),
                Passage::Ended => self.bypassing.remove(uid),
            };
            if speaks {
                self.audit.tell(audit::bypass(change, pod, Some(pod.mode), now.generation()));
            }
        }
        for (uid, pod) in before.iter().filter(|(uid, _)| !after.contains_key(*uid)) {
            if self.bypassing.remove(uid) && speaks {
                self.audit.tell(audit::bypass(Passage::Ended, pod, None, now.generation()));
            }
        }
    }
}
