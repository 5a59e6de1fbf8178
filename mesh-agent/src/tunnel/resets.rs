//! Sees what the HTTP/2 library refuses by itself. A malformed request or one with endless headers is reset before
//! anybody is asked; the reset is all that tells of it, so it is read from what the library sends.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};

/// Frame headers (RFC 9113, section 4.1) and the four bytes of a RST_STREAM.
const HEADER: usize = 9;
const RESET: usize = HEADER + 4;
const RST_STREAM: u8 = 3;
const PROTOCOL_ERROR: u32 = 1;

/// Resets that wait to be recorded; h2 ends a connection with more faults than that.
const WAITING: usize = 512;

/// Passes everything through and tells of every stream that is reset with PROTOCOL_ERROR, which nobody but the library
/// does here.
pub struct Resets<T> {
    inner: T,
    frames: Frames,
    found: mpsc::Sender<u32>,
}

/// Where in the stream of frames the last written byte was.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; RESET],
    have: usize,
    /// Bytes of payload that are still to pass.
    skip: usize,
}

impl<T> Resets<T> {
    /// The receiver gets the ids of the streams.
    pub fn new(inner: T) -> (Self, mpsc::Receiver<u32>) {
        let (found, told) = mpsc::channel(WAITING);
        (Self { inner, frames: Frames::default(), found }, told)
    }

    fn written(&mut self, bytes: &[u8]) {
        let found = &self.found;
        // Full only if nobody records them: then the connection is about to end.
        self.frames.pass(bytes, |stream| _ = found.try_send(stream));
    }
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8], mut found: impl FnMut(u32)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = if self.have >= HEADER { RESET } else { HEADER };
            let taken = (wanted - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| self.head[at + i]));
            if self.have == HEADER && self.head[3] != RST_STREAM {
                self.skip = (word(0) >> 8) as usize;
                self.have = 0;
            } else if self.have == RESET {
                if word(HEADER) == PROTOCOL_ERROR {
                    found(word(5) & 0x7fff_ffff);
                }
                self.have = 0;
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Resets<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Resets<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.written(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let part = left.min(buf.len());
            self.written(&buf[..part]);
            left -= part;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, 0], &stream.to_be_bytes(), payload].concat()
    }

    #[test]
    fn resets_are_found_however_the_bytes_are_cut() {
        let all = [
            frame(4, 0, &[]),
            frame(3, 5, &1_u32.to_be_bytes()),
            frame(0, 7, &[3; 40]),
            // Not the library's own: cancelled.
            frame(3, 7, &8_u32.to_be_bytes()),
            frame(1, 9, &[0; 1]),
            frame(3, 9, &1_u32.to_be_bytes()),
        ]
        .concat();
        for size in 1..=all.len() {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for part in all.chunks(size) {
                frames.pass(part, |stream| found.push(stream));
            }
            assert_eq!(found, [5, 9], "in pieces of {size}");
        }
    }
}
