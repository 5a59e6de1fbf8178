//! Giving all pods to another agent of this node, and taking them from one. Until the other one says that it serves,
//! nothing changes here.

use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{AFTER_HAND_OVER, Joined, Registry};
use crate::{
    bpf::Datapath,
    pods::{HandedPod, HandedPods, Netns, Pod, hooks::Active, table::Presence},
    state::Store,
};

/// A successor that takes longer has died or hangs; its pods wait for changes meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often an agent that was replaced looks which pods are gone.
const LOOK: Duration = Duration::from_millis(200);

impl Registry {
    /// Hands everything out and waits for the word that it is served, and through which the other agent is to hear that
    /// this one let go: this registry is done. `None`: it goes on.
    pub(super) async fn hand_over(
        &mut self,
        given: oneshot::Sender<io::Result<HandedPods>>,
        mut served: oneshot::Receiver<oneshot::Sender<()>>,
    ) -> Option<oneshot::Sender<()>> {
        // Its connections would be the other agent's to accept, who knows nothing of them.
        if let Some(audit) = self.auditing.take() {
            audit.abort();
            self.next_audit = Instant::now() + AFTER_HAND_OVER;
        }
        let handed = self.hand_out();
        let count = handed.as_ref().map_or(0, |handed| handed.pods.len());
        let lets_go = match given.send(handed) {
            Ok(()) => match timeout(PATIENCE, &mut served).await {
                Ok(served) => served.ok(),
                Err(_) => {
                    // From here on it cannot be said any more; it may have been said a moment before.
                    served.close();
                    served.try_recv().ok()
                }
            },
            Err(_) => None,
        };
        if lets_go.is_none() {
            tracing::warn!("the other agent does not serve the pods; this one goes on");
            return None;
        }
        tracing::info!(pods = count, "another agent serves the pods");
        let active = std::mem::take(&mut self.joined).into_values().filter_map(|joined| joined.active);
        tokio::spawn(removed_elsewhere(
            self.hooks.datapath(),
            Arc::clone(&self.store),
            active.map(Active::let_go).collect(),
        ));
        lets_go
    }

    /// Pods that the earlier agent had begun to take out of the mesh have no entries any more, as if half hooked. They
    /// leave anew, in order.
    pub(super) fn resume_leaving(&mut self) {
        for (key, joined) in &mut self.joined {
            if let Some(active) = joined.active.as_ref().filter(|_| !self.hooks.known(&joined.netns))
                && let Err(why) = self.hooks.mend(active, &joined.cgroup)
            {
                tracing::error!(namespace = key.0, pod = key.1, why, "a pod that leaves the mesh leaves it at once");
            }
        }
    }

    fn hand_out(&self) -> io::Result<HandedPods> {
        let pods = self.joined.iter().map(|((namespace, name), joined)| {
            Ok(HandedPod {
                namespace: namespace.clone(),
                name: name.clone(),
                pod_uid: joined.pod_uid.clone(),
                cgroup: joined.cgroup.clone(),
                container: joined.container.clone(),
                given: joined.given,
                older: joined.netns.older.list(),
                netns: joined.netns.fd().try_clone_to_owned()?,
                active: joined.active.as_ref().map(|active| active.hand_out()).transpose()?,
            })
        });
        Ok(HandedPods { pods: pods.collect::<io::Result<_>>()?, next_epoch: self.hooks.next_epoch() })
    }

    /// Takes the pods that an earlier agent hands over, and serves those that it redirected. To be called inside a
    /// tokio runtime, before [`Registry::run`]. The kernel's side of it stays as it is.
    pub fn adopt(&mut self, handed: HandedPods) {
        if !handed.pods.is_empty() {
            // The old agent still accepts, and would take the audit's own connections for strange ones.
            self.next_audit = Instant::now() + AFTER_HAND_OVER;
        }
        self.hooks.skip_epochs(handed.next_epoch);
        for HandedPod { namespace, name, pod_uid, cgroup, container, given, older, netns, active } in handed.pods {
            let taken = Netns::new(netns)
                .map_err(|e| format!("its network namespace cannot be entered: {e}"))
                .and_then(|netns| Ok((Arc::new(netns), self.checked(&cgroup)?)))
                .and_then(|(netns, cgroup)| {
                    netns.older.put(older);
                    let name = (namespace.as_str(), name.as_str());
                    let active = active.map(|active| self.hooks.adopt(&netns, name, active)).transpose()?;
                    let old_program = active.is_some().then(Instant::now);
                    Ok(Joined { old_program, active, container, given, ..Joined::new(pod_uid, cgroup, netns) })
                });
            match taken {
                Ok(joined) => drop(self.joined.insert((namespace, name), joined)),
                // It is looked for like one of an agent that died.
                Err(why) => tracing::error!(namespace, pod = name, why, "a pod could not be taken over"),
            }
        }
        self.publish();
    }
}

/// Nobody tells an agent that was replaced which pods are gone, and what it still carries keeps their namespaces. A pod
/// that is neither redirected any more nor in the configuration is gone; one that left the mesh is in the
/// configuration.
async fn removed_elsewhere(datapath: Arc<Datapath>, store: Arc<Store>, mut pods: Vec<Weak<Pod>>) {
    while !pods.is_empty() {
        tokio::time::sleep(LOOK).await;
        let (known, snapshot) = (datapath.known_pods(), store.snapshot());
        pods.retain(|pod| {
            let Some(pod) = pod.upgrade() else { return false };
            let redirected = known.iter().any(|(cookie, _)| *cookie == pod.netns.cookie());
            let gone = !redirected && snapshot.workload(&pod.uid).is_none();
            if gone {
                pod.presence.send_replace(Presence::Removed);
            }
            !gone
        });
    }
}
