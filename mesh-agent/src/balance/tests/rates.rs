//! Token buckets and rate limits.

use mesh_common::model::traffic::{LimitOverride, Origin, RateLimit, TokenBucket};

use super::*;
use crate::balance::{Limited, RateLimiter, Which, rate::IDENTITIES};

fn bucket(requests: u32, seconds: u64, burst: u32) -> TokenBucket {
    TokenBucket { requests, interval: Millis(seconds * 1000), burst }
}

fn limit(object: &str) -> RateLimit {
    let origin = Origin { object: object.into(), field: String::new() };
    RateLimit { origin, ports: vec![], matches: vec![], total: None, identity: None, overrides: vec![] }
}

fn passes(limiter: &RateLimiter, identity: &str, now: Instant) -> usize {
    (0..10_000).take_while(|_| limiter.check(0, Some(identity), now).is_ok()).count()
}

#[test]
fn a_bucket_gives_its_burst_then_its_rate() {
    let limiter = RateLimiter::new(&[RateLimit { total: Some(bucket(10, 1, 20)), ..limit("a") }]);
    let mut now = Instant::now();
    assert_eq!(passes(&limiter, "x", now), 20);
    let refused = limiter.check(0, None, now).unwrap_err();
    assert_eq!(refused, Limited { retry_after: Duration::from_millis(100), which: Which::Total });
    now += Duration::from_nanos(99_999_999);
    assert_eq!(limiter.check(0, None, now).unwrap_err().retry_after, Duration::from_nanos(1));
    now += Duration::from_nanos(1);
    assert_eq!(passes(&limiter, "x", now), 1);
    now += Duration::from_secs(3600);
    assert_eq!(passes(&limiter, "x", now), 20);
}

#[test]
fn nothing_is_lost_between_many_looks() {
    let limiter = RateLimiter::new(&[RateLimit { total: Some(bucket(7, 3, 2)), ..limit("a") }]);
    let start = Instant::now();
    // A look each 1.7 ms for 300 s at 7 each 3 s.
    let times = (0..176_471_u64).map(|look| start + Duration::from_micros(1700 * look));
    let passed = times.filter(|now| limiter.check(0, None, *now).is_ok()).count();
    assert!((701..=702).contains(&passed), "{passed}");
}

#[test]
fn each_identity_has_its_own_and_the_first_override_counts() {
    let over =
        |identity: &str, burst| LimitOverride { identities: vec![identity.into()], bucket: bucket(1, 60, burst) };
    let shared = LimitOverride { identities: vec!["vip".into(), "vip2".into()], bucket: bucket(1, 60, 10) };
    let overrides = vec![over("slow", 1), shared, over("vip", 50)];
    let rule = RateLimit { identity: Some(bucket(1, 60, 3)), overrides, ..limit("a") };
    let limiter = RateLimiter::new(&[rule]);
    let now = Instant::now();
    assert_eq!(passes(&limiter, "one", now), 3);
    assert_eq!(passes(&limiter, "two", now), 3);
    assert_eq!(passes(&limiter, "slow", now), 1);
    assert_eq!(passes(&limiter, "vip", now), 10);
    assert_eq!(passes(&limiter, "vip2", now), 0, "they share it");
    assert_eq!(limiter.check(0, Some("vip2"), now).unwrap_err().which, Which::Override(1));
    // Those without an identity are one client.
    assert_eq!((0..10).filter(|_| limiter.check(0, None, now).is_ok()).count(), 3);
    assert_eq!(limiter.check(0, None, now).unwrap_err().which, Which::Identity);
}

#[test]
fn who_is_refused_takes_nothing() {
    let rule = RateLimit { total: Some(bucket(1, 60, 4)), identity: Some(bucket(1, 3600, 2)), ..limit("a") };
    let limiter = RateLimiter::new(&[rule]);
    let now = Instant::now();
    assert_eq!(passes(&limiter, "greedy", now), 2);
    assert!((0..100).all(|_| limiter.check(0, Some("greedy"), now).is_err()));
    assert_eq!(passes(&limiter, "other", now), 2, "the greedy one emptied the total");
    let refused = limiter.check(0, Some("greedy"), now).unwrap_err();
    assert_eq!(refused, Limited { retry_after: Duration::from_secs(3600), which: Which::Total });
    // Nor did those of the identity go while the total was empty.
    assert!((0..100).all(|_| limiter.check(0, Some("third"), now).is_err()));
    assert_eq!(passes(&limiter, "third", now + Duration::from_secs(240)), 2);
}

#[test]
fn nothing_is_nothing_and_a_burst_of_none_is_one() {
    let never = RateLimiter::new(&[RateLimit { total: Some(bucket(0, 1, 0)), ..limit("a") }]);
    let now = Instant::now();
    let refused = never.check(0, None, now + Duration::from_secs(1_000_000)).unwrap_err();
    assert_eq!(refused.retry_after, Duration::from_secs(1));
    let one = RateLimiter::new(&[RateLimit { total: Some(bucket(5, 1, 0)), ..limit("a") }]);
    assert_eq!(passes(&one, "x", now), 1);
    assert!(one.check(7, None, now).is_ok(), "no such limit");
}

#[test]
fn other_limits_keep_what_is_alike() {
    let old = [
        RateLimit { total: Some(bucket(1, 60, 5)), ..limit("gone") },
        RateLimit { total: Some(bucket(1, 60, 5)), identity: Some(bucket(1, 60, 3)), ..limit("a") },
    ];
    let limiter = RateLimiter::new(&old);
    let now = Instant::now();
    (0..2).for_each(|_| limiter.check(1, Some("x"), now).unwrap());
    let rule = |burst| RateLimit { identity: Some(bucket(1, 60, burst)), ..old[1].clone() };
    assert_eq!(passes(&limiter.replaced(&[rule(3)]), "x", now), 1, "both are as they were");
    assert_eq!(passes(&limiter.replaced(&[rule(9)]), "x", now), 3, "the total is as it was");
    assert_eq!(passes(&limiter.replaced(&[RateLimit { total: None, ..rule(9) }]), "x", now), 9);
}

#[test]
fn identities_are_bounded_and_the_idle_go_first() {
    let limiter = RateLimiter::new(&[RateLimit { identity: Some(bucket(1, 3600, 2)), ..limit("a") }]);
    let start = Instant::now();
    for number in 0..IDENTITIES * 3 {
        let now = start + Duration::from_millis(number as u64);
        limiter.check(0, Some(&number.to_string()), now).unwrap();
        // Asked each time, it is never idle: its two tokens are gone for an hour.
        let busy = limiter.check(0, Some("busy"), now).is_ok();
        assert_eq!(busy, number < 2, "forgotten at {number}");
        assert!(limiter.identities(0) <= IDENTITIES);
    }
}
