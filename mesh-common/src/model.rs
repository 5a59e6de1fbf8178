//! The mesh's facts as plain data, and pure functions over them. Nothing here does I/O or waits.

mod authorize;
mod identity;
mod policy;
mod service;
mod validity;
mod workload;

pub use authorize::{Connection, Denied, Permit, Reason, authorize};
pub use identity::{Identity, IdentityError};
pub use policy::{Action, Clause, Match, Policy, PolicyName, Rule, Scope, ServiceAccountMatch, StringMatch};
pub use service::{NameError, Service, ServiceName, ServicePort};
pub use validity::Validity;
pub use workload::{LocalPod, Mode, Tunnel, Workload, WorkloadKind};
