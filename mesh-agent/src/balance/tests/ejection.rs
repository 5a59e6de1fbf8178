//! Outliers: who is left alone, for how long, and who comes back.

use mesh_common::model::traffic::{ActiveCheck, CheckKind};

use super::*;

fn fails(world: &mut World, port: u16, times: usize, outcome: Outcome) {
    (0..times).for_each(|_| world.ends(port, outcome));
}

fn is_chosen(world: &mut World, port: u16) -> bool {
    world.spread(500).contains_key(&port)
}

#[test]
fn after_so_many_errors_in_a_row_an_endpoint_is_left_alone() {
    let mut world = World::new(watched(outlier()), &endpoints(1..4));
    fails(&mut world, 1, 4, Outcome::Status(500));
    world.ends(1, Outcome::Status(404));
    fails(&mut world, 1, 4, Outcome::Status(503));
    assert!(is_chosen(&mut world, 1), "nine errors, but four in a row");
    world.ends(1, Outcome::Status(500));
    assert!(!is_chosen(&mut world, 1));
    assert_eq!((world.counts().ejected, world.counts().healthy, world.counts().ejections), (1, 2, 1));
}

#[test]
fn it_comes_back_at_the_first_tick_after_its_time() {
    let mut world = World::new(watched(outlier()), &endpoints(1..4));
    world.passes(3.0);
    fails(&mut world, 1, 5, Outcome::Status(500));
    // Ejected at 3 s for 30 s; ticks at 30 s and 40 s.
    world.passes(30.5);
    assert!(!is_chosen(&mut world, 1));
    world.passes(6.4);
    assert!(!is_chosen(&mut world, 1));
    world.passes(0.2);
    assert!(is_chosen(&mut world, 1));
    assert_eq!((world.counts().ejected, world.counts().ejections), (0, 1));
}

#[test]
fn each_further_ejection_is_longer_and_ticks_forgive() {
    let mut world = World::new(watched(outlier()), &endpoints(1..4));
    let away = |world: &mut World| {
        fails(world, 1, 5, Outcome::Status(500));
        let from = world.now;
        while !is_chosen(world, 1) {
            world.passes(10.0);
        }
        (world.now - from).as_secs()
    };
    assert_eq!([away(&mut world), away(&mut world), away(&mut world)], [30, 60, 90]);
    // From one interval after its return each tick forgives one.
    world.passes(10.0);
    assert_eq!(away(&mut world), 90);
    world.passes(20.0);
    assert_eq!(away(&mut world), 60);
    world.passes(100_000.0);
    assert_eq!(away(&mut world), 30);
}

#[test]
fn an_ejection_is_five_minutes_at_most() {
    let mut world = World::new(watched(outlier()), &endpoints(1..4));
    let away = |world: &mut World| {
        fails(world, 1, 5, Outcome::Status(500));
        (1_u64..).find(|_| {
            world.passes(10.0);
            is_chosen(world, 1)
        })
    };
    let lengths = (0..12).map(|_| away(&mut world).unwrap() * 10).collect::<Vec<_>>();
    assert_eq!(lengths, [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]);
    // Or as the base, if that is longer.
    let mut world = World::new(watched(Outlier { base_ejection: Millis(400_000), ..outlier() }), &endpoints(1..4));
    fails(&mut world, 1, 5, Outcome::Status(500));
    world.passes(399.0);
    assert!(!is_chosen(&mut world, 1));
}

#[test]
fn after_its_return_failures_count_from_nothing() {
    let mut world = World::new(watched(outlier()), &endpoints(1..3));
    let late = (0..100).map(|_| world.pick()).find(|picked| picked.address().port() == 1).expect("one of so many");
    fails(&mut world, 1, 5, Outcome::Status(500));
    (0..4).for_each(|_| late.done(Outcome::Status(500), world.now));
    world.passes(30.0);
    world.ends(1, Outcome::Status(500));
    assert!(is_chosen(&mut world, 1));
}

#[test]
fn no_more_than_their_share_are_ejected() {
    // (ejected + 1) / all may be the share, no more.
    for (most, all, allowed) in [(50, 2, 1), (50, 3, 1), (50, 4, 2), (10, 9, 0), (10, 10, 1), (99, 1, 0), (100, 1, 1)] {
        let rule = Outlier { max_ejected: Percent(most * 10_000), min_health: Percent::ALL, ..outlier() };
        let mut world = World::new(watched(rule), &endpoints(1..all + 1));
        (1..=all).for_each(|port| {
            (0..5).for_each(|_| {
                let picked = (0..1000).map(|_| world.pick()).find(|picked| picked.address().port() == port);
                if let Some(picked) = picked {
                    picked.done(Outcome::Status(500), world.now);
                }
            })
        });
        assert_eq!(world.counts().ejected, allowed, "{most} % of {all}");
    }
}

#[test]
fn gateway_errors_are_502_to_504_and_what_stands_for_them() {
    let rule = || Outlier { consecutive_5xx: None, consecutive_gateway_errors: Some(3), ..outlier() };
    for outcome in
        [Outcome::Status(502), Outcome::Status(504), Outcome::ConnectFailed, Outcome::Reset, Outcome::Timeout]
    {
        let mut world = World::new(watched(rule()), &endpoints(1..3));
        fails(&mut world, 1, 2, outcome);
        world.ends(1, Outcome::Status(500));
        fails(&mut world, 1, 2, outcome);
        assert!(is_chosen(&mut world, 1), "{outcome:?}: 500 ends the row");
        world.ends(1, outcome);
        assert!(!is_chosen(&mut world, 1), "{outcome:?}");
    }
}

#[test]
fn local_failures_are_told_from_answers_where_the_rule_says_so() {
    let rule = Outlier { consecutive_local_failures: Some(2), ..outlier() };
    let mut world = World::new(watched(rule), &endpoints(1..3));
    world.ends(1, Outcome::Timeout);
    // It was connected to: the row is at its end, whatever the answer.
    world.ends(1, Outcome::Status(500));
    world.ends(1, Outcome::ConnectFailed);
    assert!(is_chosen(&mut world, 1));
    world.ends(1, Outcome::Reset);
    assert!(!is_chosen(&mut world, 1));
    let mut world = World::new(watched(Outlier { consecutive_local_failures: Some(9), ..outlier() }), &endpoints(1..3));
    fails(&mut world, 1, 4, Outcome::Status(500));
    fails(&mut world, 1, 4, Outcome::ConnectFailed);
    assert!(is_chosen(&mut world, 1), "failures of connections were counted as answers");
}

#[test]
fn a_client_that_went_says_nothing() {
    let mut world = World::new(watched(outlier()), &endpoints(1..3));
    for _ in 0..2 {
        fails(&mut world, 1, 2, Outcome::Status(500));
        fails(&mut world, 1, 20, Outcome::Cancelled);
    }
    assert!(is_chosen(&mut world, 1));
    world.ends(1, Outcome::Status(500));
    assert!(!is_chosen(&mut world, 1), "a client that went ended the row");
}

#[test]
fn if_nobody_is_well_nobody_is_chosen_unless_the_rule_fears_that() {
    let all_fail = |rule: Outlier| {
        let mut world = World::new(watched(rule), &endpoints(1..3));
        fails(&mut world, 1, 5, Outcome::Status(500));
        while world.counts().ejected < 2 {
            let picked = world.pick();
            picked.done(Outcome::Status(500), world.now);
        }
        world
    };
    assert!(all_fail(outlier()).try_pick(None, &[]).is_none());
    let mut world = all_fail(Outlier { min_health: Percent(300_000), ..outlier() });
    assert_eq!(world.spread(100).len(), 2);
}

#[test]
fn below_its_least_health_all_are_used() {
    let ejected = |count: u16, least: u32| {
        let mut world = World::new(watched(Outlier { min_health: Percent(least), ..outlier() }), &endpoints(1..11));
        (1..=count).for_each(|port| fails(&mut world, port, 5, Outcome::Status(500)));
        assert_eq!(world.counts().ejected, usize::from(count));
        world.spread(2000).len()
    };
    assert_eq!(ejected(4, 600_000), 6, "60 % are not below 60 %");
    assert_eq!(ejected(4, 610_000), 10);
    // Envoy: with what they have to spare (1.4 times) eight can take all, so there is nothing to fear.
    assert_eq!(ejected(2, 900_000), 8);
}

#[test]
fn another_policy_keeps_ejections_and_none_ends_them() {
    let mut world = World::new(watched(outlier()), &endpoints(1..4));
    fails(&mut world, 1, 5, Outcome::Status(500));
    world.cluster.set_policy(Arc::new(watched(Outlier { consecutive_5xx: Some(3), ..outlier() })));
    assert!(!is_chosen(&mut world, 1));
    world.set(&endpoints(1..6));
    assert!(!is_chosen(&mut world, 1), "it stayed, and so did what is known of it");
    fails(&mut world, 2, 3, Outcome::Status(500));
    assert!(!is_chosen(&mut world, 2));
    world.cluster.set_policy(Arc::new(balanced(Algorithm::Random)));
    assert!(is_chosen(&mut world, 1));
    assert_eq!(world.counts().ejected, 0);
}

#[test]
fn who_left_and_came_again_begins_anew() {
    let mut world = World::new(watched(outlier()), &endpoints(1..4));
    fails(&mut world, 1, 5, Outcome::Status(500));
    world.set(&endpoints(2..4));
    world.set(&endpoints(1..4));
    assert!(is_chosen(&mut world, 1));
}

#[test]
fn an_ejected_endpoints_keys_go_to_the_next_and_come_home() {
    let mut world = World::new(TrafficPolicy { outlier: Some(outlier()), ..hashed() }, &endpoints(0..10));
    let before = (0..1000).map(|key| world.holder(key)).collect::<Vec<_>>();
    fails(&mut world, 3, 5, Outcome::Status(500));
    let during = (0..1000).map(|key| world.holder(key)).collect::<Vec<_>>();
    for (before, during) in before.iter().zip(&during) {
        assert!(*during != 3 && (*before == 3 || before == during));
    }
    world.passes(40.0);
    assert_eq!((0..1000).map(|key| world.holder(key)).collect::<Vec<_>>(), before);
}

#[test]
fn active_checks_take_out_and_let_in() {
    let check = ActiveCheck {
        kind: CheckKind::Tcp,
        interval: Millis(1000),
        timeout: Millis(1000),
        healthy_threshold: 1,
        unhealthy_threshold: 1,
    };
    let policy = TrafficPolicy { check: Some(check), ..watched(outlier()) };
    let mut world = World::new(policy, &endpoints(1..4));
    assert!(is_chosen(&mut world, 1), "not asked yet");
    world.cluster.set_checked(address(1), false, world.now);
    assert!(!is_chosen(&mut world, 1));
    assert_eq!((world.counts().ejected, world.counts().healthy), (0, 2));
    world.cluster.set_checked(address(1), true, world.now);
    assert!(is_chosen(&mut world, 1));
    fails(&mut world, 1, 5, Outcome::Status(500));
    assert!(!is_chosen(&mut world, 1));
    world.cluster.set_checked(address(1), true, world.now);
    assert!(is_chosen(&mut world, 1), "as with Envoy");
    world.cluster.set_checked(address(1), false, world.now);
    world.cluster.set_policy(Arc::new(watched(outlier())));
    assert!(is_chosen(&mut world, 1), "nobody checks any more");
}
