//! Counts something, mostly a refusal, and tells the agent of it.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use mesh_common::abi::{Counter, Event, SockAddr};

use crate::maps::{EVENTS, count};

#[inline(always)]
pub fn refused(counter: Counter, netns: u64, pod: u32, local: SockAddr, remote: SockAddr) {
    count(counter);
    match EVENTS.reserve(0) {
        Some(mut entry) => {
            // SAFETY: the helper only reads the clock
            let time = unsafe { bpf_ktime_get_ns() };
            entry.write(Event { time, netns, counter: counter as u32, pod, local, remote });
            entry.submit(0);
        }
        None => count(Counter::EventsLost),
    }
}
