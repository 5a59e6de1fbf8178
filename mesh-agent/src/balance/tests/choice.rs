//! Every algorithm, and slow start.

use std::{collections::BTreeSet, time::Duration};

use mesh_common::model::traffic::{Balancing, TrafficPolicy, Warmup};

use super::*;

#[test]
fn chance_is_fair_and_knows_weights() {
    for algorithm in [Algorithm::Random, Algorithm::Passthrough, Algorithm::LeastRequest] {
        let mut world = World::new(balanced(algorithm.clone()), &weighted(&[1, 2, 5]));
        let spread = world.spread(20_000);
        for (port, share) in [(1, 0.125), (2, 0.25), (3, 0.625)] {
            assert!(is_about(spread[&port], 20_000, share), "{algorithm:?}: {spread:?}");
        }
    }
}

#[test]
fn a_round_gives_everybody_one_turn() {
    let mut world = World::new(balanced(Algorithm::RoundRobin), &endpoints(1..8));
    for _ in 0..5 {
        assert!(world.spread(7).values().all(|count| *count == 1));
    }
}

#[test]
fn a_weighted_round_is_exact_and_never_a_long_row() {
    let mut world = World::new(balanced(Algorithm::RoundRobin), &weighted(&[500, 300, 200]));
    let order = (0..1000).map(|_| world.pick().address().port()).collect::<Vec<_>>();
    for round in order.chunks(10) {
        let of = |port| round.iter().filter(|turn| **turn == port).count();
        assert_eq!((of(1), of(2), of(3)), (5, 3, 2), "{round:?}");
    }
    let longest = order.chunk_by(|one, other| one == other).map(<[u16]>::len).max();
    assert!(longest <= Some(3), "{longest:?} in a row");
}

#[test]
fn turns_go_on_when_somebody_comes() {
    let mut world = World::new(balanced(Algorithm::RoundRobin), &endpoints(1..4));
    let (mut before, mut after) = (0, 0);
    for _ in 0..300 {
        world.set(&endpoints(1..4));
        before = after;
        after = world.pick().address().port();
        assert_ne!(before, after, "began anew");
    }
    assert!(before > 0);
}

#[test]
fn clients_begin_their_rounds_at_different_endpoints() {
    let first = |seed| {
        let mut world = World::new(balanced(Algorithm::RoundRobin), &endpoints(1..9));
        world.draws = Draws::new(seed);
        world.pick().address().port()
    };
    let firsts = (0..100).map(first).collect::<BTreeSet<_>>();
    assert_eq!(firsts.len(), 8, "{firsts:?}");
}

#[test]
fn who_has_fewer_requests_under_way_gets_the_next() {
    let mut world = World::new(balanced(Algorithm::LeastRequest), &endpoints(1..11));
    let held = (0..1000).map(|_| world.pick()).collect::<Vec<_>>();
    let of = |port: u16| held.iter().filter(|picked| picked.address().port() == port).count();
    let counts = (1..11).map(of).collect::<Vec<_>>();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    // By chance alone they would be 60 apart.
    assert!(most - least <= 6, "{counts:?}");
    // Of two, always the other.
    let mut two = World::new(balanced(Algorithm::LeastRequest), &endpoints(1..3));
    let held = two.pick();
    assert!((0..50).all(|_| two.pick().address() != held.address()));
}

#[test]
fn requests_under_way_count_for_an_endpoints_weight() {
    let mut world = World::new(balanced(Algorithm::LeastRequest), &weighted(&[1, 3]));
    let held = (0..400).map(|_| world.pick()).collect::<Vec<_>>();
    let strong = held.iter().filter(|picked| picked.address().port() == 2).count();
    assert!((295..=305).contains(&strong), "{strong}");
}

#[test]
fn a_dropped_request_no_longer_counts() {
    let mut world = World::new(balanced(Algorithm::LeastRequest), &endpoints(1..3));
    drop((0..100).map(|_| world.pick()).collect::<Vec<_>>());
    let spread = world.spread(2000);
    assert!(is_about(spread[&1], 2000, 0.5), "{spread:?}");
}

#[test]
fn the_slow_one_gets_less_until_it_is_forgotten() {
    let mut world = World::new(balanced(Algorithm::PeakEwma), &endpoints(1..3));
    for _ in 0..50 {
        let picked = world.pick();
        let slow = if picked.address().port() == 1 { 0.2 } else { 0.01 };
        let now = world.now + Duration::from_secs_f64(slow);
        picked.done(Outcome::Status(200), now);
        drop(picked);
        world.passes(0.03);
    }
    let spread = world.spread(200);
    assert_eq!(spread.get(&1), None, "{spread:?}");
    let held = (0..200).map(|_| world.pick()).collect::<Vec<_>>();
    let slow = held.iter().filter(|picked| picked.address().port() == 1).count();
    assert!((9..=14).contains(&slow), "about a seventeenth, but {slow}");
    drop(held);
    let from = world.now;
    while world.pick().address().port() == 2 {
        world.pick().done(Outcome::Status(200), world.now + Duration::from_millis(10));
        world.passes(0.1);
    }
    // 0.2 s fade below 0.01 s in 10 s * ln 20.
    assert!((25..=32).contains(&(world.now - from).as_secs()), "{:?}", world.now - from);
}

#[test]
fn a_fast_failure_is_not_a_fast_endpoint() {
    let mut world = World::new(balanced(Algorithm::PeakEwma), &endpoints(1..3));
    let mut failed = 0;
    for _ in 0..200 {
        let picked = world.pick();
        world.passes(0.01);
        if picked.address().port() == 1 {
            failed += 1;
            picked.done(Outcome::ConnectFailed, world.now - Duration::from_millis(9));
        } else {
            picked.done(Outcome::Status(200), world.now);
        }
    }
    assert!(failed <= 2, "{failed}");
}

#[test]
fn who_was_tried_is_tried_again_only_if_there_is_no_other() {
    let all = [hashed(), balanced(Algorithm::RoundRobin), balanced(Algorithm::PeakEwma), TrafficPolicy::default()];
    for policy in all.into_iter().chain([balanced(Algorithm::Random)]) {
        let mut world = World::new(policy, &endpoints(1..41));
        let tried = (2..41).map(address).collect::<Vec<_>>();
        for key in 0..200 {
            assert_eq!(world.try_pick(Some(key), &tried).unwrap().address(), address(1));
        }
        let tried = (1..41).map(address).collect::<Vec<_>>();
        assert!(world.try_pick(Some(1), &tried).is_some());
    }
}

#[test]
fn keys_are_spread_evenly_and_by_weight() {
    let mut world = World::new(hashed(), &endpoints(0..20));
    let mut counts = vec![0_usize; 20];
    (0..40_000).for_each(|key| counts[usize::from(world.holder(key))] += 1);
    assert!(counts.iter().all(|count| (1300..2700).contains(count)), "{counts:?}");
    let mut world = World::new(hashed(), &weighted(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 10]));
    let strong = (0..20_000).filter(|key| world.holder(*key) == 11).count();
    assert!((9_000..11_000).contains(&strong), "{strong}");
}

#[test]
fn a_key_stays_where_it_is_when_others_come_and_go() {
    let mut world = World::new(hashed(), &endpoints(0..20));
    let before = (0..10_000).map(|key| world.holder(key)).collect::<Vec<_>>();
    world.set(&endpoints(0..21));
    let after = (0..10_000).map(|key| world.holder(key)).collect::<Vec<_>>();
    let moved = before.iter().zip(&after).filter(|(one, other)| one != other);
    assert!(moved.clone().all(|(_, to)| *to == 20), "moved elsewhere than to the new one");
    let moved = moved.count();
    assert!((300..700).contains(&moved), "{moved} of 10,000 for one of 21");
    world.set(&endpoints(0..20));
    assert_eq!((0..10_000).map(|key| world.holder(key)).collect::<Vec<_>>(), before);
}

#[test]
fn a_key_without_its_endpoint_has_the_same_next_one() {
    let mut world = World::new(hashed(), &endpoints(0..20));
    for key in 0..500 {
        let first = world.holder(key);
        let next = world.try_pick(Some(key), &[address(first)]).unwrap().address().port();
        world.set(&endpoints(0..20).into_iter().filter(|e| e.address.port() != first).collect::<Vec<_>>());
        assert_eq!(world.holder(key), next);
        world.set(&endpoints(0..20));
    }
}

#[test]
fn a_request_without_a_key_goes_by_chance() {
    let mut world = World::new(hashed(), &endpoints(1..5));
    let spread = world.spread(4000);
    assert!((1..5).all(|port| is_about(spread[&port], 4000, 0.25)), "{spread:?}");
}

#[test]
fn who_weighs_nothing_gets_nothing() {
    for policy in [hashed(), balanced(Algorithm::RoundRobin), TrafficPolicy::default()] {
        let mut world = World::new(policy, &weighted(&[0, 3, 0]));
        assert!((0..100).all(|key| world.holder(key) == 2));
        world.set(&weighted(&[0]));
        assert!(world.try_pick(None, &[]).is_none());
    }
}

#[test]
fn a_new_endpoint_gets_its_share_little_by_little() {
    let warmup = Some(Warmup { duration: Millis(100_000), minimum: Percent(100_000), aggression: 1000 });
    for algorithm in [Algorithm::RoundRobin, Algorithm::Random] {
        let balancing = Balancing { algorithm, warmup: warmup.clone(), locality: None };
        let mut world = World::new(TrafficPolicy { balancing, ..TrafficPolicy::default() }, &endpoints(1..2));
        world.passes(200.0);
        world.set(&endpoints(1..3));
        for (after, part) in [(0.0, 0.1), (5.0, 0.1), (45.0, 0.5), (25.0, 0.75), (26.0, 1.0), (1000.0, 1.0)] {
            world.passes(after);
            world.pick();
            let spread = world.spread(10_000);
            assert!(is_about(spread[&2], 10_000, part / (1.0 + part)), "{part}: {spread:?}");
        }
    }
}

#[test]
fn aggression_bends_the_line() {
    let part = |aggression, age| {
        let warmup = Warmup { duration: Millis(100_000), minimum: Percent(0), aggression };
        super::super::warmup::part(&warmup, Duration::from_secs(age))
    };
    // Envoy's formula: (25/100)^(1/2), (25/100)^2; a second at least.
    assert!((part(2000, 25) - 0.5).abs() < 1e-9);
    assert!((part(500, 25) - 0.0625).abs() < 1e-9);
    assert!((part(1000, 0) - 0.01).abs() < 1e-9);
    assert_eq!(part(1000, 100), 1.0);
}

#[test]
fn two_of_the_same_address_are_one() {
    let mut world = World::new(balanced(Algorithm::RoundRobin), &[endpoint(1), endpoint(1), endpoint(2)]);
    assert_eq!(world.counts().endpoints, 2);
    assert_eq!(world.spread(10), [(1, 5), (2, 5)].into());
}

#[test]
fn without_endpoints_nobody_is_chosen() {
    assert!(World::new(TrafficPolicy::default(), &[]).try_pick(Some(1), &[]).is_none());
}
