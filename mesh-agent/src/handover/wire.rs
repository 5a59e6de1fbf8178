//! The messages, and how they travel: one packet of JSON each, descriptors beside it. No `Debug`: one holds a key.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recv, recvmsg, sendmsg,
    },
};
use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::About;

/// The longest message; a certificate chain fits many times, and a unix socket's buffer holds it.
const LONGEST: usize = 128 * 1024;
/// The most descriptors beside one message.
const DESCRIPTORS: usize = 4;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "short-lived, and most messages are pods")]
pub enum Message {
    Hello(Hello),
    Take,
    Serving,

    /// With a descriptor of the old agent's process.
    Welcome {
        version: String,
    },
    Refused {
        why: String,
    },
    /// With the namespace, and the listener if it is redirected.
    Pod(Pod),
    Certificate {
        identity: String,
        chain: Vec<String>,
        key: Vec<u8>,
    },
    /// With the three sockets.
    Sockets,
    End {
        next_epoch: u32,
    },
    Released,
}

#[derive(Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    pub version: String,
    /// Read only after the protocol was found to be the own one.
    pub about: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub pod_uid: String,
    pub cgroup: PathBuf,
    #[serde(default)]
    pub container: String,
    /// What CNI gave its namespace.
    #[serde(default)]
    pub given: Vec<IpAddr>,
    /// Its connections that are older than its enrolment: SO_COOKIE, and whether somebody else dialled it.
    #[serde(default)]
    pub older: Vec<(u64, bool)>,
    pub active: Option<Active>,
}

#[derive(Serialize, Deserialize)]
pub struct Active {
    pub uid: String,
    pub pod_uid: String,
    pub identity: String,
    pub addresses: Vec<IpAddr>,
    pub probe_ports: Vec<u16>,
    pub index: u32,
    pub epoch: u32,
}

/// One end of a conversation. Blocking.
#[derive(Debug)]
pub struct Channel(Socket);

impl Hello {
    pub fn new(about: &About) -> io::Result<Self> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Self { protocol: super::PROTOCOL, version, about: serde_json::to_value(about)? })
    }
}

impl Channel {
    pub fn new(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_send_buffer_size(2 * LONGEST)?;
        Ok(Self(socket))
    }

    /// How long a message may take; `None`: for ever.
    pub fn patience(&self, patience: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(patience)?;
        self.0.set_read_timeout(patience)
    }

    /// The other end has not gone. Reads nothing.
    pub fn is_open(&self) -> bool {
        let mut byte = [0_u8; 1];
        !matches!(recv(&self.0, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((0, _)) | Err(Errno::CONNRESET))
    }

    pub fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if text.len() > LONGEST {
            return Err(io::Error::other(format!("a message of {} bytes is too long", text.len())));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("no room for the descriptors"));
        }
        sendmsg(&self.0, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// `None`: the other end is gone.
    pub fn receive(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let mut text = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut text)];
        let received = match recvmsg(self.0.as_fd(), into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received,
            Err(Errno::CONNRESET) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let descriptors = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::other("a message came in part"));
        }
        Ok(Some((serde_json::from_slice(&text[..received.bytes])?, descriptors)))
    }
}
