//! What waits to be written. It is bounded in every direction, and every event is in exactly one of its numbers: in the
//! `count` of a line, or among those that are lost. Pure.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::{Denied, Kind, Party, Record, text};

/// How much may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Lines; what comes when there are so many is lost.
    pub lines: usize,
    /// Of a pair only its first refusal has a line of its own; what comes within this time of it shares the next one.
    pub window: Duration,
    /// Pairs that are told apart within that time.
    pub pairs: usize,
    /// The same, of one source.
    pub of_source: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { lines: 16_384, window: Duration::from_secs(5), pairs: 4096, of_source: 256 }
    }
}

#[derive(Debug)]
pub struct Pending {
    bounds: Bounds,
    lines: VecDeque<Record>,
    lost: u64,
    /// What is within its window.
    held: HashMap<Pair, Option<Record>>,
    /// When the windows end; all are as long, so these are in order.
    ends: VecDeque<(Instant, Pair)>,
    /// Pairs of each source in `held`.
    of_source: HashMap<Source, usize>,
}

/// Who asks. All that are no pods are one: addresses are no way to more than one share.
type Source = Option<(String, String)>;

/// Refusals that may share a line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pair {
    kind: Kind,
    reason: Option<String>,
    /// `None`: any.
    source: Option<(Source, String)>,
    /// `None`: any.
    rest: Option<Rest>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Rest {
    reporter: String,
    destination: Party,
    of_requests: bool,
    policy: Option<String>,
    rule: Option<u64>,
}

impl Pair {
    /// `None`: what happens so rarely that each has its line.
    fn of(record: &Record) -> Option<Self> {
        let (kind, reason) = (record.kind, record.reason.clone());
        match (kind, record.denied.as_deref()) {
            (Kind::Denied, Some(denied)) => {
                let Denied { reporter, source, destination, policy, rule, request, .. } = denied;
                let source = source.clone().unwrap_or_default();
                let pod = source.namespace.clone().zip(source.pod.clone());
                // Who connects again has another port.
                let address = match &pod {
                    None => source.address.as_deref().map_or("", |at| at.rsplit_once(':').map_or(at, |(ip, _)| ip)),
                    Some(_) => "",
                };
                let of = (pod, format!("{address} {}", source.identity.as_deref().unwrap_or_default()));
                let rest = Rest {
                    reporter: reporter.clone(),
                    destination: destination.clone().unwrap_or_default(),
                    of_requests: request.is_some(),
                    policy: policy.clone(),
                    rule: *rule,
                };
                Some(Self { kind, reason, source: Some(of), rest: Some(rest) })
            }
            (Kind::AgentRefused | Kind::CertificateRefused | Kind::CertificateFailed, _) => {
                let of = record.certificate.as_ref();
                let caller = record.caller.clone().or_else(|| of.and_then(|of| of.node.clone())).unwrap_or_default();
                // An address without its port.
                let host = caller.rsplit_once(':').map_or(caller.as_str(), |(host, _)| host).to_owned();
                let identity = of.and_then(|of| of.identity.clone()).unwrap_or_default();
                Some(Self { kind, reason, source: Some((None, format!("{host} {identity}"))), rest: None })
            }
            _ => None,
        }
    }

    /// Whose share it is of.
    fn pod(&self) -> Source {
        self.source.as_ref().and_then(|(pod, _)| pod.clone())
    }
}

impl Pending {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            lines: VecDeque::new(),
            lost: 0,
            held: HashMap::new(),
            ends: VecDeque::new(),
            of_source: HashMap::new(),
        }
    }

    /// Takes an event; how many are lost by it.
    pub fn tell(&mut self, mut record: Record, now: Instant) -> u64 {
        text::cut(&mut record);
        let Some(mut pair) = Pair::of(&record) else { return self.push(record) };
        if !self.held.contains_key(&pair) {
            let crowded = self.of_source.get(&pair.pod()).is_some_and(|pairs| *pairs >= self.bounds.of_source);
            if crowded || self.held.len() >= self.bounds.pairs {
                // Only how many, and of which pod if it is that one's doing.
                let pod = pair.pod().filter(|_| crowded);
                (pair.source, pair.rest) = (pod.map(|pod| (Some(pod), String::new())), None);
                record = without_names(record, pair.source.is_some());
            }
        }
        match self.held.get_mut(&pair) {
            Some(Some(held)) => {
                record.count += held.count;
                // Clocks are set back now and then.
                record.since = Some(held.since.unwrap_or(held.time).min(record.time));
                record.time = record.time.max(held.time);
                *held = record;
                0
            }
            Some(held) => {
                *held = Some(record);
                0
            }
            None => {
                *self.of_source.entry(pair.pod()).or_default() += 1;
                self.held.insert(pair.clone(), None);
                self.ends.push_back((now + self.bounds.window, pair));
                self.push(record)
            }
        }
    }

    /// When the next of those that share a line are to be written.
    pub fn due(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end)
    }

    /// Something is to be written now.
    pub fn has_lines(&self) -> bool {
        !self.lines.is_empty() || self.lost > 0
    }

    /// What is to be written now, and how many are lost by that. With `all`, also what would still wait for others.
    pub fn take(&mut self, now: Instant, all: bool) -> (Vec<Record>, u64) {
        let mut lost = 0;
        let mut again = VecDeque::new();
        while let Some((_, pair)) = self.ends.pop_front_if(|(end, _)| all || *end <= now) {
            match self.held.get_mut(&pair).and_then(Option::take) {
                Some(record) => {
                    lost += self.push(record);
                    again.push_back((now + self.bounds.window, pair));
                }
                None => self.forget(&pair),
            }
        }
        self.ends.append(&mut again);
        let mut lines: Vec<_> = self.lines.drain(..).collect();
        if self.lost > 0 {
            let mut record = Record::new(Kind::Lost);
            record.count = std::mem::take(&mut self.lost);
            lines.push(record);
        }
        (lines, lost)
    }

    /// These were taken, and could not be written.
    pub fn not_written(&mut self, events: u64) {
        self.lost += events;
    }

    fn push(&mut self, record: Record) -> u64 {
        if self.lines.len() < self.bounds.lines {
            self.lines.push_back(record);
            return 0;
        }
        self.lost += record.count;
        record.count
    }

    fn forget(&mut self, pair: &Pair) {
        self.held.remove(pair);
        let pod = pair.pod();
        if let Some(pairs) = self.of_source.get_mut(&pod) {
            *pairs -= 1;
            if *pairs == 0 {
                self.of_source.remove(&pod);
            }
        }
    }
}

/// What is true of all that are counted together.
fn without_names(record: Record, of_one_source: bool) -> Record {
    let Record { time, program, instance, kind, count, since, reason, denied, certificate, .. } = record;
    let denied = denied.map(|denied| {
        let Denied { reporter, source, security, .. } = *denied;
        let source = source.filter(|_| of_one_source).map(|source| Party { address: None, ..source });
        Box::new(Denied { reporter, source, security, ..Denied::default() })
    });
    let certificate = certificate.map(|_| Box::default());
    Record { program, instance, count, since, reason, denied, certificate, time, ..Record::new(kind) }
}
