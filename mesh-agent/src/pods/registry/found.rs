//! Pods that the configuration wants and nobody announced: they ran before they were labelled, or before there was an
//! agent, or started while it was away. Their cgroup is found by their UID, a process in it leads to their network
//! namespace, and that it is theirs is proven by their addresses, which it must hold. Connections that they have stay.

use std::{collections::BTreeMap, fs::File, net::IpAddr, os::fd::OwnedFd, path::Path, sync::Arc};

use mesh_common::model::{LocalPod, Mode};
use tokio::time::{Duration, Instant};

use super::{Joined, Key, PodStatus, Redirection, Registry};
use crate::{
    pods::{Netns, cgroup, namespace},
    state::Snapshot,
};

/// Between two looks for pods that were not found.
const AGAIN: Duration = Duration::from_secs(2);
/// Processes of one pod that are looked at: the first that lives tells as much as all of them.
const PROCESSES: usize = 16;

/// Those that were looked for.
#[derive(Default)]
pub(super) struct Looked {
    /// Of each that was not found: its UID, and why.
    missing: BTreeMap<Key, (String, String)>,
    next: Option<Instant>,
    /// The configuration at which everybody was looked for last.
    generation: u64,
}

impl Registry {
    /// Says when to look again. Pods without an address have not begun: their plugin will announce them.
    pub(super) fn look_for_unannounced(&mut self, snapshot: &Snapshot) -> Option<Duration> {
        let now = Instant::now();
        let due = self.looked.next.is_none_or(|next| next <= now);
        if self.looked.generation == snapshot.generation() && !due {
            return self.looked.next.map(|next| next - now);
        }
        // A burst of changes is one look.
        let fresh = self.looked.generation != snapshot.generation();
        self.looked.generation = snapshot.generation();
        self.forget_gone(snapshot);
        let wanted: Vec<Arc<LocalPod>> = snapshot.local_pods().filter(|pod| self.is_missing(pod)).cloned().collect();
        let known = std::mem::take(&mut self.looked.missing);
        for pod in wanted {
            let key = (pod.namespace.clone(), pod.name.clone());
            let same = known.get(&key).filter(|(uid, _)| *uid == pod.pod_uid);
            // What was not found a moment ago waits for its turn.
            if let Some(missing) = same.filter(|_| fresh && !due) {
                self.looked.missing.insert(key, missing.clone());
                continue;
            }
            match self.find(&pod) {
                Ok((cgroup, netns)) => {
                    tracing::info!(namespace = key.0, pod = key.1, "a pod that nobody announced was found");
                    self.joined.insert(key, Joined::new(pod.pod_uid.clone(), cgroup, Arc::new(netns)));
                    self.remember();
                }
                Err(why) => {
                    if same.is_none_or(|(_, before)| *before != why) {
                        tracing::info!(namespace = key.0, pod = key.1, why, "a pod was not found on this node");
                    }
                    self.looked.missing.insert(key, (pod.pod_uid.clone(), why));
                }
            }
        }
        let waits = !self.looked.missing.is_empty() || self.joined.values().any(|joined| joined.cgroup.is_absolute());
        self.looked.next = match (waits, due, self.looked.next) {
            (false, ..) => None,
            (true, false, Some(next)) => Some(next),
            (true, ..) => Some(now + AGAIN),
        };
        self.looked.next.map(|next| next.saturating_duration_since(now))
    }

    /// It shall be in the mesh or observed, runs, and nobody said where.
    fn is_missing(&self, pod: &LocalPod) -> bool {
        let key = (pod.namespace.clone(), pod.name.clone());
        let known = self.joined.contains_key(&key) || self.lost.contains_key(&key);
        pod.mode != Mode::None && !pod.pod_uid.is_empty() && !pod.addresses.is_empty() && !known
    }

    fn find(&mut self, pod: &LocalPod) -> Result<(std::path::PathBuf, Netns), String> {
        let found = self.cgroups.of(&pod.pod_uid).ok_or("nobody announced it, and its cgroup is not found")?;
        let found = cgroup::below(&self.settings.cgroup, &found)?;
        let processes = cgroup::processes(&found, PROCESSES);
        if processes.is_empty() {
            return Err("nobody announced it, and no process of it runs".to_owned());
        }
        let mut why = String::new();
        for process in processes {
            let netns = open(&self.settings.host_proc, process)
                .and_then(|fd| Netns::new(fd).map_err(|e| e.to_string()))
                .and_then(|netns| holds(&netns, &pod.addresses).map(|()| netns));
            match netns {
                Ok(netns) => {
                    let taken = self.joined.iter().find(|(_, joined)| joined.netns.cookie() == netns.cookie());
                    return match taken {
                        Some((other, _)) => Err(format!("its network namespace is that of {}/{}", other.0, other.1)),
                        None => Ok((found, netns)),
                    };
                }
                Err(e) => why = e,
            }
        }
        Err(format!("nobody announced it, and its network namespace is not found: {why}"))
    }

    /// Pods whose end nobody told: the configuration does not name them any more, and their cgroup is gone.
    fn forget_gone(&mut self, snapshot: &Snapshot) {
        if !snapshot.confirms_pods() {
            return;
        }
        let gone = |(key, joined): (&Key, &Joined)| {
            let unnamed = super::named(snapshot, key, &joined.pod_uid).is_none();
            (unnamed && joined.cgroup.is_absolute() && !joined.cgroup.exists()).then(|| key.clone())
        };
        for key in self.joined.iter().filter_map(gone).collect::<Vec<_>>() {
            tracing::info!(namespace = key.0, pod = key.1, "a pod ended and nobody told; it is forgotten");
            self.forget(&key);
            self.remember();
        }
    }

    /// Those that were not found, for the report.
    pub(super) fn unannounced_states(&self) -> impl Iterator<Item = PodStatus> {
        self.looked.missing.iter().map(|((namespace, name), (pod_uid, why))| PodStatus {
            namespace: namespace.clone(),
            name: name.clone(),
            pod_uid: pod_uid.clone(),
            redirection: Redirection::Pending(why.clone()),
            wanted: false,
            fault: String::new(),
            proven: None,
        })
    }
}

/// The network namespace of a process, by its number where the agent sees the node's processes.
fn open(host_proc: &Path, process: u32) -> Result<OwnedFd, String> {
    let path = host_proc.join(process.to_string()).join("ns/net");
    File::open(&path).map(OwnedFd::from).map_err(|e| format!("{}: {e}", path.display()))
}

fn holds(netns: &Netns, addresses: &[IpAddr]) -> Result<(), String> {
    netns.run(|| namespace::holds(addresses.iter().copied())).map_err(|e| e.to_string())?
}
