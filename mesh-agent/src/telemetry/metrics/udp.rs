//! Datagrams and their payload by who sent them to whom. A set of labels is four time series; all of them have room of
//! their own, a quarter of what `--metrics-series` permits beside it, and what is beyond counts under "overflow".

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    labels::{End, Labels, Owned, Protocol, Removed},
    sets::{Room, Sets},
    text,
    traffic::Limits,
};
use crate::telemetry::flow::{Direction, Flow, Party, Udp};

/// Who reads at all does it more often than this.
const READS: Duration = Duration::from_secs(300);

const DATAGRAMS: (&str, &str) = (
    "mesh_udp_datagrams_total",
    "Datagrams that passed sockets of pods in the mesh; who the other end is, its address says.",
);
const BYTES: (&str, &str) = ("mesh_udp_bytes_total", "Their payload, without the headers of IP and UDP.");
const OVERFLOWED: (&str, &str) =
    ("mesh_udp_overflow_total", "Rounds of datagrams that are counted under labels \"overflow\".");
/// Every metric that [`UdpTraffic::render`] tells.
#[cfg(test)]
pub const ALL: [(&str, &str); 3] = [DATAGRAMS, BYTES, OVERFLOWED];

/// From the source to the destination, and back.
const WAYS: [&str; 2] = ["to_destination", "to_source"];

/// All datagrams, by who spoke to whom.
#[derive(Debug)]
pub struct UdpTraffic {
    counted: Sets<Owned, Counted>,
    /// Labels that say nothing of datagrams.
    without: Removed,
    overflowed: AtomicU64,
    idle: Duration,
    read: Mutex<Option<Instant>>,
}

/// By [`WAYS`].
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    datagrams: [u64; 2],
    bytes: [u64; 2],
}

impl Default for UdpTraffic {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl UdpTraffic {
    pub fn new(limits: Limits) -> Self {
        let Limits { series, idle } = limits;
        Self {
            counted: Sets::new(Room::new(series / 4), 4),
            without: Removed::of(&["request_protocol", "response_flags"].map(str::to_owned)),
            overflowed: AtomicU64::new(0),
            idle,
            read: Mutex::new(None),
        }
    }

    /// So many datagrams and bytes passed between the ends of `flow` since it was said last.
    pub fn passed(&self, flow: &Flow, datagrams: Udp, sent: u64, received: u64) {
        let (source, destination) = (end(&flow.source), end(&flow.destination));
        let service = flow.service.as_deref();
        let labels = Labels::new(flow.direction, source, destination, service, Protocol::Tcp, "", flow.security);
        let labels = labels.without(self.without);
        let owner = || {
            let Party { facts, .. } = match flow.direction {
                Direction::Outbound => &flow.source,
                Direction::Inbound => &flow.destination,
            };
            format!("{}/{}", facts.namespace, facts.workload)
        };
        if !self.under(&labels, Some(&owner), datagrams, [sent, received]) {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            self.under(&labels.overflowed().without(self.without), None, datagrams, [sent, received]);
        }
    }

    fn under(
        &self,
        labels: &Labels<'_>,
        owner: Option<&dyn Fn() -> String>,
        Udp { sent, received }: Udp,
        bytes: [u64; 2],
    ) -> bool {
        let hash = labels.hash_with(self.counted.hasher());
        let make = || (labels.kept(), labels.text());
        let place = self.counted.count(
            hash,
            |key| key.is(labels),
            make,
            owner,
            |counted: &mut Counted| {
                for (own, more) in counted.datagrams.iter_mut().zip([sent, received]) {
                    *own += more;
                }
                for (own, more) in counted.bytes.iter_mut().zip(bytes) {
                    *own += more;
                }
            },
        );
        place.is_some()
    }

    /// To be called now and then: what was not used for long goes.
    pub fn expire(&self, now: Instant) {
        let read = *self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let is_read = read.is_some_and(|read| now.saturating_duration_since(read) < READS);
        self.counted.expire(now, self.idle, is_read);
    }

    /// All that was counted until now.
    pub fn render(&self, text: &mut String, now: Instant) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        let all = self.counted.read();
        for ((name, help), of) in [(DATAGRAMS, datagrams as fn(&Counted) -> [u64; 2]), (BYTES, bytes)] {
            text::head(text, name, "counter", help);
            for (labels, counted) in &all {
                for (way, value) in WAYS.into_iter().zip(of(counted)) {
                    text::line_with(text, name, "", labels, Some(("direction", way)), value);
                }
            }
        }
        text::head(text, OVERFLOWED.0, "counter", OVERFLOWED.1);
        text::line(text, OVERFLOWED.0, "", "", self.overflowed.load(Ordering::Relaxed));
    }
}

fn datagrams(counted: &Counted) -> [u64; 2] {
    counted.datagrams
}

fn bytes(counted: &Counted) -> [u64; 2] {
    counted.bytes
}

fn end(party: &Party) -> End<'_> {
    End {
        workload: &party.workload,
        namespace: &party.namespace,
        canonical_service: &party.canonical_service,
        canonical_revision: &party.canonical_revision,
        cluster: &party.cluster,
        principal: party.identity.as_deref(),
    }
}
