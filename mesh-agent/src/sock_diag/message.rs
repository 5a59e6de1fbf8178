//! The messages of sock_diag (NETLINK_SOCK_DIAG) as bytes: questions are written, answers taken apart. Nothing is sent
//! here. All numbers are in the machine's byte order, but ports and addresses, which are in the network's.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

// include/uapi/linux/netlink.h, sock_diag.h, inet_diag.h
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// A cookie of this value is asked for by nobody: the kernel would not compare it (INET_DIAG_NOCOOKIE, twice).
const NO_COOKIE: u64 = u64::MAX;
/// `struct nlmsghdr`
const HEADER: usize = 16;
/// `struct inet_diag_sockid`
const ID: usize = 48;
/// `struct inet_diag_req_v2`
const REQUEST: usize = 8 + ID;
/// `struct inet_diag_msg`
const SOCKET: usize = 4 + ID + 20;
/// `struct nlattr`
const ATTRIBUTE: usize = 4;
/// `idiag_timer` of what is left of a closed connection (inet_twsk_diag_fill), whatever its state is called.
const TIMER_TIME_WAIT: u8 = 3;

/// States as bits, of include/net/tcp_states.h.
pub const LISTEN: u32 = 1 << 10;
const TIME_WAIT: u32 = 1 << 6;
const CLOSE: u32 = 1 << 7;
/// Everything that has a peer.
pub const LIVE: u32 = ((1 << 12) - 1) & !(1 | LISTEN | TIME_WAIT | CLOSE);

/// A question, whole.
pub type Question = [u8; HEADER + REQUEST];

/// Which socket: as `struct inet_diag_sockid`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Index of the device to which it is bound; 0: to none.
    pub device: u32,
    pub cookie: u64,
}

/// As the kernel tells of it: `struct inet_diag_msg`.
#[derive(Debug)]
pub struct Socket<'a> {
    pub id: Id,
    pub state: u8,
    /// `false`: it is what is left of a closed connection.
    pub is_whole: bool,
    attributes: &'a [u8],
}

/// One message of an answer.
#[derive(Debug)]
pub enum Answer<'a> {
    Socket(Socket<'a>),
    /// The last of a dump, or a question that was done as asked.
    Done,
    Failed(io::Error),
    /// Not for us.
    Other,
}

/// Asks for all TCP sockets of the family in these states, with `struct tcp_info` if `info`.
pub fn dump(family: i32, states: u32, info: bool) -> Question {
    let mut question = question(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, family);
    // The socket's id stays empty: any.
    question[HEADER + 2] = u8::from(info) << (INET_DIAG_INFO - 1);
    question[HEADER + 4..HEADER + 8].copy_from_slice(&states.to_ne_bytes());
    question
}

/// Asks for the end of exactly this socket, and for an answer in any case.
///
/// # Errors
/// InvalidInput: the cookie is the one that stands for any.
pub fn destroy(id: &Id) -> io::Result<Question> {
    let Id { local, remote, device, cookie } = id;
    if *cookie == NO_COOKIE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "cookie: the highest number stands for any socket"));
    }
    // A v6 socket with v4-mapped addresses is in the kernel's table as IPv4, and a kernel without IPv6 knows no other.
    let (family, local_ip, remote_ip) = match (local.ip().to_canonical(), remote.ip().to_canonical()) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => (libc::AF_INET, padded(local), padded(remote)),
        (local, remote) => (libc::AF_INET6, sixteen(local), sixteen(remote)),
    };
    let mut question = question(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, family);
    let id = &mut question[HEADER + REQUEST - ID..];
    id[0..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&remote.port().to_be_bytes());
    id[4..20].copy_from_slice(&local_ip);
    id[20..36].copy_from_slice(&remote_ip);
    id[36..40].copy_from_slice(&device.to_ne_bytes());
    // Two numbers, the lower half first on every machine.
    id[40..44].copy_from_slice(&(*cookie as u32).to_ne_bytes());
    id[44..48].copy_from_slice(&((cookie >> 32) as u32).to_ne_bytes());
    Ok(question)
}

fn question(kind: u16, flags: u16, family: i32) -> Question {
    let mut question = [0; HEADER + REQUEST];
    question[0..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    question[4..6].copy_from_slice(&kind.to_ne_bytes());
    question[6..8].copy_from_slice(&flags.to_ne_bytes());
    question[HEADER] = family as u8;
    question[HEADER + 1] = libc::IPPROTO_TCP as u8;
    question
}

fn padded(ip: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&ip.octets());
    bytes
}

fn sixteen(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Takes the first message off `datagram`; `None`: there are no more.
///
/// # Errors
/// A message is cut off, or of no known family.
pub fn next<'a>(datagram: &mut &'a [u8]) -> io::Result<Option<Answer<'a>>> {
    if datagram.is_empty() {
        return Ok(None);
    }
    let message = *datagram;
    let header: &[u8; HEADER] = message.first_chunk().ok_or_else(cut_off)?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let body = message.get(HEADER..length).ok_or_else(cut_off)?;
    *datagram = message.get(length.next_multiple_of(4)..).unwrap_or_default();
    Ok(Some(match u16::from_ne_bytes([header[4], header[5]]) {
        SOCK_DIAG_BY_FAMILY => Answer::Socket(Socket::read(body)?),
        // Both begin with an errno, negative, or 0; a DONE of old kernels may have none.
        NLMSG_DONE if body.is_empty() => Answer::Done,
        NLMSG_DONE | NLMSG_ERROR => match i32::from_ne_bytes(*body.first_chunk().ok_or_else(cut_off)?) {
            0.. => Answer::Done,
            error => Answer::Failed(io::Error::from_raw_os_error(error.saturating_neg())),
        },
        _ => Answer::Other,
    }))
}

impl<'a> Socket<'a> {
    fn read(message: &'a [u8]) -> io::Result<Self> {
        let (&[family, state, timer, _retransmissions], rest) = message.split_first_chunk().ok_or_else(cut_off)?;
        let id: &[u8; ID] = rest.first_chunk().ok_or_else(cut_off)?;
        let attributes = message.get(SOCKET..).ok_or_else(cut_off)?;
        let two = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
        let four = |at: usize| u32::from_ne_bytes([id[at], id[at + 1], id[at + 2], id[at + 3]]);
        let device = four(36);
        let address = |at: usize, port| match i32::from(family) {
            libc::AF_INET => Ok(SocketAddr::from(([id[at], id[at + 1], id[at + 2], id[at + 3]], port))),
            libc::AF_INET6 => {
                let ip = Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|byte| id[at + byte]));
                let scope = if ip.is_unicast_link_local() { device } else { 0 };
                Ok(SocketAddrV6::new(ip, port, 0, scope).into())
            }
            other => Err(io::Error::other(format!("sock_diag tells of a socket of family {other}"))),
        };
        let id = Id {
            local: address(4, two(0))?,
            remote: address(20, two(2))?,
            device,
            cookie: u64::from(four(40)) | u64::from(four(44)) << 32,
        };
        Ok(Self { id, state, is_whole: timer != TIMER_TIME_WAIT, attributes })
    }

    /// `struct tcp_info`, as long as the kernel has it; `None`: it was not asked for, or there is none.
    pub fn info(&self) -> Option<&'a [u8]> {
        self.attribute(INET_DIAG_INFO)
    }

    /// The cgroup v2 in which it was made, or in which the listener was that accepted it; `None`: the kernel does not
    /// tell (before Linux 5.8).
    pub fn cgroup(&self) -> Option<u64> {
        self.attribute(INET_DIAG_CGROUP_ID)?.first_chunk().map(|id| u64::from_ne_bytes(*id))
    }

    fn attribute(&self, wanted: u16) -> Option<&'a [u8]> {
        let mut attributes = self.attributes;
        loop {
            let header: &[u8; ATTRIBUTE] = attributes.first_chunk()?;
            let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let value = attributes.get(ATTRIBUTE..length)?;
            if u16::from_ne_bytes([header[2], header[3]]) == wanted {
                return Some(value);
            }
            attributes = attributes.get(length.next_multiple_of(4)..)?;
        }
    }
}

fn cut_off() -> io::Error {
    io::Error::other("a message of sock_diag is cut off")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of the kernel, with this body.
    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = vec![0; HEADER];
        message[0..4].copy_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_an_error() {
        assert!(next(&mut [0; 3].as_slice()).is_err());
        let mut long = message(NLMSG_DONE, &[0; 4]);
        long[0..4].copy_from_slice(&100_u32.to_ne_bytes());
        assert!(next(&mut long.as_slice()).is_err());
        assert!(next(&mut message(SOCK_DIAG_BY_FAMILY, &[libc::AF_INET as u8; SOCKET - 1]).as_slice()).is_err());
        assert!(next(&mut message(SOCK_DIAG_BY_FAMILY, &[libc::AF_UNIX as u8; SOCKET]).as_slice()).is_err());
        assert!(next(&mut message(NLMSG_ERROR, &[0; 3]).as_slice()).is_err());
        assert!(next(&mut [].as_slice()).unwrap().is_none());
    }

    #[test]
    fn messages_come_one_after_the_other() {
        let denied = (-libc::EPERM).to_ne_bytes();
        let datagram = [message(99, &[1; 5]), message(NLMSG_ERROR, &denied), message(NLMSG_DONE, &denied)].concat();
        let mut rest = datagram.as_slice();
        assert!(matches!(next(&mut rest).unwrap(), Some(Answer::Other)));
        for _ in 0..2 {
            let Some(Answer::Failed(error)) = next(&mut rest).unwrap() else { panic!("not an error: {rest:?}") };
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        }
        assert!(next(&mut rest).unwrap().is_none());
        assert!(matches!(next(&mut message(NLMSG_DONE, &[0; 4]).as_slice()).unwrap(), Some(Answer::Done)));
    }

    #[test]
    fn an_attribute_behind_others_is_found() {
        let mut body = vec![0; SOCKET];
        body[0] = libc::AF_INET as u8;
        // INET_DIAG_SHUTDOWN of one byte, padded; then the info.
        body.extend([5_u16, 8, 0, 0].map(u16::to_ne_bytes).concat());
        body.extend([ATTRIBUTE as u16 + 6, INET_DIAG_INFO].map(u16::to_ne_bytes).concat());
        body.extend([1, 2, 3, 4, 5, 6]);
        let socket = Socket::read(&body).unwrap();
        assert_eq!(socket.info(), Some([1, 2, 3, 4, 5, 6].as_slice()));
        // One that says that it is longer, or of no length at all, is none.
        assert_eq!(Socket::read(&body[..body.len() - 1]).unwrap().info(), None);
        body[SOCKET..SOCKET + 2].fill(0);
        assert_eq!(Socket::read(&body).unwrap().info(), None);
    }

    #[test]
    fn nobody_asks_for_the_end_of_any_socket() {
        let local = SocketAddr::from(([127, 0, 0, 1], 1));
        let id = Id { local, remote: local, device: 0, cookie: NO_COOKIE };
        assert_eq!(destroy(&id).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
