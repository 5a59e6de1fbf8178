//! What the agent tells of its work: flow records, metrics and the audit stream. Knows nothing of sockets.

pub mod audit;
mod edges;
mod flow;
mod flows;
mod kept;
mod metrics;
pub mod reason;
#[cfg(test)]
mod tests;

pub use edges::{Edge, Totals};
pub use flow::{Direction, Flow, HttpRequest, Party, Path, Security, Tcp, Verdict};
pub use flows::{FlowLog, Live, OpenFlow};
pub use metrics::{
    Metrics, audit_fault, direct_connections, flows_lost, kernel_counters, map_entries, older_connections, opened,
};
