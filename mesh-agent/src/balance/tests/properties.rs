//! What holds whatever happens, by chance.

use mesh_common::model::traffic::TokenBucket;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::balance::{
    bucket::Bucket,
    outlier::{Standing, Ticks},
    priority::{Health, loads},
};

fn algorithms() -> impl Strategy<Value = Algorithm> {
    prop_oneof![
        Just(Algorithm::LeastRequest),
        Just(Algorithm::RoundRobin),
        Just(Algorithm::Random),
        Just(Algorithm::PeakEwma),
        Just(Algorithm::Hash(HashOn::SourceIp)),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Pick { key: Option<u64>, tried: Vec<u16>, outcome: Outcome },
    Set(Vec<(u16, u32)>),
    Passes(u64),
    Checked(u16, bool),
}

fn steps() -> impl Strategy<Value = Step> {
    let outcomes = prop_oneof![
        3 => Just(Outcome::Status(500)),
        1 => Just(Outcome::Status(200)),
        1 => Just(Outcome::ConnectFailed),
        1 => Just(Outcome::Cancelled),
    ];
    let pick = (any::<Option<u64>>(), vec(0..8_u16, 0..4), outcomes);
    prop_oneof![
        20 => pick.prop_map(|(key, tried, outcome)| Step::Pick { key, tried, outcome }),
        1 => vec((0..8_u16, 0..4_u32), 0..8).prop_map(Step::Set),
        3 => (0..60_000_u64).prop_map(Step::Passes),
        1 => (0..8_u16, any::<bool>()).prop_map(|(port, well)| Step::Checked(port, well)),
    ]
}

proptest! {
    /// Whatever happens, only those are chosen that are there and weigh something; somebody who was not tried comes
    /// before somebody who was; nobody holds on to the cluster at the end.
    #[test]
    fn nobody_is_chosen_who_may_not_be(algorithm in algorithms(), most in 0..=100_u32, steps in vec(steps(), 1..200)) {
        let rule = Outlier { consecutive_5xx: Some(2), max_ejected: Percent(most * 10_000), ..outlier() };
        let mut world = World::new(TrafficPolicy { outlier: Some(rule), ..balanced(algorithm) }, &[]);
        let mut there = BTreeMap::new();
        let mut held = Vec::new();
        for step in steps {
            match step {
                Step::Set(list) => {
                    there = BTreeMap::new();
                    list.iter().for_each(|(port, weight)| { there.entry(*port).or_insert(*weight); });
                    let endpoint = |(port, weight): &(u16, u32)| Endpoint { weight: *weight, ..endpoint(*port) };
                    world.set(&list.iter().map(endpoint).collect::<Vec<_>>());
                }
                Step::Passes(millis) => world.passes(millis as f64 / 1000.0),
                Step::Checked(port, well) => world.cluster.set_checked(address(port), well, world.now),
                Step::Pick { key, tried, outcome } => {
                    let tried = tried.into_iter().map(address).collect::<Vec<_>>();
                    let Some(picked) = world.try_pick(key, &tried) else { continue };
                    prop_assert!(there.get(&picked.address().port()).is_some_and(|weight| *weight > 0));
                    if tried.contains(&picked.address()) {
                        let other = (0..200).filter_map(|_| world.try_pick(None, &[]));
                        prop_assert!(other.into_iter().all(|picked| tried.contains(&picked.address())));
                    }
                    picked.done(outcome, world.now);
                    held.push(picked);
                }
            }
            let counts = world.counts();
            prop_assert_eq!(counts.endpoints, there.len());
        }
        held.clear();
        prop_assert_eq!(Arc::strong_count(&world.cluster), 1);
    }

    /// Of many keys about one in n moves when one of n comes, and only to the one that came.
    #[test]
    fn keys_move_only_to_who_came(ports in proptest::collection::btree_set(0..5000_u16, 2..60), seed: u64) {
        let ports = ports.into_iter().collect::<Vec<_>>();
        let (new, old) = ports.split_last().unwrap();
        let few = old.iter().map(|port| endpoint(*port)).collect::<Vec<_>>();
        let all = ports.iter().map(|port| endpoint(*port)).collect::<Vec<_>>();
        let keys = (0..2000).map(|key| crate::balance::draws::nth(seed, key)).collect::<Vec<_>>();
        let mut world = World::new(hashed(), &few);
        let before = keys.iter().map(|key| world.holder(*key)).collect::<Vec<_>>();
        world.set(&all);
        let after = keys.iter().map(|key| world.holder(*key)).collect::<Vec<_>>();
        let moved = before.iter().zip(&after).filter(|(one, other)| one != other).map(|(_, to)| *to);
        prop_assert!(moved.clone().all(|to| to == *new));
        prop_assert!(moved.count() <= 2000 * 8 / 5 / ports.len() + 60);
    }

    /// Shares are whole, nobody beyond the first level gets anything while that is well, panic only where it may be.
    #[test]
    fn levels_share_all_that_comes(
        levels in vec((0..50_usize, 0..50_usize), 1..6),
        least in 0..=1_000_000_u32,
    ) {
        let levels = levels.into_iter().map(|(healthy, ill)| Health { healthy, all: healthy + ill }).collect::<Vec<_>>();
        let loads = loads(&levels, Percent(least));
        let endpoints = levels.iter().map(|level| level.all).sum::<usize>();
        if endpoints > 0 {
            prop_assert_eq!(loads.iter().map(|load| load.share).sum::<u64>(), 1_000_000);
        }
        if levels[0].all > 0 && levels[0].healthy * 140 >= levels[0].all * 100 {
            prop_assert!(loads[0].share == 1_000_000 && loads.iter().all(|load| !load.panic));
        }
        prop_assert!(least > 0 || loads.iter().all(|load| !load.panic));
    }

    /// Looking often or seldom, an endpoint comes back at the same tick, and is forgiven as much.
    #[test]
    fn ticks_that_nobody_saw_are_made_up_for(
        interval in 1..20_000_u64,
        base in 0..100_000_u64,
        ejected in vec(0..400_000_u64, 1..12),
        looks in vec(0..400_000_u64, 0..40),
        end in 0..100_000_u64,
    ) {
        let rule = Outlier { interval: Millis(interval), base_ejection: Millis(base), ..outlier() };
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut ejected = ejected;
        ejected.sort_unstable();
        let end = ejected[ejected.len() - 1].max(looks.iter().copied().max().unwrap_or(0)) + end;
        let run = |looks: &[u64]| {
            let (mut standing, mut ticks) = (Standing::default(), Ticks::new(Duration::from_millis(interval), start));
            let mut times = ejected.iter().map(|time| (*time, true)).collect::<Vec<_>>();
            times.extend(looks.iter().map(|time| (*time, false)).chain([(end, false)]));
            times.sort_unstable();
            for (time, ejects) in times {
                standing.advance(&rule, &ticks, at(time));
                ticks.see(at(time));
                if ejects && !standing.is_ejected() {
                    standing.eject(&rule, at(time));
                }
            }
            standing
        };
        prop_assert_eq!(run(&looks), run(&[]));
    }

    /// In no span more than its burst and its rate.
    #[test]
    fn a_bucket_gives_no_more_than_it_has(
        (requests, millis, burst) in (0..1000_u32, 1..5000_u64, 0..50_u32),
        waits in vec(0..200_000_u64, 1..300),
    ) {
        let mut bucket = Bucket::new(&TokenBucket { requests, interval: Millis(millis), burst });
        let mut now = Instant::now();
        let (mut passed, mut span) = (0_u64, 0_u128);
        for wait in waits {
            match bucket.has(now) {
                Ok(()) => {
                    bucket.take();
                    passed += 1;
                }
                Err(after) if requests > 0 => {
                    let mut later = bucket.clone();
                    prop_assert!(later.has(now + after).is_ok());
                    prop_assert!(after.is_zero() || bucket.clone().has(now + after - Duration::from_nanos(1)).is_err());
                }
                Err(_) => {}
            }
            let most = u128::from(burst.max(u32::from(requests > 0)))
                + span * u128::from(requests) / (u128::from(millis) * 1_000_000);
            prop_assert!(u128::from(passed) <= most, "{passed} of {most}");
            now += Duration::from_micros(wait);
            span += u128::from(wait) * 1000;
        }
    }
}
