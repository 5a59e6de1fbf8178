//! The process of the agent that runs. That it closed a socket does not mean that it serves no more: only its end does.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{PidfdFlags, getpid, pidfd_open},
};

/// Its sockets are closed a moment before a process ends, and it may have many.
pub const ENDS: Duration = Duration::from_secs(5);

/// A descriptor of a process; it never means another one, as a number might.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// This very one.
    pub fn own() -> io::Result<Self> {
        Ok(Self(pidfd_open(getpid(), PidfdFlags::empty())?))
    }

    pub fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Whether it ends within `patience`. Blocks.
    pub fn ends(&self, patience: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            // Readable once the process has ended (pidfd_open(2)).
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)) {
                Ok(ended) => return Ok(ended > 0),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
