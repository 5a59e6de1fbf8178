//! One end's turn: writing and reading at the same time, with the system calls that the script names.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

use mesh_tests::talk::{Content, Ending, Heard, Read, Style, Then, Turn};
use rustix::{
    fs::{MemfdFlags, memfd_create, sendfile},
    io::ioctl_fionread,
    net::{RecvFlags, SendFlags, recv, send, sockopt::set_socket_linger},
    pipe::{SpliceFlags, pipe, splice},
};

const CHUNK: usize = 64 * 1024;

/// One end of a played connection.
pub struct Side<'a> {
    stream: Option<TcpStream>,
    /// Numbers of the streams that it writes and reads.
    own: u64,
    other: u64,
    written: u64,
    read: u64,
    content: &'a Content,
}

/// What reading brought, checked as it came.
pub struct Checked<'a> {
    stream: u64,
    start: u64,
    pub read: u64,
    pub wrong_at: Option<u64>,
    content: &'a Content,
}

impl<'a> Side<'a> {
    pub fn client(stream: TcpStream, number: u64, content: &'a Content) -> Self {
        Self { stream: Some(stream), own: 2 * number, other: 2 * number + 1, written: 0, read: 0, content }
    }

    pub fn server(stream: TcpStream, number: u64, content: &'a Content) -> Self {
        Self { own: 2 * number + 1, other: 2 * number, ..Self::client(stream, number, content) }
    }

    pub fn take(&mut self, turn: &Turn) -> io::Result<Heard> {
        let start = Instant::now();
        let mut heard = Heard::default();
        let Some(stream) = &self.stream else { return Ok(heard) };
        let mut checked =
            Checked { stream: self.other, start: self.read, read: 0, wrong_at: None, content: self.content };
        let writing = Writing { stream: self.own, start: self.written, content: self.content };
        let (wrote, read) = if turn.style == Style::Edge {
            super::edge::both(stream, turn, &writing, &mut checked)?
        } else {
            thread::scope(|scope| {
                let wrote = scope.spawn(|| writing.write(stream, turn));
                thread::sleep(Duration::from_millis(turn.pause_ms));
                let read = checked.run(stream, turn);
                (wrote.join().unwrap_or_else(|e| std::panic::resume_unwind(e)), read)
            })
        };
        (heard.wrote, heard.write_error) = (wrote.0, wrote.1.err().map(said));
        (heard.read, heard.wrong_at) = (checked.read, checked.wrong_at);
        heard.end = match read {
            Ok(ending) => ending,
            Err(error) => Ending::Failed(said(error)),
        };
        self.written += heard.wrote;
        self.read += heard.read;
        match turn.then {
            Then::Nothing => {}
            // An end that was reset has no side to shut.
            Then::Fin => drop(stream.shutdown(Shutdown::Write)),
            Then::Close => self.stream = None,
            Then::Reset => {
                set_socket_linger(stream, Some(Duration::ZERO))?;
                self.stream = None;
            }
            Then::Poke => heard.poked = poke(stream),
        }
        heard.took_ms = start.elapsed().as_millis() as u64;
        Ok(heard)
    }
}

/// The error of the first write that fails; `None`: none did for long.
fn poke(mut stream: &TcpStream) -> Option<String> {
    (0..1000).find_map(|_| {
        thread::sleep(Duration::from_millis(5));
        stream.write(b"!").err().map(said)
    })
}

/// An error as scenes compare it.
fn said(error: io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionReset => "reset".to_owned(),
        ErrorKind::BrokenPipe => "broken pipe".to_owned(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "timeout".to_owned(),
        _ => error.to_string(),
    }
}

/// What is to be written.
pub struct Writing<'a> {
    stream: u64,
    start: u64,
    content: &'a Content,
}

impl Writing<'_> {
    /// The piece that comes after `done` bytes of this turn.
    pub fn piece(&self, turn: &Turn, done: u64) -> &[u8] {
        let chunk = if turn.chunk == 0 { CHUNK } else { turn.chunk };
        let length = chunk.min(usize::try_from(turn.write - done).unwrap_or(usize::MAX));
        self.content.piece(self.stream, self.start + done, length)
    }

    fn write(&self, mut stream: &TcpStream, turn: &Turn) -> (u64, io::Result<()>) {
        let mut done = 0;
        while done < turn.write {
            let piece = self.piece(turn, done);
            let last = done + piece.len() as u64 == turn.write;
            let written = match turn.style {
                Style::Splice => write_spliced(stream, piece),
                Style::File => write_file(stream, piece),
                Style::Urgent if last => write_urgent(stream, piece),
                _ => stream.write_all(piece),
            };
            if let Err(error) = written {
                return (done, Err(error));
            }
            done += piece.len() as u64;
        }
        (done, Ok(()))
    }
}

fn write_spliced(stream: &TcpStream, piece: &[u8]) -> io::Result<()> {
    let (out, into) = pipe()?;
    let mut into = File::from(into);
    // A pipe holds 64 KiB.
    for part in piece.chunks(CHUNK) {
        into.write_all(part)?;
        let mut left = part.len();
        while left > 0 {
            left -= splice(&out, None, stream, None, left, SpliceFlags::MOVE)?;
        }
    }
    Ok(())
}

fn write_file(stream: &TcpStream, piece: &[u8]) -> io::Result<()> {
    let file = File::from(memfd_create("piece", MemfdFlags::CLOEXEC)?);
    (&file).write_all(piece)?;
    let mut offset = 0;
    while (offset as usize) < piece.len() {
        let left = piece.len() - offset as usize;
        if sendfile(stream, &file, Some(&mut offset), left)? == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

fn write_urgent(mut stream: &TcpStream, piece: &[u8]) -> io::Result<()> {
    let Some((urgent, before)) = piece.split_last() else { return Ok(()) };
    stream.write_all(before)?;
    send(stream, &[*urgent], SendFlags::OOB).map(drop).map_err(io::Error::from)
}

impl Checked<'_> {
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let position = self.start + self.read;
            let (part, rest) = bytes.split_at(bytes.len().min(Content::PIECE));
            let expected = self.content.piece(self.stream, position, part.len());
            if self.wrong_at.is_none() && part != expected {
                let at = part.iter().zip(expected).position(|(one, other)| one != other).unwrap_or_default();
                self.wrong_at = Some(position + at as u64);
            }
            self.read += part.len() as u64;
            bytes = rest;
        }
    }

    /// How many bytes the next system call may bring; `None`: no more are wanted.
    pub fn wanted(&self, turn: &Turn) -> Option<usize> {
        match turn.read {
            Read::Nothing => None,
            Read::Exactly(bytes) => Some(bytes.saturating_sub(self.read).min(CHUNK as u64) as usize),
            Read::ToEnd => Some(CHUNK),
        }
        .filter(|bytes| *bytes > 0)
    }

    fn run(&mut self, mut stream: &TcpStream, turn: &Turn) -> io::Result<Ending> {
        let mut buffer = vec![0; CHUNK];
        let pipe = (turn.style == Style::Splice).then(pipe).transpose()?;
        while let Some(wanted) = self.wanted(turn) {
            let length = match (&pipe, turn.style) {
                (Some((out, into)), _) => {
                    let length = splice(stream, None, into, None, wanted, SpliceFlags::MOVE)?;
                    rustix::io::read(out, &mut buffer[..length])?
                }
                (None, Style::Peek) => {
                    let (_, seen) = recv(stream, &mut buffer[..wanted], RecvFlags::PEEK)?;
                    let peeked = buffer[..seen].to_vec();
                    (&mut stream).take(seen as u64).read_exact(&mut buffer[..seen])?;
                    if buffer[..seen] != peeked {
                        self.wrong_at.get_or_insert(self.start + self.read);
                    }
                    seen
                }
                (None, Style::File) => {
                    let (_, some) = recv(stream, &mut buffer[..1], RecvFlags::PEEK)?;
                    let there = (ioctl_fionread(stream)? as usize).min(wanted);
                    if there == 0 && some > 0 {
                        self.wrong_at.get_or_insert(self.start + self.read);
                    }
                    // Nothing there: its end, or its fault, is told by a plain read.
                    let (_, length) = recv(stream, &mut buffer[..there.max(1)], RecvFlags::WAITALL)?;
                    length
                }
                _ => stream.read(&mut buffer[..wanted])?,
            };
            if length == 0 {
                return Ok(Ending::Eof);
            }
            self.take(&buffer[..length]);
        }
        Ok(Ending::Data)
    }
}
