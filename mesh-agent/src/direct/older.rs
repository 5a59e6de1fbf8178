//! Connections that are older than their pod's enrolment. No agent carries them and no policy was asked: they are
//! listed and recorded here, and one that others dialled is ended once policies have denied it for a while. Who dials
//! again is asked for an identity.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use mesh_common::model::{self, Decision, Passed};

use super::Direct;
use crate::{
    pods::Pod,
    sock_diag::{self, Connection, Target},
    state::Snapshot,
    telemetry::{self, Direction, Live, OpenFlow, Party, Path},
};

/// How often they are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// For people, in their records.
const OLDER: &str = "older than the pod's enrolment";

/// One of them.
struct Tracked {
    flow: OpenFlow,
    live: Arc<Live>,
    /// Since when policies deny it.
    denied: Option<Instant>,
    /// It could not be ended, and that was said.
    told: bool,
}

/// By the sockets' cookies, which are unique on a node.
type All = HashMap<u64, Tracked>;

impl Direct {
    /// How many of its connections are older than it is in the mesh, by namespace and name of the pod.
    pub fn older(&self) -> BTreeMap<(String, String), usize> {
        self.older.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub(super) async fn watch_older(&self) {
        let mut all = All::new();
        let mut tick = tokio::time::interval(LOOK);
        loop {
            tick.tick().await;
            tokio::task::block_in_place(|| self.look_at_older(&mut all));
        }
    }

    fn look_at_older(&self, all: &mut All) {
        let (mut open, mut counts) = (HashSet::new(), BTreeMap::new());
        for pod in self.pods.redirected() {
            match self.older_of(&pod, all) {
                Ok(found) if found.is_empty() => {}
                Ok(found) => {
                    counts.insert((pod.namespace.clone(), pod.name.clone()), found.len());
                    open.extend(found);
                }
                Err(error) => {
                    tracing::warn!(namespace = pod.namespace, pod = pod.name, %error, "cannot see its older connections");
                    open.extend(pod.netns.older.list().into_iter().map(|(cookie, _)| cookie));
                }
            }
        }
        // Their records are written.
        all.retain(|cookie, _| open.contains(cookie));
        telemetry::older_connections(open.len());
        *self.older.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = counts;
    }

    /// Those of a pod that are still open.
    fn older_of(&self, pod: &Pod, all: &mut All) -> io::Result<Vec<u64>> {
        let known = pod.netns.older.list();
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let open = pod.netns.run(sock_diag::connections)??;
        let open: HashMap<u64, Connection> = open.into_iter().map(|open| (open.cookie, open)).collect();
        pod.netns.older.keep(|cookie| open.contains_key(&cookie));
        // Of a pod that was observed the kernel records them.
        let recorded: HashSet<u64> = self.datapath.direct_connections().into_iter().map(|(cookie, _)| cookie).collect();
        let snapshot = self.in_force();
        let mut found = Vec::new();
        for (cookie, inbound) in known {
            let Some(open) = open.get(&cookie) else { continue };
            found.push(cookie);
            let direction = if inbound { Direction::Inbound } else { Direction::Outbound };
            if !recorded.contains(&cookie) {
                let tracked = all.entry(cookie).or_insert_with(|| self.track(&snapshot, pod, open, direction));
                tracked.count(open, direction);
            }
            if let Some(decision) = denied(&snapshot, pod, open).filter(|_| inbound) {
                self.end_older(pod, open, decision, all);
            } else if let Some(tracked) = all.get_mut(&cookie) {
                tracked.denied = None;
            }
        }
        Ok(found)
    }

    fn track(&self, snapshot: &Snapshot, pod: &Pod, open: &Connection, direction: Direction) -> Tracked {
        let workload = snapshot.workload(&pod.uid).map(|workload| &**workload);
        let own = pod.party(open.local, workload);
        let other = match snapshot.workload_by_address(open.remote.ip()) {
            // Nobody proved it.
            Some(known) => Party { identity: None, ..Party::of(known, open.remote) },
            None => Party::stranger(open.remote),
        };
        let (source, destination, service) = match direction {
            Direction::Inbound => (other, own, workload.and_then(|workload| workload.service_to(open.local.port()))),
            // Where it was dialled is not known any more, only where it arrived.
            Direction::Outbound => (own, other, None),
        };
        let mut flow = self.flows.begin(direction, source, destination);
        (flow.path, flow.generation) = (Some(Path::Passthrough), snapshot.generation());
        flow.told = snapshot.local_pod_by_uid(&pod.uid).cloned();
        flow.service = service.cloned().map(Arc::new);
        flow.error = Some(OLDER.to_owned());
        flow.older = true;
        let live = flow.live();
        Tracked { flow, live, denied: None, told: false }
    }

    /// Ends it if it is denied for long enough.
    fn end_older(&self, pod: &Pod, open: &Connection, decision: Decision, all: &mut All) {
        let Some(tracked) = all.get_mut(&open.cookie) else { return };
        let now = Instant::now();
        if now - *tracked.denied.get_or_insert(now) < self.settings.strict_grace {
            return;
        }
        let target = Target { local: open.local, remote: open.remote, cookie: open.cookie };
        match pod.netns.run(|| sock_diag::destroy_all(&[target])).and_then(|ended| ended) {
            Ok(_) => {
                tracked.flow.decided(&decision);
                if let Some(why) = &mut tracked.flow.error {
                    why.push_str("; it was ");
                    why.push_str(OLDER);
                }
                all.remove(&open.cookie);
            }
            Err(error) => {
                if !std::mem::replace(&mut tracked.told, true) {
                    let (namespace, name) = (&pod.namespace, &pod.name);
                    tracing::error!(namespace, pod = name, %error, "cannot end a connection that is denied and older");
                }
            }
        }
    }
}

impl Tracked {
    /// Payload, as far as the kernel tells: the dialler's SYN counts as a byte.
    fn count(&self, open: &Connection, direction: Direction) {
        let Some(info) = open.info else { return };
        let (acked, received) = (info.bytes_acked, info.bytes_received);
        let (sent, received) = match direction {
            Direction::Outbound => (acked.saturating_sub(1), received),
            Direction::Inbound => (received, acked),
        };
        self.live.sent.store(sent, Ordering::Relaxed);
        self.live.received.store(received, Ordering::Relaxed);
    }
}

/// As a connection without identity; `None`: it is permitted, or nothing is known of the pod.
fn denied(snapshot: &Snapshot, pod: &Pod, open: &Connection) -> Option<Decision> {
    let workload = snapshot.workload(&pod.uid)?;
    let asked = model::Connection { source_identity: None, source_ip: open.remote.ip(), destination: open.local };
    let decision = snapshot.decide(workload, &asked, Passed::BYTES);
    decision.outcome.is_err().then_some(decision)
}
