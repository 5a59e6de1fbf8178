//! The mesh's facts as plain data, and pure functions over them. Nothing here does I/O or waits.

mod accounts;
mod advice;
mod authorize;
mod decision;
mod explain;
mod identity;
mod json;
mod keys;
mod latency;
mod observe;
mod passing;
mod policy;
mod seen;
mod service;
pub mod telemetry;
mod token;
mod topology;
pub mod traffic;
mod trust;
mod validity;
mod workload;

pub use accounts::Accounts;
pub use advice::{LOSSES, advice};
pub use authorize::{Connection, Denied, Permit, Reason, authorize};
pub use decision::{Asked, Decision, Passed};
pub use explain::{
    Considered, ConsideredClause, ConsideredCondition, ConsideredMatch, ConsideredRule, Known, Nearest, explain,
    nearest,
};
pub use identity::{Identity, IdentityError};
pub use json::read_strictly;
pub use keys::{KeyMaterial, KeySet, KeySetError, MAX_KEY_SET, MAX_KEYS, PublicKey};
pub use latency::{LATENCY_BUCKETS, Latency};
pub use observe::{Observation, ObservedAs, observe};
pub use passing::{Passing, RequestFacts, Requested};
pub use policy::{
    Action, ClaimCondition, Clause, HeaderCondition, HttpMatch, Match, PathPattern, Policy, PolicyName, Rule, Scope,
    ServiceAccountMatch, StringMatch,
};
pub(crate) use policy::{covers, http as http_policy};
pub use seen::{ByBoth, Rates, Reporter, Seen, Sums};
pub use service::{Affinity, AffinityError, NameError, Service, ServiceName, ServicePort};
pub use token::Token;
pub use topology::{Level, LoadBalancing, LoadBalancingMode, Locality};
pub use trust::TrustBundle;
pub use validity::Validity;
pub use workload::{LocalPod, Mode, SameNode, Tunnel, Workload, WorkloadKind};
