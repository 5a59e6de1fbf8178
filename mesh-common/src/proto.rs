//! The wire: generated types, and the only conversions between them and the model. Wire types stop at the crates'
//! doors (control, serve, ca, admin); everything behind speaks [`crate::model`].

mod accounts;
mod address;
mod authorization;
mod local_pod;
pub mod refused;
pub mod seen;
mod topology;
mod traffic;
mod trust_bundle;

pub use address::{Address, TRUST_DOMAIN_DEFAULT};

use std::net::IpAddr;

/// Type URLs of the delta protocol.
pub mod type_url {
    pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
    pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
    pub const ACCOUNTS: &str = "type.googleapis.com/nodemesh.v1.Accounts";
    pub const TRUST_BUNDLE: &str = "type.googleapis.com/nodemesh.v1.TrustBundle";
    pub const ON_DEMAND: &str = "type.googleapis.com/nodemesh.v1.OnDemand";
    pub const TRAFFIC: &str = "type.googleapis.com/nodemesh.v1.Traffic";
    pub const LABELS: &str = "type.googleapis.com/nodemesh.v1.Labels";
    pub const LOCAL_POD: &str = "type.googleapis.com/nodemesh.v1.LocalPod";
}

/// Why a wire message has no meaning in the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct WireError {
    /// Path of the field inside its message, as in `rules[0].clauses[1].matches[0].source_ips[0]`.
    pub field: String,
    pub why: String,
}

impl WireError {
    pub(crate) fn new(field: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self { field: field.into(), why: why.to_string() }
    }
}

/// 4 or 16 bytes in network order.
pub(crate) fn ip_from_bytes(field: &str, bytes: &[u8]) -> Result<IpAddr, WireError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        Ok(IpAddr::from(v4))
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        Ok(IpAddr::from(v6))
    } else {
        Err(WireError::new(field, format_args!("an address has 4 or 16 bytes, not {}", bytes.len())))
    }
}

pub(crate) fn ip_to_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(crate) fn port(field: &str, value: u32) -> Result<u16, WireError> {
    u16::try_from(value).map_err(|_| WireError::new(field, format_args!("{value} is not a port")))
}

#[allow(
    missing_debug_implementations,
    rust_2018_idioms,
    rustdoc::all,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
#[rustfmt::skip]
#[path = "proto/gen/mod.rs"]
mod generated;

/// The delta protocol.
pub use generated::envoy::{config::core::v3 as core, service::discovery::v3 as discovery};
pub use generated::google::rpc;
/// Discovery, authorisation and certificates, shared with the ambient ecosystem.
pub use generated::istio::{security, v1::auth, workload};
/// What this project says to itself.
pub use generated::nodemesh::v1 as nodemesh;
