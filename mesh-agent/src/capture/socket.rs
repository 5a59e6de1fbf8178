//! The socket of a capture: all links of the network namespace in which it is opened. Needs CAP_NET_RAW.

use std::io;

use socket2::{Domain, Protocol, Socket, Type};

use super::{Ends, Packet, filter};
use crate::sockopt;

/// For the kernel's queue, in bytes: what a verification makes, on a dozen links.
const QUEUE: usize = 4 << 20;
/// The largest packet that is looked at; TCP hands over up to 64 KiB at once, and beyond that where BIG TCP is on.
const LONGEST: usize = 256 * 1024;
/// Packets that are read: hostile ones may bear the same ends.
const MOST: usize = 4096;
/// Every protocol, include/uapi/linux/if_ether.h.
const ETH_P_ALL: u16 = 0x0003;

/// Captures from the moment it is there.
#[derive(Debug)]
pub struct Capture {
    socket: Socket,
}

/// What a capture has seen.
#[derive(Debug, Default)]
pub struct Captured {
    pub packets: Vec<Packet>,
    /// Packets that the kernel could not keep, or that were more or longer than is read.
    pub lost: u32,
}

impl Capture {
    /// Of one connection that is to come.
    pub fn start(ends: Ends) -> io::Result<Self> {
        let every = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        // Without the links' own headers, which differ.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), Some(every))?;
        socket.attach_filter(&filter::of(ends))?;
        // What the kernel does not grant is seen in `lost`.
        let _ = socket.set_recv_buffer_size(QUEUE);
        let capture = Self { socket };
        // What came before the filter.
        capture.waiting(|_| {})?;
        sockopt::packets_lost(&capture.socket)?;
        Ok(capture)
    }

    /// The packets until now.
    pub fn take(&self) -> io::Result<Captured> {
        let mut captured = Captured::default();
        let more = self.waiting(|packet| captured.packets.push(packet))?;
        captured.lost = sockopt::packets_lost(&self.socket)?.saturating_add(more);
        Ok(captured)
    }

    /// The name of a link; `None`: it is gone.
    pub fn link(&self, index: u32) -> Option<String> {
        rustix::net::netdevice::index_to_name(&self.socket, index).ok()
    }

    /// Those that wait; how many of them were too long, or one too many.
    fn waiting(&self, mut each: impl FnMut(Packet)) -> io::Result<u32> {
        let mut buffer = vec![0; LONGEST];
        let mut lost = 0;
        for _ in 0..MOST {
            match sockopt::receive_packet(&self.socket, &mut buffer) {
                Ok(sockopt::Received { length, .. }) if length > buffer.len() => lost += 1,
                Ok(sockopt::Received { length, link, is_outgoing, protocol }) => {
                    each(Packet { link, is_outgoing, protocol, bytes: buffer[..length].to_vec() });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(lost),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A link went down: the others go on.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(lost + 1)
    }
}
