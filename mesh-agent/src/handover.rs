//! One agent takes over from another on the same node, and no new connection is refused: the successor gets the
//! listening sockets, the keys and the pods through a unix socket that only root may open, serves, says so, and only
//! then does the old one let go. If the successor dies before, the old one goes on as if nothing had been. Two never
//! serve: a successor that is not told that the old one let go ends, unless the old one's process has ended.
//!
//! successor: hello · take · serving. Old one: welcome · a message for each pod, certificate and the sockets, end ·
//! released. The old one may end it at any time by `refused`, with why.

mod give;
mod peer;
mod take;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh_common::{abi::LAYOUT_VERSION, model::Identity};
use serde::{Deserialize, Serialize};

use crate::pods::HandedPods;

pub use give::{Giver, listen, offer};
pub use take::{Takeover, TakeoverError, find};

/// Of the messages. Agents of different versions of it do not hand over.
const PROTOCOL: u32 = 2;
/// For each message of the other agent. Longer than a registry waits for its successor: who gives up first says so.
const PATIENCE: Duration = Duration::from_secs(15);

/// What two agents must have in common to serve the same pods from the same sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    pub node: String,
    /// Of the eBPF maps.
    pub layout: u32,
    pub outbound_port: u16,
    pub hbone_port: u16,
    /// Where the hooks are: an agent with others would leave those of the old one behind.
    pub cgroup: PathBuf,
    pub bpffs: PathBuf,
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
    pub fn new(node: &str, outbound_port: u16, hbone_port: u16, cgroup: &Path, bpffs: &Path) -> Self {
        let (cgroup, bpffs) = (cgroup.to_owned(), bpffs.to_owned());
        Self { node: node.to_owned(), layout: LAYOUT_VERSION, outbound_port, hbone_port, cgroup, bpffs }
    }

    /// Why two agents cannot hand over; `None`: they can.
    fn differs(&self, other: &Self) -> Option<String> {
        let Self { node, layout, outbound_port, hbone_port, cgroup, bpffs } = self;
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
            () if *cgroup != other.cgroup => differ("--cgroup", &cgroup.display(), &other.cgroup.display()),
            () if *bpffs != other.bpffs => differ("--bpffs", &bpffs.display(), &other.bpffs.display()),
            () => None,
        }
    }
}
