//! The only door to the kernel: loads, pins and attaches the eBPF programs and gives their maps types. Links and maps
//! are pinned, so that a dead agent means refused connections and never plaintext ones.
#![expect(unsafe_code, reason = "bpf(2) with commands that aya does not offer for these programs and links")]

mod datagrams;
mod direct;
mod events;
mod ingress;
mod inspect;
mod link;
mod loading;
mod maps;
mod observe;
mod probes;
mod programs;
mod verified;

pub use direct::{kernel_now, nanoseconds};
pub use events::{KernelEvent, read_closed, read_events, read_logs, wall_clock};
pub use inspect::{Expected, Fault, Hooked, PodLink, probe_faults};
pub use loading::uninstall;
pub use probes::{keep_probes, remove_probes};
pub use programs::{Datapath, DatapathError, PodHooks, Settings};
pub use verified::{Cost, Refusal, VERIFIER_LIMIT, Verified, verify_programs};
