//! The decisions of the hooks as pure functions: facts in, verdict out. `no_std`, no maps; tested on the host.

mod affinity;
mod connect;
mod datagrams;
mod ends;
mod steer;

pub use affinity::{first, keeps};
pub use connect::{Connect, Outcome, Permit, Routes, connect, current};
pub use datagrams::{Headers, Reach, UDP, Way, datagrams, holds, key, reach, role};
pub use ends::{Last, ending};
pub use steer::{Lookup, Steer, Tables, steer};

/// What both ends of a connection ask about a pod.
pub trait Lives {
    /// The epoch in force of a slot.
    fn epoch(&self, pod: u32) -> Option<u32>;
    /// The generation in force of the decisions about it.
    fn generation(&self, pod: u32) -> Option<u32>;
}

/// IPPROTO_TCP
pub const TCP: u32 = 6;
