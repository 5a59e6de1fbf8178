//! After a restart: the pods that joined are found again without anybody's help, and what the kernel holds for pods
//! that are gone is removed. A pod that is redirected and cannot be found stays refused.

use std::sync::Arc;

use mesh_common::model::Mode;
use tokio::time::{Duration, Instant};

use super::{Joined, Key, PodStatus, Redirection, Registry, named};
use crate::{
    bpf::{Hooked, PodLink},
    pods::{
        Netns,
        hooks::is_observed,
        remembered::{Entry, find},
        table::{Addresses, Presence},
    },
    state::Snapshot,
};

/// How often a pod that was not found is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A pod that joined an earlier agent and was not found yet.
pub(super) struct Lost {
    pub entry: Entry,
    why: String,
}

impl Registry {
    /// To be called once, before anything is hooked.
    pub(super) fn restore(&mut self) {
        self.hooks.remove_half_done();
        let (mut entries, next_epoch) = self.remembered.load();
        self.hooks.skip_epochs(next_epoch);
        entries.retain(|entry| !self.joined.contains_key(&(entry.namespace.clone(), entry.name.clone())));
        let known = entries.len();
        self.look_for(entries);
        self.remove_dead();
        if known > 0 {
            tracing::info!(joined = self.joined.len(), lost = self.lost.len(), "pods of an earlier agent");
        }
        self.remember();
    }

    /// Looks again for what was not found. Says when to look next.
    pub(super) fn look_again(&mut self) -> Option<Duration> {
        let left = self.look_at.saturating_duration_since(Instant::now());
        if self.lost.is_empty() {
            return None;
        }
        if !left.is_zero() {
            return Some(left);
        }
        let entries = std::mem::take(&mut self.lost).into_values().map(|lost| lost.entry).collect();
        self.look_for(entries);
        self.remove_dead();
        self.remember();
        self.look_at = Instant::now() + LOOK_AGAIN;
        (!self.lost.is_empty()).then_some(LOOK_AGAIN)
    }

    fn look_for(&mut self, entries: Vec<Entry>) {
        let mut namespaces = find(&entries, &self.settings.host_proc);
        for entry in entries {
            let key = (entry.namespace.clone(), entry.name.clone());
            let found = namespaces
                .remove(&(entry.device, entry.inode))
                .ok_or_else(|| "its network namespace cannot be found".to_owned())
                .and_then(|fd| Netns::new(fd).map_err(|e| format!("its network namespace cannot be entered: {e}")))
                .and_then(|netns| {
                    // The inode may have been given to another namespace.
                    let same = netns.cookie() == entry.cookie;
                    same.then_some(netns).ok_or_else(|| "its network namespace is another's now".to_owned())
                })
                .and_then(|netns| Ok((netns, self.checked(&entry.cgroup)?)));
            match found {
                Ok((netns, cgroup)) => {
                    tracing::info!(namespace = key.0, pod = key.1, "pod found again");
                    netns.older.put(entry.older);
                    let (container, given) = (entry.container, Addresses::of(&entry.addresses));
                    let joined = Joined { container, given, ..Joined::new(entry.pod_uid, cgroup, Arc::new(netns)) };
                    self.joined.insert(key, joined);
                }
                Err(why) => drop(self.lost.insert(key, Lost { entry, why })),
            }
        }
    }

    /// Takes away what the kernel holds for namespaces that are gone.
    fn remove_dead(&mut self) {
        let hooked = match self.hooks.hooked() {
            Ok(hooked) => hooked,
            // Nobody is taken for gone because nobody could look.
            Err(error) => return tracing::error!(error, "cannot look at the hooks of pods"),
        };
        // An entry without a program holds nothing back.
        let holds = |hooked: &&Hooked| hooked.link != PodLink::Dead && !hooked.entry.as_ref().is_some_and(is_observed);
        // A link that somebody detached is dead too; its pod is here and is hooked again.
        let here = |cookie| self.joined.values().any(|joined| joined.netns.cookie() == cookie);
        for Hooked { cookie, link, .. } in hooked.iter().filter(|h| !holds(h) && !here(h.cookie)) {
            tracing::info!(cookie, ?link, "a pod went while no agent ran; its entries are removed");
            self.hooks.unhook(*cookie, None, Presence::Removed);
        }
        let refused = |cookie| hooked.iter().filter(holds).any(|h| h.cookie == cookie);
        // What nothing holds back needs nobody to look for it.
        self.lost.retain(|_, lost| refused(lost.entry.cookie));
        let mine = |cookie| {
            self.joined.values().any(|joined| joined.netns.cookie() == cookie)
                || self.lost.values().any(|lost| lost.entry.cookie == cookie)
        };
        for Hooked { cookie, .. } in hooked.iter().filter(|h| holds(h) && !mine(h.cookie)) {
            tracing::warn!(
                cookie,
                "a namespace is redirected and nobody said whose it is; it stays refused until its pod joins"
            );
        }
    }

    /// The pods that nobody found, for the report.
    pub(super) fn lost_states(&self, snapshot: &Snapshot) -> impl Iterator<Item = PodStatus> {
        self.lost.iter().map(|(key, Lost { entry, why })| PodStatus {
            namespace: entry.namespace.clone(),
            name: entry.name.clone(),
            pod_uid: entry.pod_uid.clone(),
            redirection: Redirection::Pending(format!("an earlier agent redirected it and {why}; it is refused")),
            wanted: named(snapshot, key, &entry.pod_uid).is_some_and(|pod| pod.mode == Mode::Mesh),
            fault: String::new(),
            proven: None,
        })
    }

    /// Writes down who joined.
    pub(super) fn remember(&mut self) {
        let joined = self.joined.iter().filter_map(|(key, joined)| entry(key, joined));
        let pods = joined.chain(self.lost.values().map(|lost| lost.entry.clone())).collect();
        self.remembered.save(pods, self.hooks.next_epoch());
    }
}

fn entry((namespace, name): &Key, joined: &Joined) -> Option<Entry> {
    let (device, inode) = joined.netns.device_and_inode().ok()?;
    Some(Entry {
        namespace: namespace.clone(),
        name: name.clone(),
        pod_uid: joined.pod_uid.clone(),
        cgroup: joined.cgroup.clone(),
        container: joined.container.clone(),
        addresses: joined.given.iter().flat_map(Addresses::iter).collect(),
        older: joined.netns.older.list(),
        cookie: joined.netns.cookie(),
        device,
        inode,
    })
}
