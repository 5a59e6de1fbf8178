//! Observed pods: a slot, an epoch and an entry that says so. Nobody listens for them, and nothing of theirs is
//! steered.

use mesh_common::abi::PodEntry;

use super::Hooks;
use crate::{
    bpf::Fault,
    pods::{Netns, table::Addresses},
};

impl Hooks {
    /// The entry that the kernel holds for the namespace, if it is one of an observed pod.
    pub fn observed(&self, netns: &Netns) -> Option<PodEntry> {
        let known = self.datapath.known_pods().into_iter().find(|(cookie, _)| *cookie == netns.cookie());
        known.map(|(_, entry)| entry).filter(is_observed)
    }

    /// Records the connections of a namespace from now on. One that is observed already keeps its slot and life, by
    /// whichever agent; one that is redirected must have left the mesh before. The error is for people.
    pub fn observe(&mut self, netns: &Netns, ips: Addresses) -> Result<PodEntry, String> {
        let entry = |index, epoch| PodEntry { observed: PodEntry::OBSERVED, ..ips.entry(index, epoch) };
        if let Some(is) = self.observed(netns)
            && is == entry(is.index, is.epoch)
        {
            return Ok(is);
        }
        let (index, epoch) = self.life(netns)?;
        let entry = entry(index, epoch);
        self.observe_again(netns, entry)?;
        Ok(entry)
    }

    /// A slot for the namespace and the next life.
    fn life(&mut self, netns: &Netns) -> Result<(u32, u32), String> {
        let (index, _) = self.slot(netns.cookie()).ok_or_else(super::no_slot)?;
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        Ok((index, epoch))
    }

    /// Says it to the kernel once more, and takes away what would redirect or refuse the pod. Gives the entry as it is
    /// now.
    pub fn mend_observed(&mut self, netns: &Netns, entry: PodEntry) -> Result<PodEntry, String> {
        let failed = |e| format!("{:#}", anyhow::Error::from(e));
        let of_others = |(cookie, other): &(u64, PodEntry)| *cookie != netns.cookie() && other.index == entry.index;
        let entry = if self.datapath.known_pods().iter().any(of_others) {
            // While its entry was gone its slot was free: what is there is another pod's.
            self.datapath.inbound_off(netns.cookie()).map_err(failed)?;
            let (index, epoch) = self.life(netns)?;
            PodEntry { index, epoch, ..entry }
        } else {
            self.datapath.detach_pod(entry.index, netns.cookie()).map_err(failed)?;
            entry
        };
        self.observe_again(netns, entry)?;
        Ok(entry)
    }

    /// What is wrong with an observed pod.
    pub fn observed_faults(&self, netns: &Netns, entry: PodEntry) -> Vec<Fault> {
        self.datapath.observed_faults(netns.cookie(), entry)
    }

    pub(super) fn observe_again(&self, netns: &Netns, entry: PodEntry) -> Result<(), String> {
        self.datapath.observe_pod(netns.cookie(), entry).map_err(|e| format!("{:#}", anyhow::Error::from(e)))
    }
}

/// Its connections are recorded, and no more.
pub fn is_observed(entry: &PodEntry) -> bool {
    entry.observed != 0
}
