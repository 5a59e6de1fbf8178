//! HTTP/1.1 as cheap as can be: a server whose answer never changes, and a client that looks at lengths only. Both are
//! one thread around epoll, so that what a proxy costs is not lost in what they cost.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, Read, Write},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::event::{Timespec, epoll};
use serde_json::json;

use super::{
    clients::{PATIENCE, micros, percentiles, print},
    serve::listen,
};

const EVENTS: usize = 64;
/// Of a head and its body.
const BUFFER: usize = 64 * 1024;
/// So that connections, routes and pools are there when the clock starts.
const WARM_UP: Duration = Duration::from_millis(500);
const LISTENER: u64 = u64::MAX;

/// Answers every request, whatever it asks for, with `size` bytes. Requests have no bodies.
pub fn serve(port: u16, size: usize) -> Result<()> {
    let listener = listen(port)?;
    listener.set_nonblocking(true).context("listen")?;
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + size, b'x');
    answer_all(&listener, &answer).context("answer")
}

fn answer_all(listener: &TcpListener, answer: &[u8]) -> io::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let mut streams: HashMap<u64, Asked> = HashMap::new();
    loop {
        for key in ready(&poll, None)? {
            if key != LISTENER {
                if streams.get_mut(&key).is_some_and(|asked| !asked.go_on(answer)) {
                    streams.remove(&key);
                }
                continue;
            }
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true)?;
                // Fails only for a stream that is gone already.
                let _ = stream.set_nodelay(true);
                let key = stream.as_raw_fd() as u64;
                epoll::add(&poll, &stream, epoll::EventData::new_u64(key), epoll::EventFlags::IN)?;
                streams.insert(key, Asked { stream, buffer: vec![0; BUFFER], filled: 0 });
            }
        }
    }
}

/// A client's connection.
struct Asked {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Asked {
    /// `false`: it is over. Answers are smaller than what a socket takes at once; one that is not ends it.
    fn go_on(&mut self, answer: &[u8]) -> bool {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => return false,
            Ok(length) => self.filled += length,
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
        while let Some(end) = head(&self.buffer[..self.filled]) {
            if !self.stream.write(answer).is_ok_and(|written| written == answer.len()) {
                return false;
            }
            self.buffer.copy_within(end..self.filled, 0);
            self.filled -= end;
        }
        self.filled < self.buffer.len()
    }
}

/// One request after the other on each of so many connections: `rate` a second, `count` with those of the warm-up,
/// times in microseconds, errors. An answer other than 200 is an error.
pub fn load(
    to: SocketAddr,
    host: &str,
    path: &str,
    headers: &[String],
    connections: usize,
    seconds: f64,
) -> Result<()> {
    let mut request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: mesh-test-app\r\naccept: */*\r\n");
    headers.iter().for_each(|header| request += &format!("{header}\r\n"));
    request += "\r\n";
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?;
    let mut asking = Vec::new();
    for number in 0..connections {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connect {number}"))?;
        stream.set_nodelay(true).context("TCP_NODELAY")?;
        stream.set_nonblocking(true).context("O_NONBLOCK")?;
        epoll::add(&poll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN).context("epoll")?;
        asking.push(Asking { stream, buffer: vec![0; BUFFER], filled: 0, whole: None, since: Instant::now() });
    }
    let start = Instant::now() + WARM_UP;
    let until = start + Duration::from_secs_f64(seconds);
    let (mut times, mut count) = (Vec::new(), 0_u64);
    for one in &mut asking {
        one.ask(request.as_bytes()).context("ask")?;
    }
    let mut before = Instant::now();
    while before < until {
        let answered = ready(&poll, Some(PATIENCE)).context("epoll")?;
        ensure!(!answered.is_empty(), "nothing was answered within {} s", PATIENCE.as_secs());
        for number in answered {
            let one = &mut asking[number as usize];
            if one.answered().with_context(|| format!("on connection {number}"))? {
                before = Instant::now();
                count += 1;
                if before >= start {
                    times.push(micros(before - one.since));
                }
                one.ask(request.as_bytes()).context("ask")?;
            }
        }
    }
    ensure!(!times.is_empty(), "nothing was answered");
    let rate = times.len() as f64 / (before - start).as_secs_f64();
    let mut figures = percentiles(&mut times)?;
    figures["rate"] = json!(rate);
    figures["count"] = json!(count);
    print(&figures)
}

/// A connection with a request under way.
struct Asking {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    /// Of the answer, head and body, once the head is there.
    whole: Option<usize>,
    since: Instant,
}

impl Asking {
    fn ask(&mut self, request: &[u8]) -> Result<()> {
        (self.filled, self.whole, self.since) = (0, None, Instant::now());
        let written = self.stream.write(request).context("write")?;
        ensure!(written == request.len(), "{written} of {} bytes were taken", request.len());
        Ok(())
    }

    /// Whether all of the answer is there.
    fn answered(&mut self) -> Result<bool> {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => anyhow::bail!("it was closed after {} bytes of an answer", self.filled),
            Ok(length) => self.filled += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("read"),
        }
        if self.whole.is_none()
            && let Some(end) = head(&self.buffer[..self.filled])
        {
            self.whole = Some(end + length(&self.buffer[..end])?);
        }
        Ok(self.whole.is_some_and(|whole| self.filled >= whole))
    }
}

/// Where the body begins.
fn head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|place| place + 4)
}

/// Of the body of a 200.
fn length(head: &[u8]) -> Result<usize> {
    let text = std::str::from_utf8(head).context("a head that is no text")?;
    ensure!(text.starts_with("HTTP/1.1 200 "), "the answer is {:?}", text.lines().next().unwrap_or_default());
    let found = text.lines().filter_map(|line| line.split_once(':'));
    let mut found = found.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, length) = found.next().context("an answer without a length")?;
    length.trim().parse().context("content-length")
}

/// The keys of what can be read; none: the time is over.
fn ready(poll: &OwnedFd, patience: Option<Duration>) -> io::Result<Vec<u64>> {
    let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS];
    let bound = patience.map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: 0 });
    match epoll::wait(poll, &mut events, bound.as_ref()) {
        Err(rustix::io::Errno::INTR) => ready(poll, patience),
        other => Ok(other?.0.iter().map(|event| event.data.u64()).collect()),
    }
}
