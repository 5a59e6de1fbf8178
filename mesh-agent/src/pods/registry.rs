//! One task owns which pods joined and which are redirected, and brings the two together: a pod is redirected when it
//! joined, the configuration wants it in the mesh, and its certificate is there.

mod asked;
mod audited;
mod found;
mod hand_over;
mod joining;
mod leaving;
mod observing;
mod restore;
mod wish;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use asked::Waiting;
use audited::Audited;
use found::Looked;
use leaving::Leaving;
use mesh_common::{
    abi::PodEntry,
    model::{Identity, LocalPod},
};
use restore::Lost;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::AbortHandle,
    time::Instant,
};
use wish::{Wish, named, wish};

use super::{
    Answer, HandedPods, Netns, PodTable, Refusal, Request,
    audit::Findings,
    cgroup::PodCgroups,
    hooks::{Active, Hooks, Start},
    remembered::Remembered,
    table::Addresses,
};
use crate::{
    bpf::Datapath,
    identity::Certificates,
    state::{Snapshot, Store},
};

/// How soon a failed or waiting pod is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How soon a program that could not be exchanged is tried again.
const PROGRAM_RETRY: Duration = Duration::from_secs(5);
/// How long one wait for a certificate lasts before its state is looked at anew.
const CERTIFICATE_PATIENCE: Duration = Duration::from_secs(5);

/// How soon a pod that was just hooked is looked at.
const FIRST_AUDIT: Duration = Duration::from_millis(200);
/// How long two agents may accept at the same time.
const AFTER_HAND_OVER: Duration = Duration::from_millis(500);

pub struct Settings {
    /// Where the cgroup programs are attached.
    pub cgroup: PathBuf,
    /// Where the node's processes are seen.
    pub host_proc: PathBuf,
    /// Folder in which is remembered who joined.
    pub state: PathBuf,
    /// How often everything is proven.
    pub audit_interval: Duration,
    /// The virtual port of redirected connections.
    pub outbound_port: u16,
}

/// A request by the local socket.
pub enum Command {
    Join {
        request: Request,
        netns: OwnedFd,
        done: Done,
    },
    Leave {
        request: Request,
        netns: Option<OwnedFd>,
        done: Done,
    },
    /// Is the pod what it shall be, by proof?
    Check {
        request: Request,
        done: Done,
    },
    /// Pods of other containers than these are gone.
    Keep {
        containers: Vec<String>,
        done: Done,
    },
    /// Give all pods to another agent of this node. Nothing else is done until `served` says that it serves them, and
    /// nothing at all after that; dropped, all goes on. Through what `served` brings it is told that nothing acts here
    /// any more.
    HandOver {
        given: oneshot::Sender<io::Result<HandedPods>>,
        served: oneshot::Receiver<oneshot::Sender<()>>,
    },
}

/// Whoever asked may have gone meanwhile.
pub type Done = oneshot::Sender<Result<Answer, Refusal>>;

/// How [`Registry::run`] ended.
#[derive(Debug)]
pub enum Ended {
    /// Another agent serves the pods. It waits for the word that nothing acts here any more, also if this is dropped.
    HandedOver(oneshot::Sender<()>),
    /// Nobody is left who could ask for anything.
    Abandoned,
}

/// What the kernel does with a pod that joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    pub namespace: String,
    pub name: String,
    pub pod_uid: String,
    pub redirection: Redirection,
    /// The configuration says that it shall be redirected.
    pub wanted: bool,
    /// What the last audit found wrong, for people; empty: nothing.
    pub fault: String,
    /// When its hooks were proven last.
    pub proven: Option<SystemTime>,
}

/// What the registry tells.
#[derive(Debug)]
pub struct Seen {
    pub pods: watch::Receiver<Vec<PodStatus>>,
    /// What is wrong with the hooks that all pods share, for people; empty: they are proven.
    pub hooks: watch::Receiver<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirection {
    /// Not in the mesh.
    Disabled,
    /// Not in the mesh, and its connections are recorded.
    Observed,
    /// In the mesh, but something that comes by itself is missing.
    Pending(String),
    Enabled,
    Failed(String),
}

pub struct Registry {
    settings: Settings,
    certificates: Arc<Certificates>,
    store: Arc<Store>,
    table: Arc<PodTable>,
    hooks: Hooks,
    joined: BTreeMap<Key, Joined>,
    /// Joined an earlier agent, and not found yet.
    lost: BTreeMap<Key, Lost>,
    /// When to look for them.
    look_at: Instant,
    /// Who waits until a pod is what it shall be.
    waiting: Vec<Waiting>,
    /// The pods' cgroups.
    cgroups: PodCgroups,
    /// Pods that the configuration names and nobody announced.
    looked: Looked,
    remembered: Remembered,
    states: watch::Sender<Vec<PodStatus>>,
    /// What is wrong with the hooks that all pods share.
    shared: watch::Sender<String>,
    /// The audit that is under way, and where it tells what it found.
    auditing: Option<AbortHandle>,
    findings: mpsc::Sender<Findings<Key>>,
    found: mpsc::Receiver<Findings<Key>>,
    next_audit: Instant,
    wake: Arc<Notify>,
}

/// Namespace and name.
type Key = (String, String);

/// A pod that joined.
struct Joined {
    pod_uid: String,
    /// Empty: it was not found yet.
    cgroup: PathBuf,
    /// The runtime's name for its sandbox; empty: nobody said.
    container: String,
    /// What CNI gave its namespace; `None`: those of the configuration count.
    given: Option<Addresses>,
    netns: Arc<Netns>,
    active: Option<Active>,
    /// What the kernel holds for it if it is observed; never beside `active`.
    observed: Option<PodEntry>,
    redirection: Redirection,
    wanted: bool,
    audited: Audited,
    /// It is to leave the mesh.
    leaving: Option<Leaving>,
    /// It runs the program of an earlier agent still; when to give it this one's.
    old_program: Option<Instant>,
    /// Another pod had its namespace: what the kernel kept for that one is not its own.
    heir: bool,
    /// Somebody waits for its certificate and will wake the registry.
    waiting: Option<AbortHandle>,
}

impl Joined {
    /// Its addresses: from its namespace's making on they are CNI's, whatever the configuration says later.
    fn addresses(&self, want: &LocalPod) -> Option<Addresses> {
        self.given.or_else(|| Addresses::of(&want.addresses))
    }

    fn new(pod_uid: String, cgroup: PathBuf, netns: Arc<Netns>) -> Self {
        Self {
            pod_uid,
            cgroup,
            container: String::new(),
            given: None,
            netns,
            active: None,
            observed: None,
            redirection: Redirection::Disabled,
            wanted: false,
            audited: Audited::default(),
            leaving: None,
            old_program: None,
            heir: false,
            waiting: None,
        }
    }
}

impl Registry {
    pub fn new(
        settings: Settings,
        datapath: Arc<Datapath>,
        certificates: Arc<Certificates>,
        store: Arc<Store>,
        table: Arc<PodTable>,
        start: Arc<dyn Start>,
    ) -> io::Result<(Self, Seen)> {
        let (states, pods) = watch::channel(Vec::new());
        let (shared, hooks) = watch::channel("its hooks were not looked at yet".to_owned());
        let (findings, found) = mpsc::channel(1);
        let registry = Self {
            remembered: Remembered::new(&settings.state)?,
            cgroups: PodCgroups::new(&settings.cgroup),
            settings,
            certificates,
            store,
            table,
            hooks: Hooks::new(datapath, start),
            joined: BTreeMap::new(),
            lost: BTreeMap::new(),
            look_at: Instant::now(),
            waiting: Vec::new(),
            looked: Looked::default(),
            states,
            shared,
            auditing: None,
            findings,
            found,
            next_audit: Instant::now(),
            wake: Arc::default(),
        };
        Ok((registry, Seen { pods, hooks }))
    }

    /// Finds the pods that an earlier agent left, and runs until the pods are another agent's, or every sender of
    /// commands is gone. An agent that this one takes over from must have let go before.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Ended {
        self.resume_leaving();
        self.restore();
        let mut changes = self.store.subscribe();
        loop {
            // Borrowed no longer than this: whoever brings the next one must not wait for the kernel.
            let snapshot = changes.borrow_and_update().clone();
            let found = self.look_for_unannounced(&snapshot);
            let unfinished = self.reconcile(&snapshot);
            let asked = self.answer(&snapshot);
            let wait = [unfinished, self.look_again(), self.next_step(), asked, found].into_iter().flatten().min();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Join { request, netns, done }) => self.join_and_wait(request, netns, done),
                    Some(Command::Leave { request, netns, done }) => {
                        self.leave(request, netns);
                        let _ = done.send(Ok(Answer::Done));
                    }
                    Some(Command::Check { request, done }) => self.check(request, done),
                    Some(Command::Keep { containers, done }) => {
                        self.keep(&containers);
                        let _ = done.send(Ok(Answer::Done));
                    }
                    Some(Command::HandOver { given, served }) => {
                        if let Some(lets_go) = self.hand_over(given, served).await {
                            return Ended::HandedOver(lets_go);
                        }
                    }
                    None => return Ended::Abandoned,
                },
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(self.next_audit) => {
                    self.audit();
                    self.next_audit = Instant::now() + self.settings.audit_interval;
                }
                Some(findings) = self.found.recv() => {
                    if let Some(soon) = self.audited(findings) {
                        self.next_audit = Instant::now() + soon;
                    }
                }
                changed = changes.changed() => if changed.is_err() { return Ended::Abandoned },
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
            }
        }
    }

    /// Brings every pod to what it shall be; says when to look again, if anything is unfinished.
    fn reconcile(&mut self, snapshot: &Snapshot) -> Option<Duration> {
        let plan: Vec<(Key, Wish)> =
            self.joined.iter().map(|(key, joined)| (key.clone(), wish(snapshot, key, joined))).collect();
        let wanted = plan.iter().filter_map(|(_, wish)| match wish {
            Wish::Redirect(_, identity) => identity.clone(),
            Wish::Observe(_) | Wish::Leave | Wish::Unknown => None,
        });
        let in_use = self.joined.values().filter_map(|j| j.active.as_ref()).map(|a| a.pod.identity.clone());
        self.certificates.keep(wanted.chain(in_use).collect::<BTreeSet<_>>());

        let mut again = None;
        for (key, wish) in plan {
            let wanted = matches!(wish, Wish::Redirect(..));
            let redirection = match wish {
                Wish::Redirect(pod, identity) => self.advance(&key, &pod, identity),
                // The label may have been written after the disk was.
                Wish::Leave | Wish::Observe(_) if !snapshot.confirms_pods() && self.is_redirected(&key) => {
                    Redirection::Pending(
                        "it is redirected, and the controller has not confirmed yet that it is not in the mesh"
                            .to_owned(),
                    )
                }
                Wish::Observe(pod) => self.observe(&key, &pod),
                Wish::Leave => self.open(&key),
                Wish::Unknown if self.leaves(&key) => self.open(&key),
                Wish::Unknown => self.stay(&key),
            };
            if let Some(joined) = self.joined.get_mut(&key) {
                if matches!(redirection, Redirection::Failed(_)) {
                    again = Some(RETRY);
                }
                if joined.redirection != redirection {
                    tracing::info!(namespace = key.0, pod = key.1, ?redirection, "redirection");
                }
                (joined.redirection, joined.wanted) = (redirection, wanted);
            }
        }
        self.report(snapshot);
        [again, self.renew_program()].into_iter().flatten().min()
    }

    /// Gives one pod that was resumed this agent's program, and says when the next one is due. One at a time, so that
    /// pods that join do not wait.
    fn renew_program(&mut self) -> Option<Duration> {
        let now = Instant::now();
        // A pod that leaves would be enrolled again.
        let stays = self.joined.iter_mut().filter(|(_, joined)| joined.leaving.is_none());
        let due = stays.filter_map(|(key, joined)| Some((joined.old_program?, key, joined)));
        let (due, key, joined) = due.min_by_key(|(due, ..)| *due)?;
        if due > now {
            return Some(due - now);
        }
        joined.old_program = None;
        if let Some(active) = &joined.active
            && let Err(why) = self.hooks.mend(active, &joined.cgroup)
        {
            tracing::error!(namespace = key.0, pod = key.1, why, "the pod keeps the program of an earlier agent");
            joined.old_program = Some(now + PROGRAM_RETRY);
        }
        Some(Duration::ZERO)
    }

    /// The kernel redirects it, by this agent's or an earlier one's doing, and it does not leave yet.
    fn is_redirected(&self, key: &Key) -> bool {
        let of = |joined: &Joined| joined.active.is_some() || self.hooks.known(&joined.netns);
        !self.leaves(key) && self.joined.get(key).is_some_and(of)
    }

    /// One pod that the configuration does not name.
    fn stay(&self, key: &Key) -> Redirection {
        match self.joined.get(key) {
            Some(joined) if joined.active.is_some() => {
                Redirection::Pending("the configuration does not name it any more; it stays redirected".to_owned())
            }
            Some(joined) if self.hooks.known(&joined.netns) => Redirection::Pending(
                "an earlier agent redirected it and the configuration does not name it; it is refused".to_owned(),
            ),
            _ => Redirection::Pending("the configuration names no such pod on this node".to_owned()),
        }
    }

    /// One pod that shall be in the mesh. What is redirected stays so until its successor can take over.
    fn advance(&mut self, key: &Key, want: &LocalPod, identity: Option<Identity>) -> Redirection {
        let Some(identity) = identity else {
            return Redirection::Pending("its workload is not known yet".to_owned());
        };
        let Some(ips) = self.joined.get(key).and_then(|joined| joined.addresses(want)) else {
            return Redirection::Failed("it has no address".to_owned());
        };
        if let Err(why) = self.find_cgroup(key) {
            return Redirection::Failed(why);
        }
        if self.leaves(key)
            && let Err(why) = self.come_back(key)
        {
            return Redirection::Failed(why);
        }
        let active = self.joined.get_mut(key).and_then(|joined| joined.active.as_mut());
        let served = active.as_ref().is_some_and(|a| a.serves(&identity, ips));
        if served
            && let Some(active) = active
            && let Err(why) = self.hooks.probe_ports(active, want)
        {
            return Redirection::Failed(why);
        }
        let Some(joined) = self.joined.get(key) else { return Redirection::Disabled };
        let certified = self.certificates.current(&identity).is_some();
        // What an earlier agent redirected is refused by now: it is served at once, tunnels follow with the key.
        let refused = joined.active.is_none() && self.hooks.known(&joined.netns);
        let resumed = match refused && !joined.heir {
            true => self.hooks.resume(&joined.netns, &joined.cgroup, want, &identity, ips),
            false => Ok(None),
        };
        match resumed {
            Ok(None) => {}
            Ok(Some(active)) => {
                if let Some(joined) = self.joined.get_mut(key) {
                    (joined.active, joined.old_program) = (Some(active), Some(Instant::now()));
                }
                self.publish();
            }
            Err(why) => return Redirection::Failed(why),
        }
        let Some(joined) = self.joined.get(key) else { return Redirection::Disabled };
        let served = served || (refused && joined.active.is_some());
        if !served && (certified || refused) {
            match self.hooks.hook(&joined.netns, &joined.cgroup, want, identity.clone(), ips) {
                Ok(active) => {
                    let before = self.joined.get_mut(key).and_then(|joined| {
                        (joined.heir, joined.old_program, joined.observed) = (false, None, None);
                        joined.active.replace(active)
                    });
                    self.hooks.replaced(before);
                    self.publish();
                    let older = self.joined.get(key).is_some_and(|joined| !joined.netns.older.list().is_empty());
                    if older || self.remembered.wants(self.hooks.next_epoch()) {
                        self.remember();
                    }
                    self.next_audit = self.next_audit.min(Instant::now() + FIRST_AUDIT);
                }
                Err(why) => {
                    // What served it until now serves it still: the kernel may have heard half of the change.
                    if let Some(active) = &joined.active
                        && let Err(why) = self.hooks.mend(active, &joined.cgroup)
                    {
                        tracing::error!(namespace = key.0, pod = key.1, why, "the pod's hooks are half of a change");
                    }
                    return Redirection::Failed(why);
                }
            }
        }
        if let Some(joined) = self.joined.get(key).filter(|joined| joined.audited.broken) {
            return Redirection::Failed(joined.audited.fault.clone());
        }
        if certified {
            return Redirection::Enabled;
        }
        let state = self.certificates.list().into_iter().find(|c| c.identity == identity).map(|c| c.state);
        let state = state.as_deref().unwrap_or("not asked for");
        let why = match served || refused {
            true => format!("redirected, but its tunnels are refused: no certificate for {identity}: {state}"),
            false => format!("no certificate for {identity} yet: {state}"),
        };
        self.await_certificate(key, identity);
        Redirection::Pending(why)
    }

    /// Wakes the registry when the certificate is there, refused, or late.
    fn await_certificate(&mut self, key: &Key, identity: Identity) {
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

    fn publish(&self) {
        let redirected = self.joined.values().filter(|joined| joined.leaving.is_none());
        let observed = self.joined.values().filter_map(|joined| Some((joined.observed.as_ref()?, &joined.netns)));
        self.table.publish(redirected.filter_map(|joined| joined.active.as_ref()).map(|active| &active.pod), observed);
    }

    fn report(&self, snapshot: &Snapshot) {
        let states: Vec<PodStatus> = self
            .joined
            .iter()
            .map(|((namespace, name), joined)| PodStatus {
                namespace: namespace.clone(),
                name: name.clone(),
                pod_uid: joined.active.as_ref().map_or(&joined.pod_uid, |active| &active.pod_uid).clone(),
                redirection: joined.redirection.clone(),
                wanted: joined.wanted,
                fault: joined.audited.fault.clone(),
                proven: joined.audited.proven,
            })
            .chain(self.lost_states(snapshot))
            .chain(self.unannounced_states())
            .collect();
        self.states.send_if_modified(|old| {
            let changed = *old != states;
            *old = states;
            changed
        });
    }
}
