//! The only door to the kernel: loads, pins and attaches the eBPF programs and gives their maps types. Links and maps
//! are pinned, so that a dead agent means refused connections and never plaintext ones.
#![expect(unsafe_code, reason = "BPF_OBJ_GET and BPF_LINK_UPDATE, which aya does not offer for these link types")]

mod events;
mod inspect;
mod link;
mod maps;
mod programs;

pub use events::{KernelEvent, read_events, read_logs};
pub use inspect::{Expected, Fault, Hooked, PodLink};
pub use programs::{Datapath, PodHooks, Settings, uninstall};
