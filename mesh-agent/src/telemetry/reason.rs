//! Stable reason codes of refusals and failures, beside those of policies (`mesh_common::model::Reason`) and of the
//! kernel (`mesh_common::abi::Counter`). They are part of the interface: scripts and alerts match them.

use mesh_common::model::Reason;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        $($(#[$doc])* pub const $name: &str = stringify!($name);)*

        pub const ALL: &[&str] = &[$($name,)*];
    };
}

codes! {
    /// A connection reached the agent's outbound side without having been redirected by the kernel.
    ORIGINAL_DESTINATION_UNKNOWN,
    /// The service has no such port.
    NO_SUCH_PORT,
    /// The service has no healthy endpoint.
    NO_HEALTHY_ENDPOINT,
    /// The destination did not take the connection.
    CONNECT,
    /// There is no valid certificate for the pod.
    NO_CERTIFICATE,
    /// The other end's agent refused the tunnelled connection and named no reason that is known here.
    PEER_REFUSED,
    /// The tunnel's CONNECT names another address than the pod at which it arrived.
    HBONE_ADDRESS_MISMATCH,
    /// An application dialled the agents' own port.
    HBONE_PORT,
    /// The destination's workload is not known, so no policy can be asked.
    WORKLOAD_UNKNOWN,
    /// One end reset the connection.
    RESET,
    /// The agent's own fault; the flow's error says more.
    INTERNAL,
}

/// The code that a peer's agent named, if it is one of ours.
pub fn known(text: &str) -> Option<&'static str> {
    let policies = [Reason::PolicyDeny, Reason::PolicyNoAllow, Reason::PlaintextStrict, Reason::PolicyUnknown];
    ALL.iter().copied().chain(policies.map(Reason::code)).find(|code| *code == text)
}
