//! Serving a pod as an earlier agent did: its socket, its slot, its epoch.

use std::{
    os::fd::AsFd as _,
    path::Path,
    sync::{Arc, Weak},
};

use mesh_common::model::{Identity, LocalPod};

use super::{Active, Hooks, listen, served};
use crate::{
    bpf::{Datapath, Expected},
    pods::{HandedActive, Netns, Pod, cgroup, namespace, table::Addresses},
};

impl Active {
    /// For a successor; nothing changes here.
    pub fn hand_out(&self) -> std::io::Result<HandedActive> {
        let Pod { uid, identity, ips, index, epoch, .. } = &*self.pod;
        Ok(HandedActive {
            uid: uid.clone(),
            pod_uid: self.pod_uid.clone(),
            identity: identity.clone(),
            ips: *ips,
            probe_ports: self.probe_ports.clone(),
            index: *index,
            epoch: *epoch,
            listener: self.listener.try_clone()?,
        })
    }

    /// A successor serves the pod: nothing is accepted here any more, what was accepted goes on.
    pub fn let_go(self) -> Weak<Pod> {
        self.task.abort();
        Arc::downgrade(&self.pod)
    }
}

impl Hooks {
    /// Epochs below this are taken.
    pub fn next_epoch(&self) -> u32 {
        self.next_epoch
    }

    /// Epochs below this were given by an earlier agent.
    pub fn skip_epochs(&mut self, next: u32) {
        self.next_epoch = self.next_epoch.max(next);
    }

    pub fn datapath(&self) -> Arc<Datapath> {
        Arc::clone(&self.datapath)
    }

    /// Says everything of a pod to the kernel once more.
    pub fn mend(&self, active: &Active, cgroup: &Path) -> Result<(), String> {
        let cgroup = cgroup::id(cgroup).map_err(|e| format!("cgroup {}: {e}", cgroup.display()))?;
        self.attach(&active.pod, cgroup, active.listener.as_fd(), &active.probe_ports)
    }

    /// The pod's processes run in another cgroup than was said. The old one counts until the new one does.
    pub fn move_to(&self, active: &Active, cgroup: &Path) -> Result<(), String> {
        self.mend(active, cgroup)?;
        let id = cgroup::id(cgroup).map_err(|e| format!("cgroup {}: {e}", cgroup.display()))?;
        self.datapath.keep_cgroup(active.pod.index, id).map_err(|e| format!("{:#}", anyhow::Error::from(e)))
    }

    /// The same for the hooks that all pods share.
    pub fn mend_shared(&self) -> Result<(), String> {
        self.datapath.mend_shared().map_err(|e| format!("{:#}", anyhow::Error::from(e)))
    }

    /// Serves a pod that an agent redirected which has died: its hooks are as they were and lack only a listener, which
    /// is a matter of microseconds where loading programs takes milliseconds a pod. They are an older program perhaps:
    /// [`Hooks::mend`] is to follow. `None`: its hooks are not as they should be.
    pub fn resume(
        &self,
        netns: &Arc<Netns>,
        cgroup: &Path,
        want: &LocalPod,
        identity: &Identity,
        ips: Addresses,
    ) -> Result<Option<Active>, String> {
        let entry = self.datapath.known_pods().into_iter().find(|(cookie, _)| *cookie == netns.cookie());
        let Some((cookie, entry)) = entry else { return Ok(None) };
        let (_, inode) = netns.device_and_inode().map_err(|e| format!("cannot look at its network namespace: {e}"))?;
        let id = cgroup::id(cgroup).map_err(|e| format!("cgroup {}: {e}", cgroup.display()))?;
        let expected = Expected { cookie, inode, cgroup: id, entry: ips.entry(entry.index, entry.epoch) };
        if !self.datapath.pod_faults(&expected).is_empty() {
            return Ok(None);
        }
        namespace::check(netns, ips)?;
        let (kept, served) = listen(netns)?;
        self.datapath.resume_pod(entry.index, kept.as_fd()).map_err(|e| format!("{:#}", anyhow::Error::from(e)))?;
        let (name, slot) = ((&*want.namespace, &*want.name), (entry.index, entry.epoch));
        let pod = Pod::redirected(&want.uid, name, identity.clone(), ips, netns, slot);
        let task = self.begin(&pod, served);
        let (pod_uid, probe_ports) = (want.pod_uid.clone(), want.probe_ports.clone());
        Ok(Some(Active { pod, pod_uid, probe_ports, listener: kept, task }))
    }

    /// Serves a pod from the socket of an earlier agent. Its hooks stay as they are, and what they say stays true:
    /// [`Hooks::mend`] is to follow once the earlier agent has let go. The error is for people.
    pub fn adopt(&self, netns: &Arc<Netns>, name: (&str, &str), handed: HandedActive) -> Result<Active, String> {
        let HandedActive { uid, pod_uid, identity, ips, probe_ports, index, epoch, listener } = handed;
        let served = served(&listener)?;
        let pod = Pod::redirected(&uid, name, identity, ips, netns, (index, epoch));
        let task = self.begin(&pod, served);
        Ok(Active { pod, pod_uid, probe_ports, listener, task })
    }
}
