//! Conversations of two programs, written down: what each end does in each round, and what each end heard. Played by
//! mesh-test-app (`talk` and `listen-to-scripts`), compared by scenes.

use serde::{Deserialize, Serialize};

/// One connection from its beginning to its end. Both ends wait for each other after every round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    pub name: String,
    /// Both ends ask for urgent data in its place of the stream (SO_OOBINLINE).
    pub urgent_inline: bool,
    pub rounds: Vec<Round>,
}

/// What both ends do at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    pub client: Turn,
    pub server: Turn,
}

/// What one end does: it writes and reads at the same time, and then does the last thing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub write: u64,
    /// Bytes a system call; 0: 64 KiB.
    pub chunk: usize,
    /// Milliseconds before it begins to read.
    pub pause_ms: u64,
    pub read: Read,
    pub style: Style,
    pub then: Then,
}

/// How much is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Read {
    #[default]
    Nothing,
    Exactly(u64),
    /// To the end of the stream, whichever it is.
    ToEnd,
}

/// With which system calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Style {
    /// Blocking read(2) and write(2).
    #[default]
    Plain,
    /// Non-blocking, woken by edge-triggered epoll(7).
    Edge,
    /// splice(2) through a pipe, as Go's io.Copy.
    Splice,
    /// Looks with MSG_PEEK before it reads.
    Peek,
    /// Asks FIONREAD how much there is and reads that with MSG_WAITALL; writes with sendfile(2).
    File,
    /// The last byte of what it writes is urgent (MSG_OOB).
    Urgent,
}

/// What comes last in a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    #[default]
    Nothing,
    /// shutdown(2) of the sending side.
    Fin,
    /// close(2); the kernel makes it a reset if something was not read.
    Close,
    /// close(2) with SO_LINGER 0: a reset.
    Reset,
    /// Writes a byte each few milliseconds until that fails.
    Poke,
}

/// What one end heard in one round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    pub wrote: u64,
    pub write_error: Option<String>,
    pub read: u64,
    /// The position in the whole stream of the first byte that is not what the other end wrote there.
    pub wrong_at: Option<u64>,
    pub end: Ending,
    /// The error of the poke that failed.
    pub poked: Option<String>,
    /// Milliseconds that the round took; not compared.
    pub took_ms: u64,
}

/// How the reading of a round ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// All that was to be read, and the stream goes on.
    #[default]
    Data,
    Eof,
    Failed(String),
}

/// What became of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Played {
    pub script: usize,
    /// Why there was no connection, or not at both ends.
    pub broken: Option<String>,
    pub client: Vec<Heard>,
    pub server: Vec<Heard>,
}

/// The bytes that both ends know: `period` bytes, again and again.
#[derive(Debug)]
pub struct Content(Vec<u8>);

impl Content {
    /// No multiple of any buffer's size, so that no lost buffer goes unnoticed.
    const PERIOD: usize = 1_000_003;
    /// The longest piece that can be asked for.
    pub const PIECE: usize = 1 << 18;

    pub fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes: Vec<u8> = (0..Self::PERIOD.div_ceil(8))
            .flat_map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state ^ (state >> 29)).to_le_bytes()
            })
            .take(Self::PERIOD)
            .collect();
        bytes.extend_from_within(..Self::PIECE);
        Self(bytes)
    }

    /// `length` bytes (at most [`Content::PIECE`]) of stream number `stream` from `position` on.
    pub fn piece(&self, stream: u64, position: u64, length: usize) -> &[u8] {
        let start = ((stream * 7919 + position) % Self::PERIOD as u64) as usize;
        &self.0[start..start + length.min(Self::PIECE)]
    }
}

impl Default for Content {
    fn default() -> Self {
        Self::new()
    }
}

impl Heard {
    /// Without what may differ between two runs.
    pub fn settled(&self) -> Self {
        Self { took_ms: 0, ..self.clone() }
    }
}
