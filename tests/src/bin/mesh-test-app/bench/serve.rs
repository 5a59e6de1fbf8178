//! The servers: one thread for all echoes, because small messages cost task switches; one thread a connection for
//! bulk, because reading is all that it does.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, Read, Write},
    mem::MaybeUninit,
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    thread,
};

use anyhow::{Context, Result};
use rustix::{
    event::epoll,
    process::{Resource, getrlimit, setrlimit},
};

const EVENTS: usize = 512;
/// Marks the keys of listeners; those of streams are descriptors, which are smaller.
const LISTENER: u64 = 1 << 32;

/// A held connection is a descriptor.
pub fn raise_descriptors() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raise RLIMIT_NOFILE")
}

pub fn run(echo: u16, ports: u16, sink: Option<u16>) -> Result<()> {
    if let Some(sink) = sink.map(listen).transpose()? {
        thread::spawn(move || {
            while let Ok((stream, _)) = sink.accept() {
                // The client sees it, and says so.
                thread::spawn(move || drain(stream));
            }
        });
    }
    // Who sees the first of them listen may dial any.
    let listeners = (0..ports).rev().map(|number| listen(echo + number)).collect::<Result<Vec<_>>>()?;
    echo_all(&listeners).context("echo")
}

/// Deeper than the library's 128: a thousand clients may come at once.
pub(super) fn listen(port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("listen on {port}"))?;
    rustix::net::listen(&listener, 4096).context("listen")?;
    Ok(listener)
}

fn drain(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0_u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(&bytes.to_le_bytes()),
            length => bytes += length as u64,
        }
    }
}

fn echo_all(listeners: &[TcpListener]) -> io::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (number, listener) in listeners.iter().enumerate() {
        listener.set_nonblocking(true)?;
        epoll::add(&poll, listener, epoll::EventData::new_u64(LISTENER | number as u64), epoll::EventFlags::IN)?;
    }
    let mut streams: HashMap<u64, TcpStream> = HashMap::new();
    let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS];
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (ready, _) = match epoll::wait(&poll, &mut events, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        for event in ready {
            let key = event.data.u64();
            if key & LISTENER != 0 {
                accept_all(&listeners[(key & !LISTENER) as usize], &poll, &mut streams)?;
            } else if streams.get_mut(&key).is_some_and(|stream| !echo_once(stream, &mut buffer)) {
                streams.remove(&key);
            }
        }
    }
}

fn accept_all(listener: &TcpListener, poll: &OwnedFd, streams: &mut HashMap<u64, TcpStream>) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                // Fails only for a stream that is gone already.
                let _ = stream.set_nodelay(true);
                let key = stream.as_raw_fd() as u64;
                epoll::add(poll, &stream, epoll::EventData::new_u64(key), epoll::EventFlags::IN)?;
                streams.insert(key, stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

/// `false`: the connection is over. Messages are smaller than what a socket takes at once; one that is not ends it.
fn echo_once(stream: &mut TcpStream, buffer: &mut [u8]) -> bool {
    match stream.read(buffer) {
        Ok(0) => false,
        Ok(length) => stream.write(&buffer[..length]).is_ok_and(|written| written == length),
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}
