//! One client pod's view of one destination (service, port, subset).

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use mesh_common::model::traffic::{Outlier, TrafficPolicy};

use super::{
    Admitted, Client, Connected, Counts, Endpoint, Outcome, Overflow, RetryPermit, RetryRefused, Waiting,
    limits::UnderWay,
    member::Member,
    outlier::{Standing, Ticks, may_eject},
    table::{Candidate, Table},
};

/// One client pod's view of one destination (service, port, subset). Shared by all who send; nothing here waits.
#[derive(Debug)]
pub struct Cluster {
    policy: ArcSwap<TrafficPolicy>,
    table: ArcSwap<Table>,
    under_way: UnderWay,
    known: Mutex<Known>,
}

/// Of what tables are made.
#[derive(Debug)]
struct Known {
    policy: Arc<TrafficPolicy>,
    client: Arc<Client>,
    entries: Vec<Entry>,
    /// From the first endpoints on.
    ticks: Option<Ticks>,
    ejections: u64,
    /// The latest time that was told: for changes that come without one.
    now: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    endpoint: Endpoint,
    member: Arc<Member>,
    joined: Instant,
    standing: Standing,
    /// By active checks; those that were not asked yet are well.
    well: bool,
}

/// An endpoint that was chosen: its request counts until this is dropped.
#[derive(Debug)]
pub struct Picked {
    cluster: Arc<Cluster>,
    member: Arc<Member>,
    since: Instant,
}

impl Cluster {
    /// Without endpoints.
    pub fn new(policy: Arc<TrafficPolicy>, client: Arc<Client>) -> Self {
        let (entries, ticks, ejections, now) = Default::default();
        let known = Known { policy: Arc::clone(&policy), client, entries, ticks, ejections, now };
        Self {
            policy: ArcSwap::new(policy),
            table: ArcSwap::default(),
            under_way: UnderWay::default(),
            known: Mutex::new(known),
        }
    }

    /// What is known of endpoints stays, but that nobody is ejected where outliers are no more looked for.
    pub fn set_policy(&self, policy: Arc<TrafficPolicy>) {
        let mut known = self.known();
        known.policy = Arc::clone(&policy);
        self.policy.store(policy);
        if let Some(now) = known.now {
            known.set_ticks(now);
            self.renew(&mut known, now);
        }
    }

    /// The client's labels or locality are others now.
    pub fn set_client(&self, client: Arc<Client>) {
        let mut known = self.known();
        known.client = client;
        if let Some(now) = known.now {
            self.renew(&mut known, now);
        }
    }

    /// All that may be chosen now. Those that stay keep what is known of them.
    pub fn set_endpoints(&self, endpoints: &[Endpoint], now: Instant) {
        let mut known = self.known();
        known.set_endpoints(endpoints, now);
        known.set_ticks(now);
        self.renew(&mut known, now);
    }

    /// What an active check found, after as many in a row as the policy wants. Who is well again begins anew (warmup),
    /// and is ejected no more, as with Envoy.
    pub fn set_checked(&self, address: SocketAddr, well: bool, now: Instant) {
        let mut known = self.known();
        let Some(entry) = known.entries.iter_mut().find(|entry| entry.endpoint.address == address) else { return };
        if entry.well == well && !entry.standing.is_ejected() {
            return;
        }
        if well && !entry.well {
            entry.joined = now;
        }
        if well && entry.standing.is_ejected() {
            entry.standing.let_back(now);
            entry.member.streaks.forget();
        }
        entry.well = well;
        self.renew(&mut known, now);
    }

    /// A request may begin, or is refused at once.
    pub fn admit(&self) -> Result<Admitted, Overflow> {
        self.under_way.admit(&self.policy.load().pool)
    }

    /// Another try may begin.
    pub fn admit_retry(&self) -> Result<RetryPermit, RetryRefused> {
        let policy = self.policy.load();
        self.under_way.retry(&policy.pool, policy.retry_budget.as_ref())
    }

    /// A request may wait for a connection.
    pub fn admit_waiting(&self) -> Result<Waiting, Overflow> {
        self.under_way.wait(&self.policy.load().pool)
    }

    /// A connection may be made.
    pub fn admit_connection(&self) -> Result<Connected, Overflow> {
        self.under_way.connect(&self.policy.load().pool)
    }

    /// Who takes a try; `None`: nobody is there, or nobody is well. `key` is a hash of what [`Algorithm::Hash`] is on,
    /// `drawn` a number by chance; who was tried already is taken only if there is no other.
    ///
    /// [`Algorithm::Hash`]: mesh_common::model::traffic::Algorithm::Hash
    pub fn pick(self: &Arc<Self>, key: Option<u64>, tried: &[SocketAddr], drawn: u64, now: Instant) -> Option<Picked> {
        let mut table = self.table.load();
        if is_due(&table, now) {
            self.refresh(now);
            table = self.table.load();
        }
        let member = Arc::clone(table.choose(key, tried, drawn, now)?);
        member.begin();
        Some(Picked { cluster: Arc::clone(self), member, since: now })
    }

    pub fn counts(&self, now: Instant) -> Counts {
        self.refresh(now);
        let known = self.known();
        Counts {
            requests: self.under_way.requests.now(),
            waiting: self.under_way.waiting.now(),
            connections: self.under_way.connections.now(),
            retries: self.under_way.retries.now(),
            endpoints: known.entries.len(),
            healthy: known.entries.iter().filter(|entry| entry.is_healthy()).count(),
            ejected: known.ejected(),
            ejections: known.ejections,
        }
    }

    /// Something is known of an endpoint that one who is new would not know: it failed, was ejected, or is not well.
    pub fn is_marked(&self, now: Instant) -> bool {
        let mut known = self.known();
        known.advance(now);
        let marked =
            |entry: &Entry| !entry.is_healthy() || entry.standing.is_remembered() || entry.member.streaks.any();
        known.entries.iter().any(marked)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// If its time has come. Who comes while another is at it goes on with what there is.
    fn refresh(&self, now: Instant) {
        let Ok(mut known) = self.known.try_lock() else { return };
        if is_due(&self.table.load(), now) {
            self.renew(&mut known, now);
        }
    }

    fn renew(&self, known: &mut Known, now: Instant) {
        let now = known.now.map_or(now, |latest| latest.max(now));
        known.now = Some(now);
        known.advance(now);
        self.table.store(Arc::new(known.table(&self.table.load(), now)));
    }

    /// An endpoint failed as often as it may.
    fn eject(&self, member: &Arc<Member>, now: Instant) {
        let mut known = self.known();
        known.advance(now);
        if known.eject(member, now) {
            self.renew(&mut known, now);
        }
    }
}

fn is_due(table: &Table, now: Instant) -> bool {
    table.due.is_some_and(|due| due <= now)
}

impl Known {
    fn set_endpoints(&mut self, endpoints: &[Endpoint], now: Instant) {
        let mut old = self.entries.drain(..).map(|entry| (entry.endpoint.address, entry)).collect::<HashMap<_, _>>();
        let mut seen = std::collections::HashSet::new();
        let once = endpoints.iter().filter(|endpoint| seen.insert(endpoint.address));
        let entry = |endpoint: &Endpoint| match old.remove(&endpoint.address) {
            Some(entry) => Entry { endpoint: endpoint.clone(), ..entry },
            None => Entry {
                endpoint: endpoint.clone(),
                member: Arc::new(Member::new(endpoint.address)),
                joined: now,
                standing: Standing::default(),
                well: true,
            },
        };
        self.entries = once.map(entry).collect();
    }

    fn set_ticks(&mut self, now: Instant) {
        let interval = self.policy.outlier.as_ref().map(|outlier| Duration::from(outlier.interval));
        match (interval, &self.ticks) {
            (Some(interval), Some(ticks)) if ticks.is_every(interval) => {}
            (Some(interval), _) => self.ticks = Some(Ticks::new(interval, now)),
            (None, _) => {
                self.ticks = None;
                for entry in self.entries.iter_mut().filter(|entry| entry.standing != Standing::default()) {
                    entry.standing = Standing::default();
                    entry.member.streaks.forget();
                }
            }
        }
        if self.policy.check.is_none() {
            self.entries.iter_mut().for_each(|entry| entry.well = true);
        }
    }

    /// Ticks that passed: some come back.
    fn advance(&mut self, now: Instant) {
        let (Some(rule), Some(ticks)) = (&self.policy.outlier, &mut self.ticks) else { return };
        for entry in &mut self.entries {
            if entry.standing.advance(rule, ticks, now) {
                entry.member.streaks.forget();
            }
        }
        ticks.see(now);
    }

    /// Whether it is, now.
    fn eject(&mut self, member: &Arc<Member>, now: Instant) -> bool {
        let (ejected, all) = (self.ejected(), self.entries.len());
        let Some(rule) = &self.policy.outlier else { return false };
        let entry = self.entries.iter_mut().find(|entry| Arc::ptr_eq(&entry.member, member));
        let Some(entry) = entry.filter(|entry| !entry.standing.is_ejected()) else { return false };
        if !may_eject(ejected, all, rule.max_ejected) {
            return false;
        }
        entry.standing.eject(rule, now);
        self.ejections += 1;
        true
    }

    fn ejected(&self) -> usize {
        self.entries.iter().filter(|entry| entry.standing.is_ejected()).count()
    }

    fn table(&self, old: &Table, now: Instant) -> Table {
        let candidates = self.entries.iter().map(|entry| Candidate {
            endpoint: &entry.endpoint,
            member: &entry.member,
            joined: entry.joined,
            healthy: entry.is_healthy(),
        });
        let mut table = Table::new(&candidates.collect::<Vec<_>>(), &self.policy, &self.client, old, now);
        table.due = table.due.into_iter().chain(self.next_return()).min();
        table
    }

    /// When the first of those that are ejected comes back.
    fn next_return(&self) -> Option<Instant> {
        let (rule, ticks) = (self.policy.outlier.as_ref()?, self.ticks.as_ref()?);
        self.entries.iter().filter_map(|entry| entry.standing.returns(rule, ticks)).min()
    }
}

impl Entry {
    fn is_healthy(&self) -> bool {
        self.well && !self.standing.is_ejected()
    }
}

impl Picked {
    pub fn address(&self) -> SocketAddr {
        self.member.address
    }

    /// To be said once, when the answer's head is there or will not come.
    pub fn done(&self, outcome: Outcome, now: Instant) {
        let latency = now.saturating_duration_since(self.since);
        match outcome {
            Outcome::Cancelled => return,
            Outcome::Status(status) if status < 500 => self.member.latency().observe(latency, now),
            Outcome::ConnectFailed => self.member.latency().fail(latency, false, now),
            _ => self.member.latency().fail(latency, true, now),
        }
        let policy = self.cluster.policy.load();
        if policy.outlier.as_ref().is_some_and(|rule: &Outlier| self.member.streaks.note(outcome, rule)) {
            self.cluster.eject(&self.member, now);
        }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.member.end();
    }
}
