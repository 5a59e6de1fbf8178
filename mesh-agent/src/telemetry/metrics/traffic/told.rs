//! How what was counted is told: names, and the text of a scrape.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Instant,
};

use super::{
    super::{histogram, text},
    Traffic,
};
use crate::telemetry::flow::Direction;

/// Istio's bytes are those of the server: it sent what came back.
pub(super) const OF_CONNECTIONS: [(&str, &str); 5] = [
    ("istio_tcp_connections_opened_total", "Connections that were opened."),
    ("istio_tcp_connections_closed_total", "Connections that ended, refused and failed ones too."),
    ("istio_tcp_connections_failed_total", "Connections that were refused or failed; they count as closed too."),
    ("istio_tcp_sent_bytes_total", "Payload bytes from the destination to the source."),
    ("istio_tcp_received_bytes_total", "Payload bytes from the source to the destination."),
];
pub(super) const OPENED: usize = 0;
pub(super) const CLOSED: usize = 1;
pub(super) const FAILED: usize = 2;
pub(super) const SENT: usize = 3;
pub(super) const RECEIVED: usize = 4;

pub(super) const OF_REQUESTS: [(&str, &str); 6] = [
    ("istio_requests_total", "Requests that ended, however they did."),
    ("istio_request_duration_milliseconds", "From a request's head to the last byte of its answer."),
    ("istio_request_bytes", "Bytes of requests' bodies."),
    ("istio_response_bytes", "Bytes of answers' bodies."),
    ("istio_request_messages_total", "gRPC messages from clients."),
    ("istio_response_messages_total", "gRPC messages from servers."),
];
pub(super) const HISTOGRAMS: usize = 1;
pub(super) const MESSAGES: usize = 4;
/// Every one of a request's.
pub(super) const REQUEST_SERIES: usize = 1 + 3 * histogram::SERIES + 2;

pub(super) const RTT: (&str, &str) =
    ("mesh_tcp_rtt_seconds", "Smoothed round-trip times at the end of connections that no agent carries.");
pub(super) const RETRANSMITS: (&str, &str) =
    ("mesh_tcp_retransmits_total", "Segments that were sent again on connections that no agent carries.");
pub(super) const VERDICTS: (&str, &str) = (
    "mesh_policy_verdicts_total",
    "Connections and requests by what was decided; with dry_run what policies say that are not enforced.",
);
pub(super) const REFUSED: (&str, &str) =
    ("mesh_requests_refused_total", "Requests that were refused, by policy and reason.");
pub(super) const PLAINTEXT: (&str, &str) =
    ("mesh_plaintext_connections_total", "Connections that were not refused, with neither TLS nor the kernel's word.");
pub(super) const CIRCUIT: (&str, &str) =
    ("mesh_circuit_open_total", "Connections and requests that a destination's bounds refused.");
pub(super) const OVERFLOWED: (&str, &str) =
    ("mesh_metrics_overflow_total", "Records that are counted under labels \"overflow\", beyond --metrics-series.");
pub(super) const EXPIRED: (&str, &str) =
    ("mesh_metrics_expired_total", "Sets of labels that went without use (--metrics-idle).");
pub(super) const SERIES: (&str, &str) = ("mesh_metrics_series", "Time series that sets of labels take.");
pub(super) const SERIES_BOUND: (&str, &str) = ("mesh_metrics_series_max", "Time series that sets of labels may take.");

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

impl Traffic {
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
