//! Stable reason codes of refusals and failures, beside those of policies (`mesh_common::model::Reason`) and of the
//! kernel (`mesh_common::abi::Counter`). They are part of the interface: scripts and alerts match them.

/// A connection reached the agent's outbound side without having been redirected by the kernel.
pub const ORIGINAL_DESTINATION_UNKNOWN: &str = "ORIGINAL_DESTINATION_UNKNOWN";
/// The service has no such port.
pub const NO_SUCH_PORT: &str = "NO_SUCH_PORT";
/// The service has no healthy endpoint.
pub const NO_HEALTHY_ENDPOINT: &str = "NO_HEALTHY_ENDPOINT";
/// The destination did not take the connection.
pub const CONNECT: &str = "CONNECT";
/// There is no valid certificate for the pod.
pub const NO_CERTIFICATE: &str = "NO_CERTIFICATE";
/// The other end's agent refused the tunnelled connection without naming a reason.
pub const PEER_REFUSED: &str = "PEER_REFUSED";
/// The tunnel's CONNECT names another address than the pod at which it arrived.
pub const HBONE_ADDRESS_MISMATCH: &str = "HBONE_ADDRESS_MISMATCH";
/// The destination's workload is not known (yet), so no policy can be asked.
pub const WORKLOAD_UNKNOWN: &str = "WORKLOAD_UNKNOWN";
/// One end reset the connection.
pub const RESET: &str = "RESET";
/// The agent's own fault; the flow's error says more.
pub const INTERNAL: &str = "INTERNAL";
