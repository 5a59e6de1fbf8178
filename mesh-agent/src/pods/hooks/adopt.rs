//! Serving a pod as an earlier agent did: its socket, its slot, its epoch.

use std::{os::fd::AsFd as _, path::Path, sync::Arc};

use tokio::{net::TcpListener, sync::watch};

use super::{Active, Hooks};
use crate::{
    bpf::{Datapath, PodHooks},
    pods::{HandedActive, Netns, Pod, cgroup, table::Presence},
};

impl Active {
    /// For a successor; nothing changes here.
    pub fn hand_out(&self) -> std::io::Result<HandedActive> {
        let Pod { uid, identity, ip, index, epoch, .. } = &*self.pod;
        Ok(HandedActive {
            uid: uid.clone(),
            pod_uid: self.pod_uid.clone(),
            identity: identity.clone(),
            ip: *ip,
            index: *index,
            epoch: *epoch,
            listener: self.listener.try_clone()?,
        })
    }

    /// A successor serves the pod: nothing is accepted here any more, what was accepted goes on.
    pub fn let_go(self) {
        self.task.abort();
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
        let Pod { ip, index, epoch, .. } = *active.pod;
        let cgroup = cgroup::id(cgroup).map_err(|e| format!("cgroup {}: {e}", cgroup.display()))?;
        let hooks = PodHooks {
            index,
            epoch,
            ip,
            netns: netns.fd(),
            netns_cookie: netns.cookie(),
            cgroup,
            listener: active.listener.as_fd(),
        };
        self.datapath.attach_pod(&hooks).map_err(|e| format!("{:#}", anyhow::Error::from(e)))
    }

    /// The same for the hooks that all pods share.
    pub fn mend_shared(&self) -> Result<(), String> {
        self.datapath.mend_shared().map_err(|e| format!("{:#}", anyhow::Error::from(e)))
    }

    /// Serves a pod from the socket of an earlier agent. The hooks of its namespace get this agent's programs, and say
    /// the same as before. The error is for people.
    pub fn adopt(
        &self,
        netns: &Arc<Netns>,
        cgroup: &Path,
        (namespace, name): (&str, &str),
        handed: HandedActive,
    ) -> Result<Active, String> {
        let HandedActive { uid, pod_uid, identity, ip, index, epoch, listener } = handed;
        let cgroup = cgroup::id(cgroup).map_err(|e| format!("cgroup {}: {e}", cgroup.display()))?;
        let served = listener.try_clone().map_err(|e| format!("cannot keep its listener: {e}"))?;
        let served = TcpListener::from_std(served.into()).map_err(|e| format!("cannot serve its listener: {e}"))?;
        let hooks = PodHooks {
            index,
            epoch,
            ip,
            netns: netns.fd(),
            netns_cookie: netns.cookie(),
            cgroup,
            listener: listener.as_fd(),
        };
        self.datapath.attach_pod(&hooks).map_err(|e| format!("{:#}", anyhow::Error::from(e)))?;
        let pod = Arc::new(Pod {
            uid,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity,
            ip,
            netns: Arc::clone(netns),
            index,
            epoch,
            presence: watch::Sender::new(Presence::Redirected),
            probes: Default::default(),
        });
        let task = self.start.start(Arc::clone(&pod), served);
        Ok(Active { pod, pod_uid, listener, task })
    }
}
