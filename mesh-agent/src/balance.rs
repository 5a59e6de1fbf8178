//! Which endpoint takes a request, how many there may be at once, and who is left alone for a while: state machines
//! without I/O. Time and chance come from outside; nothing here waits, connects or logs.

mod bucket;
mod cluster;
mod draws;
mod ewma;
mod group;
mod limits;
mod locality;
mod member;
mod outlier;
mod priority;
mod rate;
mod ring;
mod table;
#[cfg(test)]
mod tests;
mod warmup;

pub use cluster::{Cluster, Picked};
pub use limits::{Admitted, Connected, Overflow, RetryPermit, RetryRefused, Waiting};
pub use rate::{Limited, RateLimiter, Which};

use std::{net::SocketAddr, sync::Arc};

use mesh_common::model::{Locality, traffic::Labels};

/// Who asks: endpoints are near to it or far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    pub locality: Locality,
    pub labels: Arc<Labels>,
}

/// Who may be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name here: of two with the same address the first counts.
    pub address: SocketAddr,
    pub locality: Locality,
    pub labels: Arc<Labels>,
    /// Its part among the others; 0: nothing.
    pub weight: u32,
}

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of the answer's head; for gRPC the HTTP status that its gRPC status stands for.
    Status(u16),
    ConnectFailed,
    /// The connection or stream ended before the answer's head.
    Reset,
    /// No answer's head in time.
    Timeout,
    /// The client went: says nothing of the endpoint.
    Cancelled,
}

/// For metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests, requests that wait for a connection, connections, retries: under way.
    pub requests: u32,
    pub waiting: u32,
    pub connections: u32,
    pub retries: u32,
    pub endpoints: usize,
    /// Endpoints that may be chosen now.
    pub healthy: usize,
    /// Endpoints that are left alone now.
    pub ejected: usize,
    /// Since the beginning.
    pub ejections: u64,
}
