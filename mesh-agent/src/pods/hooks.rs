//! Hooks one pod's namespace and cgroup, swaps what serves it, and takes the hooks away.

mod adopt;
mod leave;
mod observe;

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Instant,
};

use mesh_common::{
    abi::MAX_PODS,
    model::{Identity, LocalPod},
};
use tokio::{net::TcpListener, task::AbortHandle};

pub use observe::is_observed;

use super::{Netns, Pod, cgroup, listeners, namespace, table::Addresses, table::Presence};
use crate::bpf::{Datapath, Hooked, PodHooks};

/// Serves the connections of one pod's listener; the task ends when it is aborted.
pub trait Start: Send + Sync + 'static {
    fn start(&self, pod: Arc<Pod>, listener: TcpListener) -> AbortHandle;
    /// The pod is no longer redirected: whatever is kept for it must go, at once or, if `in_order`, when it has ended
    /// by itself.
    fn stopped(&self, pod: &Pod, in_order: bool);
}

/// A redirected pod and what serves it.
pub struct Active {
    pub pod: Arc<Pod>,
    /// As the controller knows it; whoever joined the pod may not have known it.
    pub pod_uid: String,
    pub probe_ports: Vec<u16>,
    /// The socket that is served, for a successor and for mending.
    listener: OwnedFd,
    task: AbortHandle,
}

/// The way to the kernel for pods. It hands out slots and epochs.
pub struct Hooks {
    datapath: Arc<Datapath>,
    start: Arc<dyn Start>,
    next_epoch: u32,
    /// Slots of pods that leave: no entry names them any more, and their listeners are still there.
    leaving: HashSet<u32>,
}

impl Active {
    pub fn serves(&self, identity: &Identity, ips: Addresses) -> bool {
        self.pod.identity == *identity && self.pod.ips == ips && !self.task.is_finished()
    }
}

impl Hooks {
    pub fn new(datapath: Arc<Datapath>, start: Arc<dyn Start>) -> Self {
        // Epochs of an earlier agent must not be given again while its sockets live.
        let next_epoch = datapath.known_pods().iter().map(|(_, entry)| entry.epoch).max().unwrap_or(0) + 1;
        Self { datapath, start, next_epoch, leaving: HashSet::new() }
    }

    /// What the kernel holds for pods, by this agent or an earlier one. The error is for people.
    pub fn hooked(&self) -> Result<Vec<Hooked>, String> {
        self.datapath.hooked().map_err(|e| format!("{:#}", anyhow::Error::from(e)))
    }

    /// Ends what an agent that died left half done.
    pub fn remove_half_done(&self) {
        if let Err(e) = self.datapath.remove_half_done() {
            tracing::error!(error = %anyhow::Error::from(e), "cannot remove what an earlier agent left half done");
        }
    }

    /// The namespace is redirected, by this agent or an earlier one.
    pub fn known(&self, netns: &Netns) -> bool {
        self.datapath.known_pods().iter().any(|(cookie, entry)| *cookie == netns.cookie() && !is_observed(entry))
    }

    /// Redirects a pod, or swaps what serves it: the hooks of a namespace that is hooked already are replaced in
    /// place. The error is for people.
    pub fn hook(
        &mut self,
        netns: &Arc<Netns>,
        cgroup: &Path,
        want: &LocalPod,
        identity: Identity,
        ips: Addresses,
    ) -> Result<Active, String> {
        let started = Instant::now();
        namespace::check(netns, ips)?;
        let cgroup = cgroup::id(cgroup).map_err(|e| format!("cgroup {}: {e}", cgroup.display()))?;
        let (index, fresh) = self.slot(netns.cookie()).ok_or_else(no_slot)?;
        let (kept, served) = listen(netns)?;
        let slot = (index, self.next_epoch);
        self.next_epoch += 1;
        let pod = Pod::redirected(&want.uid, (&want.namespace, &want.name), identity, ips, netns, slot);
        let observed = self.observed(netns);
        let enrolled_now = fresh || observed.is_some();
        if observed.is_some()
            && let Err(e) = self.datapath.detach_pod(index, netns.cookie())
        {
            // What the agent accepts is recorded by the agent.
            return Err(format!("it is observed still: {:#}", anyhow::Error::from(e)));
        }
        if let Err(why) = self.attach(&pod, cgroup, kept.as_fd(), &want.probe_ports) {
            // Nothing half done stays behind, but what was closed before stays closed.
            if (fresh || observed.is_some())
                && let Err(e) = self.datapath.detach_pod(index, netns.cookie())
            {
                tracing::error!(error = %anyhow::Error::from(e), "cannot take back a half-done redirection");
            }
            if let Some(Err(error)) = observed.map(|entry| self.observe_again(netns, entry)) {
                tracing::error!(error, "a pod that was observed is so no longer");
            }
            return Err(why);
        }
        if !fresh && let Err(e) = self.datapath.keep_cgroup(index, cgroup) {
            tracing::error!(error = %anyhow::Error::from(e), "a cgroup that a pod had counts as its own still");
        }
        if enrolled_now {
            netns.older.clear();
            if let Err(error) = netns.note_older() {
                let (namespace, name) = (&want.namespace, &want.name);
                let why = "connections older than its enrolment cannot be seen, and go on";
                tracing::error!(namespace, pod = name, %error, why);
            }
        }
        let task = self.begin(&pod, served);
        let hook_ms = started.elapsed().as_secs_f64() * 1000.0;
        tracing::info!(namespace = pod.namespace, pod = pod.name, index, epoch = pod.epoch, hook_ms, "pod hooked");
        Ok(Active { pod, pod_uid: want.pod_uid.clone(), probe_ports: want.probe_ports.clone(), listener: kept, task })
    }

    /// Says everything of a pod to the kernel.
    fn attach(&self, pod: &Pod, cgroup: u64, listener: BorrowedFd<'_>, probe_ports: &[u16]) -> Result<(), String> {
        let open = open_ports(&pod.netns, &pod.namespace, &pod.name);
        let hooks = PodHooks {
            entry: pod.entry(),
            netns: pod.netns.fd(),
            netns_cookie: pod.netns.cookie(),
            cgroup,
            listener,
            listening: open.as_deref(),
            probe_ports,
        };
        self.datapath.attach_pod(&hooks).map_err(|e| format!("{:#}", anyhow::Error::from(e)))
    }

    /// Serves a pod that is hooked.
    fn begin(&self, pod: &Arc<Pod>, listener: TcpListener) -> AbortHandle {
        // What opened or closed before the kernel knew the pod.
        pod.listener_closed();
        tokio::spawn(listeners::follow(Arc::clone(&self.datapath), Arc::clone(pod)));
        self.start.start(Arc::clone(pod), listener)
    }

    /// The ports that the kubelet may probe, if they are others than before.
    pub fn probe_ports(&self, active: &mut Active, want: &LocalPod) -> Result<(), String> {
        if active.probe_ports == want.probe_ports {
            return Ok(());
        }
        self.datapath
            .set_probes(active.pod.entry(), &want.probe_ports)
            .map_err(|e| format!("{:#}", anyhow::Error::from(e)))?;
        active.probe_ports.clone_from(&want.probe_ports);
        Ok(())
    }

    /// Ends what served a pod before its successor took over.
    pub fn replaced(&self, before: Option<Active>) {
        if let Some(before) = before {
            self.end(&before, Presence::Replaced, false);
        }
    }

    /// Ends what served a pod, and leaves its hooks: with nobody behind them, they refuse.
    pub fn refuse(&self, active: Option<Active>) {
        if let Some(active) = active {
            self.end(&active, Presence::Removed, false);
        }
    }

    /// Takes every hook of the namespace away, also those of an earlier agent.
    pub fn unhook(&mut self, netns_cookie: u64, active: Option<Active>, presence: Presence) {
        let known = self.datapath.known_pods().into_iter().find(|(cookie, _)| *cookie == netns_cookie);
        // A pod that leaves has no entry any more.
        let index = known.map(|(_, entry)| entry.index).or(active.as_ref().map(|active| active.pod.index));
        if let Some(index) = index
            && let Err(e) = self.datapath.detach_pod(index, netns_cookie)
        {
            tracing::error!(error = %anyhow::Error::from(e), "cannot take the hooks from a pod");
        }
        if let Some(active) = active {
            self.leaving.remove(&active.pod.index);
            self.end(&active, presence, false);
        }
    }

    fn end(&self, active: &Active, presence: Presence, in_order: bool) {
        active.task.abort();
        active.pod.presence.send_replace(presence);
        self.start.stopped(&active.pod, in_order);
    }

    /// The slot that the namespace has, or one that nobody has; and whether it is new.
    fn slot(&self, netns_cookie: u64) -> Option<(u32, bool)> {
        let known = self.datapath.known_pods();
        if let Some((_, entry)) = known.iter().find(|(cookie, _)| *cookie == netns_cookie) {
            return Some((entry.index, false));
        }
        let used: HashSet<u32> =
            known.into_iter().map(|(_, entry)| entry.index).chain(self.leaving.iter().copied()).collect();
        (0..MAX_PODS).find(|index| !used.contains(index)).map(|index| (index, true))
    }
}

fn no_slot() -> String {
    format!("{MAX_PODS} pods are redirected or observed already")
}

/// A pod's new listener: the socket to keep, and the one that is served.
fn listen(netns: &Netns) -> Result<(OwnedFd, TcpListener), String> {
    let kept = namespace::listen(netns).map_err(|e| format!("cannot listen in its network namespace: {e}"))?.into();
    let served = served(&kept)?;
    Ok((kept, served))
}

/// What accepts from a socket that is kept.
fn served(kept: &OwnedFd) -> Result<TcpListener, String> {
    let served = kept.try_clone().map_err(|e| format!("cannot keep its listener: {e}"))?;
    TcpListener::from_std(served.into()).map_err(|e| format!("cannot serve its listener: {e}"))
}

/// The ports on which somebody in the namespace listens; `None`: it cannot be known, and the log says why.
fn open_ports(netns: &Netns, namespace: &str, pod: &str) -> Option<Vec<u16>> {
    match listeners::listening(netns) {
        Ok(ports) => Some(ports.into_iter().collect()),
        Err(e) => {
            let why = "cannot see which ports are open; closed ones will look open at first";
            tracing::warn!(namespace, pod, error = %e, why);
            None
        }
    }
}
