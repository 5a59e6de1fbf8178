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
    /// The rules of the service lead to a service or subset that is not there.
    NO_BACKEND,
    /// The rules of the service take connections of other server names only.
    NO_ROUTE,
    /// The rules of the service cannot be read, and no earlier version of them is held.
    RULES_UNREADABLE,
    /// A bound that the service's rules set is reached.
    OVERFLOW,
    /// A rate limit of the destination is reached, by what is no HTTP: a connection counts as a request.
    RATE_LIMITED,
    /// A request is none that can be passed on: what two servers could read differently, or no server may.
    REQUEST_MALFORMED,
    /// No answer came in the time that the rules of the service give a request, or one try of it.
    TIMEOUT,
    /// A request was tried as often as the rules of the service permit, and each answer was one to try again after.
    RETRIES_EXHAUSTED,
    /// The rules of the service ask that the request fails (`fault.abort`).
    FAULT_INJECTED,
    /// An endpoint's answer is none that can be passed on.
    UPSTREAM_PROTOCOL,
    /// A policy asks for paths, and the request's could be read in ways that nobody can decide about.
    PATH_AMBIGUOUS,
    /// The destination did not take the connection.
    CONNECT,
    /// TLS that the service's rules ask for towards its endpoints cannot be had, or failed.
    UPSTREAM_TLS,
    /// Nothing has passed for as long as the service's rules permit.
    IDLE_TIMEOUT,
    /// The connection has lasted as long as the service's rules permit.
    DURATION_OVER,
    /// The service got rules for requests after the connection began, which went past them and was ended.
    RULES_NEWER,
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
    /// The controller has not said in time whose address the destination's is.
    DESTINATION_UNKNOWN,
    /// A tunnelled request is not CONNECT.
    METHOD_NOT_ALLOWED,
    /// A tunnelled CONNECT names no `ip:port`, or spells it in another way than the one that agents use.
    BAD_AUTHORITY,
    /// A tunnelled CONNECT carries more headers than a tunnel needs.
    HEADERS_TOO_LARGE,
    /// A tunnelled request is malformed as HTTP/2.
    BAD_REQUEST,
    /// TLS broke off, or failed for a reason that has no code of its own.
    TLS_FAILURE,
    /// The client offers no TLS 1.3.
    TLS_VERSION,
    /// The client offers no HTTP/2 inside TLS.
    ALPN_MISMATCH,
    /// HTTP/2 failed before the first stream.
    H2_HANDSHAKE_FAILURE,
    /// HTTP/2 failed later; all its streams ended with it.
    H2_CONNECTION_FAILURE,
    /// A client offered no certificate.
    NO_CLIENT_CERTIFICATE,
    /// The peer proved an identity, and not the one that is expected.
    IDENTITY_ERROR,
    /// The peer's certificate is over.
    CERT_EXPIRED,
    /// The peer's certificate is not valid yet.
    CERT_NOT_YET_VALID,
    /// No root of ours stands behind the peer's certificate.
    CERT_UNKNOWN_ISSUER,
    /// A signature is wrong, or of an algorithm that is not accepted.
    CERT_BAD_SIGNATURE,
    /// The key in the peer's certificate is too short.
    CERT_WEAK_KEY,
    /// The peer's certificate is not for this side of a TLS connection.
    CERT_PURPOSE,
    /// The peer's certificate names no workload, or more than one.
    CERT_BAD_IDENTITY,
    /// The peer's certificate names a workload of another trust domain.
    CERT_TRUST_DOMAIN,
    /// The peer sends more certificates than a chain needs.
    CERT_CHAIN_TOO_LONG,
    /// The peer's certificate cannot be used for another reason: unreadable, or a certificate authority's.
    CERT_INVALID,
    /// A request's token has not the form of one, or there are claims or headers in it that cannot be understood.
    JWT_MALFORMED,
    /// A request bears two tokens that differ.
    JWT_SEVERAL,
    /// A request's token names an algorithm that is not accepted.
    JWT_ALGORITHM,
    /// No rule accepts tokens of the issuer, in the place where the token is.
    JWT_ISSUER,
    /// A request's token is for others.
    JWT_AUDIENCE,
    /// A request's token is over.
    JWT_EXPIRED,
    /// A request's token is not valid yet, or issued in the future.
    JWT_NOT_YET_VALID,
    /// The keys of the token's issuer could not be had or read.
    JWT_KEYS,
    /// The issuer has no key of this `kid` for this algorithm.
    JWT_KEY,
    /// The signature of a request's token is wrong.
    JWT_SIGNATURE,
    /// One end reset the connection.
    RESET,
    /// The agent's own fault; the flow's error says more.
    INTERNAL,
}

/// What records say beside [`RULES_NEWER`].
pub const OUTDATED: &str = "the service has got rules for requests since it began, and it went past them";

/// The code that a peer's agent named, if it is one of ours.
pub fn known(text: &str) -> Option<&'static str> {
    ALL.iter().copied().chain(Reason::ALL.map(Reason::code)).find(|code| *code == text)
}
