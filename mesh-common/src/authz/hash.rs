//! A hash that tells, on its way through a text, the hash of each of its beginnings. What it finds is always asked
//! again, so that two texts with one hash cost time only; whoever sends a text cannot know its hash.

use std::hash::{BuildHasher, Hasher, RandomState};

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a text is compared with, so that one text has several hashes.
#[derive(Clone, Copy, Debug)]
pub(super) enum As {
    Whole = 1,
    Beginning,
    End,
    Present,
    Segment,
    Net,
}

pub(super) fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

pub(super) fn step(state: u64, byte: u8) -> u64 {
    (state.rotate_left(5) ^ u64::from(byte)).wrapping_mul(ODD)
}

pub(super) fn text(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, byte| step(state, *byte))
}

pub(super) fn backwards(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(state, |state, byte| step(state, *byte))
}

pub(super) fn number(state: u64, number: u64) -> u64 {
    let mixed = (state.rotate_left(5) ^ number).wrapping_mul(ODD);
    (mixed ^ (mixed >> 32)).wrapping_mul(ODD)
}

pub(super) fn done(state: u64, what: As) -> u64 {
    number(state, what as u64)
}

/// Keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = text(self.0, bytes);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}
