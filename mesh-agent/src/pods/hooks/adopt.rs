//! Serving a pod as an earlier agent did: its socket, its slot, its epoch.

use std::{
    os::fd::AsFd as _,
    path::Path,
    sync::{Arc, Weak},
};

use mesh_common::model::{Identity, LocalPod};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};

use super::{Active, Hooks, open_ports};
use crate::{
    bpf::{Datapath, Expected, PodHooks},
    pods::{
        HandedActive, Netns, Pod, cgroup, namespace,
        table::{Addresses, Presence},
    },
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
    pub fn mend(&self, active: &Active, netns: &Netns, cgroup: &Path) -> Result<(), String> {
        let Pod { ips, index, epoch, .. } = *active.pod;
        let cgroup = cgroup::id(cgroup).map_err(|e| format!("cgroup {}: {e}", cgroup.display()))?;
        let open = open_ports(netns, &active.pod.namespace, &active.pod.name);
        let hooks = PodHooks {
            index,
            epoch,
            ip4: ips.v4(),
            ip6: ips.v6(),
            netns: netns.fd(),
            netns_cookie: netns.cookie(),
            cgroup,
            listener: active.listener.as_fd(),
            listening: open.as_deref(),
            probe_ports: &active.probe_ports,
        };
        self.datapath.attach_pod(&hooks).map_err(|e| format!("{:#}", anyhow::Error::from(e)))
    }

    /// The pod's processes run in another cgroup than was said. The old one counts until the new one does.
    pub fn move_to(&self, active: &Active, netns: &Netns, cgroup: &Path) -> Result<(), String> {
        self.mend(active, netns, cgroup)?;
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
        let kept = namespace::listen(netns).map_err(|e| format!("cannot listen in its network namespace: {e}"))?;
        let served = kept.try_clone().map_err(|e| format!("cannot keep its listener: {e}"))?;
        let served = TcpListener::from_std(served.into()).map_err(|e| format!("cannot serve its listener: {e}"))?;
        self.datapath.resume_pod(entry.index, kept.as_fd()).map_err(|e| format!("{:#}", anyhow::Error::from(e)))?;
        let pod = Arc::new(Pod {
            uid: want.uid.clone(),
            namespace: want.namespace.clone(),
            name: want.name.clone(),
            identity: identity.clone(),
            ips,
            netns: Arc::clone(netns),
            index: entry.index,
            epoch: entry.epoch,
            listener_closed: Notify::new(),
            presence: watch::Sender::new(Presence::Redirected),
            probes: Default::default(),
        });
        let task = self.begin(&pod, served);
        let (pod_uid, probe_ports) = (want.pod_uid.clone(), want.probe_ports.clone());
        Ok(Some(Active { pod, pod_uid, probe_ports, listener: kept.into(), task }))
    }

    /// Serves a pod from the socket of an earlier agent. Its hooks stay as they are, and what they say stays true:
    /// [`Hooks::mend`] is to follow once the earlier agent has let go. The error is for people.
    pub fn adopt(
        &self,
        netns: &Arc<Netns>,
        (namespace, name): (&str, &str),
        handed: HandedActive,
    ) -> Result<Active, String> {
        let HandedActive { uid, pod_uid, identity, ips, probe_ports, index, epoch, listener } = handed;
        let served = listener.try_clone().map_err(|e| format!("cannot keep its listener: {e}"))?;
        let served = TcpListener::from_std(served.into()).map_err(|e| format!("cannot serve its listener: {e}"))?;
        let pod = Arc::new(Pod {
            uid,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity,
            ips,
            netns: Arc::clone(netns),
            index,
            epoch,
            listener_closed: Notify::new(),
            presence: watch::Sender::new(Presence::Redirected),
            probes: Default::default(),
        });
        let task = self.begin(&pod, served);
        Ok(Active { pod, pod_uid, probe_ports, listener, task })
    }
}
