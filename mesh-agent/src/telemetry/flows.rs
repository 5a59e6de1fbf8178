//! The flow records: those in the making, the newest written ones, totals by edge, and a live feed. Everything is
//! bounded.
//!
//! [`FlowLog::write`] is called by the tasks that serve traffic, for each connection and each request. So nothing in it
//! waits: what is counted is counted without a lock of this file, each lock is held for some pointers' sake, and what
//! would be slow (audit, logs, spans) goes to bounded queues of the sinks, which count what they drop.

use std::{
    collections::HashMap,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use ::metrics::Counter;
use mesh_common::model::traffic::Percent;
use tokio::sync::broadcast;

use super::{
    access, audit,
    edges::{Edge, Edges, Totals},
    flow::{Counted, Direction, Flow, Party, Udp, Verdict},
    kept::{Kept, Replaced},
    metrics::{self, Traffic, UdpTraffic},
    otlp, reason,
    stats::Stats,
    tap::{self, Headers, Seen, Tap},
};

/// Records that are kept for `meshctl flows` without `-f`.
pub(super) const KEPT: usize = 8192;
/// Records that a slow follower may lag behind before it loses some; the loss is told.
const FEED: usize = 4096;
/// Edges whose totals are kept; beyond, those that were silent for longest make room.
const EDGES: usize = 4096;

#[derive(Debug)]
pub struct FlowLog {
    newest: Mutex<Kept>,
    edges: Mutex<Edges>,
    forwarded: Mutex<HashMap<u64, Connection>>,
    feed: broadcast::Sender<Arc<Flow>>,
    seen: broadcast::Sender<Arc<Seen>>,
    pub(super) taps: AtomicU32,
    next: AtomicU64,
    open: AtomicU32,
    /// Counts records that made room for newer ones, which in a full store each new one does.
    replacing: OnceLock<Counter>,
    sinks: Sinks,
}

/// Who hears of each record beside those who ask. `Default`: nobody.
#[derive(Debug, Default)]
pub struct Sinks {
    /// Nothing is told of single connections and requests but that they were refused, and what policies said of them.
    pub off: bool,
    /// What is refused is told to it.
    pub audit: audit::Stream,
    /// It counts every record.
    pub traffic: Arc<Traffic>,
    /// It counts datagrams.
    pub udp: Arc<UdpTraffic>,
    /// It sums up the last minutes, and what each pod costs.
    pub stats: Arc<Stats>,
    /// How many of the traces that begin here are told, where nobody says for a pod; `None`: spans are told only where
    /// a pod's own settings name who takes them.
    pub traced: Option<Percent>,
    pub access: access::AccessLog,
    pub spans: otlp::Spans,
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

/// What changes while a connection is forwarded, or a request is: payload bytes until now.
#[derive(Debug, Default)]
pub struct Live {
    pub sent: AtomicU64,
    pub received: AtomicU64,
    /// What of them is counted; `None`: it ended.
    counted: Mutex<Option<Counted>>,
    /// gRPC messages of a request, to the server and back.
    pub messages_sent: AtomicU64,
    pub messages_received: AtomicU64,
}

/// A connection that is forwarded now, as it was when that began.
#[derive(Clone, Debug)]
pub struct Connection {
    flow: Arc<Flow>,
    live: Arc<Live>,
}

impl FlowLog {
    pub fn new(sinks: Sinks) -> Arc<Self> {
        Arc::new(Self {
            newest: Mutex::new(Kept::new(KEPT)),
            edges: Mutex::new(Edges::new(EDGES)),
            forwarded: Mutex::default(),
            feed: broadcast::Sender::new(FEED),
            seen: broadcast::Sender::new(tap::FEED),
            taps: AtomicU32::new(0),
            next: AtomicU64::new(1),
            open: AtomicU32::new(0),
            replacing: OnceLock::new(),
            sinks,
        })
    }

    pub fn begin(self: &Arc<Self>, direction: Direction, source: Party, destination: Party) -> OpenFlow {
        let now = SystemTime::now();
        self.open.fetch_add(1, Ordering::Relaxed);
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

    /// See [`Sinks::off`].
    pub fn is_off(&self) -> bool {
        self.sinks.off
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

    /// Counts the bytes that passed on connections that are forwarded since it was done last: they may last for days.
    pub fn count_live(&self) {
        let connections: Vec<Connection> = locked(&self.forwarded).values().cloned().collect();
        for Connection { flow, live } in connections {
            // Under the lock, which also who ends it takes: nothing is counted twice.
            let mut counted = locked(&live.counted);
            let Some(counted) = counted.as_mut() else { continue };
            let (sent, received) = (live.sent.load(Ordering::Relaxed), live.received.load(Ordering::Relaxed));
            let (more, back) = (sent.saturating_sub(counted.sent), received.saturating_sub(counted.received));
            (counted.sent, counted.received) = (sent, received);
            self.sinks.traffic.passed(&flow, more, back);
            self.sinks.stats.passed(&flow, more, back);
        }
    }

    /// A connection that the kernel knows is open; its record shall say so at its end.
    pub fn opened(&self, flow: &Flow) {
        if !self.is_off() {
            self.sinks.traffic.opened(flow);
        }
    }

    /// So many datagrams and payload bytes passed between the ends of `flow`, from the source and back, since it was
    /// said last. The record that is written at the end is not counted again.
    pub fn datagrams(&self, flow: &Flow, datagrams: Udp, sent: u64, received: u64) {
        if self.is_off() {
            return;
        }
        self.sinks.udp.passed(flow, datagrams, sent, received);
        self.sinks.stats.datagrams(flow, datagrams, sent, received);
    }

    pub fn stats(&self) -> &Stats {
        &self.sinks.stats
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

    /// See [`Sinks::traced`].
    pub fn traced(&self) -> Option<Percent> {
        self.sinks.traced
    }

    /// Requests with their headers, from now on.
    pub fn tap(self: &Arc<Self>) -> Tap {
        Tap::new(Arc::clone(self), self.seen.subscribe())
    }

    /// Those who look at requests as they pass: while there are none, headers need not be copied.
    pub fn taps(&self) -> u32 {
        self.taps.load(Ordering::Relaxed)
    }

    /// Of a connection that ended, of a request, or of datagrams after which nothing came for a while.
    pub fn write(&self, flow: Flow) {
        self.write_seen(flow, None);
    }

    /// Likewise; `headers` are for those who look now, and kept for nobody.
    pub fn write_seen(&self, mut flow: Flow, headers: Option<Box<Headers>>) {
        flow.bound();
        // Whoever answers for the mesh is told of it in any case.
        if flow.verdict == Verdict::Dropped && self.sinks.audit.is_on() {
            self.sinks.audit.tell(audit::denied(&flow));
        }
        // Datagrams are counted as they pass, nothing is decided of them, and they are no connection to anybody else.
        let counted = flow.udp.is_some();
        if self.is_off() {
            if !counted {
                self.sinks.traffic.guarded(&flow);
            }
            return;
        }
        let flow = Arc::new(flow);
        if !counted {
            self.ended(&flow);
        }
        let replaced = locked(&self.newest).push(Arc::clone(&flow));
        // The lock is free by now: to take a record apart takes longer than to put one in.
        if replaced.is_some() {
            self.replacing.get_or_init(|| metrics::lost("replaced")).increment(1);
        }
        drop(replaced);
        // A request is no connection more.
        if flow.http.is_none() {
            let evicted = locked(&self.edges).ended(&flow);
            if evicted > 0 {
                metrics::edges_evicted(evicted);
            }
        } else if self.taps() > 0 {
            let _ = self.seen.send(Arc::new(Seen { flow: Arc::clone(&flow), headers }));
        }
        // Nobody may be following.
        let _ = self.feed.send(flow);
    }

    fn ended(&self, flow: &Arc<Flow>) {
        self.sinks.traffic.ended(flow);
        self.sinks.stats.ended(flow);
        self.sinks.access.ended(flow);
        self.sinks.spans.ended(flow);
    }
}

/// Nothing that holds one of these locks can panic half way through a change.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// As it is now.
    fn of(flow: Flow) -> Self {
        let live = Live { sent: flow.sent.into(), received: flow.received.into(), ..Live::default() };
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
        let counted = Counted { opened: true, ..Counted::default() };
        let live = Arc::new(Live { counted: Mutex::new(Some(counted)), ..Live::default() });
        if !self.log.is_off() {
            self.log.sinks.traffic.opened(self);
            let connection = Connection { flow: Arc::new(Flow::clone(self)), live: Arc::clone(&live) };
            locked(&self.log.forwarded).insert(self.id, connection);
        }
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
                flow.counted = locked(&live.counted).take().unwrap_or_default();
            }
            self.log.open.fetch_sub(1, Ordering::Relaxed);
            self.log.write(flow);
        }
    }
}
