//! One direction of a TCP connection, put together from its segments in whatever order and however often they came.

use super::packet::Segment;

/// Bytes of one direction that are kept; a verification needs a few thousand.
const MOST: usize = 256 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// Sequence number of the first byte.
    first: Option<u32>,
    bytes: Vec<u8>,
    /// Which of them were seen.
    known: Vec<bool>,
    /// From the first byte on without a gap.
    whole: usize,
    /// The same byte was seen as two.
    contradicts: bool,
    /// There is more than is kept.
    cut: bool,
}

impl Stream {
    /// Segments before the SYN are left out: without it nobody knows what the first byte is.
    pub fn take(&mut self, segment: &Segment<'_>) {
        if segment.is_syn {
            self.first.get_or_insert(segment.sequence.wrapping_add(1));
        }
        let Some(first) = self.first else { return };
        // Data in the SYN itself begins one later than its number.
        let begin = if segment.is_syn { 0 } else { segment.sequence.wrapping_sub(first) as usize };
        let mut payload = segment.payload;
        let room = MOST.saturating_sub(begin);
        if payload.len() > room {
            // A keep-alive repeats the byte before the next one: of the first, that lies before the beginning.
            self.cut |= room > 0 || segment.sequence.wrapping_sub(first) < u32::MAX / 2;
            payload = &payload[..room];
        }
        if payload.is_empty() {
            return;
        }
        let end = begin + payload.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
            self.known.resize(end, false);
        }
        for (at, byte) in (begin..end).zip(payload) {
            self.contradicts |= self.known[at] && self.bytes[at] != *byte;
            (self.bytes[at], self.known[at]) = (*byte, true);
        }
        while self.known.get(self.whole) == Some(&true) {
            self.whole += 1;
        }
    }

    /// From the first on, up to a gap.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.whole]
    }

    /// Why the bytes are not what was sent, or not all of it.
    pub fn fault(&self) -> Option<&'static str> {
        match () {
            () if self.first.is_none() => Some("the beginning was not captured"),
            () if self.contradicts => Some("the same bytes were seen twice, and differ"),
            () if self.whole < self.bytes.len() => Some("a part was not captured"),
            () if self.cut => Some("there is more than is looked at"),
            () => None,
        }
    }
}
