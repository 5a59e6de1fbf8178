//! `nodemesh.v1.Stat` -> [`Seen`]: of whom it is told stays with the caller.

use super::nodemesh as wire;
use crate::model::{Latency, Rates, Reporter, Seen};

impl From<&wire::Stat> for Seen {
    fn from(stat: &wire::Stat) -> Self {
        let mut latency = Latency::default();
        stat.latency.iter().for_each(|(bucket, count)| latency.add(*bucket, *count));
        let mut answers = [0; 6];
        answers.iter_mut().zip(&stat.answers).for_each(|(own, told)| *own = *told);
        Self {
            seconds: stat.seconds,
            rates: Rates::default(),
            requests: stat.requests,
            failed_requests: stat.failed_requests,
            refused_requests: stat.refused_requests,
            answers,
            latency,
            connections: stat.connections,
            refused_connections: stat.refused_connections,
            failed_connections: stat.failed_connections,
            open: stat.open,
            bytes_sent: stat.bytes_sent,
            bytes_received: stat.bytes_received,
            datagrams: stat.datagrams,
            security: stat.security.clone(),
            path: stat.path.clone(),
            rtt_us: stat.rtt_us,
            retransmits: stat.retransmits,
        }
        .of_one_node()
    }
}

impl From<&wire::Stat> for Reporter {
    /// What took no way that leads off the node, its agent alone has seen. Agents that count no datagrams tell it by
    /// the ways of connections alone.
    fn from(stat: &wire::Stat) -> Self {
        let leaves = [wire::Path::Tunnel, wire::Path::Passthrough].map(|path| path as u32);
        match stat.reporter() {
            wire::Direction::Inbound => Self::Destination,
            wire::Direction::Outbound | wire::Direction::Unspecified => {
                let left = stat.path.iter().any(|(path, count)| *count > 0 && leaves.contains(path));
                if left || stat.leaves { Self::Source } else { Self::Within }
            }
        }
    }
}
