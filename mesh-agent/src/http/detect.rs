//! What a client speaks, from its first bytes. Pure but for the reading.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    time::timeout,
};

/// The connection preface of HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A method and the space after it: longer ones than users have are no HTTP to us.
const METHOD: usize = 24;
/// How long the rest of a method or preface is waited for that has begun.
const REST: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    Http1,
    Http2,
    /// A client's hello of TLS (RFC 8446, 4.1.2).
    Tls,
    /// Something else, or an end.
    Bytes,
    /// Nothing has come in time: perhaps the server speaks first.
    Silent,
}

/// A stream, of which some bytes were read already.
#[derive(Debug)]
pub struct Peeked<T> {
    first: Vec<u8>,
    taken: usize,
    pub io: T,
}

/// Looks at what comes first; it is read again afterwards. `wait` bounds how long a first byte is waited for; `None`:
/// as long as it takes. It may be given up at any time: nothing is lost.
///
/// # Errors
/// If the client is gone.
pub async fn detect<T: AsyncRead + Unpin>(io: &mut Peeked<T>, wait: Option<Duration>) -> io::Result<Detected> {
    let mut patience = wait;
    loop {
        if let Some(detected) = told(io.first()) {
            return Ok(detected);
        }
        let mut piece = [0; PREFACE.len()];
        let reading = io.io.read(&mut piece);
        let length = match patience {
            Some(patience) => match timeout(patience, reading).await {
                Ok(length) => length?,
                Err(_) if io.first.is_empty() => return Ok(Detected::Silent),
                Err(_) => return Ok(Detected::Bytes),
            },
            None => reading.await?,
        };
        if length == 0 {
            return Ok(Detected::Bytes);
        }
        io.first.extend_from_slice(&piece[..length]);
        patience = Some(REST);
    }
}

/// `None`: too little has come.
fn told(first: &[u8]) -> Option<Detected> {
    let length = first.len().min(PREFACE.len());
    if first[..length] == PREFACE[..length] {
        return (length == PREFACE.len()).then_some(Detected::Http2);
    }
    match first {
        // A handshake record, of any version of the record layer that is in use.
        [22, 3, 0..=4, ..] => return Some(Detected::Tls),
        [22] | [22, 3] => return None,
        _ => {}
    }
    let end = first.iter().position(|byte| !is_token(*byte));
    match end {
        Some(1..) if end.is_some_and(|end| first[end] == b' ') => Some(Detected::Http1),
        Some(_) => Some(Detected::Bytes),
        None if first.len() >= METHOD => Some(Detected::Bytes),
        None => None,
    }
}

/// Methods are upper-case words but for those that nobody uses; other texts of protocols begin with words, too.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-' || byte == b'_'
}

impl<T> Peeked<T> {
    pub fn new(io: T) -> Self {
        Self { first: Vec::new(), taken: 0, io }
    }

    /// Of what follows, to be looked at too.
    pub fn learn(&mut self, bytes: &[u8]) {
        self.first.extend_from_slice(bytes);
    }

    /// What was read and not taken yet.
    pub fn first(&self) -> &[u8] {
        &self.first[self.taken..]
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Peeked<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let amount = this.first().len().min(buf.remaining());
        buf.put_slice(&this.first()[..amount]);
        this.take(amount);
        Poll::Ready(Ok(()))
    }
}

impl<T> Peeked<T> {
    fn take(&mut self, amount: usize) {
        self.taken += amount;
        if self.taken >= self.first.len() {
            (self.first, self.taken) = (Vec::new(), 0);
        }
    }
}

impl<T: AsyncBufRead + Unpin> AsyncBufRead for Peeked<T> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return Poll::Ready(Ok(ready!(Pin::new(&mut this.io).poll_fill_buf(cx))?));
        }
        Poll::Ready(Ok(&this.first[this.taken..]))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        match this.first.is_empty() {
            true => Pin::new(&mut this.io).consume(amount),
            false => this.take(amount),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Peeked<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    #[test]
    fn first_bytes_tell() {
        for (first, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Detected::Http1)),
            (b"M-SEARCH * HTTP/1.1", Some(Detected::Http1)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Detected::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nS", None),
            (b"PRI * HTTP/1.1", Some(Detected::Http1)),
            (b"G", None),
            (b"GET", None),
            (b" GET", Some(Detected::Bytes)),
            (b"get / HTTP/1.1", Some(Detected::Bytes)),
            (b"EHLO", None),
            (b"*1\r\n$4\r\nPING\r\n", Some(Detected::Bytes)),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAA", Some(Detected::Bytes)),
            (&[22, 3, 1, 2, 0], Some(Detected::Tls)),
            (&[22], None),
            (&[22, 4], Some(Detected::Bytes)),
        ] {
            assert_eq!(told(first), expected, "{:?}", String::from_utf8_lossy(first));
        }
    }

    #[tokio::test]
    async fn what_was_looked_at_is_read_again() {
        let (mut client, server) = duplex(64);
        client.write_all(b"GE").await.unwrap();
        let written = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            client.write_all(b"T / HTTP/1.1\r\n\r\n").await.unwrap();
        });
        let mut io = Peeked::new(server);
        let detected = detect(&mut io, Some(Duration::from_millis(50))).await.unwrap();
        assert_eq!(detected, Detected::Http1);
        written.await.unwrap();
        let mut all = String::new();
        io.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "GET / HTTP/1.1\r\n\r\n");
    }

    #[tokio::test]
    async fn who_says_nothing_is_not_waited_for() {
        let (_client, server) = duplex(64);
        let detected = detect(&mut Peeked::new(server), Some(Duration::from_millis(1))).await.unwrap();
        assert_eq!(detected, Detected::Silent);
    }
}
