//! Giving all pods to another agent of this node, and taking them from one. Until the other one says that it serves,
//! nothing changes here.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{AFTER_HAND_OVER, Joined, Registry};
use crate::pods::{HandedPod, HandedPods, Netns, cgroup};

/// A successor that takes longer has died or hangs; its pods wait for changes meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

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
        for active in std::mem::take(&mut self.joined).into_values().filter_map(|joined| joined.active) {
            active.let_go();
        }
        lets_go
    }

    fn hand_out(&self) -> io::Result<HandedPods> {
        let pods = self.joined.iter().map(|((namespace, name), joined)| {
            Ok(HandedPod {
                namespace: namespace.clone(),
                name: name.clone(),
                pod_uid: joined.pod_uid.clone(),
                cgroup: joined.cgroup.clone(),
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
        for HandedPod { namespace, name, pod_uid, cgroup, netns, active } in handed.pods {
            let taken = Netns::new(netns)
                .map_err(|e| format!("its network namespace cannot be entered: {e}"))
                .and_then(|netns| Ok((Arc::new(netns), cgroup::below(&self.settings.cgroup, &cgroup)?)))
                .and_then(|(netns, cgroup)| {
                    let name = (namespace.as_str(), name.as_str());
                    let active = active.map(|active| self.hooks.adopt(&netns, name, active)).transpose()?;
                    Ok(Joined { old_program: active.is_some(), active, ..Joined::new(pod_uid, cgroup, netns) })
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
