//! The verdicts that the kernel holds, entry by entry.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use mesh_common::{
    abi::{self, Verdict, VerdictKey, action},
    model::Decision,
};

use super::{
    Direct,
    connections::InUse,
    judge::{Judged, Pair, is_alike, judge},
};
use crate::{
    bpf::{Datapath, kernel_now, nanoseconds},
    pods::{Netns, Pod},
    state::Snapshot,
    telemetry::Party,
};

/// Entries that are renewed without a pause.
pub const AT_ONCE: usize = 256;
/// A verdict that no connect asked for during this time, and no open connection stands on, goes.
const IDLE: Duration = Duration::from_secs(600);
/// One source has no more than that part of all verdicts: what it dials beyond goes through the agent.
const SHARES: usize = 16;
/// A decision of which nothing is open any more is kept that long, for records that are on their way.
const REMEMBERED: Duration = Duration::from_secs(10);

/// A decision by the number that the kernel knows.
#[derive(Debug)]
pub struct Known {
    pub pair: Pair,
    pub decision: Decision,
    pub source: Party,
    pub target: Party,
    /// Where the source's sockets are, while it is on the node.
    pub netns: Weak<Netns>,
}

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
    decisions: HashMap<u32, Arc<Known>>,
    /// Decisions that no entry names any more, and since when (kernel time).
    retired: HashMap<u32, u64>,
    next: u32,
    /// By the target's index, as the kernel has them.
    generations: HashMap<u32, u32>,
    /// Every entry is as this one says, or a later one.
    applied: Arc<Snapshot>,
    /// Open connections that were ended by a later decision, and since when: their records shall name that.
    revoked: HashMap<u64, (Decision, u64)>,
    /// The records' numbers of open connections that somebody asked for.
    ids: HashMap<u64, u64>,
    /// The log says that the kernel's table is full.
    told_full: bool,
    /// Sockets could not be ended: it is to be tried again.
    again: bool,
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
            decisions: HashMap::new(),
            retired: HashMap::new(),
            next: 1,
            generations: HashMap::new(),
            applied,
            revoked: HashMap::new(),
            ids: HashMap::new(),
            told_full: false,
            again: false,
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
        self.next = self.next.max(highest.wrapping_add(1));
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
        self.decisions.get(&decision).cloned()
    }

    /// These could not be ended, and their records shall not say that they were.
    pub fn not_ended(&mut self, cookies: &[u64]) {
        cookies.iter().for_each(|cookie| drop(self.revoked.remove(cookie)));
        self.again = true;
    }

    /// Whether something is open that could not be ended; it is asked once.
    pub fn try_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }

    /// The connection is ended by this decision.
    pub fn revoke(&mut self, cookie: u64, decision: Decision) {
        self.revoked.insert(cookie, (decision, kernel_now()));
    }

    /// It is over; the decision that ended it, if one did.
    pub fn ended(&mut self, cookie: u64) -> Option<Decision> {
        self.ids.remove(&cookie);
        self.revoked.remove(&cookie).map(|(decision, _)| decision)
    }

    /// The number of a connection's record.
    pub fn id(&mut self, cookie: u64, next: impl FnOnce() -> u64) -> u64 {
        *self.ids.entry(cookie).or_insert_with(next)
    }

    pub fn keys(&self) -> Vec<VerdictKey> {
        self.entries.keys().copied().collect()
    }

    /// Judges by the newest configuration and writes the verdict.
    pub fn learn(&mut self, direct: &Direct, source: &Pod, target: &Pod, destination: SocketAddr) {
        let Some(source_ip) = source.ips.like(destination.ip()) else { return };
        let key = VerdictKey { source: source.index, destination: destination.into() };
        let (from, to) = ((source.index, source.epoch), (target.index, target.epoch));
        if let Some(entry) = self.entries.get(&key)
            && (entry.source, entry.target) == (from, to)
        {
            // It is kept as it should be; the kernel came between two writes, or past the lease.
            if entry.action != action::REDIRECT {
                self.write(direct, &key);
            }
            return;
        }
        let share = (direct.settings.max_verdicts as usize / SHARES).max(1);
        if !self.entries.contains_key(&key) && self.of_source.get(&source.index).is_some_and(|count| *count >= share) {
            return;
        }
        let pair = Pair {
            source: source.uid.clone(),
            target: target.uid.clone(),
            identity: Some(source.identity.clone()),
            source_ip,
            destination,
        };
        // By what every other entry is judged by: the next change is compared with it.
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
        let decision = self.number(&known);
        let entry = Entry {
            source: (source.index, source.epoch),
            target: (target.index, target.epoch),
            action: judged.action,
            decision,
            known,
        };
        match self.entries.insert(key, entry) {
            Some(before) => self.retire(before.decision),
            None => *self.of_source.entry(key.source).or_default() += 1,
        }
        if !self.write(direct, &key) {
            self.remove(direct, &key);
        }
    }

    fn number(&mut self, known: &Arc<Known>) -> u32 {
        let number = self.next;
        // 0 means that nothing was decided.
        self.next = self.next.wrapping_add(1).max(1);
        self.decisions.insert(number, Arc::clone(known));
        number
    }

    fn retire(&mut self, decision: u32) {
        self.retired.insert(decision, kernel_now());
    }

    /// Writes an entry with a new lease; `false`: the kernel did not take it, and knows nothing of the pair.
    fn write(&mut self, direct: &Direct, key: &VerdictKey) -> bool {
        let Some(entry) = self.entries.get(key) else { return false };
        let (source, target) = (entry.source, entry.target);
        let Some(generation) = self.generation(direct, target.0) else { return false };
        let Some(entry) = self.entries.get(key) else { return false };
        let now = kernel_now();
        let verdict = Verdict {
            expires: now.saturating_add(nanoseconds(direct.settings.lease)),
            used: direct.datapath.verdict(key).map_or(now, |verdict| verdict.used),
            action: entry.action,
            source_epoch: source.1,
            target: target.0,
            target_epoch: target.1,
            generation,
            decision: entry.decision,
            sum: 0,
            zero: 0,
        };
        match direct.datapath.set_verdict(key, verdict) {
            Ok(true) => true,
            Ok(false) => {
                if !std::mem::replace(&mut self.told_full, true) {
                    let why = "full; the agent carries what finds no room";
                    tracing::warn!(map = "VERDICTS", option = "--max-verdicts", why);
                }
                false
            }
            Err(e) => {
                tracing::error!(error = %anyhow::Error::from(e), "cannot tell the kernel a decision; the agent carries it");
                false
            }
        }
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
            self.retire(entry.decision);
            if let Some(count) = self.of_source.get_mut(&key.source) {
                *count = count.saturating_sub(1);
            }
        }
        if let Err(e) = direct.datapath.remove_verdict(key) {
            tracing::error!(error = %anyhow::Error::from(e), "cannot take a decision from the kernel; its lease ends it");
        }
    }

    /// Brings every entry to the configuration and the pods as they are. `true`: what is open may have to end.
    pub fn apply(&mut self, direct: &Direct, snapshot: &Arc<Snapshot>) -> bool {
        let mut changed = self.inherit(direct, snapshot);
        let (mut gone, mut judged_anew) = (Vec::new(), Vec::new());
        for (key, entry) in &self.entries {
            let lives = |(index, epoch)| direct.pods.by_index(index).is_some_and(|pod| pod.epoch == epoch);
            if !lives(entry.source) || !lives(entry.target) {
                gone.push(*key);
            } else if !is_alike(snapshot, &self.applied, &entry.known.pair) {
                // What is open may have to end though connections to come are treated as before.
                changed = true;
                let judged = judge(snapshot, &entry.known.pair, direct.settings.hbone_port);
                let (was, is) = (&entry.known.decision.outcome, &judged.decision.outcome);
                if judged.action != entry.action || was != is {
                    judged_anew.push((*key, judged));
                }
            }
        }
        changed |= self.strays || !gone.is_empty() || !judged_anew.is_empty();
        gone.iter().for_each(|key| self.remove(direct, key));
        // First nothing counts, then what counts is said: whatever happens between, the agent decides.
        let targets: HashSet<u32> = judged_anew
            .iter()
            .filter_map(|(key, judged)| self.entries.get(key).filter(|entry| entry.action != judged.action))
            .map(|entry| entry.target.0)
            .collect();
        for target in &targets {
            if self.raise(direct, *target).is_none() {
                let of_it = |(key, entry): (&VerdictKey, &Entry)| (entry.target.0 == *target).then_some(*key);
                let keys: Vec<_> = self.entries.iter().filter_map(of_it).collect();
                keys.iter().for_each(|key| self.remove(direct, key));
            }
        }
        for (key, judged) in judged_anew {
            let Some(entry) = self.entries.get(&key) else { continue };
            let before = entry.decision;
            let known = Arc::new(Known {
                pair: entry.known.pair.clone(),
                decision: judged.decision,
                source: entry.known.source.clone(),
                target: entry.known.target.clone(),
                netns: Weak::clone(&entry.known.netns),
            });
            let decision = self.number(&known);
            self.retire(before);
            if let Some(entry) = self.entries.get_mut(&key) {
                (entry.action, entry.decision, entry.known) = (judged.action, decision, known);
            }
            if !targets.contains(&self.entries.get(&key).map_or(abi::MAX_PODS, |entry| entry.target.0)) {
                self.rewrite(direct, &key);
            }
        }
        let raised = |(key, entry): (&VerdictKey, &Entry)| targets.contains(&entry.target.0).then_some(*key);
        let keys: Vec<_> = self.entries.iter().filter_map(raised).collect();
        keys.iter().for_each(|key| self.rewrite(direct, key));
        self.applied = Arc::clone(snapshot);
        changed
    }

    fn rewrite(&mut self, direct: &Direct, key: &VerdictKey) {
        if !self.write(direct, key) {
            self.remove(direct, key);
        }
    }

    /// Takes over what an earlier agent decided, as far as the pods are found, and judges it anew.
    fn inherit(&mut self, direct: &Direct, snapshot: &Snapshot) -> bool {
        if self.inherited.is_empty() {
            return false;
        }
        let mut left = Vec::new();
        for (key, verdict) in std::mem::take(&mut self.inherited) {
            let pods = (direct.pods.by_index(key.source), direct.pods.by_index(verdict.target));
            match pods {
                // It was learnt anew meanwhile; connections of that time name the earlier agent's number.
                _ if self.entries.contains_key(&key) => {
                    let Some(entry) = self.entries.get(&key) else { continue };
                    let (known, target, differs) =
                        (Arc::clone(&entry.known), entry.target.0, entry.action != verdict.action);
                    self.decisions.insert(verdict.decision, known);
                    self.retire(verdict.decision);
                    if differs {
                        self.raise(direct, target);
                        self.rewrite(direct, &key);
                    }
                }
                (Some(source), Some(target))
                    if (source.epoch, target.epoch) == (verdict.source_epoch, verdict.target_epoch) =>
                {
                    let destination: SocketAddr = key.destination.into();
                    let Some(source_ip) = source.ips.like(destination.ip()) else { continue };
                    let pair = Pair {
                        source: source.uid.clone(),
                        target: target.uid.clone(),
                        identity: Some(source.identity.clone()),
                        source_ip,
                        destination,
                    };
                    let judged = judge(snapshot, &pair, direct.settings.hbone_port);
                    if judged.action != verdict.action {
                        self.raise(direct, target.index);
                    }
                    self.enter(direct, snapshot, key, (&source, &target), pair, judged);
                    // Connections of that time name the earlier agent's number.
                    if let Some(known) = self.entries.get(&key).map(|entry| Arc::clone(&entry.known)) {
                        self.decisions.insert(verdict.decision, known);
                        self.retire(verdict.decision);
                    }
                }
                _ if verdict.expires.max(self.inherits_until) > kernel_now() => left.push((key, verdict)),
                _ => self.remove(direct, &key),
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
                self.rewrite(direct, key);
            } else {
                self.remove(direct, key);
            }
        }
    }

    /// Decisions that nothing stands on any more go.
    pub fn forget_decisions(&mut self, in_use: &InUse) {
        let late = kernel_now().saturating_sub(nanoseconds(REMEMBERED));
        let forgotten: Vec<u32> = self
            .retired
            .iter()
            .filter(|(decision, since)| **since < late && !in_use.decisions.contains(decision))
            .map(|(decision, _)| *decision)
            .collect();
        // Slots are used again: the epoch tells whose entry it is.
        let stands = |(key, epoch): &(VerdictKey, u32)| self.entries.get(key).is_some_and(|e| e.source.1 == *epoch);
        self.strays = !in_use.pairs.iter().all(stands);
        self.told_full = false;
        // Their records were lost.
        self.ids.retain(|cookie, _| in_use.cookies.contains(cookie));
        self.revoked.retain(|cookie, (_, since)| *since >= late || in_use.cookies.contains(cookie));
        for decision in forgotten {
            self.retired.remove(&decision);
            self.decisions.remove(&decision);
        }
    }
}
