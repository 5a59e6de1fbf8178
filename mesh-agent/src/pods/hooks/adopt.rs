//! Serving a pod as an earlier agent did: its socket, its slot, its epoch.

use std::{os::fd::AsFd as _, path::Path, sync::Arc};

use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};

use super::{Active, Hooks, open_ports};
use crate::{
    bpf::PodHooks,
    pods::{HandedActive, Netns, Pod, cgroup, table::Presence},
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

    /// Serves a pod from the socket of an earlier agent. The hooks of its namespace get this agent's programs, and say
    /// the same as before. The error is for people.
    pub fn adopt(
        &self,
        netns: &Arc<Netns>,
        cgroup: &Path,
        (namespace, name): (&str, &str),
        handed: HandedActive,
    ) -> Result<Active, String> {
        let HandedActive { uid, pod_uid, identity, ips, probe_ports, index, epoch, listener } = handed;
        let cgroup = cgroup::id(cgroup).map_err(|e| format!("cgroup {}: {e}", cgroup.display()))?;
        let served = listener.try_clone().map_err(|e| format!("cannot keep its listener: {e}"))?;
        let served = TcpListener::from_std(served.into()).map_err(|e| format!("cannot serve its listener: {e}"))?;
        let open = open_ports(netns, namespace, name);
        let hooks = PodHooks {
            index,
            epoch,
            ip4: ips.v4(),
            ip6: ips.v6(),
            netns: netns.fd(),
            netns_cookie: netns.cookie(),
            cgroup,
            listener: listener.as_fd(),
            listening: open.as_deref(),
            probe_ports: &probe_ports,
        };
        self.datapath.attach_pod(&hooks).map_err(|e| format!("{:#}", anyhow::Error::from(e)))?;
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
        });
        let task = self.begin(&pod, served);
        Ok(Active { pod, pod_uid, probe_ports, listener, task })
    }
}
