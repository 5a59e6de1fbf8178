//! Rate limits of one workload. Which requests a limit is about, the caller knows.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use mesh_common::model::traffic::{Origin, RateLimit, TokenBucket};

use super::bucket::Bucket;

/// Identities of one limit that are remembered. Who is forgotten begins with a full bucket.
pub const IDENTITIES: usize = 4096;

/// All limits of one workload, for good: other limits are another limiter, see [`RateLimiter::replaced`].
#[derive(Debug)]
pub struct RateLimiter {
    limits: Vec<Mutex<Limit>>,
}

/// A request above a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Until there is a token for it again, if nobody else takes it.
    pub retry_after: Duration,
    pub which: Which,
}

/// Whose bucket is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Total,
    Identity,
    /// Its number in [`RateLimit::overrides`].
    Override(usize),
}

#[derive(Clone, Debug)]
struct Limit {
    origin: Origin,
    total: Option<(TokenBucket, Bucket)>,
    identity: Option<TokenBucket>,
    identities: HashMap<Box<str>, Bucket>,
    overrides: Vec<(TokenBucket, Bucket)>,
    /// Which override counts for an identity.
    named: BTreeMap<String, usize>,
}

impl RateLimiter {
    pub fn new(limits: &[RateLimit]) -> Self {
        Self { limits: limits.iter().map(|limit| Mutex::new(Limit::new(limit))).collect() }
    }

    /// With other limits. Buckets that are alike (same origin, kind and numbers) are as full as they were.
    pub fn replaced(&self, limits: &[RateLimit]) -> Self {
        let mut old = self.limits.iter().map(|limit| Some(lock(limit).clone())).collect::<Vec<_>>();
        let limit = |limit: &RateLimit| {
            let known = old.iter_mut().find(|old| old.as_ref().is_some_and(|old| old.origin == limit.origin));
            let known = known.and_then(Option::take);
            Mutex::new(known.map_or_else(|| Limit::new(limit), |known| Limit::new(limit).filled_as(known)))
        };
        Self { limits: limits.iter().map(limit).collect() }
    }

    /// Takes a token from every bucket of the limit with this number that is about the client, or from none of them.
    /// A number that is no limit's refuses nothing.
    pub fn check(&self, limit: usize, identity: Option<&str>, now: Instant) -> Result<(), Limited> {
        self.check_all(&[limit], identity, now).map_err(|(_, limited)| limited)
    }

    /// The same of all these limits together: what one of them refuses costs nothing in the others. `limits` rise; of
    /// those that refuse, the first is told, with the longest of their times.
    pub fn check_all(&self, limits: &[usize], identity: Option<&str>, now: Instant) -> Result<(), (usize, Limited)> {
        // Always in one order, so that nobody waits for somebody who waits for him.
        let held = limits.iter().filter_map(|number| Some((*number, lock(self.limits.get(*number)?))));
        let mut held: Vec<_> = held.collect();
        let mut refused: Option<(usize, Limited)> = None;
        for (number, limit) in &mut held {
            if let Err(limited) = limit.check(identity, now, false) {
                let (first, known) = refused.unwrap_or((*number, limited));
                refused = Some((first, Limited { retry_after: known.retry_after.max(limited.retry_after), ..known }));
            }
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        for (_, limit) in &mut held {
            let _ = limit.check(identity, now, true);
        }
        Ok(())
    }
}

impl Limit {
    fn new(limit: &RateLimit) -> Self {
        let bucket = |bucket: &TokenBucket| (bucket.clone(), Bucket::new(bucket));
        let mut named = BTreeMap::new();
        for (number, over) in limit.overrides.iter().enumerate() {
            for identity in &over.identities {
                named.entry(identity.clone()).or_insert(number);
            }
        }
        Self {
            origin: limit.origin.clone(),
            total: limit.total.as_ref().map(bucket),
            identity: limit.identity.clone(),
            identities: HashMap::new(),
            overrides: limit.overrides.iter().map(|over| bucket(&over.bucket)).collect(),
            named,
        }
    }

    fn filled_as(mut self, old: Self) -> Self {
        let alike = |new: &mut (TokenBucket, Bucket), old: (TokenBucket, Bucket)| {
            if new.0 == old.0 {
                new.1 = old.1;
            }
        };
        if let (Some(new), Some(old)) = (&mut self.total, old.total) {
            alike(new, old);
        }
        if self.identity == old.identity {
            self.identities = old.identities;
        }
        for (new, old) in self.overrides.iter_mut().zip(old.overrides) {
            alike(new, old);
        }
        self
    }

    /// Takes the tokens only if it shall.
    fn check(&mut self, identity: Option<&str>, now: Instant, take: bool) -> Result<(), Limited> {
        let over = identity.and_then(|identity| self.named.get(identity)).copied();
        if over.is_none() && self.identities.len() >= IDENTITIES {
            forget(&mut self.identities, now);
        }
        let own = match (over, &self.identity) {
            (Some(number), _) => self.overrides.get_mut(number).map(|(_, bucket)| (Which::Override(number), bucket)),
            (None, Some(bucket)) => {
                // An identity is never empty: those without one are one client.
                let identity = identity.unwrap_or_default();
                if !self.identities.contains_key(identity) {
                    self.identities.insert(identity.into(), Bucket::new(bucket));
                }
                self.identities.get_mut(identity).map(|bucket| (Which::Identity, bucket))
            }
            (None, None) => None,
        };
        let total = self.total.as_mut().map(|(_, bucket)| (Which::Total, bucket));
        let mut buckets = [total, own];
        let mut refused: Option<Limited> = None;
        for (which, bucket) in buckets.iter_mut().flatten() {
            if let Err(wait) = bucket.has(now) {
                let (which, longest) =
                    refused.map_or((*which, wait), |first| (first.which, first.retry_after.max(wait)));
                refused = Some(Limited { retry_after: longest, which });
            }
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        if take {
            buckets.into_iter().flatten().for_each(|(_, bucket)| bucket.take());
        }
        Ok(())
    }
}

/// Those whose bucket is full are as good as unknown; if all are in use, the quarter that was idle longest goes.
fn forget(identities: &mut HashMap<Box<str>, Bucket>, now: Instant) {
    identities.retain(|_, bucket| !bucket.is_full(now));
    if identities.len() < IDENTITIES {
        return;
    }
    let mut last = identities.values().map(Bucket::last).collect::<Vec<_>>();
    let (_, oldest, _) = last.select_nth_unstable(IDENTITIES / 4);
    let oldest = *oldest;
    let mut excess = IDENTITIES / 4;
    identities.retain(|_, bucket| {
        let goes = excess > 0 && bucket.last() <= oldest;
        excess -= usize::from(goes);
        !goes
    });
}

fn lock(limit: &Mutex<Limit>) -> std::sync::MutexGuard<'_, Limit> {
    limit.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl RateLimiter {
    pub fn identities(&self, limit: usize) -> usize {
        lock(&self.limits[limit]).identities.len()
    }
}
