//! The newest flow records, bounded, and a live feed of them.

use std::{
    collections::VecDeque,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::broadcast;

use super::{
    flow::{Direction, Flow, Party, Security, Verdict},
    metrics,
};

/// Records that are kept for `meshctl flows` without `-f`.
const KEPT: usize = 8192;
/// Records that a slow follower may lag behind before it loses some; the loss is told.
const FEED: usize = 4096;

/// Lines about refused and failed connections that go to the agent's log each second. All of them are recorded.
const LINES_A_SECOND: u32 = 50;

#[derive(Debug)]
pub struct FlowLog {
    lines: Mutex<(u64, u32)>,
    newest: Mutex<VecDeque<Arc<Flow>>>,
    feed: broadcast::Sender<Arc<Flow>>,
    next: AtomicU64,
    open: AtomicU32,
}

/// A record in the making; it is written when this drops, however the connection ends.
#[derive(Debug)]
pub struct OpenFlow {
    log: Arc<FlowLog>,
    flow: Option<Flow>,
}

impl FlowLog {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            lines: Mutex::new((0, 0)),
            newest: Mutex::new(VecDeque::with_capacity(KEPT)),
            feed: broadcast::Sender::new(FEED),
            next: AtomicU64::new(1),
            open: AtomicU32::new(0),
        })
    }

    pub fn begin(self: &Arc<Self>, direction: Direction, source: Party, destination: Party) -> OpenFlow {
        let now = SystemTime::now();
        self.open.fetch_add(1, Ordering::Relaxed);
        metrics::opened(direction);
        OpenFlow {
            log: Arc::clone(self),
            flow: Some(Flow {
                id: self.next.fetch_add(1, Ordering::Relaxed),
                start: now,
                end: now,
                direction,
                verdict: Verdict::Forwarded,
                reason: None,
                source,
                destination,
                service: None,
                path: None,
                security: Security::Plaintext,
                sent: 0,
                received: 0,
                policy: None,
                rule: None,
                generation: 0,
                error: None,
                tls: None,
            }),
        }
    }

    /// Connections whose record is in the making.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// The kept records, oldest first.
    pub fn newest(&self) -> Vec<Arc<Flow>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Records from now on.
    pub fn follow(&self) -> broadcast::Receiver<Arc<Flow>> {
        self.feed.subscribe()
    }

    /// A pod that dials in a loop must not fill the node's disk.
    fn may_log(&self) -> bool {
        let second = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.0 != second {
            *lines = (second, 0);
        }
        lines.1 = lines.1.saturating_add(1);
        if lines.1 == LINES_A_SECOND {
            tracing::info!(target: "access", "more refusals in this second are recorded and not logged");
        }
        lines.1 < LINES_A_SECOND
    }

    fn write(&self, flow: Flow) {
        metrics::closed(&flow);
        if flow.verdict == Verdict::Forwarded {
            tracing::debug!(target: "access", id = flow.id, "connection ended");
        } else if self.may_log() {
            tracing::info!(
                target: "access",
                id = flow.id,
                verdict = flow.verdict.name(),
                reason = flow.reason.as_deref(),
                source = %flow.source.address.map(|a| a.to_string()).unwrap_or_default(),
                destination = %flow.destination.address.map(|a| a.to_string()).unwrap_or_default(),
                error = flow.error.as_deref(),
                "connection refused or failed"
            );
        }
        let flow = Arc::new(flow);
        {
            let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
            if newest.len() == KEPT {
                newest.pop_front();
            }
            newest.push_back(Arc::clone(&flow));
        }
        // Nobody may be following.
        let _ = self.feed.send(flow);
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
            flow.end = SystemTime::now();
            self.log.open.fetch_sub(1, Ordering::Relaxed);
            self.log.write(flow);
        }
    }
}
