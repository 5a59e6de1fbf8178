//! Istio's standard metrics, and the mesh's own that have workloads or policies as labels: counted by finished records,
//! and by open connections as they go.
//!
//! A connection is counted as opened when it goes live, or else at its end, under the labels that it has then: so
//! `opened - closed` is what is open, for each set of labels but for `response_flags`, which only an end can tell.
//! Its bytes are counted while it lasts.
//!
//! A set of labels of connections is up to 5 time series, of requests 67 (69 for gRPC), of round-trip times 17. All of
//! them together are bounded (`--metrics-series`); beyond it everything is counted under labels "overflow". A set
//! without use for `--metrics-idle` goes. The kept texts are 2 to 3 KiB a set: 25 MiB at the default bound if all were
//! connections.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    hash::{Hash as _, Hasher as _},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mesh_common::model::{ObservedAs, telemetry::MetricChange};

use super::{
    histogram::{self, Histogram, Rtts},
    labels::{End, Labels, Owned, Protocol, Removed},
    sets::{Room, Sets},
    text,
};
use crate::telemetry::flow::{Direction, Flow, HttpRequest, Party, Security, Tcp, Verdict};

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

/// Istio's bytes are those of the server: it sent what came back.
const OF_CONNECTIONS: [(&str, &str); 5] = [
    ("istio_tcp_connections_opened_total", "Connections that were opened."),
    ("istio_tcp_connections_closed_total", "Connections that ended, refused and failed ones too."),
    ("istio_tcp_connections_failed_total", "Connections that were refused or failed; they count as closed too."),
    ("istio_tcp_sent_bytes_total", "Payload bytes from the destination to the source."),
    ("istio_tcp_received_bytes_total", "Payload bytes from the source to the destination."),
];
const OPENED: usize = 0;
const CLOSED: usize = 1;
const FAILED: usize = 2;
const SENT: usize = 3;
const RECEIVED: usize = 4;

const OF_REQUESTS: [(&str, &str); 6] = [
    ("istio_requests_total", "Requests that ended, however they did."),
    ("istio_request_duration_milliseconds", "From a request's head to the last byte of its answer."),
    ("istio_request_bytes", "Bytes of requests' bodies."),
    ("istio_response_bytes", "Bytes of answers' bodies."),
    ("istio_request_messages_total", "gRPC messages from clients."),
    ("istio_response_messages_total", "gRPC messages from servers."),
];
const HISTOGRAMS: usize = 1;
const MESSAGES: usize = 4;
/// Every one of a request's.
const REQUEST_SERIES: usize = 1 + 3 * histogram::SERIES + 2;

const RTT: (&str, &str) =
    ("mesh_tcp_rtt_seconds", "Smoothed round-trip times at the end of connections that no agent carries.");
const RETRANSMITS: (&str, &str) =
    ("mesh_tcp_retransmits_total", "Segments that were sent again on connections that no agent carries.");
const VERDICTS: (&str, &str) = (
    "mesh_policy_verdicts_total",
    "Connections and requests by what was decided; with dry_run what policies say that are not enforced.",
);
const REFUSED: (&str, &str) = ("mesh_requests_refused_total", "Requests that were refused, by policy and reason.");
const PLAINTEXT: (&str, &str) =
    ("mesh_plaintext_connections_total", "Connections that were not refused, with neither TLS nor the kernel's word.");
const CIRCUIT: (&str, &str) =
    ("mesh_circuit_open_total", "Connections and requests that a destination's bounds refused.");
const OVERFLOWED: (&str, &str) =
    ("mesh_metrics_overflow_total", "Records that are counted under labels \"overflow\", beyond --metrics-series.");
const EXPIRED: (&str, &str) = ("mesh_metrics_expired_total", "Sets of labels that went without use (--metrics-idle).");
const SERIES: (&str, &str) = ("mesh_metrics_series", "Time series that sets of labels take.");
const SERIES_BOUND: (&str, &str) = ("mesh_metrics_series_max", "Time series that sets of labels may take.");

/// Every metric that [`Traffic::render`] tells.
#[cfg(test)]
pub const ALL: [(&str, &str); 21] = [
    OF_CONNECTIONS[0],
    OF_CONNECTIONS[1],
    OF_CONNECTIONS[2],
    OF_CONNECTIONS[3],
    OF_CONNECTIONS[4],
    OF_REQUESTS[0],
    OF_REQUESTS[1],
    OF_REQUESTS[2],
    OF_REQUESTS[3],
    OF_REQUESTS[4],
    OF_REQUESTS[5],
    RTT,
    RETRANSMITS,
    VERDICTS,
    REFUSED,
    PLAINTEXT,
    CIRCUIT,
    OVERFLOWED,
    EXPIRED,
    SERIES,
    SERIES_BOUND,
];

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
    Labels::new(flow.direction, source, destination, flow.service.as_ref(), protocol, flags, flow.security)
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
        let Limits { series, idle } = limits;
        let room = Room::new(series);
        Self {
            connections: Sets::new(std::sync::Arc::clone(&room), OF_CONNECTIONS.len()),
            requests: Sets::new(std::sync::Arc::clone(&room), REQUEST_SERIES),
            measured: Sets::new(std::sync::Arc::clone(&room), histogram::RTT_SERIES + 1),
            verdicts: Sets::new(std::sync::Arc::clone(&room), 1),
            refused: Sets::new(room, 1),
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
        self.connection(flow, |values| values[OPENED] += 1);
    }

    /// So many bytes of an open connection passed since it was said last: from the source, and back.
    pub fn passed(&self, flow: &Flow, sent: u64, received: u64) {
        if sent > 0 || received > 0 {
            self.connection(flow, |values| {
                values[SENT] += received;
                values[RECEIVED] += sent;
            });
        }
    }

    /// A connection or a request ended.
    pub fn ended(&self, flow: &Flow) {
        match &flow.http {
            Some(http) => self.request(flow, http),
            None => self.closed(flow),
        }
        if matches!(flow.reason.as_deref(), Some(crate::telemetry::reason::OVERFLOW)) {
            self.circuit.fetch_add(1, Ordering::Relaxed);
        }
        self.decided(flow);
    }

    fn closed(&self, flow: &Flow) {
        let counted = &flow.counted;
        self.connection(flow, |values| {
            values[OPENED] += u64::from(!counted.opened);
            values[CLOSED] += 1;
            values[FAILED] += u64::from(flow.verdict.is_bad());
            values[SENT] += flow.received.saturating_sub(counted.received);
            values[RECEIVED] += flow.sent.saturating_sub(counted.sent);
        });
        if flow.security == Security::Plaintext && flow.verdict != Verdict::Dropped {
            self.plaintext[flow.direction as usize].fetch_add(1, Ordering::Relaxed);
        }
        if let Some(tcp) = flow.tcp {
            self.measured(flow, tcp);
        }
    }

    fn connection(&self, flow: &Flow, count: impl Fn(&mut [u64; 5])) {
        let all = labels(flow, Protocol::Tcp, flow.reason.as_deref().unwrap_or("-"));
        for (removed, told) in grouped(&OF_CONNECTIONS, changes(flow)) {
            let labels = all.without(removed);
            self.under(&self.connections, &labels, flow, |connections: &mut Connections| {
                connections.told |= told;
                let mut values = connections.values;
                count(&mut values);
                for place in (0..values.len()).filter(|place| told & 1 << place != 0) {
                    connections.values[place] = values[place];
                }
            });
        }
    }

    fn request(&self, flow: &Flow, http: &HttpRequest) {
        let protocol = if http.grpc { Protocol::Grpc } else { Protocol::Http };
        let all = labels(flow, protocol, http.flags.unwrap_or("-"));
        let all = all.answered(http.status, http.grpc_status.filter(|_| http.grpc));
        let duration = flow.end.duration_since(flow.start).unwrap_or_default();
        let recorded = [duration.as_secs_f64() * 1e3, flow.sent as f64, flow.received as f64];
        for (removed, told) in grouped(&OF_REQUESTS, changes(flow)) {
            let labels = all.without(removed);
            self.under(&self.requests, &labels, flow, |requests: &mut Requests| {
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
            });
        }
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

    /// Counts under these labels, or where there is no room under those of the overflow.
    fn under<V: Default + Clone>(
        &self,
        sets: &Sets<Owned, V>,
        labels: &Labels<'_>,
        flow: &Flow,
        count: impl Fn(&mut V),
    ) {
        let under = |labels: &Labels<'_>, owner: Option<&dyn Fn() -> String>| {
            let hash = labels.hash_with(sets.hasher());
            sets.count(hash, |key| key.is(labels), || (labels.kept(), labels.text()), owner, &count)
        };
        if !under(labels, Some(&|| owner(flow))) {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            under(&labels.overflowed(), None);
        }
    }

    /// What policies said of a connection or a request.
    fn decided(&self, flow: &Flow) {
        let policy = flow.policy.as_ref().map_or(["", ""], |policy| [&*policy.namespace, &*policy.name]);
        let reason = flow.reason.as_deref().unwrap_or_default();
        if flow.http.is_some() && flow.verdict == Verdict::Dropped {
            let Party { facts, .. } = &flow.destination;
            let values = [flow.direction.reporter(), &facts.workload, &facts.namespace, policy[0], policy[1], reason];
            let overflow = [values[0], "overflow", "overflow", "", "overflow", reason];
            self.plain(&self.refused, values, overflow, flow, |[reporter, workload, namespace, of, policy, reason]| {
                [
                    ("reporter", reporter),
                    ("destination_workload", workload),
                    ("destination_workload_namespace", namespace),
                    ("policy", &*named(of, policy)),
                    ("reason", reason),
                ]
                .map(|(name, value)| (name, value.to_owned()))
                .to_vec()
            });
        }
        self.verdict(flow, [flow.verdict.name(), policy[0], policy[1], reason, "false"]);
        // Beside the connection's own verdict, so that a sum without dry runs counts connections.
        for seen in &flow.observations {
            let would = match (seen.observed_as, seen.would_refuse) {
                (ObservedAs::Audited, _) => Verdict::Audit,
                (ObservedAs::DryRun, true) => Verdict::Dropped,
                (ObservedAs::DryRun, false) => Verdict::Forwarded,
            };
            self.verdict(flow, [would.name(), &seen.policy.namespace, &seen.policy.name, "", "true"]);
        }
    }

    fn verdict(&self, flow: &Flow, values: [&str; 5]) {
        let overflow = [values[0], "", "overflow", values[3], values[4]];
        self.plain(&self.verdicts, values, overflow, flow, |[verdict, of, policy, reason, dry_run]| {
            let policy = named(of, policy);
            [("verdict", verdict), ("policy", &*policy), ("reason", reason), ("dry_run", dry_run)]
                .map(|(name, value)| (name, value.to_owned()))
                .to_vec()
        });
    }

    fn plain<const N: usize>(
        &self,
        sets: &Sets<[Box<str>; N], u64>,
        values: [&str; N],
        overflow: [&str; N],
        flow: &Flow,
        told: impl Fn([&str; N]) -> Vec<(&'static str, String)>,
    ) {
        let under = |values: [&str; N], owner: Option<&dyn Fn() -> String>| {
            let mut hasher = sets.hasher();
            values.hash(&mut hasher);
            let is = |key: &[Box<str>; N]| key.iter().zip(values).all(|(own, other)| **own == *other);
            let make = || {
                let mut labels = String::new();
                for (name, value) in told(values) {
                    let comma = if labels.is_empty() { "" } else { "," };
                    let _ = write!(labels, "{comma}{name}=\"");
                    text::escape(&mut labels, &value);
                    labels.push('"');
                }
                (values.map(Box::from), labels)
            };
            sets.count(hasher.finish(), is, make, owner, |count| *count += 1)
        };
        if !under(values, Some(&|| owner(flow))) {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            under(overflow, None);
        }
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
    }

    /// All that was counted until now. Locks are held for copying only.
    pub fn render(&self, now: Instant) -> String {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        let mut text = String::new();
        let connections = self.connections.read();
        for (place, (name, help)) in OF_CONNECTIONS.into_iter().enumerate() {
            text::head(&mut text, name, "counter", help);
            for (labels, counted) in connections.iter().filter(|(_, counted)| counted.told & 1 << place != 0) {
                text::line(&mut text, name, "", labels, counted.values[place]);
            }
        }
        drop(connections);
        self.render_requests(&mut text);
        let measured = self.measured.read();
        text::head(&mut text, RTT.0, "histogram", RTT.1);
        for (labels, rtt) in measured.iter().filter_map(|(labels, measured)| Some((labels, measured.rtt.as_ref()?))) {
            rtt.tell(&mut text, RTT.0, labels);
        }
        let retransmits = measured.into_iter().map(|(labels, measured)| (labels, measured.retransmits));
        counters(&mut text, RETRANSMITS, retransmits);
        counters(&mut text, VERDICTS, self.verdicts.read());
        counters(&mut text, REFUSED, self.refused.read());
        let reporters = [Direction::Outbound, Direction::Inbound];
        let plaintext = reporters.map(|reporter| {
            let count = self.plaintext[reporter as usize].load(Ordering::Relaxed);
            (format!("reporter=\"{}\"", reporter.reporter()), count)
        });
        counters(&mut text, PLAINTEXT, plaintext);
        for (metric, count) in [(CIRCUIT, &self.circuit), (OVERFLOWED, &self.overflowed), (EXPIRED, &self.expired)] {
            counters(&mut text, metric, [("", count.load(Ordering::Relaxed))]);
        }
        let room = self.connections.room();
        for ((name, help), value) in [(SERIES, room.used()), (SERIES_BOUND, room.most())] {
            text::head(&mut text, name, "gauge", help);
            text::line(&mut text, name, "", "", value);
        }
        text
    }

    fn render_requests(&self, text: &mut String) {
        let requests = self.requests.read();
        for (place, (name, help)) in OF_REQUESTS.into_iter().enumerate() {
            let is_histogram = (HISTOGRAMS..MESSAGES).contains(&place);
            text::head(text, name, if is_histogram { "histogram" } else { "counter" }, help);
            for (labels, counted) in requests.iter().filter(|(_, counted)| counted.told & 1 << place != 0) {
                match place {
                    0 => text::line(text, name, "", labels, counted.count),
                    HISTOGRAMS..MESSAGES => counted.histograms[place - HISTOGRAMS].tell(text, name, labels),
                    _ => text::line(text, name, "", labels, counted.messages[place - MESSAGES]),
                }
            }
        }
    }
}

fn counters(text: &mut String, (name, help): (&str, &str), values: impl IntoIterator<Item = (impl AsRef<str>, u64)>) {
    text::head(text, name, "counter", help);
    values.into_iter().for_each(|(labels, value)| text::line(text, name, "", labels.as_ref(), value));
}

/// As policies are named.
fn named(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}
