//! Large reads below TLS. rustls asks the socket for one record at a time; each call costs as much as copying the
//! record, and tells the peer's kernel of a little more room. A connection that rests holds no buffer.

use std::{
    future::Future as _,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Room for a few messages.
const SMALL: usize = 4 * 1024;
/// Room once more than that has come at once.
const LARGE: usize = 128 * 1024;

/// A socket that is read ahead. Writes pass through.
#[derive(Debug)]
pub struct ReadAhead {
    inner: TcpStream,
    /// Read and not asked for yet.
    buffer: BytesMut,
    /// The last read brought more than a few messages.
    busy: bool,
}

impl ReadAhead {
    pub fn new(inner: TcpStream) -> Self {
        Self { inner, buffer: BytesMut::new(), busy: false }
    }

    /// Reads once; nothing is in the buffer. Ready with nothing is the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { inner, buffer, busy } = self;
        let read = match inner.poll_read_ready(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => {
                buffer.clear();
                buffer.reserve(if *busy { LARGE } else { SMALL });
                // Made and polled at once: it holds nothing that could be lost.
                pin!(inner.read_buf(buffer)).poll(cx)
            }
        };
        if read.is_pending() {
            (*buffer, *busy) = (BytesMut::new(), false);
        }
        *busy = ready!(read)? >= SMALL;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            ready!(self.poll_fill(cx))?;
        }
        let amount = self.buffer.len().min(out.remaining());
        out.put_slice(&self.buffer[..amount]);
        self.buffer.advance(amount);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, data)
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
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn what_is_read_ahead_comes_in_order_and_a_resting_connection_holds_no_buffer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, sent) = (listener.local_addr().unwrap(), (0..300_000_u32).map(|n| n as u8).collect::<Vec<_>>());
        let content = sent.clone();
        let (rest, resting) = tokio::sync::oneshot::channel::<()>();
        let writer = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            peer.write_all(&content).await.unwrap();
            resting.await.unwrap();
            peer.write_all(b"more").await.unwrap();
        });
        let mut ahead = ReadAhead::new(TcpStream::connect(address).await.unwrap());
        let (mut got, mut part, mut was_large) = (Vec::new(), [0; 1000], false);
        while got.len() < sent.len() {
            let length = ahead.read(&mut part).await.unwrap();
            got.extend_from_slice(&part[..length]);
            was_large |= ahead.buffer.len() > SMALL;
        }
        assert!(got == sent && was_large);
        // Nothing more comes: the read that waits for it gives the memory back.
        tokio::select! {
            biased;
            read = ahead.read(&mut part) => panic!("nothing was sent, {read:?} read"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(ahead.buffer.capacity(), 0);
        rest.send(()).unwrap();
        got.clear();
        ahead.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"more");
        writer.await.unwrap();
    }
}
