//! A turn in one thread: a non-blocking socket and edge-triggered epoll(7). A wake-up that the socket owes and does
//! not give shows as a timeout.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use mesh_tests::talk::{Ending, Turn};
use rustix::event::{Timespec, epoll};

use super::{
    PATIENCE,
    turn::{Checked, Writing},
};

/// Bytes written, how the writing went, and how the reading went.
pub type Both = ((u64, io::Result<()>), io::Result<Ending>);

pub fn both(stream: &TcpStream, turn: &Turn, writing: &Writing<'_>, checked: &mut Checked<'_>) -> io::Result<Both> {
    stream.set_nonblocking(true)?;
    let outcome = drive(stream, turn, writing, checked);
    stream.set_nonblocking(false)?;
    outcome
}

fn drive(mut stream: &TcpStream, turn: &Turn, writing: &Writing<'_>, checked: &mut Checked<'_>) -> io::Result<Both> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let both_ways = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    epoll::add(&poll, stream, epoll::EventData::new_u64(0), both_ways)?;
    let (start, pause) = (Instant::now(), Duration::from_millis(turn.pause_ms));
    let (mut done, mut wrote, mut read) = (0, None, None);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        while wrote.is_none() {
            if done == turn.write {
                wrote = Some(Ok(()));
                break;
            }
            match stream.write(writing.piece(turn, done)) {
                Ok(length) => done += length as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => wrote = Some(Err(error)),
            }
        }
        let resting = start.elapsed() < pause;
        while read.is_none() && !resting {
            let Some(wanted) = checked.wanted(turn) else {
                read = Some(Ok(Ending::Data));
                break;
            };
            match stream.read(&mut buffer[..wanted]) {
                Ok(0) => read = Some(Ok(Ending::Eof)),
                Ok(length) => checked.take(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => read = Some(Err(error)),
            }
        }
        if wrote.is_some() && read.is_some() {
            return Ok(((done, wrote.unwrap_or(Ok(()))), read.unwrap_or(Ok(Ending::Data))));
        }
        let left = if resting { pause.saturating_sub(start.elapsed()) } else { PATIENCE };
        let limit = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut events = Vec::with_capacity(4);
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&limit))?;
        if events.is_empty() && !resting {
            let late = || io::Error::from(ErrorKind::TimedOut);
            return Ok(((done, wrote.unwrap_or_else(|| Err(late()))), read.unwrap_or_else(|| Err(late()))));
        }
    }
}
