//! One task owns which pods joined and which are redirected, and brings the two together: a pod is redirected when it
//! joined, the configuration wants it in the mesh, and its certificate is there.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use mesh_common::{
    abi::MAX_PODS,
    model::{Identity, LocalPod, Mode},
};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, oneshot, watch},
    task::AbortHandle,
};

use super::{Netns, Pod, PodTable, Request, cgroup, hook};
use crate::{
    bpf::{Datapath, PodHooks},
    identity::Certificates,
    state::{Snapshot, Store},
};

/// How soon a failed or waiting pod is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How long one wait for a certificate lasts before its state is looked at anew.
const CERTIFICATE_PATIENCE: Duration = Duration::from_secs(5);

pub struct Settings {
    /// Where the cgroup programs are attached.
    pub cgroup: PathBuf,
}

/// Serves the connections of one pod's listener; the task ends when it is aborted.
pub trait Start: Send + Sync + 'static {
    fn start(&self, pod: Arc<Pod>, listener: TcpListener) -> AbortHandle;
    /// The pod is no longer redirected: whatever is kept for it must go.
    fn stopped(&self, pod: &Pod);
}

/// A request by the local socket.
pub enum Command {
    Join { request: Request, netns: OwnedFd, done: oneshot::Sender<Result<(), String>> },
    Leave { namespace: String, name: String, done: oneshot::Sender<Result<(), String>> },
}

/// What the kernel does with a pod that joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    pub namespace: String,
    pub name: String,
    pub pod_uid: String,
    pub redirection: Redirection,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirection {
    /// Not in the mesh.
    Disabled,
    /// In the mesh, but something that comes by itself is missing.
    Pending(String),
    Enabled,
    Failed(String),
}

pub struct Registry {
    settings: Settings,
    datapath: Arc<Datapath>,
    certificates: Arc<Certificates>,
    store: Arc<Store>,
    table: Arc<PodTable>,
    start: Arc<dyn Start>,
    joined: BTreeMap<(String, String), Joined>,
    states: watch::Sender<Vec<PodStatus>>,
    next_epoch: u32,
    wake: Arc<Notify>,
}

/// A pod that joined. Its namespace is held either here or, while it is redirected, by its [`Pod`].
struct Joined {
    pod_uid: String,
    cgroup: PathBuf,
    netns: OwnedFd,
    active: Option<Active>,
    redirection: Redirection,
    /// Somebody waits for its certificate and will wake the registry.
    waiting: Option<AbortHandle>,
}

struct Active {
    pod: Arc<Pod>,
    task: AbortHandle,
}

impl Registry {
    pub fn new(
        settings: Settings,
        datapath: Arc<Datapath>,
        certificates: Arc<Certificates>,
        store: Arc<Store>,
        table: Arc<PodTable>,
        start: Arc<dyn Start>,
    ) -> (Self, watch::Receiver<Vec<PodStatus>>) {
        let (states, seen) = watch::channel(Vec::new());
        // Epochs of an earlier agent must not be given again while its sockets live.
        let next_epoch = datapath.known_pods().iter().map(|(_, entry)| entry.epoch).max().unwrap_or(0) + 1;
        let registry = Self {
            settings,
            datapath,
            certificates,
            store,
            table,
            start,
            joined: BTreeMap::new(),
            states,
            next_epoch,
            wake: Arc::default(),
        };
        (registry, seen)
    }

    /// Runs until every sender of commands is gone.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut changes = self.store.subscribe();
        loop {
            let wait = self.reconcile(&changes.borrow_and_update().clone());
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Join { request, netns, done }) => {
                        let _ = done.send(self.join(request, netns));
                    }
                    Some(Command::Leave { namespace, name, done }) => {
                        let _ = done.send(self.leave(namespace, name));
                    }
                    None => return,
                },
                () = self.wake.notified() => {}
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
            }
        }
    }

    fn join(&mut self, request: Request, netns: OwnedFd) -> Result<(), String> {
        let cgroup = cgroup::below(&self.settings.cgroup, &request.cgroup)?;
        // Proves that the descriptor is a pod's network namespace.
        let probe = netns.try_clone().and_then(Netns::new);
        let probe = probe.map_err(|e| format!("the descriptor is no pod's network namespace: {e}"))?;
        let key = (request.namespace, request.name);
        if let Some(old) = self.joined.get(&key) {
            let same = old.active.as_ref().is_some_and(|a| a.pod.netns.cookie() == probe.cookie());
            if same && old.pod_uid == request.pod_uid && old.cgroup == cgroup {
                return Ok(());
            }
            // The same name again is another pod: what was known of the old one must not serve it.
            self.deactivate(&key);
        }
        tracing::info!(namespace = key.0, pod = key.1, "pod joined");
        let redirection = Redirection::Disabled;
        let joined = Joined { pod_uid: request.pod_uid, cgroup, netns, active: None, redirection, waiting: None };
        self.joined.insert(key, joined);
        Ok(())
    }

    fn leave(&mut self, namespace: String, name: String) -> Result<(), String> {
        let key = (namespace, name);
        if !self.joined.contains_key(&key) {
            // CNI DEL must succeed for a pod that is gone already.
            return Ok(());
        }
        self.deactivate(&key);
        self.joined.remove(&key);
        tracing::info!(namespace = key.0, pod = key.1, "pod left");
        Ok(())
    }

    /// Brings every pod to what it shall be; says when to look again, if anything is unfinished.
    fn reconcile(&mut self, snapshot: &Snapshot) -> Option<Duration> {
        let wanted = |key: &(String, String), joined: &Joined| {
            let pod = snapshot.local_pod(&key.0, &key.1)?;
            let same = pod.pod_uid.is_empty() || joined.pod_uid.is_empty() || pod.pod_uid == joined.pod_uid;
            (pod.mode == Mode::Mesh && same).then(|| Arc::clone(pod))
        };
        let plan: Vec<_> = self
            .joined
            .iter()
            .map(|(key, joined)| {
                let pod = wanted(key, joined);
                let identity = pod.as_ref().and_then(|p| snapshot.workload(&p.uid)).map(|w| w.identity.clone());
                (key.clone(), pod, identity)
            })
            .collect();
        let identities: BTreeSet<Identity> = plan.iter().filter_map(|(_, _, identity)| identity.clone()).collect();
        self.certificates.keep(identities);

        let mut again = None;
        for (key, pod, identity) in plan {
            let redirection = match pod {
                None => {
                    self.deactivate(&key);
                    Redirection::Disabled
                }
                Some(pod) => self.advance(&key, &pod, identity),
            };
            if let Some(joined) = self.joined.get_mut(&key) {
                if matches!(redirection, Redirection::Failed(_)) {
                    again = Some(RETRY);
                }
                if joined.redirection != redirection {
                    tracing::info!(namespace = key.0, pod = key.1, ?redirection, "redirection");
                }
                joined.redirection = redirection;
            }
        }
        self.report();
        again
    }

    /// One pod that shall be in the mesh.
    fn advance(&mut self, key: &(String, String), want: &LocalPod, identity: Option<Identity>) -> Redirection {
        let Some(identity) = identity else {
            return Redirection::Pending("its workload is not known yet".to_owned());
        };
        let Some(ip) = want.addresses.iter().copied().find(std::net::IpAddr::is_ipv4) else {
            self.deactivate(key);
            return Redirection::Failed("it has no IPv4 address; IPv6-only pods are not supported yet".to_owned());
        };
        let current = self.joined.get(key).and_then(|j| j.active.as_ref());
        if let Some(active) = current {
            if active.pod.identity == identity && active.pod.ip == ip && !active.task.is_finished() {
                return Redirection::Enabled;
            }
            self.deactivate(key);
        }
        if self.certificates.current(&identity).is_none() {
            let state = self.certificates.list().into_iter().find(|c| c.identity == identity).map(|c| c.state);
            let why = format!("no certificate for {identity} yet: {}", state.as_deref().unwrap_or("not asked for"));
            self.await_certificate(key, identity);
            return Redirection::Pending(why);
        }
        match self.activate(key, want, identity, ip) {
            Ok(()) => Redirection::Enabled,
            Err(why) => Redirection::Failed(why),
        }
    }

    /// Wakes the registry when the certificate is there, refused, or late.
    fn await_certificate(&mut self, key: &(String, String), identity: Identity) {
        let Some(joined) = self.joined.get_mut(key) else { return };
        if joined.waiting.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (certificates, wake) = (Arc::clone(&self.certificates), Arc::clone(&self.wake));
        let wait = async move {
            if let Err(e) = certificates.wait(&identity, CERTIFICATE_PATIENCE).await {
                tracing::warn!(%identity, error = %e, "no certificate; the pod is not redirected");
                // A refusal comes at once: not to ask for the state in a tight loop.
                tokio::time::sleep(RETRY).await;
            }
            wake.notify_one();
        };
        joined.waiting = Some(tokio::spawn(wait).abort_handle());
    }

    fn activate(
        &mut self,
        key: &(String, String),
        want: &LocalPod,
        identity: Identity,
        ip: std::net::IpAddr,
    ) -> Result<(), String> {
        let joined = self.joined.get(key).ok_or("it left")?;
        let netns = joined
            .netns
            .try_clone()
            .and_then(Netns::new)
            .map_err(|e| format!("its network namespace cannot be used: {e}"))?;
        hook::check(&netns, ip)?;
        let cgroup = cgroup::id(&joined.cgroup).map_err(|e| format!("cgroup {}: {e}", joined.cgroup.display()))?;
        let index = self.free_index(netns.cookie()).ok_or_else(|| format!("{MAX_PODS} pods are redirected already"))?;
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        let listener = hook::listen(&netns).map_err(|e| format!("cannot listen in its network namespace: {e}"))?;
        let hooks = PodHooks {
            index,
            epoch,
            ip,
            netns: netns.fd(),
            netns_cookie: netns.cookie(),
            cgroup,
            listener: listener.as_fd(),
        };
        if let Err(e) = self.datapath.attach_pod(&hooks) {
            // Nothing half done stays behind.
            if let Err(e) = self.datapath.detach_pod(index, netns.cookie(), cgroup) {
                tracing::error!(error = %anyhow::Error::from(e), "cannot take back a half-done redirection");
            }
            return Err(format!("{:#}", anyhow::Error::from(e)));
        }
        let listener = TcpListener::from_std(listener.into()).map_err(|e| format!("cannot serve its listener: {e}"))?;
        let pod = Arc::new(Pod {
            uid: want.uid.clone(),
            namespace: want.namespace.clone(),
            name: want.name.clone(),
            identity,
            ip,
            netns,
            index,
            epoch,
            cgroup,
            gone: watch::Sender::new(false),
        });
        let task = self.start.start(Arc::clone(&pod), listener);
        if let Some(joined) = self.joined.get_mut(key) {
            joined.active = Some(Active { pod, task });
        }
        self.publish();
        Ok(())
    }

    fn deactivate(&mut self, key: &(String, String)) {
        let Some(Active { pod, task }) = self.joined.get_mut(key).and_then(|j| j.active.take()) else { return };
        if let Err(e) = self.datapath.detach_pod(pod.index, pod.netns.cookie(), pod.cgroup) {
            tracing::error!(namespace = key.0, pod = key.1, error = %anyhow::Error::from(e), "cannot unhook the pod");
        }
        task.abort();
        pod.gone.send_replace(true);
        self.start.stopped(&pod);
        self.publish();
    }

    /// The slot that an earlier agent gave to the namespace, or one that nobody has.
    fn free_index(&self, netns_cookie: u64) -> Option<u32> {
        let known = self.datapath.known_pods();
        if let Some((_, entry)) = known.iter().find(|(cookie, _)| *cookie == netns_cookie) {
            return Some(entry.index);
        }
        let mut used: HashSet<u32> = known.into_iter().map(|(_, entry)| entry.index).collect();
        used.extend(self.joined.values().filter_map(|j| j.active.as_ref()).map(|a| a.pod.index));
        (0..MAX_PODS).find(|index| !used.contains(index))
    }

    fn publish(&self) {
        self.table.publish(self.joined.values().filter_map(|j| j.active.as_ref()).map(|a| &a.pod));
    }

    fn report(&self) {
        let states: Vec<PodStatus> = self
            .joined
            .iter()
            .map(|((namespace, name), joined)| PodStatus {
                namespace: namespace.clone(),
                name: name.clone(),
                pod_uid: joined.pod_uid.clone(),
                redirection: joined.redirection.clone(),
            })
            .collect();
        self.states.send_if_modified(|old| {
            let changed = *old != states;
            *old = states;
            changed
        });
    }
}
