//! The clients: they report what the system calls told them, and never fail because a connection did.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use mesh_tests::{Dialled, End, checksum, patience, pattern};

const TEXT_LIMIT: usize = 4096;

#[derive(Args)]
pub struct Send {
    #[arg(long)]
    to: SocketAddr,
    /// What to send; `\r` and `\n` are understood
    #[arg(long, default_value = "", conflicts_with = "bytes")]
    text: String,
    /// Send this many bytes of a fixed pattern instead
    #[arg(long)]
    bytes: Option<u64>,
    /// Read a line before sending anything
    #[arg(long)]
    listen_first: bool,
    /// Leave the sending side open and be content with one line
    #[arg(long)]
    line: bool,
    /// This many connections, one after the other
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Seconds until a connect, read or write is given up
    #[arg(long, default_value_t = 5.0)]
    timeout: f64,
    #[command(flatten)]
    socket: crate::socket::Options,
}

/// What is known while the connection lives.
struct Progress {
    report: Dialled,
    start: Instant,
    text: Vec<u8>,
}

impl Progress {
    fn new() -> Self {
        let empty = checksum(None, &[]);
        let report = Dialled {
            connected: false,
            local: None,
            peer: None,
            sent: 0,
            received: 0,
            sent_checksum: empty,
            received_checksum: empty,
            text: String::new(),
            end: End::Failed,
            error: None,
            connect_ms: 0.0,
            send_ms: 0.0,
            total_ms: 0.0,
        };
        Self { report, start: Instant::now(), text: Vec::new() }
    }

    fn connected(&mut self, stream: &TcpStream) {
        self.report.connected = true;
        self.report.connect_ms = milliseconds(self.start);
        self.report.local = stream.local_addr().ok();
        self.report.peer = stream.peer_addr().ok();
    }

    fn received(&mut self, bytes: &[u8]) {
        self.report.received += bytes.len() as u64;
        self.report.received_checksum = checksum(Some(self.report.received_checksum), bytes);
        let room = TEXT_LIMIT.saturating_sub(self.text.len()).min(bytes.len());
        self.text.extend_from_slice(&bytes[..room]);
    }

    fn print(mut self, outcome: io::Result<End>) -> Result<()> {
        self.report.total_ms = milliseconds(self.start);
        self.report.text = String::from_utf8_lossy(&self.text).into_owned();
        match outcome {
            Ok(end) => self.report.end = end,
            Err(error) => {
                self.report.end = end_of(&error);
                self.report.error = Some(error.to_string());
            }
        }
        println!("{}", serde_json::to_string(&self.report).context("write the report")?);
        Ok(())
    }
}

pub fn send(send: &Send) -> Result<()> {
    for _ in 0..send.count {
        let mut progress = Progress::new();
        let outcome = converse(send, &mut progress);
        progress.print(outcome)?;
    }
    Ok(())
}

/// A byte there and back until the connection ends, or it is ended in order since the file is there; prints "answered"
/// first.
pub fn hold(to: SocketAddr, until: Option<&Path>) -> Result<()> {
    let mut progress = Progress::new();
    let outcome = TcpStream::connect(to).and_then(|mut stream| {
        progress.connected(&stream);
        stream.set_read_timeout(Some(Duration::from_secs(5) * patience()))?;
        loop {
            if until.is_some_and(Path::exists) {
                stream.shutdown(Shutdown::Write)?;
                return read_to_end(&mut stream, &mut progress).map(|()| End::Eof);
            }
            stream.write_all(b".")?;
            progress.report.sent += 1;
            let mut byte = [0];
            if stream.read(&mut byte)? == 0 {
                return Ok(End::Eof);
            }
            // A server that says something else may end by itself, and the connection would prove nothing by that.
            if byte != *b"." {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the server does not echo"));
            }
            progress.received(&byte);
            // An accepted connection proves little where an agent accepts for the server.
            if progress.report.received == 1 {
                println!("answered");
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    progress.print(outcome)
}

fn converse(send: &Send, progress: &mut Progress) -> io::Result<End> {
    let limit = Duration::from_secs_f64(send.timeout) * patience();
    let mut stream = crate::socket::connect(&send.to, limit, &send.socket)?;
    progress.connected(&stream);
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    if send.listen_first && !read_line(&mut stream, progress)? {
        return Ok(End::Eof);
    }
    let writer = stream.try_clone()?;
    let (content, half_close) = (Content::of(send), !send.line);
    let sending = thread::spawn(move || write_all(writer, content, half_close));
    let reading = if send.line {
        read_line(&mut stream, progress).map(|whole| if whole { End::Answered } else { End::Eof })
    } else {
        read_to_end(&mut stream, progress).map(|()| End::Eof)
    };
    if reading.is_err() {
        // The writer may wait for room that never comes.
        let _ = stream.shutdown(Shutdown::Both);
    }
    let (sent, sum, took, written) = sending.join().map_err(|_| io::Error::other("the sending thread panicked"))?;
    progress.report.sent = sent;
    progress.report.sent_checksum = sum;
    progress.report.send_ms = took;
    let end = reading?;
    // A server may answer and close before it has read everything: only an unanswered write failure counts.
    if progress.report.received == 0 {
        written?;
    }
    Ok(end)
}

enum Content {
    Text(Vec<u8>),
    Pattern(u64),
}

impl Content {
    fn of(send: &Send) -> Self {
        match send.bytes {
            Some(bytes) => Self::Pattern(bytes),
            None => Self::Text(send.text.replace("\\r", "\r").replace("\\n", "\n").into_bytes()),
        }
    }
}

/// Bytes sent, their checksum, milliseconds, and how it went.
fn write_all(mut stream: TcpStream, content: Content, half_close: bool) -> (u64, u64, f64, io::Result<()>) {
    let start = Instant::now();
    let (mut sent, mut sum) = (0, checksum(None, &[]));
    let mut chunk = vec![0; 64 * 1024];
    let total = match &content {
        Content::Text(text) => text.len() as u64,
        Content::Pattern(bytes) => *bytes,
    };
    let mut outcome = Ok(());
    while sent < total && outcome.is_ok() {
        let length = usize::try_from(total - sent).unwrap_or(usize::MAX).min(chunk.len());
        let part = &mut chunk[..length];
        match &content {
            Content::Text(text) => part.copy_from_slice(&text[sent as usize..][..length]),
            Content::Pattern(_) => pattern(sent, part),
        }
        outcome = stream.write_all(part);
        if outcome.is_ok() {
            sent += length as u64;
            sum = checksum(Some(sum), part);
        }
    }
    if half_close && outcome.is_ok() {
        outcome = stream.shutdown(Shutdown::Write);
    }
    (sent, sum, milliseconds(start), outcome)
}

/// `false`: the stream ended before the line did.
fn read_line(stream: &mut TcpStream, progress: &mut Progress) -> io::Result<bool> {
    loop {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Ok(false);
        }
        progress.received(&byte);
        if byte == *b"\n" {
            return Ok(true);
        }
    }
}

fn read_to_end(stream: &mut TcpStream, progress: &mut Progress) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => progress.received(&buffer[..length]),
        }
    }
}

pub fn end_of(error: &io::Error) -> End {
    match error.kind() {
        ErrorKind::ConnectionRefused => End::Refused,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => End::Reset,
        ErrorKind::WouldBlock | ErrorKind::TimedOut => End::Timeout,
        _ => End::Failed,
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
