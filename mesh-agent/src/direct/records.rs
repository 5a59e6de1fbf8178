//! What the kernel says of connections that no agent carried: each becomes a record like any other.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use mesh_common::{
    abi::{self, Closed, direction, ending},
    model::ServiceName,
};

use super::{Direct, connections::Ended};
use crate::{
    bpf::{read_closed, wall_clock},
    sock_diag,
    state::Snapshot,
    telemetry::{Direction, Flow, Party, Path, Security, Tcp, reason},
};

/// How often the ring is read. The kernel wakes nobody for a single record: that would cost more than the connection's
/// whole accounting.
const READ: Duration = Duration::from_millis(100);

/// Reads the ring until it fails.
pub async fn read(direct: &Direct) -> io::Result<()> {
    let ring = direct.datapath.closed().map_err(io::Error::other)?;
    read_closed(ring, READ, |closed| direct.ended(&closed)).await
}

impl Direct {
    /// The connections that are open now, with the bytes that have passed.
    pub fn open(&self) -> Vec<Flow> {
        let snapshot = self.store.snapshot();
        let connections = self.datapath.direct_connections();
        let mut namespaces = HashMap::new();
        for (_, open) in &connections {
            let netns = match open.direction {
                direction::DIRECT => self.known(open.decision).and_then(|known| known.netns.upgrade()),
                _ => self.pods.observed(open.pod, open.epoch),
            };
            if let Some(netns) = netns {
                namespaces.entry(netns.cookie()).or_insert(netns);
            }
        }
        // Who cannot be asked shows no bytes.
        let infos: HashMap<u64, sock_diag::Info> = tokio::task::block_in_place(|| {
            let sockets = namespaces.into_values().filter_map(|netns| netns.run(sock_diag::connections).ok()?.ok());
            sockets.flatten().filter_map(|socket| Some((socket.cookie, socket.info?))).collect()
        });
        let mut flows: Vec<Flow> = connections
            .iter()
            .map(|(cookie, open)| {
                let mut flow = self.flow(*cookie, open, &snapshot);
                if let Some(info) = infos.get(cookie) {
                    // SYN counts as a byte where it was sent; who accepted begins behind it.
                    let syn = u64::from(open.direction != direction::INBOUND);
                    let (acked, received) = (info.bytes_acked.saturating_sub(syn), info.bytes_received);
                    (flow.sent, flow.received) = either_way(open.direction, acked, received);
                    flow.tcp = Some(Tcp { rtt: info.rtt, retransmits: info.retransmits });
                }
                flow
            })
            .collect();
        flows.sort_unstable_by_key(|flow| flow.id);
        flows
    }

    fn ended(&self, closed: &Closed) {
        let Closed { cookie, ended, sent, received, connection, rtt, retransmits, ending } = closed;
        let mut flow = self.flow(*cookie, connection, &self.store.snapshot());
        let (revoked, counted) = self.marks().ended(*cookie);
        flow.counted = counted;
        flow.end = wall_clock(*ended).max(flow.start);
        (flow.sent, flow.received) = either_way(connection.direction, *sent, *received);
        flow.tcp = Some(Tcp { rtt: Duration::from_micros(u64::from(*rtt)), retransmits: *retransmits });
        match (revoked, *ending) {
            (Some(Ended::Denied(decision)), _) => flow.decided(&decision),
            (Some(Ended::Outdated), _) => {
                flow.reason = Some(reason::RULES_NEWER.into());
                flow.error = Some(reason::OUTDATED.to_owned());
            }
            (None, ending::IN_ORDER) => {}
            (None, ending::FAILED) => flow.failed(reason::CONNECT, "the destination did not take the connection"),
            // A way for applications to end a connection; the verdict on it stands.
            (None, _) => {
                flow.reason = Some(reason::RESET.into());
                flow.error = Some("one end reset the connection".to_owned());
            }
        }
        self.flows.write(flow);
    }

    /// The record of a connection as it began.
    pub(super) fn flow(&self, cookie: u64, open: &abi::Direct, snapshot: &Snapshot) -> Flow {
        let (local, remote): (SocketAddr, SocketAddr) = (open.local.into(), open.remote.into());
        let id = self.marks().id(cookie, || self.flows.next_id());
        let start = wall_clock(open.started);
        if open.direction != direction::DIRECT {
            // Nobody proves who they are.
            let party = |address: SocketAddr| match snapshot.workload_by_address(address.ip()) {
                Some(workload) => Party { identity: None, ..Party::of(workload, address) },
                None => Party::stranger(address),
            };
            let (way, source, destination) = match open.direction {
                direction::INBOUND => (Direction::Inbound, party(remote), party(local)),
                _ => (Direction::Outbound, party(local), party(remote)),
            };
            let mut flow = Flow::new(id, start, way, source, destination);
            flow.path = Some(Path::Passthrough);
            flow.generation = snapshot.generation();
            // The local end is the pod that is observed.
            let own = snapshot.workload_by_address(local.ip());
            flow.told = own.and_then(|own| snapshot.local_pod_by_uid(&own.uid)).cloned();
            flow.service = match way {
                Direction::Inbound => own.and_then(|own| own.service_to(local.port())).cloned().map(Arc::new),
                Direction::Outbound => service(open, snapshot),
            };
            return flow;
        }
        let at = |party: &Party, address| Party { address: Some(address), ..party.clone() };
        let party = |index, epoch, address: SocketAddr| {
            let pod = self.pods.by_index(index).filter(|pod| pod.epoch == epoch);
            match pod {
                Some(pod) => pod.party(address, snapshot.workload(&pod.uid).map(|workload| &**workload)),
                None => Party::stranger(address),
            }
        };
        let known = self.known(open.decision);
        let (source, destination) = match &known {
            Some(known) => (at(&known.source, local), at(&known.target, remote)),
            None => (party(open.pod, open.epoch, local), party(open.target, open.target_epoch, remote)),
        };
        let mut flow = Flow::new(id, start, Direction::Outbound, source, destination);
        flow.path = Some(Path::Direct);
        flow.security = Security::KernelAttested;
        let told = |index, epoch| {
            let pod = self.pods.by_index(index).filter(|pod| pod.epoch == epoch)?;
            snapshot.local_pod_by_uid(&pod.uid).cloned()
        };
        (flow.told, flow.told_there) = (told(open.pod, open.epoch), told(open.target, open.target_epoch));
        flow.service = service(open, snapshot);
        if let Some(known) = &known {
            flow.decided(&known.decision);
        }
        flow
    }
}

/// The service that was dialled, if it was one.
fn service(open: &abi::Direct, snapshot: &Snapshot) -> Option<Arc<ServiceName>> {
    let dialled: SocketAddr = open.dialled.into();
    snapshot.service_by_address(dialled.ip()).map(|service| Arc::new(service.service_name()))
}

/// From the source to the destination, and back: the socket's own view is that of one end.
fn either_way(way: u32, acked: u64, received: u64) -> (u64, u64) {
    if way == direction::INBOUND { (received, acked) } else { (acked, received) }
}
