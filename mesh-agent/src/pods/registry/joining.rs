//! What is told of pods: that one has its namespace, once more perhaps, and that one is gone.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Joined, Key, Registry};
use crate::pods::{
    Netns, Refusal, Request, cgroup,
    table::{Addresses, Presence},
};

/// Who a pod is said to be.
struct Said {
    pod_uid: String,
    cgroup: PathBuf,
    container: String,
    given: Option<Addresses>,
}

impl Registry {
    /// Gives the cookie of its namespace.
    pub(super) fn join(&mut self, request: Request, netns: OwnedFd) -> Result<u64, Refusal> {
        let Request { namespace, name, pod_uid, cgroup, addresses, container, .. } = request;
        let cgroup = self.checked(&cgroup).map_err(Refusal::now)?;
        let netns = Netns::new(netns)
            .map_err(|e| Refusal::now(format!("the descriptor is no pod's network namespace: {e}")))?;
        let (key, cookie) = ((namespace, name), netns.cookie());
        let same_netns = |joined: &Joined| joined.netns.cookie() == cookie;
        // One namespace is one pod's: hooks and slot are the namespace's.
        if let Some((other, _)) = self.joined.iter().find(|(other, joined)| **other != key && same_netns(joined)) {
            return Err(Refusal::now(format!("its network namespace joined already, as {}/{}", other.0, other.1)));
        }
        if let Some(lost) = self.lost.get(&key)
            && lost.entry.cookie == cookie
        {
            self.lost.remove(&key);
        }
        let said = Said { pod_uid, cgroup, container, given: Addresses::of(&addresses) };
        if self.joined.get(&key).is_some_and(same_netns) {
            self.join_again(key, said).map_err(Refusal::later)?;
            return Ok(cookie);
        }
        // The same name again is another pod: what was known of the old one must not serve it.
        self.forget(&key);
        tracing::info!(namespace = key.0, pod = key.1, "pod joined");
        self.joined.insert(key, said.joined(Arc::new(netns)));
        self.remember();
        Ok(cookie)
    }

    /// The same name in the same namespace: whoever joins it may know more now. Nothing of it opens what is closed.
    fn join_again(&mut self, key: Key, said: Said) -> Result<(), String> {
        let Some(joined) = self.joined.get_mut(&key) else { return Ok(()) };
        let another = !said.pod_uid.is_empty() && !joined.pod_uid.is_empty() && said.pod_uid != joined.pod_uid;
        if another {
            // It must not have what the other one had, and is refused until the configuration names it.
            let (active, netns) = (joined.active.take(), Arc::clone(&joined.netns));
            // Nothing is refused by taking these away.
            let open = joined.leaving.is_some() || joined.observed.is_some();
            if let Some(waiting) = joined.waiting.take() {
                waiting.abort();
            }
            *joined = Joined { heir: true, ..said.joined(netns) };
            match open {
                true => self.hooks.unhook(joined.netns.cookie(), active, Presence::Removed),
                false => self.hooks.refuse(active),
            }
            tracing::info!(namespace = key.0, pod = key.1, "another pod joined in the namespace of one that was there");
        } else {
            let Said { pod_uid, cgroup, container, given } = said;
            if !cgroup.as_os_str().is_empty() && joined.cgroup != cgroup {
                if let (Some(active), None) = (&joined.active, joined.leaving) {
                    self.hooks.move_to(active, &cgroup)?;
                }
                joined.cgroup = cgroup;
            }
            if !pod_uid.is_empty() {
                joined.pod_uid = pod_uid;
            }
            if !container.is_empty() {
                joined.container = container;
            }
            joined.given = given.or(joined.given);
        }
        self.publish();
        self.remember();
        Ok(())
    }

    pub(super) fn leave(&mut self, request: Request, netns: Option<OwnedFd>) {
        // CNI DEL must succeed for a pod that is gone already.
        let Some(key) = self.meant(&request, netns) else { return };
        if self.forget(&key) {
            self.remember();
            tracing::info!(namespace = key.0, pod = key.1, "pod left");
        }
    }

    pub(super) fn forget(&mut self, key: &Key) -> bool {
        if let Some(lost) = self.lost.remove(key) {
            self.hooks.unhook(lost.entry.cookie, None, Presence::Removed);
            return true;
        }
        let Some(mut joined) = self.joined.remove(key) else { return false };
        self.hooks.unhook(joined.netns.cookie(), joined.active.take(), Presence::Removed);
        self.publish();
        true
    }

    /// A pod's cgroup as it was said; empty: it is to be found by the pod's UID.
    pub(super) fn checked(&self, said: &Path) -> Result<PathBuf, String> {
        match said.as_os_str().is_empty() {
            true => Ok(PathBuf::new()),
            false => cgroup::below(&self.settings.cgroup, said),
        }
    }

    /// Looks for the cgroup of a pod of which nobody said it.
    pub(super) fn find_cgroup(&mut self, key: &Key) -> Result<(), String> {
        let Some(joined) = self.joined.get_mut(key).filter(|joined| joined.cgroup.as_os_str().is_empty()) else {
            return Ok(());
        };
        let root = self.settings.cgroup.display();
        let found = self.cgroups.of(&joined.pod_uid).ok_or_else(|| {
            format!("its cgroup (pod{}, as the kubelet names it) is not found below {root}", joined.pod_uid)
        })?;
        joined.cgroup = cgroup::below(&self.settings.cgroup, &found)?;
        self.remember();
        Ok(())
    }
}

impl Said {
    fn joined(self, netns: Arc<Netns>) -> Joined {
        let Self { pod_uid, cgroup, container, given } = self;
        Joined { container, given, ..Joined::new(pod_uid, cgroup, netns) }
    }
}
