//! Reads the event ring and the programs' log lines.

use std::{io, net::SocketAddr, os::fd::AsFd as _};

use aya::maps::{MapData, RingBuf};
use mesh_common::abi::{Counter, Event, MAX_PODS};
use tokio::io::unix::AsyncFd;

use super::programs::Logs;

/// A refusal that only the kernel saw.
#[derive(Clone, Copy, Debug)]
pub struct KernelEvent {
    pub counter: Counter,
    /// The pod's index, where the hook knew it.
    pub pod: Option<u32>,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// Hands each event of the ring to `take`. Returns only with an error.
pub async fn read_events(ring: RingBuf<MapData>, take: impl Fn(KernelEvent)) -> io::Result<()> {
    // SAFETY: the ring owns its descriptor and keeps it until `AsyncFd` drops it
    let mut ring = unsafe { AsyncFd::register(ring) }?;
    loop {
        let mut guard = ring.readable_mut().await?;
        let ring = guard.get_inner_mut();
        while let Some(item) = ring.next() {
            if let Some(event) = decode(&item) {
                take(event);
            }
        }
        guard.clear_ready();
    }
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
        local: event.local.into(),
        remote: event.remote.into(),
    })
}
