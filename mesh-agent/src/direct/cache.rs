//! The verdicts that the kernel holds, entry by entry.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use mesh_common::abi::{Verdict, VerdictKey, action};

use super::{
    Direct,
    connections::InUse,
    decisions::{Decisions, Known, REMEMBERED},
    judge::{Judged, Pair, is_alike, judge},
};
use crate::{
    bpf::{Datapath, kernel_now, nanoseconds},
    pods::Pod,
    state::Snapshot,
};

/// Entries that are renewed without a pause.
pub const AT_ONCE: usize = 256;
/// A verdict that no connect asked for during this time, and no open connection stands on, goes.
const IDLE: Duration = Duration::from_secs(600);
/// One source has no more than that part of all verdicts: what it dials beyond goes through the agent.
const SHARES: usize = 16;

/// One verdict.
#[derive(Debug)]
struct Entry {
    /// Index and epoch.
    source: (u32, u32),
    target: (u32, u32),
    action: u32,
    decision: u32,
    known: Arc<Known>,
}

pub struct State {
    active: bool,
    entries: HashMap<VerdictKey, Entry>,
    /// How many of them are of each source, by its index.
    of_source: HashMap<u32, usize>,
    decisions: Decisions,
    /// By the target's index, as the kernel has them.
    generations: HashMap<u32, u32>,
    /// Every entry is as this one says, or a later one.
    applied: Arc<Snapshot>,
    /// The log says that the kernel's table is full.
    told_full: bool,
    /// A connection may be open for which no entry stands: every change is to be compared with what is open.
    strays: bool,
    /// Verdicts of an earlier agent whose pods were not found yet.
    inherited: Vec<(VerdictKey, Verdict)>,
    /// They are kept until then (kernel time) also if their lease is over: records name them.
    inherits_until: u64,
}

impl State {
    pub fn new(applied: Arc<Snapshot>) -> Self {
        Self {
            active: false,
            entries: HashMap::new(),
            of_source: HashMap::new(),
            decisions: Decisions::default(),
            generations: HashMap::new(),
            applied,
            told_full: false,
            // Of an earlier agent
            strays: true,
            inherited: Vec::new(),
            inherits_until: 0,
        }
    }

    /// From now on this agent writes. What an earlier one decided is looked at as its pods are found, and acted on
    /// until its lease is over.
    pub fn begin(&mut self, datapath: &Datapath) {
        self.inherited = datapath.verdicts();
        self.inherits_until = kernel_now().saturating_add(nanoseconds(REMEMBERED));
        let connections = datapath.direct_connections();
        let named = self.inherited.iter().map(|(_, verdict)| verdict.decision);
        // A number that a record may still name must not be given again.
        let highest = named.chain(connections.iter().map(|(_, direct)| direct.decision)).max().unwrap_or(0);
        self.decisions.begin_after(highest);
        self.active = true;
    }

    pub fn end(&mut self) {
        self.active = false;
    }

    pub fn is_active(&self) -> bool {
        self.active
    }

    /// Every entry is as this one says, or a later one.
    pub fn applied(&self) -> Arc<Snapshot> {
        Arc::clone(&self.applied)
    }

    pub fn known(&self, decision: u32) -> Option<Arc<Known>> {
        self.decisions.get(decision)
    }

    pub fn keys(&self) -> Vec<VerdictKey> {
        self.entries.keys().copied().collect()
    }

    /// Judges as every other entry was judged, and writes the verdict: the next change is compared with that.
    pub fn learn(&mut self, direct: &Direct, source: &Pod, target: &Pod, destination: SocketAddr) {
        let (from, to) = ((source.index, source.epoch), (target.index, target.epoch));
        if !self.active || !direct.lives(from) || !direct.lives(to) {
            return;
        }
        let Some(pair) = Pair::between(source, target, destination) else { return };
        let key = VerdictKey { source: source.index, destination: destination.into() };
        match self.entries.get(&key) {
            Some(entry) if (entry.source, entry.target) == (from, to) => {
                // It is kept as it should be; the kernel came between two writes, or past the lease.
                if entry.action != action::REDIRECT {
                    self.write(direct, &key);
                }
                return;
            }
            Some(_) => {}
            None => {
                let share = (direct.settings.max_verdicts as usize / SHARES).max(1);
                if self.of_source.get(&source.index).is_some_and(|count| *count >= share) {
                    return;
                }
            }
        }
        let snapshot = Arc::clone(&self.applied);
        let judged = judge(&snapshot, &pair, direct.settings.hbone_port);
        self.enter(direct, &snapshot, key, (source, target), pair, judged);
    }

    fn enter(
        &mut self,
        direct: &Direct,
        snapshot: &Snapshot,
        key: VerdictKey,
        (source, target): (&Pod, &Pod),
        pair: Pair,
        judged: Judged,
    ) {
        let (from, to) = (SocketAddr::new(pair.source_ip, 0), pair.destination);
        let workload = |uid| snapshot.workload(uid).map(|workload| &**workload);
        let known = Arc::new(Known {
            source: source.party(from, workload(&source.uid)),
            target: target.party(to, workload(&target.uid)),
            netns: Arc::downgrade(&source.netns),
            decision: judged.decision,
            pair,
        });
        let decision = self.decisions.add(&known);
        let entry = Entry {
            source: (source.index, source.epoch),
            target: (target.index, target.epoch),
            action: judged.action,
            decision,
            known,
        };
        match self.entries.insert(key, entry) {
            Some(before) => self.decisions.retire(before.decision),
            None => *self.of_source.entry(key.source).or_default() += 1,
        }
        self.write(direct, &key);
    }

    /// Writes an entry with a new lease. One that the kernel does not take goes: it knows nothing of the pair then.
    fn write(&mut self, direct: &Direct, key: &VerdictKey) {
        let target = self.entries.get(key).map(|entry| entry.target.0);
        let generation = target.and_then(|target| self.generation(direct, target));
        let (Some(entry), Some(generation)) = (self.entries.get(key), generation) else {
            return self.remove(direct, key);
        };
        let now = kernel_now();
        let verdict = Verdict {
            expires: now.saturating_add(nanoseconds(direct.settings.lease)),
            used: direct.datapath.verdict(key).map_or(now, |verdict| verdict.used),
            action: entry.action,
            source_epoch: entry.source.1,
            target: entry.target.0,
            target_epoch: entry.target.1,
            generation,
            decision: entry.decision,
            sum: 0,
            zero: 0,
        };
        match direct.datapath.set_verdict(key, verdict) {
            Ok(true) => return,
            Ok(false) => {
                if !std::mem::replace(&mut self.told_full, true) {
                    let why = "full; the agent carries what finds no room";
                    tracing::warn!(map = "VERDICTS", option = "--max-verdicts", why);
                }
            }
            Err(e) => {
                let why = "cannot tell the kernel a decision; the agent carries it";
                tracing::error!(error = %anyhow::Error::from(e), why);
            }
        }
        self.remove(direct, key);
    }

    /// The generation in force; the first decision about a pod begins one.
    fn generation(&mut self, direct: &Direct, target: u32) -> Option<u32> {
        if let Some(generation) = self.generations.get(&target) {
            return Some(*generation);
        }
        match direct.datapath.generation(target) {
            Ok(0) => self.raise(direct, target),
            Ok(generation) => {
                self.generations.insert(target, generation);
                Some(generation)
            }
            Err(e) => {
                tracing::error!(error = %anyhow::Error::from(e), "cannot read a generation; the agent carries on");
                None
            }
        }
    }

    /// Nothing that was decided about the pod counts any more.
    fn raise(&mut self, direct: &Direct, target: u32) -> Option<u32> {
        let before = match self.generations.get(&target) {
            Some(generation) => *generation,
            None => direct.datapath.generation(target).unwrap_or(0),
        };
        // 0 is what the agent watches itself.
        let generation = before.wrapping_add(1).max(1);
        match direct.datapath.set_generation(target, generation) {
            Ok(()) => {
                self.generations.insert(target, generation);
                Some(generation)
            }
            Err(e) => {
                tracing::error!(error = %anyhow::Error::from(e), "cannot withdraw decisions at once; their entries go");
                None
            }
        }
    }

    fn remove(&mut self, direct: &Direct, key: &VerdictKey) {
        self.strays = true;
        if let Some(entry) = self.entries.remove(key) {
            self.decisions.retire(entry.decision);
            if let Some(count) = self.of_source.get_mut(&key.source) {
                *count = count.saturating_sub(1);
            }
        }
        if let Err(e) = direct.datapath.remove_verdict(key) {
            tracing::error!(error = %anyhow::Error::from(e), "cannot take a decision from the kernel; its lease ends it");
        }
    }

    /// Brings every entry to the newest configuration and the pods as they are. `true`: what is open may have to end.
    pub fn apply(&mut self, direct: &Direct) -> bool {
        // Here, under the lock: no older one comes after a newer one.
        let snapshot = direct.store.snapshot();
        let mut changed = self.inherit(direct, &snapshot);
        let (mut gone, mut judged_anew) = (Vec::new(), Vec::new());
        for (key, entry) in &self.entries {
            if !direct.lives(entry.source) || !direct.lives(entry.target) {
                gone.push(*key);
            } else if !is_alike(&snapshot, &self.applied, &entry.known.pair) {
                // What is open may have to end though connections to come are treated as before.
                changed = true;
                let judged = judge(&snapshot, &entry.known.pair, direct.settings.hbone_port);
                let (was, is) = (&entry.known.decision.outcome, &judged.decision.outcome);
                if judged.action != entry.action || was != is {
                    judged_anew.push((*key, judged));
                }
            }
        }
        gone.iter().for_each(|key| self.remove(direct, key));
        // First nothing counts, then what counts is said: whatever happens between, the agent decides.
        let (mut raised, mut stale) = (HashSet::new(), HashSet::new());
        for (key, judged) in judged_anew {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if entry.action != judged.action {
                raised.insert(entry.target.0);
            }
            self.decisions.retire(entry.decision);
            entry.known = Arc::new(Known { decision: judged.decision, ..Known::clone(&entry.known) });
            (entry.action, entry.decision) = (judged.action, self.decisions.add(&entry.known));
            stale.insert(key);
        }
        let lost: HashSet<u32> =
            raised.iter().copied().filter(|target| self.raise(direct, *target).is_none()).collect();
        let of = |targets: &HashSet<u32>, (key, entry): (&VerdictKey, &Entry)| {
            targets.contains(&entry.target.0).then_some(*key)
        };
        let doubtful: Vec<_> = self.entries.iter().filter_map(|entry| of(&lost, entry)).collect();
        doubtful.iter().for_each(|key| self.remove(direct, key));
        stale.extend(self.entries.iter().filter_map(|entry| of(&raised, entry)));
        stale.iter().for_each(|key| self.write(direct, key));
        self.applied = snapshot;
        changed || self.strays
    }

    /// Takes over what an earlier agent decided, as far as the pods are found, and judges it anew.
    fn inherit(&mut self, direct: &Direct, snapshot: &Snapshot) -> bool {
        if self.inherited.is_empty() {
            return false;
        }
        let mut left = Vec::new();
        for (key, verdict) in std::mem::take(&mut self.inherited) {
            // Unless it was learnt anew meanwhile.
            if !self.entries.contains_key(&key) {
                let is = |index, epoch| direct.pods.by_index(index).filter(|pod| pod.epoch == epoch);
                let pods = is(key.source, verdict.source_epoch).zip(is(verdict.target, verdict.target_epoch));
                if let Some((source, target)) = pods
                    && let Some(pair) = Pair::between(&source, &target, key.destination.into())
                {
                    let judged = judge(snapshot, &pair, direct.settings.hbone_port);
                    self.enter(direct, snapshot, key, (&source, &target), pair, judged);
                }
            }
            let Some(entry) = self.entries.get(&key) else {
                if verdict.expires.max(self.inherits_until) > kernel_now() {
                    left.push((key, verdict));
                } else {
                    self.remove(direct, &key);
                }
                continue;
            };
            let (target, differs) = (entry.target.0, entry.action != verdict.action);
            // Connections of that time name the earlier agent's number.
            self.decisions.inherit(verdict.decision, Arc::clone(&entry.known));
            if differs {
                self.raise(direct, target);
                self.write(direct, &key);
            }
        }
        self.inherited = left;
        true
    }

    /// Renews the leases of those that are used.
    pub fn renew(&mut self, direct: &Direct, keys: &[VerdictKey], in_use: &InUse) {
        let idle_since = kernel_now().saturating_sub(nanoseconds(IDLE));
        for key in keys {
            let Some(entry) = self.entries.get(key) else { continue };
            let used = direct.datapath.verdict(key).is_none_or(|verdict| verdict.used > idle_since);
            if used || in_use.decisions.contains(&entry.decision) || in_use.pairs.contains(&(*key, entry.source.1)) {
                self.write(direct, key);
            } else {
                self.remove(direct, key);
            }
        }
    }

    /// Compares what is known with what is open: decisions that nothing stands on go.
    pub fn compare(&mut self, in_use: &InUse) {
        // Slots are used again: the epoch tells whose entry it is.
        let stands = |(key, epoch): &(VerdictKey, u32)| self.entries.get(key).is_some_and(|e| e.source.1 == *epoch);
        self.strays = !in_use.pairs.iter().all(stands);
        self.told_full = false;
        self.decisions.forget(in_use);
    }
}
