//! What the kernel holds for an observed pod: its entry in `PODS`, and nothing else.

use mesh_common::abi::PodEntry;

use super::{
    inspect::{Fault, PodLink},
    programs::{Datapath, DatapathError},
};

impl Datapath {
    /// From now on the connections that the namespace opens and accepts are recorded. None is redirected or refused:
    /// that takes the pod's cgroup, link and listener, and this sets none of them.
    pub fn observe_pod(&self, netns_cookie: u64, entry: PodEntry) -> Result<(), DatapathError> {
        debug_assert_ne!(entry.observed, 0, "any other entry redirects");
        self.maps.set_pod(netns_cookie, entry).map_err(|e| DatapathError::map("PODS", e))
    }

    /// The entry of one namespace.
    pub fn pod_entry(&self, netns_cookie: u64) -> Result<Option<PodEntry>, DatapathError> {
        self.maps.pod(netns_cookie).map_err(|e| DatapathError::map("PODS", e))
    }

    /// What is wrong with an observed pod: its entry, or something that would redirect or refuse what it does.
    pub fn observed_faults(&self, netns_cookie: u64, entry: PodEntry) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |check, why: String| faults.push(Fault { check, why });
        match self.pod_entry(netns_cookie) {
            Ok(is) if is == Some(entry) => {}
            Ok(is) => fault("pods", format!("it is observed, and its entry in PODS is {is:?}")),
            Err(e) => fault("pods", format!("{:#}", anyhow::Error::from(e))),
        }
        match self.link_of(netns_cookie) {
            Ok(PodLink::Missing) => {}
            Ok(_) => fault("link", "it is observed, and a sk_lookup link is pinned for it".to_owned()),
            Err(e) => fault("link", format!("{:#}", anyhow::Error::from(e))),
        }
        let cgroups = self.maps.cgroups().into_iter().filter(|(_, index)| *index == entry.index).count();
        if cgroups > 0 {
            fault("cgroups", format!("it is observed, and has {cgroups} entries in CGROUPS"));
        }
        faults
    }
}
