//! A socket to the kernel's sock_diag: one question at a time, and all of its answer.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::retry_on_intr,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, netlink::SocketAddrNetlink, recvfrom,
        send, socket_with,
    },
};

use super::message::{self, Answer, Id, Socket};

/// Messages come in bunches of 32 KiB at most (netlink_dump).
const BUFFER: usize = 1 << 16;

/// Asks about the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        let family = AddressFamily::NETLINK;
        let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// Shows `each` every TCP socket of the family in one of the states; not what is left of closed ones.
    pub fn dump(&mut self, family: i32, states: u32, info: bool, mut each: impl FnMut(&Socket<'_>)) -> io::Result<()> {
        self.ask(&message::dump(family, states, info), |socket| {
            if socket.is_whole {
                each(&socket);
            }
        })
    }

    /// `false`: no such socket, or its addresses are another one's by now.
    pub fn destroy(&mut self, id: &Id) -> io::Result<bool> {
        match self.ask(&message::destroy(id)?, |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn ask(&mut self, question: &[u8], mut each: impl FnMut(Socket<'_>)) -> io::Result<()> {
        retry_on_intr(|| send(&self.socket, question, SendFlags::empty()))?;
        loop {
            // TRUNC: the length is the whole one, also if that is more than there is room for.
            let receive = || recvfrom(&self.socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC);
            let (_, length, sender) = retry_on_intr(receive)?;
            // Root of the namespace may write to this socket too.
            let from_kernel =
                sender.and_then(|address| SocketAddrNetlink::try_from(address).ok()).is_some_and(|of| of.pid() == 0);
            if !from_kernel {
                continue;
            }
            let mut datagram = self
                .buffer
                .get(..length)
                .ok_or_else(|| io::Error::other("sock_diag says more than there is room for"))?;
            while let Some(answer) = message::next(&mut datagram)? {
                match answer {
                    Answer::Socket(socket) => each(socket),
                    Answer::Done => return Ok(()),
                    Answer::Failed(error) => return Err(error),
                    Answer::Other => {}
                }
            }
        }
    }
}
