//! Taking the hooks of a pod away step by step, while it is served.

use std::path::Path;

use super::{Active, Hooks};
use crate::pods::{Netns, table::Presence};

impl Hooks {
    /// From now on the pod dials past the agent.
    pub fn outbound_off(&mut self, active: &Active, netns: &Netns) {
        // Its slot is taken until its listener is gone.
        self.leaving.insert(active.pod.index);
        active.pod.presence.send_replace(Presence::Leaving);
        if let Err(e) = self.datapath.outbound_off(active.pod.index, netns.cookie()) {
            tracing::error!(error = %anyhow::Error::from(e), "cannot take the outbound hooks from a pod");
        }
    }

    /// A moment from now nothing more arrives at the agent's listener.
    pub fn inbound_off(&self, netns: &Netns) {
        if let Err(e) = self.datapath.inbound_off(netns.cookie()) {
            tracing::error!(error = %anyhow::Error::from(e), "cannot take the hooks from a pod");
        }
    }

    /// Ends the accept loop; what was accepted goes on.
    pub fn left(&mut self, active: Option<Active>, netns: &Netns) {
        let Some(active) = active else { return };
        if let Err(e) = self.datapath.detach_pod(active.pod.index, netns.cookie()) {
            tracing::error!(error = %anyhow::Error::from(e), "cannot take the hooks from a pod");
        }
        self.leaving.remove(&active.pod.index);
        self.end(&active, Presence::Unhooked, true);
    }

    /// Undoes all of it.
    pub fn come_back(&mut self, active: &Active, cgroup: &Path) -> Result<(), String> {
        self.mend(active, cgroup)?;
        active.pod.presence.send_replace(Presence::Redirected);
        self.leaving.remove(&active.pod.index);
        Ok(())
    }
}
