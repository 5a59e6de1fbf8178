//! `nodemesh.v1.Stat` -> [`Seen`]: of whom it is told stays with the caller. And its lists, for those who tell.

use super::nodemesh as wire;
use crate::model::{Latency, Rates, Reporter, Seen};

impl From<&wire::Stat> for Seen {
    fn from(stat: &wire::Stat) -> Self {
        let mut latency = Latency::default();
        for pair in stat.latency.chunks_exact(2) {
            latency.add(u32::try_from(pair[0]).unwrap_or(u32::MAX), pair[1]);
        }
        Self {
            seconds: stat.seconds,
            rates: Rates::default(),
            requests: stat.requests,
            failed_requests: stat.failed_requests,
            refused_requests: stat.refused_requests,
            answers: places(&stat.answers),
            latency,
            connections: stat.connections,
            refused_connections: stat.refused_connections,
            failed_connections: stat.failed_connections,
            open: stat.open,
            bytes_sent: stat.bytes_sent,
            bytes_received: stat.bytes_received,
            datagrams: stat.datagrams,
            security: places(&stat.security),
            path: places(&stat.path),
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
        let leaves = [wire::Path::Tunnel, wire::Path::Passthrough];
        match stat.reporter() {
            wire::Direction::Inbound => Self::Destination,
            wire::Direction::Outbound | wire::Direction::Unspecified => {
                let left = leaves.iter().any(|path| stat.path.get(*path as usize).is_some_and(|count| *count > 0));
                if left || stat.leaves { Self::Source } else { Self::Within }
            }
        }
    }
}

/// What a newer agent knows beyond these places is left out.
fn places<const N: usize>(told: &[u64]) -> [u64; N] {
    let mut own = [0; N];
    own.iter_mut().zip(told).for_each(|(own, told)| *own = *told);
    own
}

/// `Stat.latency` of buckets and their counts.
pub fn latency(buckets: impl IntoIterator<Item = (u32, u64)>) -> Vec<u64> {
    buckets.into_iter().flat_map(|(bucket, count)| [u64::from(bucket), count]).collect()
}

/// `Stat.security` or `Stat.path` of an enumeration's numbers and their counts.
pub fn by_number<K: Into<i32>>(counts: impl IntoIterator<Item = (K, u64)>) -> Vec<u64> {
    let mut places = Vec::new();
    for (number, count) in counts {
        let place = usize::try_from(number.into()).unwrap_or_default();
        places.resize(places.len().max(place + 1), 0);
        places[place] += count;
    }
    places
}
