//! The connections that are open and no agent carries: which decisions they stand on, and the end of those that a
//! change denies.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use mesh_common::{
    abi::{self, VerdictKey, direction},
    model::Decision,
};

use super::{
    Direct,
    decisions::REMEMBERED,
    judge::{Judged, Pair, judge},
};
use crate::{
    bpf::{kernel_now, nanoseconds},
    pods::Netns,
    sock_diag::{self, Target},
    state::Snapshot,
    telemetry::Counted,
};

/// How often it is looked whether a table that was full is so still.
const LOOK: Duration = Duration::from_secs(1);

/// What open connections stand on.
#[derive(Debug, Default)]
pub struct InUse {
    pub cookies: HashSet<u64>,
    pub decisions: HashSet<u32>,
    /// With the epoch of the source.
    pub pairs: HashSet<(VerdictKey, u32)>,
}

/// Why the agent ended a connection.
#[derive(Debug)]
pub enum Ended {
    Denied(Decision),
    /// It went past rules of requests that are newer.
    Outdated,
}

/// What is kept of open connections beside the kernel's table, by cookie.
#[derive(Debug, Default)]
pub struct Marks {
    /// Those that were ended, and since when: their records shall say why.
    revoked: HashMap<u64, (Ended, u64)>,
    /// The numbers of their records, of those that somebody asked for.
    ids: HashMap<u64, u64>,
    /// Those that are counted as opened.
    counted: HashSet<u64>,
    /// What ended while open ones are counted: it may still have been in the kernel's table.
    ended_meanwhile: Option<HashSet<u64>>,
    /// Sockets could not be ended.
    again: bool,
}

impl Marks {
    /// These are about to end.
    pub fn outdated(&mut self, targets: &[Target]) {
        let now = kernel_now();
        self.revoked.extend(targets.iter().map(|target| (target.cookie, (Ended::Outdated, now))));
    }

    /// These could not be ended, and their records shall not say that they were.
    pub fn not_ended(&mut self, targets: &[Target]) {
        targets.iter().for_each(|target| drop(self.revoked.remove(&target.cookie)));
        self.again = true;
    }

    /// It is over; why the agent ended it, if it did.
    pub fn ended(&mut self, cookie: u64) -> (Option<Ended>, Counted) {
        self.ids.remove(&cookie);
        if let Some(ended) = &mut self.ended_meanwhile {
            ended.insert(cookie);
        }
        let opened = self.counted.remove(&cookie);
        (self.revoked.remove(&cookie).map(|(why, _)| why), Counted { opened, ..Counted::default() })
    }

    /// The number of a connection's record.
    pub fn id(&mut self, cookie: u64, next: impl FnOnce() -> u64) -> u64 {
        *self.ids.entry(cookie).or_insert_with(next)
    }

    /// Marks go of what is not open any more: their records were lost.
    pub fn compare(&mut self, in_use: &InUse) {
        let late = kernel_now().saturating_sub(nanoseconds(REMEMBERED));
        self.ids.retain(|cookie, _| in_use.cookies.contains(cookie));
        self.counted.retain(|cookie| in_use.cookies.contains(cookie));
        self.revoked.retain(|cookie, (_, since)| *since >= late || in_use.cookies.contains(cookie));
    }
}

/// Sockets of one namespace that are to be destroyed.
type Doomed = HashMap<u64, (Arc<Netns>, Vec<Target>)>;

impl Direct {
    pub(super) fn in_use(&self) -> InUse {
        let mut in_use = InUse::default();
        for (cookie, open) in self.datapath.direct_connections() {
            in_use.cookies.insert(cookie);
            in_use.decisions.insert(open.decision);
            if open.direction == direction::DIRECT {
                let key = VerdictKey { source: open.pod, destination: open.remote };
                in_use.pairs.insert((key, open.epoch));
            }
        }
        in_use
    }

    /// Counts what is open as opened, each connection once; what was not when it was looked is when it ends. One caller
    /// at a time.
    pub fn count_open(&self) {
        self.marks().ended_meanwhile = Some(HashSet::new());
        let snapshot = self.store.snapshot();
        for (cookie, open) in self.datapath.direct_connections() {
            if self.marks().counted.contains(&cookie) {
                continue;
            }
            let flow = self.flow(cookie, &open, &snapshot);
            // Under the lock, which also the end of a connection takes.
            let mut marks = self.marks();
            if marks.ended_meanwhile.as_ref().is_some_and(|ended| !ended.contains(&cookie)) {
                marks.counted.insert(cookie);
                self.flows.opened(&flow);
            } else {
                marks.ids.remove(&cookie);
            }
        }
        self.marks().ended_meanwhile = None;
    }

    /// The kernel sends connections to the agent once the table of open ones was full, until it is told that there is
    /// room.
    fn make_room(&self) {
        let told = || {
            if !self.datapath.direct_full()? {
                return Ok(());
            }
            let open = self.datapath.direct_connections().len();
            let most = self.datapath.max_direct() as usize;
            tracing::warn!(
                map = "DIRECT",
                option = "--max-direct",
                open,
                most,
                "was full; the agent carries what comes"
            );
            // Not at the brim: a connect that finds none fails.
            if open < most - most / 10 { self.datapath.direct_has_room() } else { Ok(()) }
        };
        if let Err(e) = told() {
            tracing::error!(error = %anyhow::Error::from(e), "cannot look whether the table DIRECT is full");
        }
    }

    /// Looks now and then whether the table has room again.
    pub(super) async fn watch_room(&self) {
        let mut tick = tokio::time::interval(LOOK);
        loop {
            tick.tick().await;
            tokio::task::block_in_place(|| self.make_room());
            let again = std::mem::take(&mut self.marks().again);
            if again {
                self.revoke().await;
            }
        }
    }

    /// Ends what is open and denied now, by exact 4-tuple and cookie. A generation that was raised before makes sure
    /// that none comes after the table was read.
    pub(super) async fn revoke(&self) {
        let doomed = tokio::task::block_in_place(|| self.doomed(&self.in_force()));
        for (netns, targets) in doomed.into_values() {
            let count = targets.len();
            let end = || netns.run(|| sock_diag::destroy_all(&targets)).and_then(|ended| ended);
            match tokio::task::block_in_place(end) {
                Ok(ended) => tracing::info!(ended, of = count, "direct connections ended, since they are denied now"),
                Err(e) => {
                    tracing::error!(error = %e, count, "cannot end direct connections that are denied now");
                    self.marks().not_ended(&targets);
                }
            }
            // Connections come between.
            tokio::task::yield_now().await;
        }
    }

    /// What is open and denied now.
    fn doomed(&self, snapshot: &Snapshot) -> Doomed {
        let mut judged: HashMap<Pair, Judged> = HashMap::new();
        let mut doomed = Doomed::new();
        for (cookie, open) in self.datapath.direct_connections() {
            if open.direction != direction::DIRECT {
                continue;
            }
            let Some((pair, netns)) = self.pair_now(&open) else { continue };
            let verdict = judged.entry(pair).or_insert_with_key(|pair| judge(snapshot, pair, self.settings.hbone_port));
            if !verdict.ends {
                continue;
            }
            self.marks().revoked.insert(cookie, (Ended::Denied(verdict.decision.clone()), kernel_now()));
            let target = Target { local: open.local.into(), remote: open.remote.into(), cookie };
            doomed.entry(netns.cookie()).or_insert_with(|| (netns, Vec::new())).1.push(target);
        }
        doomed
    }

    /// Whom a connection stands for now, and where its socket is; `None`: the target left the mesh and decides nothing,
    /// or the source is gone from the node, and its socket with it.
    pub(super) fn pair_now(&self, open: &abi::Direct) -> Option<(Pair, Arc<Netns>)> {
        let known = self.known(open.decision);
        let by_slot = |index, epoch| self.pods.by_index(index).filter(|pod| pod.epoch == epoch);
        let (local, destination): (SocketAddr, SocketAddr) = (open.local.into(), open.remote.into());
        // In another life, or known to an earlier agent only: the socket with exactly these addresses is of whoever has
        // them.
        let source = by_slot(open.pod, open.epoch).or_else(|| self.pods.by_ip(local.ip()));
        let target = by_slot(open.target, open.target_epoch).or_else(|| self.pods.by_ip(destination.ip()));
        let (source_uid, target_uid) = match (&source, &target, &known) {
            (Some(source), Some(target), _) => (source.uid.clone(), target.uid.clone()),
            (_, _, Some(known)) => (known.pair.source.clone(), known.pair.target.clone()),
            // Pods of an earlier agent that are not found yet.
            _ => return None,
        };
        // Perhaps in another life.
        let (source, target) = (self.pods.by_uid(&source_uid), self.pods.by_uid(&target_uid)?);
        let netns = match &source {
            Some(source) => Arc::clone(&source.netns),
            None => known.as_ref()?.netns.upgrade()?,
        };
        let pair = Pair {
            source: source_uid,
            target: target.uid.clone(),
            identity: source.map(|source| source.identity.clone()),
            source_ip: local.ip(),
            destination,
        };
        Some((pair, netns))
    }
}
