//! What more than one crate of the mesh must agree on: the kernel ABI, the pure decisions, the model and the wire
//! types. No build script, and no I/O but for the writer of the audit stream.
#![cfg_attr(not(any(feature = "model", test)), no_std)]

pub mod abi;
pub mod verdict;

#[cfg(feature = "audit")]
pub mod audit;
#[cfg(feature = "model")]
pub mod authz;
#[cfg(feature = "model")]
pub mod model;
#[cfg(feature = "proto")]
pub mod proto;
#[cfg(feature = "route")]
pub mod route;
