//! What the agent tells of its work: flow records and metrics. Knows nothing of sockets.

mod flow;
mod flows;
mod metrics;
pub mod reason;

pub use flow::{Direction, Flow, Party, Path, Security, Verdict};
pub use flows::{FlowLog, OpenFlow};
pub use metrics::{Metrics, audit_fault, kernel_counters, map_entries};
