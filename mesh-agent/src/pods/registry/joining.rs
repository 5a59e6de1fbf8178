//! What is told of pods: that one has its namespace, once more perhaps, and that one is gone.

use std::{os::fd::OwnedFd, path::PathBuf, sync::Arc};

use super::{Joined, Key, Registry};
use crate::pods::{Netns, Request, cgroup, table::Presence};

impl Registry {
    pub(super) fn join(&mut self, request: Request, netns: OwnedFd) -> Result<(), String> {
        let cgroup = cgroup::below(&self.settings.cgroup, &request.cgroup)?;
        let netns = Netns::new(netns).map_err(|e| format!("the descriptor is no pod's network namespace: {e}"))?;
        let key = (request.namespace, request.name);
        let same_netns = |joined: &Joined| joined.netns.cookie() == netns.cookie();
        // One namespace is one pod's: hooks and slot are the namespace's.
        if let Some((other, _)) = self.joined.iter().find(|(other, joined)| **other != key && same_netns(joined)) {
            return Err(format!("its network namespace joined already, as {}/{}", other.0, other.1));
        }
        if let Some(lost) = self.lost.get(&key)
            && lost.entry.cookie == netns.cookie()
        {
            self.lost.remove(&key);
        }
        if self.joined.get(&key).is_some_and(same_netns) {
            return self.join_again(key, request.pod_uid, cgroup);
        }
        // The same name again is another pod: what was known of the old one must not serve it.
        self.forget(&key);
        tracing::info!(namespace = key.0, pod = key.1, "pod joined");
        self.joined.insert(key, Joined::new(request.pod_uid, cgroup, Arc::new(netns)));
        self.remember();
        Ok(())
    }

    /// The same name in the same namespace: whoever joins it may know more now. Nothing of it opens what is closed.
    fn join_again(&mut self, key: Key, pod_uid: String, cgroup: PathBuf) -> Result<(), String> {
        let Some(joined) = self.joined.get_mut(&key) else { return Ok(()) };
        let another = !pod_uid.is_empty() && !joined.pod_uid.is_empty() && pod_uid != joined.pod_uid;
        if another {
            // It must not have what the other one had, and is refused until the configuration names it.
            let (active, netns) = (joined.active.take(), Arc::clone(&joined.netns));
            // Nothing is refused by taking these away.
            let open = joined.leaving.is_some() || joined.observed.is_some();
            if let Some(waiting) = joined.waiting.take() {
                waiting.abort();
            }
            *joined = Joined { heir: true, ..Joined::new(pod_uid, cgroup, netns) };
            match open {
                true => self.hooks.unhook(joined.netns.cookie(), active, Presence::Removed),
                false => self.hooks.refuse(active),
            }
            tracing::info!(namespace = key.0, pod = key.1, "another pod joined in the namespace of one that was there");
        } else {
            if joined.cgroup != cgroup {
                if let (Some(active), None) = (&joined.active, joined.leaving) {
                    self.hooks.move_to(active, &cgroup)?;
                }
                joined.cgroup = cgroup;
            }
            if !pod_uid.is_empty() {
                joined.pod_uid = pod_uid;
            }
        }
        self.publish();
        self.remember();
        Ok(())
    }

    pub(super) fn leave(&mut self, namespace: String, name: String) {
        let key = (namespace, name);
        // CNI DEL must succeed for a pod that is gone already.
        if self.forget(&key) {
            self.remember();
            tracing::info!(namespace = key.0, pod = key.1, "pod left");
        }
    }

    fn forget(&mut self, key: &Key) -> bool {
        if let Some(lost) = self.lost.remove(key) {
            self.hooks.unhook(lost.entry.cookie, None, Presence::Removed);
            return true;
        }
        let Some(mut joined) = self.joined.remove(key) else { return false };
        self.hooks.unhook(joined.netns.cookie(), joined.active.take(), Presence::Removed);
        self.publish();
        true
    }
}
