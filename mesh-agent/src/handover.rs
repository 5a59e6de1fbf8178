//! One agent takes over from another on the same node, and no new connection is refused: the successor gets the
//! listening sockets, the keys and the pods through a unix socket that only root may open, serves, says so, and only
//! then does the old one let go. If the successor dies before, the old one goes on as if nothing had been.
//!
//! successor: hello · take · serving. Old one: welcome · a message for each pod, certificate and the sockets, end ·
//! released. Either may be ended by `refused`, with why.

mod give;
mod take;
#[cfg(test)]
mod tests;
mod wire;

use std::os::fd::OwnedFd;

use mesh_common::{abi::LAYOUT_VERSION, model::Identity};
use serde::{Deserialize, Serialize};

use crate::pods::HandedPods;

pub use give::{Giver, listen, offer};
pub use take::{Takeover, TakeoverError, find};

/// Of the messages. Agents of different versions of it do not hand over.
const PROTOCOL: u32 = 1;

/// What two agents must have in common to serve the same pods from the same sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    pub node: String,
    /// Of the eBPF maps.
    pub layout: u32,
    pub outbound_port: u16,
    pub hbone_port: u16,
}

/// What the successor gets.
pub struct Handed {
    pub pods: HandedPods,
    pub certificates: Vec<(Identity, Vec<String>, Vec<u8>)>,
    pub sockets: Sockets,
}

/// The agent's own unix sockets, which go on under the same names.
#[derive(Debug)]
pub struct Sockets {
    pub admin: OwnedFd,
    pub joins: OwnedFd,
    pub handover: OwnedFd,
}

impl About {
    pub fn new(node: &str, outbound_port: u16, hbone_port: u16) -> Self {
        Self { node: node.to_owned(), layout: LAYOUT_VERSION, outbound_port, hbone_port }
    }

    /// Why two agents cannot hand over; `None`: they can.
    fn differs(&self, other: &Self) -> Option<String> {
        let Self { node, layout, outbound_port, hbone_port } = self;
        let differ = |what: &str, own: &dyn std::fmt::Display, theirs: &dyn std::fmt::Display| {
            Some(format!("its {what} is {own}, the other's {theirs}"))
        };
        match () {
            () if *node != other.node => differ("node", node, &other.node),
            () if *layout != other.layout => differ("layout of eBPF maps", layout, &other.layout),
            () if *outbound_port != other.outbound_port => {
                differ("--outbound-port", outbound_port, &other.outbound_port)
            }
            () if *hbone_port != other.hbone_port => differ("--hbone-port", hbone_port, &other.hbone_port),
            () => None,
        }
    }
}
