//! A pod that is observed: its connections are recorded, and it is none of the mesh. It has no certificate, no listener
//! and no program of its own.

use mesh_common::{abi::PodEntry, model::LocalPod};

use tokio::time::Instant;

use super::{Audited, FIRST_AUDIT, Joined, Key, Redirection, Registry};
use crate::{
    bpf::{Fault, probe_faults},
    pods::table::Presence,
};

impl Registry {
    /// One pod that shall be observed. One that is in the mesh leaves it first, in the same order as any other.
    pub(super) fn observe(&mut self, key: &Key, want: &LocalPod) -> Redirection {
        let Some(joined) = self.joined.get(key) else { return Redirection::Disabled };
        let ips = joined.addresses(want);
        if let (Some(entry), Some(ips)) = (joined.observed, ips)
            && entry == (PodEntry { observed: PodEntry::OBSERVED, ..ips.entry(entry.index, entry.epoch) })
        {
            return self.observed(key);
        }
        if joined.active.is_some() {
            let left = self.open(key);
            if left != Redirection::Disabled {
                return left;
            }
        }
        let Some(ips) = ips else {
            return Redirection::Pending("it has no address yet".to_owned());
        };
        let Some(joined) = self.joined.get_mut(key) else { return Redirection::Disabled };
        // What an earlier agent left serves nobody.
        if self.hooks.known(&joined.netns) {
            self.hooks.unhook(joined.netns.cookie(), None, Presence::Unhooked);
        }
        match self.hooks.observe(&joined.netns, ips) {
            Ok(entry) => {
                // What was proven of it in the mesh says nothing now.
                (joined.observed, joined.audited) = (Some(entry), Audited::default());
                tracing::info!(
                    namespace = key.0,
                    pod = key.1,
                    index = entry.index,
                    epoch = entry.epoch,
                    "pod observed"
                );
            }
            Err(why) => return Redirection::Failed(why),
        }
        self.publish();
        if self.remembered.wants(self.hooks.next_epoch()) {
            self.remember();
        }
        self.next_audit = self.next_audit.min(Instant::now() + FIRST_AUDIT);
        self.observed(key)
    }

    fn observed(&self, key: &Key) -> Redirection {
        match self.joined.get(key) {
            Some(joined) if joined.audited.broken => Redirection::Failed(joined.audited.fault.clone()),
            _ => Redirection::Observed,
        }
    }

    /// Looks at the entries of observed pods, of each in which life.
    pub(super) fn audit_observed(&self) -> Vec<(Key, u32, Vec<Fault>)> {
        let observed = self.joined.iter().filter_map(|(key, joined)| Some((key, joined, joined.observed?)));
        let datapath = self.hooks.datapath();
        let mut probes = None;
        let looked = observed.map(|(key, joined, entry)| {
            let mut faults = self.hooks.observed_faults(&joined.netns, entry);
            faults.extend(probe_faults(probes.get_or_insert_with(|| datapath.probes()), entry, &[]));
            (key.clone(), entry.epoch, faults)
        });
        looked.collect()
    }
}

impl Joined {
    /// The life in which the kernel knows it, redirected or observed.
    pub(super) fn epoch(&self) -> Option<u32> {
        let active = self.active.as_ref().map(|active| active.pod.epoch);
        active.or(self.observed.map(|entry| entry.epoch))
    }
}
