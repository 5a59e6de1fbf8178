//! Counts something, mostly a refusal, and tells the agent of it.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use mesh_common::abi::{Counter, Event, SockAddr};

use crate::maps::{EVENTS, count};

#[inline(always)]
pub fn refused(counter: Counter, netns: u64, pod: u32, local: SockAddr, remote: SockAddr) {
    denied(counter, netns, pod, local, remote, 0);
}

/// The same, by a decision of the agent.
#[inline(always)]
pub fn denied(counter: Counter, netns: u64, pod: u32, local: SockAddr, remote: SockAddr, decision: u32) {
    count(counter);
    match EVENTS.reserve(0) {
        Some(mut entry) => {
            // SAFETY: the helper only reads the clock
            let time = unsafe { bpf_ktime_get_ns() };
            entry.write(Event { time, netns, counter: counter as u32, pod, local, remote, decision, zero: 0 });
            entry.submit(0);
        }
        None => count(Counter::EventsLost),
    }
}
