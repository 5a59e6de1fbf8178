//! A socket to the kernel's sock_diag: one question at a time, and all of its answer.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::retry_on_intr,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, netlink, netlink::SocketAddrNetlink,
        recvfrom, send, socket_with,
    },
};

use super::message::{self, Answer, Id, Socket};

/// Messages come in bunches of 32 KiB at most (netlink_dump).
const BUFFER: usize = 1 << 16;
/// The port of the kernel.
const KERNEL: u32 = 0;

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
        // From now on the namespace's root cannot write to it: what it is full of would take the place of answers.
        connect(&socket, &SocketAddrNetlink::new(KERNEL, 0))?;
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
            // What somebody wrote before it was connected.
            let sender = sender.and_then(|address| SocketAddrNetlink::try_from(address).ok());
            if sender.is_none_or(|sender| sender.pid() != KERNEL) {
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

#[cfg(test)]
mod tests {
    use rustix::{
        io::Errno,
        net::{getsockname, sendto},
    };

    use super::*;

    #[test]
    fn nobody_but_the_kernel_answers() {
        let mut netlink = Netlink::open().unwrap();
        let own = SocketAddrNetlink::try_from(getsockname(&netlink.socket).unwrap()).unwrap();
        let kind = (AddressFamily::NETLINK, SocketType::DGRAM, Some(netlink::SOCK_DIAG));
        let forger = socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, kind.2).unwrap();
        let done = message::dump(libc::AF_INET, 0, false);
        let refused = sendto(&forger, &done, SendFlags::empty(), &SocketAddrNetlink::new(own.pid(), 0)).unwrap_err();
        // Who is not root may not even try.
        assert!([Errno::CONNREFUSED, Errno::PERM].contains(&refused), "{refused}");
        netlink.dump(libc::AF_INET, message::LISTEN, false, |_| {}).unwrap();
    }
}
