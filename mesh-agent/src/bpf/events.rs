//! Reads the event ring and the programs' log lines.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    os::fd::AsFd as _,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use aya::maps::{MapData, RingBuf};
use mesh_common::abi::{Closed, Counter, Event, MAX_PODS};
use tokio::io::unix::AsyncFd;

use super::programs::{Datapath, Logs};

/// A refusal that only the kernel saw.
#[derive(Clone, Copy, Debug)]
pub struct KernelEvent {
    pub counter: Counter,
    /// The pod's index, where the hook knew it.
    pub pod: Option<u32>,
    /// Cookie of the socket's namespace; 0 where the hook cannot know it.
    pub netns: u64,
    /// Since boot (`CLOCK_MONOTONIC`).
    time: Duration,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// The agent's name for the decision that refused it; 0: none did.
    pub decision: u32,
}

impl KernelEvent {
    /// When it happened. The ring keeps events for an agent that does not run.
    pub fn at(&self) -> SystemTime {
        wall_clock(u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// When the pods in their slots began, those that began while this agent runs.
#[derive(Default)]
pub(super) struct Lives(Mutex<HashMap<u32, Duration>>);

impl Lives {
    /// The slot is another pod's from now on.
    pub fn begins(&self, index: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(index, since_boot());
    }
}

impl Datapath {
    /// The index that the event names stands for the pod that has it now, and not for an earlier one.
    pub fn is_of_this_life(&self, event: &KernelEvent) -> bool {
        let lives = self.lives.0.lock().unwrap_or_else(PoisonError::into_inner);
        event.pod.and_then(|index| lives.get(&index)).is_none_or(|began| *began <= event.time)
    }
}

pub(super) fn since_boot() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec to `now`; this clock is always there
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Events that are taken before others of the same thread have their turn: one pod that is refused in a loop must not
/// stop them.
const AT_ONCE: usize = 256;

/// Hands each event of the ring to `take`. Returns only with an error.
pub async fn read_events(ring: RingBuf<MapData>, take: impl Fn(KernelEvent)) -> io::Result<()> {
    // SAFETY: the ring owns its descriptor and keeps it until `AsyncFd` drops it
    let mut ring = unsafe { AsyncFd::register(ring) }?;
    loop {
        let mut guard = ring.readable_mut().await?;
        let (ring, mut left) = (guard.get_inner_mut(), AT_ONCE);
        while left > 0
            && let Some(item) = ring.next()
        {
            left -= 1;
            if let Some(event) = decode(&item) {
                take(event);
            }
        }
        if left > 0 {
            guard.clear_ready();
        } else {
            drop(guard);
            tokio::task::yield_now().await;
        }
    }
}

/// Hands each connection that ended to `take`: every so often, or at once if the kernel says that the ring fills.
/// Returns only with an error.
pub async fn read_closed(ring: RingBuf<MapData>, every: Duration, mut take: impl FnMut(Closed)) -> io::Result<()> {
    // SAFETY: the ring owns its descriptor and keeps it until `AsyncFd` drops it
    let mut ring = unsafe { AsyncFd::register(ring) }?;
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            ready = ring.readable() => ready?.clear_ready(),
        }
        let mut left = AT_ONCE;
        while let Some(item) = ring.get_mut().next() {
            if item.len() >= size_of::<Closed>() {
                // SAFETY: the length was checked, and any bytes are a `Closed` (plain integers)
                take(unsafe { item.as_ptr().cast::<Closed>().read_unaligned() });
            }
            drop(item);
            left -= 1;
            if left == 0 {
                tokio::task::yield_now().await;
                left = AT_ONCE;
            }
        }
    }
}

/// When it was that many nanoseconds after boot.
pub fn wall_clock(since_boot_ns: u64) -> SystemTime {
    SystemTime::now() - since_boot().saturating_sub(Duration::from_nanos(since_boot_ns))
}

/// Writes the programs' log lines (aya-log) to the agent's log. Returns only with an error.
pub async fn read_logs(mut logs: Logs) -> io::Result<()> {
    let fd = logs.as_fd().try_clone_to_owned()?;
    // SAFETY: an owned descriptor stays the same until it is dropped
    let ready = unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }?;
    loop {
        let mut guard = ready.readable().await?;
        logs.flush();
        guard.clear_ready();
    }
}

fn decode(bytes: &[u8]) -> Option<KernelEvent> {
    if bytes.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: the length was checked, and any bytes are an `Event` (plain integers); the ring aligns to 8 bytes only,
    // hence unaligned.
    let event = unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() };
    Some(KernelEvent {
        counter: Counter::from_index(event.counter)?,
        pod: (event.pod < MAX_PODS).then_some(event.pod),
        netns: event.netns,
        time: Duration::from_nanos(event.time),
        local: event.local.into(),
        remote: event.remote.into(),
        decision: event.decision,
    })
}
