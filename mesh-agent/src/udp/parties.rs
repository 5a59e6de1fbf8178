//! Who the ends of datagrams are: the pod by its slot and life, also a moment after it left; the other end by its
//! address.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_common::abi::{DatagramKey, role};
use tokio::time::Instant;

use crate::{
    pods::{Addresses, Pod},
    state::Snapshot,
    telemetry::{Direction, Flow, Party, Path, Udp},
};

/// How long the name of a pod that left is kept: its last rounds are told by then.
const KEPT: Duration = Duration::from_secs(10);
/// Names of pods that left; nobody knows those of more.
const MOST: usize = 4096;

/// The pods of this node that are redirected or were a moment ago.
#[derive(Debug, Default)]
pub struct Parties {
    /// By slot and life.
    known: HashMap<(u32, u32), Known>,
    /// Who has each address, or had it last.
    by_ip: HashMap<IpAddr, (u32, u32)>,
}

/// What is told of a pod. Nothing of the pod itself is held.
#[derive(Debug)]
struct Known {
    party: Party,
    ips: Addresses,
    uid: String,
    /// Of the configuration that named it.
    generation: u64,
    seen: Instant,
}

impl Parties {
    /// These pods are redirected now.
    pub fn remember(&mut self, pods: &[Arc<Pod>], snapshot: &Snapshot, now: Instant) {
        self.known.retain(|_, known| now.saturating_duration_since(known.seen) < KEPT);
        let known = &self.known;
        self.by_ip.retain(|_, key| known.contains_key(key));
        for pod in pods {
            let (key, is_full) = ((pod.index, pod.epoch), self.known.len() >= MOST);
            match self.known.get_mut(&key) {
                Some(known) if known.generation == snapshot.generation() => known.seen = now,
                None if is_full => continue,
                _ => drop(self.known.insert(key, Known::of(pod, snapshot, now))),
            }
            self.by_ip.extend(pod.ips.iter().map(|ip| (ip, key)));
        }
    }

    /// Where a pod of this node serves another one: how that one's end tells the same datagrams, if it dialled the pod
    /// by its address.
    pub fn client_of(&self, key: &DatagramKey) -> Option<DatagramKey> {
        if key.role != role::SERVER {
            return None;
        }
        let (client, server) = (IpAddr::from(key.remote), self.known.get(&(key.pod, key.epoch))?);
        let (pod, epoch) = *self.by_ip.get(&client)?;
        Some(DatagramKey { pod, epoch, role: role::CLIENT, port: key.port, remote: server.ips.like(client)?.into() })
    }

    /// The record of what passes under a key, from `start` on, without figures.
    pub fn flow(&self, key: &DatagramKey, snapshot: &Snapshot, start: SystemTime) -> Flow {
        let remote = IpAddr::from(key.remote);
        // Only the kernel writes ports, from 16 bits each.
        let port = key.port as u16;
        let known = self.known.get(&(key.pod, key.epoch));
        let serves = key.role == role::SERVER;
        let own_port = if serves { port } else { 0 };
        let own = match known {
            Some(known) => {
                let ip = known.ips.like(remote);
                Party { address: ip.map(|ip| SocketAddr::new(ip, own_port)), ..known.party.clone() }
            }
            None => Party::default(),
        };
        let peer = SocketAddr::new(remote, if serves { 0 } else { port });
        let peer = match snapshot.workload_by_address(remote) {
            // Its address is all that says so.
            Some(workload) => Party { identity: None, ..Party::of(workload, peer) },
            None => Party::stranger(peer),
        };
        let (way, source, destination) =
            if serves { (Direction::Inbound, peer, own) } else { (Direction::Outbound, own, peer) };
        let mut flow = Flow::new(0, start, way, source, destination);
        let stays = !serves && self.by_ip.contains_key(&remote);
        flow.path = Some(if stays { Path::Direct } else { Path::Passthrough });
        flow.udp = Some(Udp::default());
        flow.generation = snapshot.generation();
        flow.told = known.and_then(|known| snapshot.local_pod_by_uid(&known.uid)).cloned();
        if !serves {
            flow.service = snapshot.service_by_address(remote).map(|service| Arc::new(service.service_name()));
        }
        flow
    }
}

impl Known {
    fn of(pod: &Pod, snapshot: &Snapshot, now: Instant) -> Self {
        let workload = snapshot.workload(&pod.uid).map(|workload| &**workload);
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            party: Party { address: None, ..pod.party(nowhere, workload) },
            ips: pod.ips,
            uid: pod.uid.clone(),
            generation: snapshot.generation(),
            seen: now,
        }
    }
}
