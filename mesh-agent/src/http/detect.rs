//! What a client speaks, from its first bytes. Pure but for the reading.
//!
//! A word of capitals and a space begin a request of HTTP/1 (RFC 9112, 3), behind empty lines too (2.2). Servers take
//! more than that: words in lower case, other blanks, blanks before the first word. Of these, and of any other
//! beginning of that sort, the line must have a version of HTTP, since other protocols begin with words, too.

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
/// So much of a line is looked at to tell what it is.
const MOST: usize = 4096;
/// How long the rest of a line or preface is waited for that has begun.
const REST: Duration = Duration::from_millis(50);
/// The same, where bytes must not be what may become a request.
const SURELY: Duration = Duration::from_secs(5);

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
    look(io, wait, REST, Detected::Bytes).await
}

/// As [`detect`], as long as it takes, for those who must not miss a request: what may become one, and does not come
/// whole in 5 seconds, in 4 KiB or at all, is said to be HTTP/1.
///
/// # Errors
/// If the client is gone.
pub async fn detect_surely<T: AsyncRead + Unpin>(io: &mut Peeked<T>) -> io::Result<Detected> {
    look(io, None, SURELY, Detected::Http1).await
}

/// `open` is what has begun and cannot be told after `rest`.
async fn look<T: AsyncRead + Unpin>(
    io: &mut Peeked<T>,
    wait: Option<Duration>,
    rest: Duration,
    open: Detected,
) -> io::Result<Detected> {
    let mut patience = wait;
    loop {
        if let Some(detected) = told(io.first()) {
            return Ok(detected);
        }
        if io.first().len() > MOST {
            return Ok(open);
        }
        let mut piece = [0; 512];
        let reading = io.io.read(&mut piece);
        let length = match patience {
            Some(patience) => match timeout(patience, reading).await {
                Ok(length) => length?,
                Err(_) if io.first.is_empty() => return Ok(Detected::Silent),
                Err(_) => return Ok(open),
            },
            None => reading.await?,
        };
        if length == 0 {
            // Who has said one word asks for nothing.
            let is_word = io.first.iter().all(|byte| is_blank(*byte) || *byte == b'\n' || is_token(*byte))
                && io.first.split(|byte| !is_token(*byte)).filter(|word| !word.is_empty()).count() < 2;
            return Ok(if is_word { Detected::Bytes } else { open });
        }
        io.first.extend_from_slice(&piece[..length]);
        patience = Some(rest);
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
    let begin = first.iter().position(|byte| !is_blank(*byte) && *byte != b'\n')?;
    let (before, line) = first.split_at(begin);
    let word = line.iter().position(|byte| !is_token(*byte))?;
    let (method, rest) = line.split_at(word);
    if method.is_empty() || !is_blank(rest[0]) {
        return Some(Detected::Bytes);
    }
    let is_usual = |byte: &u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
    if rest[0] == b' ' && method.iter().all(is_usual) && before.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
        return Some(Detected::Http1);
    }
    let end = rest.iter().position(|byte| !is_blank(*byte) && matches!(byte, ..b' ' | 0x7f));
    let version = |words: &[u8]| is_blank(words[0]) && words[1..].eq_ignore_ascii_case(b"HTTP/");
    match end {
        _ if rest[..end.unwrap_or(rest.len())].windows(6).any(version) => Some(Detected::Http1),
        Some(_) => Some(Detected::Bytes),
        None => None,
    }
}

/// Of a method (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What one server or another takes for a space between words, or before the first.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x0b..=b'\r' | 0x1c..=b' ' | 0x85 | 0xa0)
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
            // Other spellings of a request line, which some servers take.
            (b"\r\nGET / HTTP/1.1", Some(Detected::Http1)),
            (b"\n\n\r\nGET /", Some(Detected::Http1)),
            (b"\r\n", None),
            (b" GET", None),
            (b" GET / HTTP/1.1", Some(Detected::Http1)),
            (b"get / HTTP/1.1", Some(Detected::Http1)),
            (b"Get http://cart/ http/1.0\r\n", Some(Detected::Http1)),
            (b"get /", None),
            (b"get a b c HTTP/", Some(Detected::Http1)),
            (b"GET\t/\tHTTP/1.1", Some(Detected::Http1)),
            (b"GET\x0b/\x0cHTTP/1.1", Some(Detected::Http1)),
            (b"M'1*^|~ / HTTP/1.1", Some(Detected::Http1)),
            (b"BASELINE-CONTROL-OF-SOME-MORE / HTTP/1.1", Some(Detected::Http1)),
            (b"get key\r\n", Some(Detected::Bytes)),
            (b"get key\r\nget / HTTP/1.1", Some(Detected::Bytes)),
            (b"get \r\n", Some(Detected::Bytes)),
            (b"PING\r\n", Some(Detected::Bytes)),
            (b"get \x01", Some(Detected::Bytes)),
            (b"get HTTP/1.1", Some(Detected::Http1)),
            (b"SSH-2.0-OpenSSH_9.9 Debian-3\r\n", Some(Detected::Bytes)),
            (b"\n\x0bhello\x12\x05world", Some(Detected::Bytes)),
            (b"\n\x05HELLO W", Some(Detected::Bytes)),
            (b"EHLO", None),
            (b"*1\r\n$4\r\nPING\r\n", Some(Detected::Bytes)),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAA", None),
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
    async fn what_may_become_a_request_is_never_bytes_where_that_matters() {
        // While more may come, and when the client has ended.
        for (first, bytes) in [
            (&b"GE"[..], [false, true]),
            (b"\r\n", [false, true]),
            (b"hello", [false, true]),
            (b"get / HT", [false, false]),
            (b"get /admin", [false, false]),
            (&[b'a'; MOST + 1], [false, false]),
            (b"PING\r\n", [true, true]),
            (b"", [true, true]),
        ] {
            for (ended, bytes) in [(false, bytes[0]), (true, bytes[1])] {
                if first.is_empty() && !ended {
                    continue;
                }
                let (mut client, server) = duplex(8192);
                client.write_all(first).await.unwrap();
                let _open = (!ended).then_some(client);
                let expected = if bytes { Detected::Bytes } else { Detected::Http1 };
                let mut io = Peeked::new(server);
                let detected = look(&mut io, None, Duration::from_millis(20), Detected::Http1).await.unwrap();
                assert_eq!(detected, expected, "{:?} {ended}", String::from_utf8_lossy(first));
            }
        }
    }
}
