//! Buffers for what is read from sockets. A connection has one only while something is in it: thousands that rest cost
//! nothing, and those that are busy use the same few, which the processor's caches hold.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

/// Bytes that are read from a socket at once: with the header of their HTTP/2 frame they fill four TLS records. Nine
/// bytes more would be a record, and on the wire a segment, of their own.
pub const SIZE: usize = 4 * 16 * 1024 - 9;

/// Buffers that a thread keeps for the next.
const SPARE: usize = 8;

thread_local! {
    static SPARES: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// [`SIZE`] bytes of anything. Dropped, they are the next one's.
pub struct Buffer(Box<[u8]>);

impl Buffer {
    pub fn new() -> Self {
        let spare = SPARES.with_borrow_mut(Vec::pop);
        Self(spare.unwrap_or_else(|| vec![0; SIZE].into()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        // Fails only while the thread ends.
        let _ = SPARES.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < SPARE {
                spares.push(bytes);
            }
        });
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again_and_few_are_kept() {
        let mut first = Buffer::new();
        first[SIZE - 1] = 7;
        drop(first);
        assert_eq!(Buffer::new()[SIZE - 1], 7);
        let many: Vec<_> = (0..2 * SPARE).map(|_| Buffer::new()).collect();
        drop(many);
        assert_eq!(SPARES.with_borrow(Vec::len), SPARE);
    }
}
