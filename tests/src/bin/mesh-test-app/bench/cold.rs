//! Clients of what nobody dialled before: the first connection to each of many ports, and very many at once.

use std::{
    io::{self, Read, Write},
    mem::MaybeUninit,
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rustix::{
    event::{Timespec, epoll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with},
};
use serde_json::json;

use super::clients::{PATIENCE, connect_once, micros, percentiles, print};

const EVENTS: usize = 512;

/// Microseconds from the connect to the answer, of each port once; errors by kind of fault: connect or exchange.
pub fn first(to: SocketAddr, ports: u16) -> Result<()> {
    let (mut times, mut errors, mut said) = (Vec::new(), [0_usize; 2], None);
    for number in 0..ports {
        let before = Instant::now();
        match connect_once(SocketAddr::new(to.ip(), to.port() + number)) {
            Ok(()) => times.push(micros(before.elapsed())),
            Err((step, error)) => {
                errors[step] += 1;
                said = Some(error.to_string());
            }
        }
    }
    ensure!(!times.is_empty(), "none of {ports} ports answered: {said:?}");
    let mut figures = percentiles(&mut times)?;
    figures["errors"] = json!({ "connect": errors[0], "exchange": errors[1], "said": said });
    print(&figures)
}

/// How far a connection got.
enum Progress {
    Connecting(OwnedFd),
    Asked(TcpStream),
    /// It was answered, or failed.
    Over,
}

/// Microseconds from the first connect until all were `connected` and until all were `answered`.
pub fn at_once(to: SocketAddr, connections: usize) -> Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let sockets = (0..connections)
        .map(|_| socket_with(family, SocketType::STREAM, flags, None))
        .collect::<Result<Vec<_>, _>>()?;
    let (mut connected, mut answered, mut said) = (Duration::ZERO, Duration::ZERO, None);
    let mut errors = [0_usize; 2];
    let start = Instant::now();
    let mut all: Vec<Progress> = Vec::with_capacity(connections);
    for (number, socket) in sockets.into_iter().enumerate() {
        all.push(match connect(&socket, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {
                epoll::add(&poll, &socket, epoll::EventData::new_u64(number as u64), epoll::EventFlags::OUT)?;
                Progress::Connecting(socket)
            }
            Err(error) => {
                errors[0] += 1;
                said = Some(error.to_string());
                Progress::Over
            }
        });
    }
    let mut open = connections - errors[0];
    let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS];
    while open > 0 && start.elapsed() < PATIENCE {
        let left = Timespec::try_from(PATIENCE.saturating_sub(start.elapsed()))?;
        let (ready, _) = match epoll::wait(&poll, &mut events, Some(&left)) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        for event in ready {
            let key = event.data;
            let one = &mut all[key.u64() as usize];
            let (step, next) = match std::mem::replace(one, Progress::Over) {
                Progress::Connecting(socket) => (0, ask(&poll, key, socket)),
                Progress::Asked(stream) => (1, answer(stream)),
                Progress::Over => continue,
            };
            match next {
                Ok(next) => *one = next,
                Err(error) => {
                    errors[step] += 1;
                    said = Some(error.to_string());
                }
            }
            match (&*one, step) {
                (Progress::Asked(_), 0) => connected = start.elapsed(),
                (Progress::Over, _) => {
                    open -= 1;
                    answered = start.elapsed();
                }
                _ => {}
            }
        }
    }
    for one in &all {
        match one {
            Progress::Connecting(_) => errors[0] += 1,
            Progress::Asked(_) => errors[1] += 1,
            Progress::Over => {}
        }
    }
    if open > 0 {
        said.get_or_insert_with(|| format!("{open} were not done within {PATIENCE:?}"));
    }
    print(&json!({
        "count": connections - errors[0] - errors[1],
        "connected": micros(connected),
        "answered": micros(answered),
        "errors": { "connect": errors[0], "exchange": errors[1], "said": said },
    }))
}

/// It may be connected now: sends its byte.
fn ask(poll: &OwnedFd, key: epoll::EventData, socket: OwnedFd) -> io::Result<Progress> {
    let mut stream = TcpStream::from(socket);
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    stream.write_all(&[0x5a])?;
    epoll::modify(poll, &stream, key, epoll::EventFlags::IN)?;
    Ok(Progress::Asked(stream))
}

fn answer(mut stream: TcpStream) -> io::Result<Progress> {
    stream.read_exact(&mut [0])?;
    Ok(Progress::Over)
}
