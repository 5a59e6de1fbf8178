//! One client pod's view of one destination (service, port, subset).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use mesh_common::model::traffic::TrafficPolicy;

use super::{
    Admitted, Client, Connected, Counts, Endpoint, Outcome, Overflow, RetryPermit, RetryRefused, Waiting,
    limits::UnderWay,
};

/// One client pod's view of one destination (service, port, subset). Shared by all who send; nothing here waits.
#[derive(Debug)]
pub struct Cluster {
    policy: ArcSwap<TrafficPolicy>,
    client: ArcSwap<Client>,
    members: ArcSwap<Vec<Arc<Member>>>,
    under_way: UnderWay,
}

#[derive(Debug)]
struct Member {
    address: SocketAddr,
    active: AtomicU32,
}

/// An endpoint that was chosen: its request counts until this is dropped.
#[derive(Debug)]
pub struct Picked {
    member: Arc<Member>,
}

impl Cluster {
    /// Without endpoints.
    pub fn new(policy: Arc<TrafficPolicy>, client: Arc<Client>) -> Self {
        Self {
            policy: ArcSwap::new(policy),
            client: ArcSwap::new(client),
            members: ArcSwap::default(),
            under_way: UnderWay::default(),
        }
    }

    /// What is known of endpoints stays.
    pub fn set_policy(&self, policy: Arc<TrafficPolicy>) {
        self.policy.store(policy);
    }

    /// The client's labels or locality are others now.
    pub fn set_client(&self, client: Arc<Client>) {
        self.client.store(client);
    }

    /// All that may be chosen now. Those that stay keep what is known of them.
    pub fn set_endpoints(&self, endpoints: &[Endpoint], _now: Instant) {
        let old = self.members.load();
        let member = |endpoint: &Endpoint| {
            let known = old.iter().find(|member| member.address == endpoint.address);
            known.cloned().unwrap_or_else(|| Arc::new(Member { address: endpoint.address, active: AtomicU32::new(0) }))
        };
        self.members.store(Arc::new(endpoints.iter().map(member).collect()));
    }

    /// What an active check found.
    pub fn set_checked(&self, _address: SocketAddr, _healthy: bool, _now: Instant) {}

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
    pub fn pick(
        self: &Arc<Self>,
        _key: Option<u64>,
        tried: &[SocketAddr],
        drawn: u64,
        _now: Instant,
    ) -> Option<Picked> {
        let members = self.members.load();
        let among = u64::try_from(members.len()).ok()?;
        let first = usize::try_from((u128::from(drawn) * u128::from(among)) >> 64).ok()?;
        let mut around = members.iter().cycle().skip(first).take(members.len());
        let member = around.find(|member| !tried.contains(&member.address)).or_else(|| members.get(first))?;
        member.active.fetch_add(1, Ordering::Relaxed);
        Some(Picked { member: Arc::clone(member) })
    }

    pub fn counts(&self) -> Counts {
        let endpoints = self.members.load().len();
        Counts {
            requests: self.under_way.requests.now(),
            waiting: self.under_way.waiting.now(),
            connections: self.under_way.connections.now(),
            retries: self.under_way.retries.now(),
            endpoints,
            healthy: endpoints,
            ejected: 0,
            ejections: 0,
        }
    }
}

impl Picked {
    pub fn address(&self) -> SocketAddr {
        self.member.address
    }

    /// To be said once, when the answer's head is there or will not come.
    pub fn done(&self, _outcome: Outcome, _now: Instant) {}
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.member.active.fetch_sub(1, Ordering::Relaxed);
    }
}
