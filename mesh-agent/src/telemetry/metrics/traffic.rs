//! Istio's standard metrics, and the mesh's own that have workloads or policies as labels: counted by finished records,
//! and by open connections as they go.
//!
//! A connection is counted as opened when it goes live, or else at its end, under the labels that it has then: so
//! `opened - closed` is what is open, for each set of labels but for `response_flags`, which only an end can tell.
//! Its bytes are counted while it lasts. One within the node, of which one record tells, counts for both reporters.
//!
//! A set of labels of connections is up to 5 time series, of requests 67 (69 for gRPC), of round-trip times 17. All of
//! them together are bounded (`--metrics-series`); beyond it everything is counted under labels "overflow". A set
//! without use for `--metrics-idle` goes. The kept texts are 2 to 3 KiB a set: 25 MiB at the default bound if all were
//! connections.

mod known;
mod told;
mod verdicts;
mod within;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mesh_common::model::telemetry::MetricChange;

use super::{
    histogram::{self, Histogram, Rtts},
    labels::{End, Labels, Owned, Protocol, Removed},
    sets::{Place, Room, Sets},
};
use crate::telemetry::flow::{Direction, Flow, HttpRequest, Party, Security, Tcp, Verdict};
use known::{Found, Known};
#[cfg(test)]
pub use told::ALL;
use told::{CLOSED, FAILED, HISTOGRAMS, MESSAGES, OF_CONNECTIONS, OF_REQUESTS, OPENED, RECEIVED, REQUEST_SERIES, SENT};
use within::OtherEnd;

/// What bounds it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time series that there may be.
    pub series: usize,
    /// A set of labels goes after this long without use.
    pub idle: Duration,
}

/// Who reads at all does it more often than this.
const READS: Duration = Duration::from_secs(300);

/// All that records are counted by.
#[derive(Debug)]
pub struct Traffic {
    connections: Sets<Owned, Connections>,
    requests: Sets<Owned, Requests>,
    measured: Sets<Owned, Measured>,
    verdicts: Sets<[Box<str>; 5], u64>,
    refused: Sets<[Box<str>; 6], u64>,
    known: Known,
    /// By reporter.
    plaintext: [AtomicU64; 2],
    circuit: AtomicU64,
    /// Records that found no room.
    overflowed: AtomicU64,
    expired: AtomicU64,
    idle: Duration,
    read: Mutex<Option<Instant>>,
}

/// Metrics of one set of labels that are told, by their place in the kind's list.
type Told = u8;
/// What happened to a connection, in the values of a set.
type Count<'a> = dyn Fn(&mut [u64; 5]) + 'a;
/// Every one of a request's.
const ALL_TOLD: Told = (1 << OF_REQUESTS.len()) - 1;

#[derive(Clone, Copy, Debug, Default)]
struct Connections {
    told: Told,
    values: [u64; 5],
}

#[derive(Clone, Copy, Debug, Default)]
struct Requests {
    told: Told,
    count: u64,
    histograms: [Histogram; 3],
    messages: [u64; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    rtt: Option<Rtts>,
    retransmits: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { series: 50_000, idle: Duration::from_secs(900) }
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Self::new(Limits::default())
    }
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

fn labels<'a>(flow: &'a Flow, protocol: Protocol, flags: &'a str) -> Labels<'a> {
    let (source, destination) = (end(&flow.source), end(&flow.destination));
    Labels::new(flow.direction, source, destination, flow.service.as_deref(), protocol, flags, flow.security)
}

/// Whose place a set takes: the workload's of this node.
fn owner(flow: &Flow) -> String {
    let Party { facts, .. } = match flow.direction {
        Direction::Outbound => &flow.source,
        Direction::Inbound => &flow.destination,
    };
    format!("{}/{}", facts.namespace, facts.workload)
}

/// What is different about the metrics of the pod that the record is about.
fn changes(flow: &Flow) -> Option<&BTreeMap<String, MetricChange>> {
    let told = &flow.told.as_ref()?.telemetry;
    let changes = match flow.direction {
        Direction::Outbound => &told.metrics_client,
        Direction::Inbound => &told.metrics_server,
    };
    (!changes.is_empty()).then_some(changes)
}

/// Which of these metrics are counted under which labels: nearly always all under the same.
fn grouped<const N: usize>(
    metrics: &[(&str, &str); N],
    changes: Option<&BTreeMap<String, MetricChange>>,
) -> impl Iterator<Item = (Removed, Told)> + use<N> {
    let mut groups = [(Removed::default(), 0); N];
    let Some(changes) = changes else {
        groups[0].1 = (1 << N) - 1;
        return groups.into_iter().take(1);
    };
    let mut used = 0;
    for (place, (name, _)) in metrics.iter().enumerate() {
        let change = changes.get(*name).or_else(|| changes.get(""));
        if change.is_some_and(|change| change.disabled) {
            continue;
        }
        let removed = change.map(|change| Removed::of(&change.removed)).unwrap_or_default();
        let group = groups[..used].iter().position(|(other, _)| *other == removed).unwrap_or(used);
        used = used.max(group + 1);
        groups[group] = (removed, groups[group].1 | 1 << place);
    }
    groups.into_iter().take(used)
}

impl Traffic {
    pub fn new(limits: Limits) -> Self {
        Self::remembering(limits, known::SLOTS)
    }

    /// With room for so many kinds of records whose sets are known, a power of two; 0: each is looked up.
    pub(super) fn remembering(limits: Limits, kinds: usize) -> Self {
        let Limits { series, idle } = limits;
        let room = Room::new(series);
        Self {
            connections: Sets::new(std::sync::Arc::clone(&room), OF_CONNECTIONS.len()),
            requests: Sets::new(std::sync::Arc::clone(&room), REQUEST_SERIES),
            measured: Sets::new(std::sync::Arc::clone(&room), histogram::RTT_SERIES + 1),
            verdicts: Sets::new(std::sync::Arc::clone(&room), 1),
            refused: Sets::new(room, 1),
            known: Known::new(kinds),
            plaintext: Default::default(),
            circuit: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            idle,
            read: Mutex::new(None),
        }
    }

    /// It goes live.
    pub fn opened(&self, flow: &Flow) {
        self.during(flow, &|values| values[OPENED] += 1);
    }

    /// So many bytes of an open connection passed since it was said last: from the source, and back.
    pub fn passed(&self, flow: &Flow, sent: u64, received: u64) {
        if sent > 0 || received > 0 {
            self.during(flow, &|values| {
                values[SENT] += received;
                values[RECEIVED] += sent;
            });
        }
    }

    fn during(&self, flow: &Flow, count: &Count<'_>) {
        let sought = self.known.seek(flow);
        let before = sought.as_ref().map(|sought| sought.found).unwrap_or_default();
        let set = self.connection(flow, before.set, count);
        if let Some(sought) = sought {
            sought.counted(Found { set, ..before });
        }
    }

    /// A connection or a request ended.
    pub fn ended(&self, flow: &Flow) {
        self.exposed(flow);
        let sought = self.known.seek(flow);
        let before = sought.as_ref().map(|sought| sought.found).unwrap_or_default();
        let set = match &flow.http {
            Some(http) => self.request(flow, http, before.set),
            None => self.closed(flow, before.set),
        };
        let decided = self.decided(flow, before.decided);
        if let Some(sought) = sought {
            sought.counted(Found { set, decided });
        }
    }

    /// A connection or a request ended of which no more shall be told than what is about safety: that it was refused,
    /// what policies said that are not enforced, and what passed in plaintext.
    pub fn guarded(&self, flow: &Flow) {
        self.exposed(flow);
        if matches!(flow.verdict, Verdict::Dropped | Verdict::Audit) || !flow.observations.is_empty() {
            self.decided(flow, None);
        }
    }

    /// What has no labels of workloads.
    fn exposed(&self, flow: &Flow) {
        if flow.http.is_none() && flow.security == Security::Plaintext && flow.verdict != Verdict::Dropped {
            self.plaintext[flow.direction as usize].fetch_add(1, Ordering::Relaxed);
        }
        if matches!(flow.reason.as_deref(), Some(crate::telemetry::reason::OVERFLOW)) {
            self.circuit.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn closed(&self, flow: &Flow, known: Option<Place>) -> Option<Place> {
        let counted = &flow.counted;
        let place = self.connection(flow, known, &|values| {
            values[OPENED] += u64::from(!counted.opened);
            values[CLOSED] += 1;
            values[FAILED] += u64::from(flow.verdict.is_bad());
            values[SENT] += flow.received.saturating_sub(counted.received);
            values[RECEIVED] += flow.sent.saturating_sub(counted.sent);
        });
        if let Some(tcp) = flow.tcp {
            self.measured(flow, tcp);
        }
        place
    }

    /// `known` is where one like it was counted, and said is where this one was: both only of those that are counted in
    /// one set under all of their labels.
    fn connection(&self, flow: &Flow, known: Option<Place>, count: &Count<'_>) -> Option<Place> {
        match within::other_end(flow) {
            OtherEnd::Counts(there) => self.during(&there, count),
            OtherEnd::CountsThis => return None,
            OtherEnd::Elsewhere => {}
        }
        if let Some(place) = known
            && self.connections.count_at(place, |connections| count(&mut connections.values))
        {
            return known;
        }
        let mut place = None;
        let all = labels(flow, Protocol::Tcp, flow.reason.as_deref().unwrap_or("-"));
        for (removed, told) in grouped(&OF_CONNECTIONS, changes(flow)) {
            let labels = all.without(removed);
            place = self.under(&self.connections, &labels, flow, |connections: &mut Connections| {
                connections.told |= told;
                let mut values = connections.values;
                count(&mut values);
                for place in (0..values.len()).filter(|place| told & 1 << place != 0) {
                    connections.values[place] = values[place];
                }
            });
        }
        place
    }

    /// As [`Traffic::connection`].
    fn request(&self, flow: &Flow, http: &HttpRequest, known: Option<Place>) -> Option<Place> {
        let duration = flow.end.duration_since(flow.start).unwrap_or_default();
        let recorded = [duration.as_secs_f64() * 1e3, flow.sent as f64, flow.received as f64];
        let count = |requests: &mut Requests, told: Told| {
            let has = |place: usize| told & 1 << place != 0;
            // Messages are gRPC's.
            requests.told |= if http.grpc { told } else { told & ((1 << MESSAGES) - 1) };
            requests.count += u64::from(has(0));
            for (place, value) in recorded.into_iter().enumerate().filter(|(place, _)| has(HISTOGRAMS + place)) {
                requests.histograms[place].record(value);
            }
            let messages = [http.messages.0, http.messages.1];
            for (place, count) in messages.into_iter().enumerate().filter(|(place, _)| has(MESSAGES + place)) {
                requests.messages[place] += count;
            }
        };
        if let Some(place) = known
            && self.requests.count_at(place, |requests| count(requests, ALL_TOLD))
        {
            return known;
        }
        let mut place = None;
        let protocol = if http.grpc { Protocol::Grpc } else { Protocol::Http };
        let all = labels(flow, protocol, http.flags.unwrap_or("-"));
        let all = all.answered(http.status, http.grpc_status.filter(|_| http.grpc));
        for (removed, told) in grouped(&OF_REQUESTS, changes(flow)) {
            let labels = all.without(removed);
            place = self.under(&self.requests, &labels, flow, |requests: &mut Requests| count(requests, told));
        }
        place
    }

    /// What the kernel measured of a connection, by workloads.
    fn measured(&self, flow: &Flow, tcp: Tcp) {
        let brief =
            |party| End { principal: None, canonical_service: "", canonical_revision: "", cluster: "", ..end(party) };
        let (source, destination) = (brief(&flow.source), brief(&flow.destination));
        let labels = Labels::new(flow.direction, source, destination, None, Protocol::Tcp, "", Security::Plaintext);
        self.under(&self.measured, &labels.without(Removed::but_workloads()), flow, |measured: &mut Measured| {
            // A connection that was never answered has none.
            if !tcp.rtt.is_zero() {
                measured.rtt.get_or_insert_default().record(tcp.rtt.as_secs_f64());
            }
            measured.retransmits += u64::from(tcp.retransmits);
        });
    }

    /// Counts under these labels, and says where; or else, where there is no room, under those of the overflow.
    fn under<V: Default + Clone>(
        &self,
        sets: &Sets<Owned, V>,
        labels: &Labels<'_>,
        flow: &Flow,
        count: impl Fn(&mut V),
    ) -> Option<Place> {
        let under = |labels: &Labels<'_>, owner: Option<&dyn Fn() -> String>| {
            let hash = labels.hash_with(sets.hasher());
            sets.count(hash, |key| key.is(labels), || (labels.kept(), labels.text()), owner, &count)
        };
        let place = under(labels, Some(&|| owner(flow)));
        if place.is_none() {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            under(&labels.overflowed(), None);
        }
        place
    }

    /// To be called now and then: what was not used for long goes.
    pub fn expire(&self, now: Instant) {
        let is_read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let is_read = is_read.is_some_and(|read| now.saturating_duration_since(read) < READS);
        let Self { connections, requests, measured, verdicts, refused, idle, .. } = self;
        let gone = connections.expire(now, *idle, is_read)
            + requests.expire(now, *idle, is_read)
            + measured.expire(now, *idle, is_read)
            + verdicts.expire(now, *idle, is_read)
            + refused.expire(now, *idle, is_read);
        self.expired.fetch_add(gone as u64, Ordering::Relaxed);
        self.known.forget();
    }
}
