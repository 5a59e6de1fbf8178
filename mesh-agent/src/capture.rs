//! What crosses the node's links: the packets of one connection, captured and read. It shows what is on the wire, and
//! decides nothing.

mod filter;
mod packet;
mod socket;
mod stream;
mod tls;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::SocketAddr};

pub use self::{
    packet::Packet,
    socket::{Capture, Captured},
    tls::{Chosen, version_name},
};
use self::{
    packet::Segment,
    stream::Stream,
    tls::{Role, Spoken},
};

/// A TCP connection by its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub client: SocketAddr,
    pub server: SocketAddr,
}

/// What the captured packets of one connection say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// By the link's index.
    pub links: BTreeMap<u32, Link>,
    /// Versions that the ClientHello offers.
    pub offered: Vec<u16>,
    /// What the ServerHello chose.
    pub chosen: Option<Chosen>,
    /// Records of type application_data, on the link on which most were seen.
    pub encrypted: u32,
    /// Why that is not TLS 1.3, in both directions, from the first byte to the last.
    pub fault: Option<String>,
    /// The marker stands in some packet, or across several, as it was written.
    pub marker_in_clear: bool,
}

/// What was seen on one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub packets: u32,
    /// Of IP packets, headers included.
    pub bytes: u64,
    /// The client's left the node's stack here.
    sent: bool,
    /// The server's came in here.
    came: bool,
}

/// One direction after the other.
#[derive(Default)]
struct Both {
    client: Stream,
    server: Stream,
}

impl Link {
    /// Here is the way to the peer: the client's packets leave, the server's come in.
    pub fn is_towards_peer(&self) -> bool {
        self.sent && self.came
    }
}

/// Reads the packets of the connection; others are left out. `marker` is what must not be there to read.
pub fn read<'a>(packets: impl IntoIterator<Item = &'a Packet>, ends: Ends, marker: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let mut links: BTreeMap<u32, Both> = BTreeMap::new();
    for packet in packets {
        let Some(segment) = Segment::read(packet.protocol, &packet.bytes) else { continue };
        let from_client = match (segment.source, segment.destination) {
            of if of == (ends.client, ends.server) => true,
            of if of == (ends.server, ends.client) => false,
            _ => continue,
        };
        let link = seen.links.entry(packet.link).or_default();
        link.packets = link.packets.saturating_add(1);
        link.bytes = link.bytes.saturating_add(packet.bytes.len() as u64);
        link.sent |= from_client && packet.is_outgoing;
        link.came |= !from_client && !packet.is_outgoing;
        seen.marker_in_clear |= holds(segment.payload, marker);
        let both = links.entry(packet.link).or_default();
        if from_client { &mut both.client } else { &mut both.server }.take(&segment);
    }
    let mut best: Option<Tls> = None;
    for (index, both) in &links {
        seen.marker_in_clear |= [&both.client, &both.server].iter().any(|stream| holds(stream.bytes(), marker));
        if !seen.links.get(index).is_some_and(Link::is_towards_peer) {
            continue;
        }
        let tls = Tls::of(both);
        // On every such link it must be what it should be.
        seen.fault = seen.fault.take().or_else(|| tls.fault.clone());
        if best.as_ref().is_none_or(|best| best.encrypted < tls.encrypted) {
            best = Some(tls);
        }
    }
    if let Some(Tls { offered, chosen, encrypted, fault: _ }) = best {
        (seen.offered, seen.chosen, seen.encrypted) = (offered, chosen, encrypted);
    }
    seen
}

/// TLS on one link.
struct Tls {
    offered: Vec<u16>,
    chosen: Option<Chosen>,
    encrypted: u32,
    fault: Option<String>,
}

impl Tls {
    fn of(Both { client, server }: &Both) -> Self {
        let of_client = Spoken::read(Role::Client, client.bytes());
        let of_server = Spoken::read(Role::Server, server.bytes());
        let said = |role: &str, stream: &Stream, spoken: &Spoken| -> Option<String> {
            let why = stream.fault().or(spoken.fault)?;
            Some(format!("of what the {role} wrote, {why}"))
        };
        Self {
            fault: said("client", client, &of_client).or_else(|| said("server", server, &of_server)),
            offered: of_client.offered,
            chosen: of_server.chosen,
            encrypted: of_client.encrypted.saturating_add(of_server.encrypted),
        }
    }
}

fn holds(bytes: &[u8], marker: &[u8]) -> bool {
    !marker.is_empty() && bytes.windows(marker.len()).any(|window| window == marker)
}
