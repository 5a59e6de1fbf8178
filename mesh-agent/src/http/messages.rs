//! Counts gRPC messages in what passes. Each has a head of five bytes, a flag and its length
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). Nothing is kept of them.

/// Bytes of a message's head.
const HEAD: u8 = 5;

/// In one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Messages {
    /// Of the head of the message that passes.
    head: u8,
    /// What is still to come of it after its head.
    left: u32,
}

impl Messages {
    /// How many messages end in these bytes.
    pub fn ended(&mut self, mut bytes: &[u8]) -> u64 {
        let mut ended = 0;
        loop {
            if self.head == HEAD && self.left == 0 {
                (self.head, ended) = (0, ended + 1);
            } else if bytes.is_empty() {
                return ended;
            } else if self.head == HEAD {
                let passed = bytes.len().min(self.left as usize);
                // No more than was left.
                self.left -= passed as u32;
                bytes = &bytes[passed..];
            } else {
                // The flag is first.
                if self.head > 0 {
                    self.left = self.left << 8 | u32::from(bytes[0]);
                }
                (self.head, bytes) = (self.head + 1, &bytes[1..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_come() {
        let mut stream = Vec::new();
        for length in [0_u32, 1, 5, 300, 70_000, 0] {
            stream.push(u8::from(length == 300));
            stream.extend(length.to_be_bytes());
            stream.extend(std::iter::repeat_n(9, length as usize));
        }
        for piece in [1, 2, 3, 4, 5, 6, 7, 1000, stream.len()] {
            let mut messages = Messages::default();
            let ended: u64 = stream.chunks(piece).map(|piece| messages.ended(piece)).sum();
            assert_eq!(ended, 6, "in pieces of {piece}");
        }
        let mut messages = Messages::default();
        assert_eq!(messages.ended(&stream[..stream.len() - 1]), 5, "the last has not ended");
        assert_eq!(messages.ended(&[]), 0);
        assert_eq!(messages.ended(&[0]), 1);
        // What never ends is no message.
        assert_eq!(Messages::default().ended(&[0, 255, 255, 255, 255, 1]), 0);
    }
}
