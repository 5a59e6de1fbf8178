//! What is summed up of connections and requests.

use mesh_common::model::Latency;

use crate::telemetry::flow::{Flow, HttpRequest, Path, Security, Verdict};

/// Sums of a slot, or of many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sum {
    pub requests: u64,
    /// Answered with 5xx, by a gRPC status that counts like one, or not at all.
    pub failed_requests: u64,
    /// Refused by the mesh: policy, token, limit.
    pub refused_requests: u64,
    /// By hundreds of the status; the first: no answer.
    pub answers: [u64; 6],
    /// That began.
    pub connections: u64,
    pub refused_connections: u64,
    pub failed_connections: u64,
    /// That are open now.
    pub open: u64,
    pub sent: u64,
    pub received: u64,
    /// Both ways; of the other sums they are only in those of bytes.
    pub datagrams: u64,
    /// Connections that ended or are open, and requests.
    pub security: [u64; 3],
    pub path: [u64; 4],
    /// The largest, in microseconds.
    pub rtt_us: u32,
    pub retransmits: u64,
    /// By bucket of [`Latency`], in their order; buckets without any are not there.
    latency: Vec<(u16, u32)>,
}

/// The statuses that say that the server failed, and not that it refused or that the client was wrong.
/// <https://opentelemetry.io/docs/specs/semconv/rpc/grpc/>
fn grpc_failed(status: u32) -> bool {
    // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS
    matches!(status, 2 | 4 | 12 | 13 | 14 | 15)
}

impl Sum {
    /// Bytes beside its own.
    pub(super) fn allocated(&self) -> usize {
        self.latency.capacity() * size_of::<(u16, u32)>()
    }

    pub(super) fn ended(&mut self, flow: &Flow) {
        match &flow.http {
            Some(http) => self.request(flow, http),
            None => self.connection(flow),
        }
        self.taken(flow);
    }

    fn taken(&mut self, flow: &Flow) {
        // What took no way was not secured in any: it was refused before, and said nothing in plaintext.
        if let Some(path) = flow.path {
            self.security[security(flow.security)] += 1;
            self.path[path_place(path)] += 1;
        }
    }

    fn request(&mut self, flow: &Flow, http: &HttpRequest) {
        self.requests += 1;
        self.answers[usize::from(http.status / 100).min(5)] += 1;
        let refused = flow.verdict == Verdict::Dropped;
        self.refused_requests += u64::from(refused);
        let failed = http.status == 0 || http.status >= 500 || http.grpc_status.is_some_and(grpc_failed);
        self.failed_requests += u64::from(failed && !refused);
        self.passed(flow.sent, flow.received);
        self.record(Latency::bucket(flow.end.duration_since(flow.start).unwrap_or_default()), 1);
    }

    fn connection(&mut self, flow: &Flow) {
        match flow.verdict {
            Verdict::Dropped => self.refused_connections += 1,
            Verdict::Error => self.failed_connections += 1,
            Verdict::Forwarded | Verdict::Audit => {}
        }
        let counted = &flow.counted;
        self.passed(flow.sent.saturating_sub(counted.sent), flow.received.saturating_sub(counted.received));
        if let Some(tcp) = flow.tcp {
            self.rtt_us = self.rtt_us.max(u32::try_from(tcp.rtt.as_micros()).unwrap_or(u32::MAX));
            self.retransmits += u64::from(tcp.retransmits);
        }
    }

    pub(super) fn passed(&mut self, sent: u64, received: u64) {
        self.sent += sent;
        self.received += received;
    }

    /// A connection that is open now, and began in the window or before.
    pub(super) fn open(&mut self, flow: &Flow, began: bool) {
        self.open += 1;
        self.connections += u64::from(began);
        self.taken(flow);
        if let Some(tcp) = flow.tcp {
            self.rtt_us = self.rtt_us.max(u32::try_from(tcp.rtt.as_micros()).unwrap_or(u32::MAX));
        }
    }

    fn record(&mut self, bucket: u16, count: u32) {
        let place = self.latency.partition_point(|(other, _)| *other < bucket);
        match self.latency.get_mut(place) {
            Some((other, counted)) if *other == bucket => *counted = counted.saturating_add(count),
            _ => self.latency.insert(place, (bucket, count)),
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let Self {
            requests,
            failed_requests,
            refused_requests,
            answers,
            connections,
            refused_connections,
            failed_connections,
            open,
            sent,
            received,
            datagrams,
            security,
            path,
            rtt_us,
            retransmits,
            latency,
        } = other;
        self.requests += requests;
        self.failed_requests += failed_requests;
        self.refused_requests += refused_requests;
        self.answers.iter_mut().zip(answers).for_each(|(own, other)| *own += other);
        self.connections += connections;
        self.refused_connections += refused_connections;
        self.failed_connections += failed_connections;
        self.open += open;
        self.passed(*sent, *received);
        self.datagrams += datagrams;
        self.security.iter_mut().zip(security).for_each(|(own, other)| *own += other);
        self.path.iter_mut().zip(path).for_each(|(own, other)| *own += other);
        self.rtt_us = self.rtt_us.max(*rtt_us);
        self.retransmits += retransmits;
        latency.iter().for_each(|(bucket, count)| self.record(*bucket, *count));
    }

    /// Of requests.
    pub fn latency(&self) -> Latency {
        let mut latency = Latency::default();
        self.latency.iter().for_each(|(bucket, count)| latency.add(u32::from(*bucket), u64::from(*count)));
        latency
    }

    /// Connections and requests by how they were secured, those that there are.
    pub fn by_security(&self) -> impl Iterator<Item = (Security, u64)> + '_ {
        let all = [Security::Plaintext, Security::MutualTls, Security::KernelAttested];
        all.into_iter().map(|of| (of, self.security[security(of)])).filter(|(_, count)| *count > 0)
    }

    /// By the way that they took.
    pub fn by_path(&self) -> impl Iterator<Item = (Path, u64)> + '_ {
        let all = [Path::Local, Path::Tunnel, Path::Passthrough, Path::Direct];
        all.into_iter().map(|of| (of, self.path[path_place(of)])).filter(|(_, count)| *count > 0)
    }
}

fn security(security: Security) -> usize {
    match security {
        Security::Plaintext => 0,
        Security::MutualTls => 1,
        Security::KernelAttested => 2,
    }
}

fn path_place(path: Path) -> usize {
    match path {
        Path::Local => 0,
        Path::Tunnel => 1,
        Path::Passthrough => 2,
        Path::Direct => 3,
    }
}
