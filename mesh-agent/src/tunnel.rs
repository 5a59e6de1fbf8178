//! HBONE: byte streams between agents, each an HTTP/2 CONNECT stream inside mutual TLS 1.3. Moves bytes and says who is
//! at the other end; what they may do is decided elsewhere.

mod address;
mod ahead;
mod connection;
mod error;
mod keepalive;
mod pool;
mod probe;
mod resets;
mod respond;
mod server;
mod stream;
mod tls;

#[cfg(test)]
mod tests;

pub use address::parse_forwarded;
pub use connection::ConnectRequest;
#[cfg(test)]
pub use error::CODES;
pub use error::TunnelError;
pub use keepalive::Keepalive;
pub use pool::{Pool, PoolKey, PoolSettings};
pub use probe::{Probed, probe};
pub use respond::{Inbound, Respond};
pub use server::{Malformed, ServerSettings, serve};
pub use stream::TunnelStream;
pub use tls::TlsFacts;

/// The response header in which a refusal carries its reason, an upper-case word.
pub const REASON_HEADER: &str = "nodemesh-reason";

/// The request header in which an agent asks another whether it would let the source reach a port of the pod. The
/// `:authority` names the agents' own port, to which no agent lets anybody else: one that does not know the header
/// refuses it by HBONE_PORT. Answered by the agent, which sends back the body and the identity that it has seen.
pub const VERIFY_HEADER: &str = "nodemesh-verify";

/// Request headers beside `:authority`. All are claims of the peer; only its certificate proves anything.
const BAGGAGE_HEADER: &str = "baggage";
const FORWARDED_HEADER: &str = "forwarded";

/// No peer needs more headers than this, in bytes as HTTP/2 counts them.
const HEADER_LIST: u32 = 16 * 1024;
/// What HTTP/2 itself takes, so that what is too large for us is refused with a reason. Beyond it, it is a fault.
const HEADER_LIST_READ: u32 = 2 * HEADER_LIST;

/// Streams of one connection at the same time, on either side.
const STREAMS: usize = 100;

/// How much a peer may send before it must wait for us, in bytes. The same on both sides, so that either can be the
/// fast one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Unread bytes of one stream.
    pub stream: u32,
    /// Unread bytes of all streams of one connection.
    pub connection: u32,
    /// The largest frame.
    pub frame: u32,
}

impl Default for Windows {
    fn default() -> Self {
        // A connection has room for all of its streams: were it less, a few streams whose readers rest would fill it
        // and stop everybody else on it. So it is the streams' windows that bound memory: what an agent holds is at
        // most one of them for each stalled stream, and 100 MiB for a connection on which all are stalled. A mebibyte
        // carries a gigabyte each second over a round trip of a millisecond.
        let stream = 1 << 20;
        Self { stream, connection: STREAMS as u32 * stream, frame: 1 << 20 }
    }
}

impl Windows {
    /// What frames may cost beyond their bytes before a stream takes them (see [`TunnelStream::gather`]), over one
    /// connection. h2's own default ends a connection whose reader rests while the writer sends a few ten thousand tiny
    /// messages, which is what slow readers do.
    fn frame_budget(self) -> usize {
        32 << 20
    }
}
