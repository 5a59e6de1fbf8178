//! What each pod of the node costs: what it let the agent do, and its part of the CPU and memory that the agent's
//! process was measured to take.
//!
//! CPU of an interval is shared out by work, in the ratio of what each kind costs a pair of agents (the project's
//! goals: 60 us a request, 180 us a connection, 0.7 s a GB), half of it for each. Up to four times that is taken for
//! the pods' work; what goes beyond, as a configuration that is read, is the agent's own and told under no name.
//! Memory is shared out likewise by what holds some: an open connection two buffers of 16 KiB and its TLS, together 40
//! KiB, a request of the last interval 4 KiB, a pod with its listener 16 KiB. What was there before the first pod is
//! the agent's own.
//!
//! At most [`PODS`] are told by name; the others are one without a name. One that neither is open nor did anything for
//! an hour goes, and what it cost goes to the one without a name, so that sums stay what they were.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::flow::{Direction, Flow, Party};

const PODS: usize = 2048;
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// In nanoseconds of CPU.
const REQUEST: u64 = 30_000;
const CONNECTION: u64 = 90_000;
/// Of 1,000 bytes.
const KILOBYTE: u64 = 350;

/// In bytes of memory.
const OPEN_HOLDS: u64 = 40 << 10;
const REQUEST_HOLDS: u64 = 4 << 10;
const POD_HOLDS: u64 = 16 << 10;

#[derive(Debug, Default)]
pub struct Costs(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    /// By namespace and pod, in two steps, so that a record looks up without making a key.
    pods: HashMap<String, HashMap<String, Pod>>,
    count: usize,
    /// The agent's own.
    rest: Pod,
    /// CPU that is shared out, and what the process used when that was done.
    measured: Option<Used>,
    memory: u64,
    /// What was there before any pod.
    base: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pod {
    connections: u64,
    requests: u64,
    bytes: u64,
    cpu_ns: u64,
    /// Since CPU was shared out last.
    work: u64,
    new_requests: u64,
    /// In the interval before.
    held_requests: u64,
    last: Option<Instant>,
}

/// What the process has used until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub cpu: Duration,
    pub memory: u64,
}

/// Of one pod; without a name: the agent's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub namespace: String,
    pub pod: String,
    pub connections: u64,
    pub open: u64,
    pub requests: u64,
    pub bytes: u64,
    pub cpu_us: u64,
    pub memory: u64,
}

fn own(flow: &Flow) -> &Party {
    match flow.direction {
        Direction::Outbound => &flow.source,
        Direction::Inbound => &flow.destination,
    }
}

impl All {
    /// The pod of this node that a record is about.
    fn of(&mut self, flow: &Flow) -> &mut Pod {
        let Party { facts, .. } = own(flow);
        let known = self.pods.get(&facts.namespace).is_some_and(|pods| pods.contains_key(&facts.pod));
        if !known {
            if facts.pod.is_empty() || self.count >= PODS {
                return &mut self.rest;
            }
            self.count += 1;
            self.pods.entry(facts.namespace.clone()).or_default().insert(facts.pod.clone(), Pod::default());
        }
        let pod = self.pods.get_mut(&facts.namespace).and_then(|pods| pods.get_mut(&facts.pod));
        pod.unwrap_or(&mut self.rest)
    }

    fn each(&mut self) -> impl Iterator<Item = &mut Pod> {
        self.pods.values_mut().flat_map(HashMap::values_mut)
    }
}

impl Costs {
    pub fn ended(&self, flow: &Flow) {
        let mut all = self.locked();
        let pod = all.of(flow);
        let bytes = match &flow.http {
            Some(_) => {
                pod.requests += 1;
                pod.new_requests += 1;
                pod.work += REQUEST;
                // They are the connection's too.
                0
            }
            None => {
                pod.connections += 1;
                pod.work += CONNECTION;
                let counted = &flow.counted;
                (flow.sent + flow.received).saturating_sub(counted.sent + counted.received)
            }
        };
        pod.passed(bytes);
    }

    /// Bytes of an open connection, both ways.
    pub fn passed(&self, flow: &Flow, bytes: u64) {
        self.locked().of(flow).passed(bytes);
    }

    /// To be called now and then: shares out what the process used since.
    pub fn share(&self, used: Used, now: Instant) {
        let mut all = self.locked();
        let before = all.measured.replace(used).unwrap_or(used);
        all.memory = used.memory;
        if all.count == 0 {
            all.base = Some(used.memory);
        }
        let spent = u64::try_from(used.cpu.saturating_sub(before.cpu).as_nanos()).unwrap_or(u64::MAX);
        let work: u64 = all.each().map(|pod| pod.work).sum();
        // Work that is known to cost less than was spent did not cost more: the rest is the agent's own.
        let shared = spent.min(work.saturating_mul(4));
        let mut left = spent;
        for pod in all.each() {
            let part = (u128::from(shared) * u128::from(pod.work)).checked_div(u128::from(work)).unwrap_or_default();
            let part = u64::try_from(part).unwrap_or(u64::MAX);
            if std::mem::take(&mut pod.work) > 0 || pod.last.is_none() {
                pod.last = Some(now);
            }
            pod.held_requests = std::mem::take(&mut pod.new_requests);
            pod.cpu_ns += part;
            left -= part;
        }
        all.rest.cpu_ns += left;
        let All { pods, count, rest, .. } = &mut *all;
        for pods in pods.values_mut() {
            pods.retain(|_, pod| {
                let stays = pod.last.is_none_or(|last| now.saturating_duration_since(last) < FORGOTTEN);
                if !stays {
                    rest.connections += pod.connections;
                    rest.requests += pod.requests;
                    rest.bytes += pod.bytes;
                    rest.cpu_ns += pod.cpu_ns;
                    *count -= 1;
                }
                stays
            });
        }
        pods.retain(|_, pods| !pods.is_empty());
    }

    /// Of the pods of `namespace` ("": all, and the agent itself without a name) with what is open now; the sum of all
    /// is what the process was measured to use when it was shared out last.
    pub fn rows(&self, namespace: &str, open: &[Flow]) -> Vec<Row> {
        let mut rows: HashMap<(String, String), Row> = HashMap::new();
        let all = self.locked();
        let row = |namespace: &str, pod: &str| Row { namespace: namespace.into(), pod: pod.into(), ..Row::default() };
        let mut holds: HashMap<(String, String), u64> = HashMap::new();
        for (namespace, pods) in &all.pods {
            for (name, pod) in pods {
                let Pod { connections, requests, bytes, cpu_ns, held_requests, .. } = *pod;
                let row = Row { connections, requests, bytes, cpu_us: cpu_ns / 1000, ..row(namespace, name) };
                rows.insert((namespace.clone(), name.clone()), row);
                holds.insert((namespace.clone(), name.clone()), POD_HOLDS + held_requests * REQUEST_HOLDS);
            }
        }
        let (memory, base, rest) = (all.memory, all.base.unwrap_or_default(), all.rest);
        drop(all);
        for flow in open {
            let Party { facts, .. } = own(flow);
            let key = (facts.namespace.clone(), facts.pod.clone());
            if facts.pod.is_empty() {
                continue;
            }
            rows.entry(key.clone()).or_insert_with(|| row(&facts.namespace, &facts.pod)).open += 1;
            *holds.entry(key).or_insert(POD_HOLDS) += OPEN_HOLDS;
        }
        // Never more than they are known to hold, and never more than there is.
        let held: u64 = holds.values().sum();
        let shared = memory.saturating_sub(base).min(held.saturating_mul(4));
        let mut left = memory;
        for (key, row) in &mut rows {
            let part = (u128::from(shared) * u128::from(holds[key])).checked_div(u128::from(held)).unwrap_or_default();
            row.memory = u64::try_from(part).unwrap_or(u64::MAX);
            left -= row.memory;
        }
        let Pod { connections, requests, bytes, cpu_ns, .. } = rest;
        let (namespace_of_rest, pod) = Default::default();
        let own = Row {
            namespace: namespace_of_rest,
            pod,
            connections,
            open: 0,
            requests,
            bytes,
            cpu_us: cpu_ns / 1000,
            memory: left,
        };
        let mut rows: Vec<_> = rows.into_values().chain([own]).collect();
        rows.retain(|row| namespace.is_empty() || row.namespace == namespace);
        rows.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
        rows
    }

    /// Nothing that holds it can panic half way through a change.
    fn locked(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pod {
    fn passed(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.work += bytes.saturating_mul(KILOBYTE) / 1000;
    }
}

#[cfg(test)]
mod tests;
