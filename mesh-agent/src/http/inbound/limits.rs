//! Which limits a request to a pod counts against, and what is left of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use mesh_common::{
    model::traffic::Inbound,
    route::{Effort, Matches, Request},
};
use metrics::counter;

use crate::balance::RateLimiter;

/// The limits of the pods of this node.
#[derive(Debug, Default)]
pub struct Limiters(Mutex<HashMap<String, Known>>);

#[derive(Debug)]
struct Known {
    /// The newest configuration that says the same.
    generation: u64,
    limits: Arc<Limits>,
}

/// The limits of one pod.
#[derive(Debug)]
pub struct Limits {
    inbound: Inbound,
    /// Which requests each of them is about.
    matches: Vec<Matches>,
    buckets: RateLimiter,
}

/// A limit is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Whole seconds, one at least.
    pub retry_after: u64,
    /// As in `RateLimitPolicy shop/cart`.
    pub policy: String,
}

impl Limiters {
    /// Those of the pod with this key, as the configuration of this generation has them. While it says the same, they
    /// are the same ones; when it changes, what is alike stays as full as it was. An older configuration than the
    /// newest that was asked for changes nothing any more.
    pub fn of_pod(&self, key: &str, generation: u64, inbound: &Inbound) -> Arc<Limits> {
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = match pods.get_mut(key) {
            Some(known) if known.generation >= generation || known.limits.inbound == *inbound => {
                known.generation = known.generation.max(generation);
                return Arc::clone(&known.limits);
            }
            Some(known) => known.limits.buckets.replaced(&inbound.limits),
            None => RateLimiter::new(&inbound.limits),
        };
        let limits = Arc::new(Limits::new(inbound.clone(), buckets));
        pods.insert(key.to_owned(), Known { generation, limits: Arc::clone(&limits) });
        limits
    }

    /// The pod is gone.
    pub fn forget(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

impl Limits {
    fn new(inbound: Inbound, buckets: RateLimiter) -> Self {
        let conditions = inbound.limits.iter().map(|limit| {
            Matches::new(&limit.matches).unwrap_or_else(|error| {
                // Such a limit is refused where it comes in; it rather counts too much than nothing.
                tracing::error!(limit = limit.origin.object, %error, "a limit counts every request");
                Matches::new(&[]).expect("of no conditions none can be wrong")
            })
        });
        let matches = conditions.collect();
        Self { inbound, matches, buckets }
    }

    /// Counts a request to `request.port` of the pod. One that is too long for the patterns of limits rather counts too
    /// often than never.
    pub fn request(&self, request: &Request<'_>, identity: Option<&str>, now: Instant) -> Result<(), Reached> {
        let effort = Effort::default();
        let is_about = |number: usize| self.matches[number].matches(request, &effort).unwrap_or(true);
        self.count(request.port, is_about, identity, now)
    }

    /// Counts a connection of which the requests, if it has any, cannot be told: as one request. Limits with conditions
    /// on requests do not count it.
    pub fn connection(&self, port: u16, identity: Option<&str>, now: Instant) -> Result<(), Reached> {
        self.count(port, |number| self.inbound.limits[number].matches.is_empty(), identity, now)
    }

    fn count(
        &self,
        port: u16,
        is_about: impl Fn(usize) -> bool,
        identity: Option<&str>,
        now: Instant,
    ) -> Result<(), Reached> {
        let limits = self.inbound.limits.iter().enumerate();
        let concerned = limits.filter(|(number, limit)| limit.is_about(port) && is_about(*number));
        let concerned: Vec<_> = concerned.map(|(number, _)| number).collect();
        self.buckets.check_all(&concerned, identity, now).map_err(|(number, limited)| {
            let policy = self.inbound.limits[number].origin.object.clone();
            counter!("mesh_ratelimited_total", "policy" => policy.clone()).increment(1);
            Reached { retry_after: seconds(limited.retry_after), policy }
        })
    }
}

/// Rounded up: who comes back earlier is refused again.
fn seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use mesh_common::model::traffic::{
        Labels, LimitOverride, Millis, Origin, PathMatch, RateLimit, RequestMatch, TokenBucket,
    };

    use super::*;

    const WEB: Option<&str> = Some("cluster.local/ns/shop/sa/web");

    fn bucket(requests: u32) -> TokenBucket {
        TokenBucket { requests, interval: Millis(60_000), burst: requests }
    }

    fn limit(name: &str, total: u32, path: Option<&str>) -> RateLimit {
        let matches =
            path.map(|path| RequestMatch { path: Some(PathMatch::Prefix(path.to_owned())), ..RequestMatch::default() });
        RateLimit {
            origin: Origin { object: format!("RateLimitPolicy shop/{name}"), field: String::new() },
            ports: Vec::new(),
            matches: matches.into_iter().collect(),
            total: Some(bucket(total)),
            identity: None,
            overrides: Vec::new(),
        }
    }

    fn inbound(limits: Vec<RateLimit>) -> Inbound {
        Inbound { limits, ..Inbound::default() }
    }

    fn get(limits: &Limits, path: &str, port: u16, now: Instant) -> Result<(), Reached> {
        let (headers, labels) = (HeaderMap::new(), Labels::new());
        let request = Request {
            method: &Method::GET,
            path,
            query: None,
            scheme: "http",
            authority: "cart",
            headers: &headers,
            port,
            source_labels: &labels,
            source_namespace: "shop",
        };
        limits.request(&request, WEB, now)
    }

    #[test]
    fn a_refused_request_costs_nothing_in_other_limits() {
        let now = Instant::now();
        let limits =
            Limiters::default().of_pod("a", 1, &inbound(vec![limit("all", 3, None), limit("x", 1, Some("/x"))]));
        assert_eq!(get(&limits, "/x", 80, now), Ok(()));
        for _ in 0..10 {
            let refused = get(&limits, "/x", 80, now).unwrap_err();
            assert_eq!((refused.policy.as_str(), refused.retry_after), ("RateLimitPolicy shop/x", 60));
        }
        assert_eq!(get(&limits, "/", 80, now), Ok(()));
        assert_eq!(get(&limits, "/", 80, now), Ok(()));
        assert_eq!(get(&limits, "/", 80, now).unwrap_err().policy, "RateLimitPolicy shop/all");
        assert_eq!(get(&limits, "/", 80, now).unwrap_err().retry_after, 20);
    }

    #[test]
    fn ports_and_conditions_say_what_counts() {
        let now = Instant::now();
        let one = RateLimit { ports: vec![80], ..limit("one", 1, None) };
        let limits = Limiters::default().of_pod("a", 1, &inbound(vec![one, limit("x", 1, Some("/x"))]));
        assert_eq!(limits.connection(80, WEB, now), Ok(()));
        assert!(get(&limits, "/", 80, now).is_err(), "a connection of bytes was counted as a request");
        assert_eq!(get(&limits, "/", 81, now), Ok(()), "another port");
        assert_eq!(limits.connection(81, WEB, now), Ok(()), "nobody knows its path");
        assert_eq!(get(&limits, "/x", 81, now), Ok(()));
        assert!(get(&limits, "/x", 81, now).is_err());
    }

    #[test]
    fn a_request_that_is_too_long_for_patterns_counts() {
        let now = Instant::now();
        let pattern = |number| RequestMatch {
            path: Some(PathMatch::Regex(format!("/{number}[0-9]"))),
            ..RequestMatch::default()
        };
        let one = RateLimit { matches: (0..64).map(pattern).collect(), ..limit("one", 1, None) };
        let limits = Limiters::default().of_pod("a", 1, &inbound(vec![one]));
        let long = format!("/x{}", "a".repeat(60_000));
        for _ in 0..2 {
            assert_eq!(get(&limits, "/x", 80, now), Ok(()), "no pattern is about it");
        }
        assert_eq!(get(&limits, &long, 80, now), Ok(()));
        assert!(get(&limits, &long, 80, now).is_err(), "counted");
    }

    #[test]
    fn buckets_last_as_long_as_they_are_alike() {
        let now = Instant::now();
        let limiters = Limiters::default();
        let one = inbound(vec![limit("one", 1, None)]);
        let first = limiters.of_pod("a", 1, &one);
        assert_eq!(get(&first, "/", 80, now), Ok(()));
        assert!(Arc::ptr_eq(&first, &limiters.of_pod("a", 5, &one)));
        assert_eq!(get(&limiters.of_pod("b", 5, &one), "/", 80, now), Ok(()), "another pod");
        let more = inbound(vec![limit("one", 1, None), limit("two", 9, None)]);
        let second = limiters.of_pod("a", 6, &more);
        assert!(get(&second, "/", 80, now).is_err(), "the first is as empty as it was");
        // Somebody who holds an older configuration.
        assert!(Arc::ptr_eq(&second, &limiters.of_pod("a", 5, &one)));
        limiters.forget("a");
        assert_eq!(get(&limiters.of_pod("a", 6, &more), "/", 80, now), Ok(()));
    }

    #[test]
    fn identities_count_apart_and_overrides_count_in_their_place() {
        let now = Instant::now();
        let vip = "cluster.local/ns/shop/sa/vip";
        let over = LimitOverride { identities: vec![vip.into()], bucket: bucket(3) };
        let limit =
            RateLimit { total: None, identity: Some(bucket(1)), overrides: vec![over], ..limit("one", 0, None) };
        let limits = Limiters::default().of_pod("a", 1, &inbound(vec![limit]));
        let passed = |identity| (0..5).filter(|_| limits.connection(80, identity, now).is_ok()).count();
        assert_eq!([WEB, Some(vip), None, WEB].map(passed), [1, 3, 1, 0]);
    }

    #[test]
    fn times_are_rounded_up() {
        for (millis, expected) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            assert_eq!(seconds(Duration::from_millis(millis)), expected, "{millis} ms");
        }
    }
}
