//! What the agent tells of its work: flow records, metrics and the audit stream. Knows nothing of sockets.

pub mod access;
pub mod audit;
#[cfg(test)]
mod bounds_tests;
pub mod cost;
mod edges;
mod flow;
mod flows;
mod kept;
mod metrics;
pub mod otlp;
pub mod reason;
pub mod stats;
mod tap;
#[cfg(test)]
mod tests;
pub mod trace;

pub use edges::{Edge, Totals};
pub use flow::{Counted, Direction, Facts, Flow, HttpRequest, Party, Path, Security, Tcp, Udp, Verdict};
pub use flows::{FlowLog, Live, OpenFlow, Sinks};
pub use metrics::{
    Limits, Metrics, Traffic, UdpTraffic, Used, audit_fault, configuration, direct_connections, ejections, flows_lost,
    kernel_counters, map_entries, older_connections,
};
pub use tap::{Headers, Seen};
