//! What the test programs print: one line of JSON for each connection, written by mesh-test-app, read by the harness.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One connection as its client saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dialled {
    pub connected: bool,
    /// getsockname(2) after connect(2).
    pub local: Option<SocketAddr>,
    /// getpeername(2) after connect(2).
    pub peer: Option<SocketAddr>,
    pub sent: u64,
    pub received: u64,
    /// [`checksum`] of what was sent and of what was received.
    pub sent_checksum: u64,
    pub received_checksum: u64,
    /// The first 4096 bytes received, as far as they are text.
    pub text: String,
    pub end: End,
    /// The error of the system call that ended it.
    pub error: Option<String>,
    pub connect_ms: f64,
    /// From the first byte to the last one handed to the kernel.
    pub send_ms: f64,
    pub total_ms: f64,
}

/// How a connection ended, seen from its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// ECONNREFUSED from connect(2).
    Refused,
    /// ECONNRESET or EPIPE on the open connection.
    Reset,
    /// The server closed its side in order.
    Eof,
    /// The client got the answer that it waited for and closed.
    Answered,
    /// No answer within the client's limit.
    Timeout,
    /// Any other error; see [`Dialled::error`].
    Failed,
}

/// The addresses of one connection as its server saw them: the answer of `mesh-test-app peer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// What accept(2) returned.
    pub accepted: SocketAddr,
    pub getpeername: SocketAddr,
    pub getsockname: SocketAddr,
}

/// One connection of `mesh-test-app knock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knocked {
    pub to: SocketAddr,
    pub end: End,
    /// What the server said.
    pub text: String,
}

impl Knocked {
    /// The server of that port answered, and nobody else.
    pub fn answered(&self) -> bool {
        self.end == End::Eof && self.text == self.to.port().to_string()
    }

    /// Nobody answered, and the client was told so at once.
    pub fn turned_away(&self) -> bool {
        matches!(self.end, End::Refused | End::Reset | End::Eof) && self.text.is_empty()
    }
}

impl Dialled {
    /// The line in which `mesh-test-app peer` answers.
    pub fn seen(&self) -> anyhow::Result<Seen> {
        use anyhow::Context;
        serde_json::from_str(self.text.trim()).with_context(|| format!("no answer of a peer server: {self:?}"))
    }

    /// Everything came back as it was sent, and the server closed in order.
    pub fn echoed(&self) -> bool {
        self.connected
            && self.end == End::Eof
            && self.received == self.sent
            && self.received_checksum == self.sent_checksum
    }

    /// The client could not get through: refused at connect, or the open connection ended without a byte.
    pub fn turned_away(&self) -> bool {
        match self.end {
            End::Refused => true,
            End::Reset | End::Eof => self.received == 0,
            End::Answered | End::Timeout | End::Failed => false,
        }
    }
}

/// FNV-1a, 64 bits, over `bytes`, going on from `state`; `None` starts.
pub fn checksum(state: Option<u64>, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state.unwrap_or(0xcbf2_9ce4_8422_2325), |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Bytes that no shift or repetition leaves unchanged: the stream's content from `offset` on.
pub fn pattern(offset: u64, into: &mut [u8]) {
    for (position, byte) in (offset..).zip(into.iter_mut()) {
        let mixed = (position ^ (position >> 7)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        *byte = (mixed >> 56) as u8;
    }
}
