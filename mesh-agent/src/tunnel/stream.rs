//! One CONNECT stream as a socket: bytes, half-close, reset and back-pressure, mapped to HTTP/2 frames.

use std::{
    collections::VecDeque,
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

/// Pieces below this size are copied together while they wait.
const SMALL: usize = 4 * 1024;

/// An open stream to the peer's agent.
///
/// Reads: received DATA is lent out by [`AsyncBufRead`] as it lies in memory; the peer may send more only as bytes are
/// consumed. END_STREAM is the end of file, RST_STREAM is [`io::ErrorKind::ConnectionReset`] (bytes that came before
/// it are read first), a lost connection [`io::ErrorKind::ConnectionAborted`].
///
/// Writes wait until the peer has room. Shutdown sends END_STREAM and leaves reading open. Dropped before both
/// directions have ended, the stream is reset, and what was not sent yet is lost: who must not lose it waits until the
/// stream [`is_sent`](TunnelStream::is_sent).
pub struct TunnelStream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Received and not yet consumed; counts against the peer's window until it is.
    chunk: Bytes,
    /// What came after it while nobody could take it: see [`TunnelStream::gather`]. The small pieces at its end lie in
    /// `tail`.
    waiting: VecDeque<Bytes>,
    tail: BytesMut,
    /// What ends the stream after all that waits.
    fault: Option<h2::Error>,
    ended: bool,
    shut: bool,
    reset: bool,
    /// Every piece that h2 still has holds one of these.
    unsent: Arc<()>,
    /// Held for what its drop does: the stream's place in a pooled connection.
    _place: Option<Box<dyn Send + Sync>>,
}

impl TunnelStream {
    pub(super) fn new(send: SendStream<Bytes>, recv: RecvStream, place: Option<Box<dyn Send + Sync>>) -> Self {
        Self {
            send,
            recv,
            chunk: Bytes::new(),
            waiting: VecDeque::new(),
            tail: BytesMut::new(),
            fault: None,
            ended: false,
            shut: false,
            reset: false,
            unsent: Arc::new(()),
            _place: place,
        }
    }

    /// Whether all that was written is on its way to the peer. A reset before that takes back what is not: h2 clears
    /// the stream's queue.
    pub fn is_sent(&self) -> bool {
        Arc::strong_count(&self.unsent) == 1
    }

    /// Ends the stream both ways at once: RST_STREAM(CANCEL). What was written and not sent yet is lost, as with a
    /// TCP reset. Harmless if the stream is over already.
    pub fn reset(&mut self) {
        self.reset = true;
        self.shut = true;
        self.chunk.clear();
        self.waiting.clear();
        self.tail.clear();
        self.send.send_reset(Reason::CANCEL);
    }

    /// Takes from h2 what has arrived while nobody can have it yet; the peer gets no more room by that. h2 keeps a
    /// record of each frame, larger than a small frame itself, and ends the whole connection when there are too many:
    /// one stalled stream whose peer writes single bytes would end all others.
    ///
    /// `false`: the peer has reset the stream, or the connection is lost.
    pub fn gather(&mut self, cx: &mut Context<'_>) -> bool {
        while !self.ended && self.fault.is_none() {
            match self.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(piece))) if piece.len() < SMALL => self.tail.extend_from_slice(&piece),
                Poll::Ready(Some(Ok(piece))) => {
                    if !self.tail.is_empty() {
                        self.waiting.push_back(self.tail.split().freeze());
                    }
                    self.waiting.push_back(piece);
                }
                Poll::Ready(Some(Err(error))) => self.fault = Some(error),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => break,
            }
        }
        self.fault.is_none()
    }

    /// Ready when the peer resets the stream or the connection is lost, also while nobody reads or writes.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match ready!(self.send.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(reset_by(reason)),
            Err(error) => Poll::Ready(io_error(error)),
        }
    }

    /// Why nothing can be sent any more.
    fn write_error(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.poll_reset(cx) {
            Poll::Ready(error) => error,
            Poll::Pending => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

/// Bytes that h2 drops when it has sent them.
struct Piece {
    bytes: Box<[u8]>,
    _unsent: Arc<()>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsyncBufRead for TunnelStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.reset {
            return Poll::Ready(Err(reset_by(Reason::CANCEL)));
        }
        while this.chunk.is_empty() {
            if let Some(piece) = this.waiting.pop_front() {
                this.chunk = piece;
            } else if !this.tail.is_empty() {
                this.chunk = this.tail.split().freeze();
            } else if let Some(error) = this.fault.take() {
                return Poll::Ready(Err(io_error(error)));
            } else if this.ended {
                break;
            } else {
                match ready!(this.recv.poll_data(cx)) {
                    Some(Ok(piece)) => this.chunk = piece,
                    Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                    None => this.ended = true,
                }
            }
        }
        Poll::Ready(Ok(&this.chunk))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        this.chunk.advance(amount);
        // Fails only if more is released than was received, which `advance` has just excluded.
        let _ = this.recv.flow_control().release_capacity(amount);
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let available = ready!(self.as_mut().poll_fill_buf(cx))?;
        let amount = available.len().min(buf.remaining());
        buf.put_slice(&available[..amount]);
        self.consume(amount);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.send.reserve_capacity(buf.len());
        // Polling reports growth only: room that is there already must be looked at first.
        let mut room = this.send.capacity();
        while room == 0 {
            room = match ready!(this.send.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Err(this.write_error(cx))),
            };
        }
        let amount = room.min(buf.len());
        let piece = Piece { bytes: buf[..amount].into(), _unsent: this.unsent.clone() };
        match this.send.send_data(Bytes::from_owner(piece), false) {
            Ok(()) => Poll::Ready(Ok(amount)),
            Err(_) => Poll::Ready(Err(this.write_error(cx))),
        }
    }

    /// Nothing to do: the connection sends what it has as soon as it can.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.shut {
            return Poll::Ready(Ok(()));
        }
        this.shut = true;
        // The end counts as unsent, too: a reset must not overtake it.
        let end = Piece { bytes: Box::default(), _unsent: this.unsent.clone() };
        match this.send.send_data(Bytes::from_owner(end), true) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(_) => Poll::Ready(Err(this.write_error(cx))),
        }
    }
}

impl Drop for TunnelStream {
    /// After a shutdown h2 itself resets the stream if the peer has not ended its side, and else sends what is left.
    fn drop(&mut self) {
        if !self.shut {
            self.send.send_reset(Reason::CANCEL);
        }
    }
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream")
            .field("id", &self.send.stream_id())
            .field("ended", &self.ended)
            .field("shut", &self.shut)
            .finish_non_exhaustive()
    }
}

fn reset_by(reason: Reason) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, h2::Error::from(reason))
}

fn io_error(error: h2::Error) -> io::Error {
    let kind = if error.is_reset() { io::ErrorKind::ConnectionReset } else { io::ErrorKind::ConnectionAborted };
    io::Error::new(kind, error)
}
