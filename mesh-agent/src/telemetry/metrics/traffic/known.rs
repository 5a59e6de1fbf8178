//! Where records like this one were counted last, so that the next needs no labels: found by what is cheap to read of a
//! record, and compared with all that its labels are made of. What is remembered is a place, not a count: a set that
//! has gone meanwhile is not found there any more, and the record is counted as if nothing was remembered.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_common::model::{Identity, PolicyName, ServiceName};

use super::{super::sets::Place, changes};
use crate::telemetry::flow::{Direction, Facts, Flow, Party, Security, Verdict};

/// Kinds of records that may be remembered, a power of two: half a KiB each, and one more makes room by itself.
pub const SLOTS: usize = 1024;

/// Each record has one slot that it can be in.
#[derive(Debug)]
pub struct Known(Box<[Mutex<Option<Box<Kind>>>]>);

/// Where records of one kind are counted; `None`: not there yet, or where there was no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// As a connection or a request.
    pub set: Option<Place>,
    /// As a verdict.
    pub decided: Option<Place>,
}

/// A record that was looked for.
#[derive(Debug)]
pub struct Sought<'a> {
    flow: &'a Flow,
    slot: &'a Mutex<Option<Box<Kind>>>,
    pub found: Found,
}

/// All that labels are made of.
#[derive(Debug)]
struct Kind {
    direction: Direction,
    security: Security,
    verdict: Verdict,
    /// `None`: of a connection.
    answer: Option<Answer>,
    reason: Option<Cow<'static, str>>,
    source: End,
    destination: End,
    service: Option<Arc<ServiceName>>,
    policy: Option<PolicyName>,
    found: Found,
    /// Since it was looked at last.
    used: bool,
}

type End = (Arc<Facts>, Option<Arc<Identity>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    grpc: bool,
    grpc_status: Option<u32>,
    flags: Option<&'static str>,
}

fn answer(flow: &Flow) -> Option<Answer> {
    let http = flow.http.as_deref()?;
    Some(Answer { status: http.status, grpc: http.grpc, grpc_status: http.grpc_status, flags: http.flags })
}

/// It is counted in one set under all of its labels, and for one verdict.
fn is_usual(flow: &Flow) -> bool {
    flow.verdict != Verdict::Dropped && flow.observations.is_empty() && changes(flow).is_none()
}

/// Names differ by their lengths and ends more than by their beginnings.
fn few(text: &str) -> u64 {
    let bytes = text.as_bytes();
    let last = &bytes[bytes.len().saturating_sub(8)..];
    let mut eight = [0; 8];
    eight[..last.len()].copy_from_slice(last);
    u64::from_le_bytes(eight) ^ (bytes.len() as u64) << 56
}

/// Good enough to spread: whoever makes two records meet in a slot makes both as slow as they were without it.
fn hash(flow: &Flow) -> u64 {
    let answer = flow.http.as_deref().map_or(0, |http| u64::from(http.status) << 16 | 1);
    let small = answer | (flow.direction as u64) << 8 | (flow.security as u64) << 12;
    let of = |party: &Party| few(&party.facts.pod) ^ few(&party.facts.workload).rotate_left(32);
    let service = flow.service.as_ref().map_or(0, |service| few(&service.hostname));
    let policy = flow.policy.as_ref().map_or(0, |policy| few(&policy.name));
    // 2^64 by the golden ratio.
    let mix = |hash: u64, more: u64| (hash.rotate_left(29) ^ more).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [of(&flow.source), of(&flow.destination), service, policy].into_iter().fold(mix(0, small), mix)
}

impl Known {
    /// A power of two; 0: nothing is remembered.
    pub fn new(slots: usize) -> Self {
        Self((0..slots).map(|_| Mutex::default()).collect())
    }

    /// `None`: the record is one of those that are not remembered.
    pub fn seek<'a>(&'a self, flow: &'a Flow) -> Option<Sought<'a>> {
        let bits = self.0.len().checked_ilog2()?;
        if !is_usual(flow) {
            return None;
        }
        let slot = self.0.get((hash(flow) >> 1 >> (63 - bits)) as usize)?;
        let found = match &mut *locked(slot) {
            Some(kind) if kind.is(flow) => {
                kind.used = true;
                kind.found
            }
            _ => Found::default(),
        };
        Some(Sought { flow, slot, found })
    }

    /// To be called now and then: what was not used since then is not held any longer.
    pub fn forget(&self) {
        for slot in &self.0 {
            locked(slot).take_if(|kind| !std::mem::take(&mut kind.used));
        }
    }
}

impl Sought<'_> {
    /// That is where it was counted.
    pub fn counted(self, found: Found) {
        if found != self.found {
            let kind = Box::new(Kind::of(self.flow, found));
            // What it takes the place of drops when the lock is free.
            let _before = locked(self.slot).replace(kind);
        }
    }
}

impl Kind {
    fn of(flow: &Flow, found: Found) -> Self {
        let end = |party: &Party| (Arc::clone(&party.facts), party.identity.clone());
        Self {
            direction: flow.direction,
            security: flow.security,
            verdict: flow.verdict,
            answer: answer(flow),
            reason: flow.reason.clone(),
            source: end(&flow.source),
            destination: end(&flow.destination),
            service: flow.service.clone(),
            policy: flow.policy.clone(),
            found,
            used: true,
        }
    }

    /// What is shared is compared by where it is, first.
    fn is(&self, flow: &Flow) -> bool {
        let same = |(facts, identity): &End, party: &Party| *facts == party.facts && *identity == party.identity;
        (self.direction, self.security, self.verdict, self.answer)
            == (flow.direction, flow.security, flow.verdict, answer(flow))
            && same(&self.source, &flow.source)
            && same(&self.destination, &flow.destination)
            && self.reason == flow.reason
            && self.service == flow.service
            && self.policy == flow.policy
    }
}

/// Nothing that holds one of these locks can panic half way through a change.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use super::{super::Traffic, *};
    use crate::telemetry::flow::HttpRequest;

    fn request() -> Flow {
        let mut flow = Flow::new(1, SystemTime::now(), Direction::Inbound, Party::default(), Party::default());
        flow.http = Some(Box::new(HttpRequest { status: 200, ..HttpRequest::default() }));
        flow
    }

    /// What was read of sets before they went, and what is there at the end, is all that was counted.
    #[test]
    fn threads_that_remember_lose_nothing_when_sets_go() {
        const TIMES: u64 = 100_000;
        let traffic = Traffic::default();
        let read = || traffic.requests.read().iter().map(|(_, requests)| requests.count).sum::<u64>();
        let (mut gone, mut times) = (0, 0);
        std::thread::scope(|scope| {
            let count = || {
                let flow = request();
                (0..TIMES).for_each(|_| traffic.ended(&flow));
            };
            let counting = [scope.spawn(count), scope.spawn(count)];
            while counting.iter().any(|thread| !thread.is_finished()) {
                let requests = read();
                if traffic.requests.expire(Instant::now(), Duration::ZERO, true) > 0 {
                    (gone, times) = (gone + requests, times + 1);
                }
            }
        });
        println!("the set went {times} times");
        assert_eq!(gone + read(), 2 * TIMES);
        assert_eq!(traffic.verdicts.read().iter().map(|(_, count)| count).sum::<u64>(), 2 * TIMES);
    }

    #[test]
    fn what_is_not_used_is_not_held() {
        let known = Known::new(SLOTS);
        let (flow, place) = (request(), Traffic::default().verdict(&request(), ["FORWARDED", "", "", "", "false"]));
        let found = Found { set: None, decided: place };
        known.seek(&flow).unwrap().counted(found);
        for _ in 0..3 {
            known.forget();
            assert_eq!(known.seek(&flow).unwrap().found, found, "it is used");
        }
        let facts = Arc::downgrade(&flow.source.facts);
        drop(flow);
        known.forget();
        assert!(facts.upgrade().is_some());
        known.forget();
        assert!(facts.upgrade().is_none(), "nobody holds it any more");
        assert_eq!(known.seek(&request()).unwrap().found, Found::default());
        let mut refused = request();
        refused.dropped("POLICY_DENY", "no");
        assert!(known.seek(&refused).is_none());
    }
}
