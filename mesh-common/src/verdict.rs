//! The decisions of the hooks as pure functions: facts in, verdict out. `no_std`, no maps; tested on the host.

mod connect;
mod ends;
mod steer;

pub use connect::{Connect, Outcome, Permit, Routes, connect, current};
pub use ends::{Last, ending};
pub use steer::{Lookup, Steer, Tables, steer};

/// IPPROTO_TCP
pub const TCP: u32 = 6;
