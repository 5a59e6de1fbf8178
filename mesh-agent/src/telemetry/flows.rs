//! The flow records: those in the making, the newest written ones, totals by edge, and a live feed. Everything is
//! bounded.

use std::{
    collections::HashMap,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::broadcast;

use super::{
    audit,
    edges::{Edge, Edges, Totals},
    flow::{Direction, Flow, Party, Verdict},
    kept::{Kept, Replaced},
    metrics, reason,
};

/// Records that are kept for `meshctl flows` without `-f`.
pub(super) const KEPT: usize = 8192;
/// Records that a slow follower may lag behind before it loses some; the loss is told.
const FEED: usize = 4096;
/// Edges whose totals are kept; beyond, those that were silent for longest make room.
const EDGES: usize = 4096;

/// Lines about refused and failed connections that go to the agent's log each second. All of them are recorded.
const LINES_A_SECOND: u32 = 50;

#[derive(Debug)]
pub struct FlowLog {
    lines: Mutex<(u64, u32)>,
    newest: Mutex<Kept>,
    edges: Mutex<Edges>,
    forwarded: Mutex<HashMap<u64, Connection>>,
    feed: broadcast::Sender<Arc<Flow>>,
    next: AtomicU64,
    open: AtomicU32,
    audit: audit::Stream,
}

/// A record in the making; it is written when this drops, however the connection ends.
#[derive(Debug)]
pub struct OpenFlow {
    log: Arc<FlowLog>,
    flow: Option<Flow>,
    live: Option<Arc<Live>>,
    /// It ended then, and not when this drops.
    ended: Option<SystemTime>,
    /// Nobody knows yet whether it comes to be.
    pending: bool,
}

/// What changes while a connection is forwarded: payload bytes until now.
#[derive(Debug, Default)]
pub struct Live {
    pub sent: AtomicU64,
    pub received: AtomicU64,
}

/// A connection that is forwarded now, as it was when that began.
#[derive(Clone, Debug)]
pub struct Connection {
    flow: Arc<Flow>,
    live: Arc<Live>,
}

impl FlowLog {
    #[cfg(test)]
    pub fn new() -> Arc<Self> {
        Self::audited(audit::Stream::default())
    }

    /// What is refused is told to `audit` too.
    pub fn audited(audit: audit::Stream) -> Arc<Self> {
        Arc::new(Self {
            lines: Mutex::new((0, 0)),
            newest: Mutex::new(Kept::new(KEPT)),
            edges: Mutex::new(Edges::new(EDGES)),
            forwarded: Mutex::default(),
            feed: broadcast::Sender::new(FEED),
            next: AtomicU64::new(1),
            open: AtomicU32::new(0),
            audit,
        })
    }

    pub fn begin(self: &Arc<Self>, direction: Direction, source: Party, destination: Party) -> OpenFlow {
        let now = SystemTime::now();
        self.open.fetch_add(1, Ordering::Relaxed);
        metrics::opened(direction, 1);
        OpenFlow {
            log: Arc::clone(self),
            live: None,
            ended: None,
            pending: false,
            flow: Some(Flow::new(self.next_id(), now, direction, source, destination)),
        }
    }

    /// For a record that is not begun here.
    pub fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Connections whose record is in the making.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// The kept records, oldest first.
    pub fn newest(&self) -> Vec<Arc<Flow>> {
        locked(&self.newest).all()
    }

    /// What is missing among them.
    pub fn replaced(&self) -> Option<Replaced> {
        locked(&self.newest).replaced()
    }

    /// Those that are forwarded now, oldest first; `end` is now.
    pub fn connections(&self) -> Vec<Flow> {
        let connections: Vec<Connection> = locked(&self.forwarded).values().cloned().collect();
        let mut flows: Vec<_> = connections.iter().map(Connection::now).collect();
        flows.sort_unstable_by_key(|flow| flow.id);
        flows
    }

    /// The record with this id, in the making or written.
    pub fn find(&self, id: u64) -> Option<Arc<Flow>> {
        let live = locked(&self.forwarded).get(&id).cloned();
        live.map(|connection| Arc::new(connection.now())).or_else(|| locked(&self.newest).find(id))
    }

    /// Totals of the connections that ended, and how many are open now, by edge; `open` are those that no agent
    /// carries.
    pub fn edges(&self, open: Vec<Flow>) -> Vec<(Edge, Totals, u64)> {
        let connections: Vec<Connection> = locked(&self.forwarded).values().cloned().collect();
        let connections = connections.into_iter().chain(open.into_iter().map(Connection::of));
        let mut edges: HashMap<Edge, (Totals, u64)> =
            locked(&self.edges).all().into_iter().map(|(edge, totals)| (edge, (totals, 0))).collect();
        for Connection { flow, live } in connections {
            let now = SystemTime::now();
            let (totals, open) = edges.entry(Edge(flow)).or_insert_with(|| (Totals::none(now), 0));
            *open += 1;
            totals.connections += 1;
            totals.sent += live.sent.load(Ordering::Relaxed);
            totals.received += live.received.load(Ordering::Relaxed);
            totals.last = now;
        }
        edges.into_iter().map(|(edge, (totals, open))| (edge, totals, open)).collect()
    }

    /// Edges whose totals made room for others.
    pub fn edges_dropped(&self) -> u64 {
        locked(&self.edges).dropped()
    }

    /// Records from now on.
    pub fn follow(&self) -> broadcast::Receiver<Arc<Flow>> {
        self.feed.subscribe()
    }

    /// A pod that dials in a loop must not fill the node's disk.
    fn may_log(&self) -> bool {
        let second = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut lines = locked(&self.lines);
        if lines.0 != second {
            *lines = (second, 0);
        }
        lines.1 = lines.1.saturating_add(1);
        if lines.1 == LINES_A_SECOND {
            tracing::info!(target: "access", "more refusals in this second are recorded and not logged");
        }
        lines.1 < LINES_A_SECOND
    }

    /// Of a connection that ended, or of a request.
    pub fn write(&self, mut flow: Flow) {
        flow.bound();
        match &flow.http {
            None => metrics::closed(&flow),
            Some(_) => metrics::decided(&flow),
        }
        if !flow.verdict.is_bad() {
            tracing::debug!(target: "access", id = flow.id, "connection or request ended");
        } else if self.may_log() {
            tracing::info!(
                target: "access",
                id = flow.id,
                verdict = flow.verdict.name(),
                reason = flow.reason.as_deref(),
                source = %flow.source.address.map(|a| a.to_string()).unwrap_or_default(),
                destination = %flow.destination.address.map(|a| a.to_string()).unwrap_or_default(),
                error = flow.error.as_deref(),
                // Debug escapes what a client may have put in.
                request = flow.http.as_ref().map(|http| format!("{:?} {:?}", http.method, http.path)),
                "connection or request refused or failed"
            );
        }
        if flow.verdict == Verdict::Dropped && self.audit.is_on() {
            self.audit.tell(audit::denied(&flow));
        }
        let flow = Arc::new(flow);
        let dropped = locked(&self.newest).push(Arc::clone(&flow));
        if dropped {
            metrics::flows_lost("replaced", 1);
        }
        // A request is no connection more.
        if flow.http.is_none() {
            let evicted = locked(&self.edges).ended(&flow);
            if evicted > 0 {
                metrics::edges_evicted(evicted);
            }
        }
        // Nobody may be following.
        let _ = self.feed.send(flow);
    }
}

/// Nothing that holds one of these locks can panic half way through a change.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// As it is now.
    fn of(flow: Flow) -> Self {
        let live = Live { sent: flow.sent.into(), received: flow.received.into() };
        Self { flow: Arc::new(flow), live: Arc::new(live) }
    }

    fn now(&self) -> Flow {
        let Self { flow, live } = self;
        let (sent, received) = (live.sent.load(Ordering::Relaxed), live.received.load(Ordering::Relaxed));
        Flow { end: SystemTime::now(), sent, received, ..Flow::clone(flow) }
    }
}

impl OpenFlow {
    /// It began and ended at once, then.
    pub fn happened(&mut self, at: SystemTime) {
        self.start = at;
        self.ended = Some(at);
    }

    /// If it drops before it is settled, nobody has waited for the destination's answer.
    pub fn pending(&mut self) {
        self.pending = true;
    }

    pub fn settled(&mut self) {
        self.pending = false;
    }

    /// From now on the connection is forwarded: it is listed as it is now, with the bytes that are counted here.
    pub fn live(&mut self) -> Arc<Live> {
        let live = Arc::new(Live::default());
        let connection = Connection { flow: Arc::new(Flow::clone(self)), live: Arc::clone(&live) };
        locked(&self.log.forwarded).insert(self.id, connection);
        self.live = Some(Arc::clone(&live));
        live
    }
}

impl Deref for OpenFlow {
    type Target = Flow;

    fn deref(&self) -> &Flow {
        self.flow.as_ref().expect("taken on drop only")
    }
}

impl DerefMut for OpenFlow {
    fn deref_mut(&mut self) -> &mut Flow {
        self.flow.as_mut().expect("taken on drop only")
    }
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        if let Some(mut flow) = self.flow.take() {
            flow.end = self.ended.unwrap_or_else(SystemTime::now);
            if self.pending && !flow.verdict.is_bad() {
                flow.failed(reason::CONNECT, "it was given up before the destination had taken it");
            }
            // However it ended: also where the forwarding was given up in the middle.
            if let Some(live) = self.live.take() {
                (flow.sent, flow.received) = (live.sent.load(Ordering::Relaxed), live.received.load(Ordering::Relaxed));
                locked(&self.log.forwarded).remove(&flow.id);
            }
            self.log.open.fetch_sub(1, Ordering::Relaxed);
            self.log.write(flow);
        }
    }
}
