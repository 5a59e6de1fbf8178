//! Near and far endpoints.

use mesh_common::model::traffic::{Balancing, LocalityFailover, LocalityPolicy, LocalityWeights};

use super::*;

fn locality(text: &str) -> Locality {
    let mut parts = text.split('/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    Locality { region: next(), zone: next(), subzone: next() }
}

fn near() -> LocalityPolicy {
    LocalityPolicy { enabled: true, distribute: vec![], failover: vec![], failover_priority: vec![] }
}

fn policy(locality: LocalityPolicy, outlier: Option<Outlier>) -> TrafficPolicy {
    let balancing = Balancing { algorithm: Algorithm::Random, locality: Some(locality), warmup: None };
    TrafficPolicy { balancing, outlier, ..TrafficPolicy::default() }
}

/// A client in `east/a/1`; endpoints with their localities, numbered from 1.
fn world(policy: TrafficPolicy, places: &[&str]) -> World {
    let places = (1..).zip(places).map(|(port, place)| Endpoint { locality: locality(place), ..endpoint(port) });
    let client = Client { locality: locality("east/a/1"), ..Client::default() };
    World::at(policy, client, &places.collect::<Vec<_>>())
}

fn eject(world: &mut World, port: u16) {
    (0..5).for_each(|_| world.ends(port, Outcome::Status(500)));
}

#[test]
fn the_nearest_take_all_then_the_next() {
    let mut world = world(policy(near(), Some(outlier())), &["west/x/1", "east/b/1", "east/a/2", "east/a/1"]);
    for nearest in [4, 3, 2, 1] {
        assert_eq!(world.spread(100), [(nearest, 100)].into());
        eject(&mut world, nearest);
    }
    assert!(world.try_pick(None, &[]).is_none());
}

#[test]
fn without_somebody_who_finds_out_near_and_far_are_one() {
    let mut world = world(policy(near(), None), &["west/x/1", "east/a/1"]);
    let spread = world.spread(2000);
    assert!(is_about(spread[&1], 2000, 0.5), "{spread:?}");
    let off = LocalityPolicy { enabled: false, ..near() };
    let mut world = super::localities::world(policy(off, Some(outlier())), &["west/x/1", "east/a/1"]);
    assert_eq!(world.spread(100).len(), 2);
}

#[test]
fn what_a_level_cannot_take_goes_to_the_next() {
    let near_and_far = ["east/a/1"; 10].into_iter().chain(["west/x/1"; 10]).collect::<Vec<_>>();
    let mut world = world(policy(near(), Some(outlier())), &near_and_far);
    let far = |world: &mut World| {
        let spread = world.spread(10_000);
        spread.iter().filter(|(port, _)| **port > 10).map(|(_, count)| count).sum::<usize>()
    };
    // Envoy's table: 80 % well -> 0, 70 % -> 2 %, 50 % -> 30 %, 10 % -> 86 %, none -> all.
    let mut ejected = 0;
    for (ill, share) in [(2, 0.0), (3, 0.02), (5, 0.3), (9, 0.86), (10, 1.0)] {
        while ejected < ill {
            ejected += 1;
            eject(&mut world, ejected);
        }
        let far = far(&mut world);
        assert!(is_about(far, 10_000, share), "{ill} ill: {far}");
    }
}

#[test]
fn a_region_fails_over_where_it_is_told_to() {
    let failover = vec![LocalityFailover { from: "east".into(), to: "north".into() }];
    let policy = policy(LocalityPolicy { failover, ..near() }, Some(outlier()));
    let mut world = world(policy, &["west/x/1", "north/x/1", "east/a/1"]);
    for nearest in [3, 2, 1] {
        assert_eq!(world.spread(100), [(nearest, 100)].into());
        eject(&mut world, nearest);
    }
}

#[test]
fn parts_go_as_they_are_written_and_others_get_nothing() {
    let distribute = vec![
        LocalityWeights { from: "west/*".into(), to: [("west/*".into(), 100)].into() },
        LocalityWeights {
            from: "east/a/*".into(),
            to: [("*".into(), 0), ("east/a/*".into(), 70), ("east/b".into(), 30)].into(),
        },
        LocalityWeights { from: "*".into(), to: [("west/*".into(), 100)].into() },
    ];
    let policy = policy(LocalityPolicy { distribute, ..near() }, None);
    let mut world = world(policy, &["west/x/1", "east/b/1", "east/a/2", "east/a/1"]);
    let spread = world.spread(10_000);
    for (port, share) in [(2, 0.3), (3, 0.35), (4, 0.35)] {
        assert!(is_about(spread[&port], 10_000, share), "{spread:?}");
    }
    assert_eq!(spread.get(&1), None);
    let tried = [2, 3, 4].map(address);
    assert_ne!(world.try_pick(None, &tried).unwrap().address().port(), 1, "a part of nothing");
}

#[test]
fn a_part_that_is_ill_takes_less() {
    let to = BTreeMap::from([("east/a/*".into(), 50), ("east/b/*".into(), 50)]);
    let distribute = vec![LocalityWeights { from: "east/*".into(), to }];
    let policy = policy(LocalityPolicy { distribute, ..near() }, Some(outlier()));
    let mut world = world(policy, &["east/a/1", "east/a/1", "east/b/1", "east/b/1"]);
    eject(&mut world, 1);
    // 50 % well, 1.4 times: 0.7 of its weight.
    let spread = world.spread(10_000);
    assert!(is_about(spread[&2], 10_000, 0.7 / 1.7), "{spread:?}");
    eject(&mut world, 2);
    assert_eq!(world.spread(100).keys().collect::<Vec<_>>(), [&3, &4]);
}

#[test]
fn labels_in_common_make_an_endpoint_near() {
    let failover_priority = vec!["topology.kubernetes.io/region".into(), "tier=gold".into(), "rack".into()];
    let policy = policy(LocalityPolicy { failover_priority, ..near() }, Some(outlier()));
    let at = |port, region: &str, labels: &[(&str, &str)]| Endpoint {
        locality: locality(region),
        labels: Arc::new(labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()),
        ..endpoint(port)
    };
    let endpoints = [
        at(1, "west", &[("tier", "gold"), ("rack", "7")]),
        at(2, "east", &[("tier", "tin"), ("rack", "7")]),
        at(3, "east", &[("tier", "gold"), ("rack", "8")]),
        at(4, "east", &[("tier", "gold"), ("rack", "7")]),
    ];
    // The client's own tier does not matter: the list says which.
    let labels = Arc::new([("rack".into(), "7".into()), ("tier".into(), "tin".into())].into());
    let client = Client { locality: locality("east/a/1"), labels };
    let mut world = World::at(policy, client, &endpoints);
    for nearest in [4, 3, 2, 1] {
        assert_eq!(world.spread(100), [(nearest, 100)].into());
        eject(&mut world, nearest);
    }
}

#[test]
fn a_second_try_may_go_farther_and_a_key_stays() {
    let mut near_hash = policy(near(), Some(outlier()));
    near_hash.balancing.algorithm = Algorithm::Hash(HashOn::SourceIp);
    let mut world = world(near_hash, &["west/x/1", "west/x/1", "east/a/1"]);
    assert_eq!(world.try_pick(None, &[address(3)]).unwrap().address().port() / 3, 0);
    let tried = [address(3)];
    let farther = world.try_pick(Some(5), &tried).unwrap().address();
    assert!((0..50).all(|_| world.try_pick(Some(5), &tried).unwrap().address() == farther));
}

#[test]
fn a_key_stays_with_its_part() {
    let to = BTreeMap::from([("east/a/*".into(), 50), ("east/b/*".into(), 50)]);
    let distribute = vec![LocalityWeights { from: "*".into(), to }];
    let mut parts = policy(LocalityPolicy { distribute, ..near() }, None);
    parts.balancing.algorithm = Algorithm::Hash(HashOn::SourceIp);
    let mut world = world(parts, &["east/a/1", "east/b/1"]);
    let holders = (0..1000).map(|key| world.holder(key)).collect::<Vec<_>>();
    assert!((0..1000).all(|key| world.holder(key) == holders[key as usize]));
    assert!(is_about(holders.iter().filter(|port| **port == 1).count(), 1000, 0.5));
}

#[test]
fn a_client_that_moved_finds_others_near() {
    let mut world = world(policy(near(), Some(outlier())), &["west/x/1", "east/a/1"]);
    assert_eq!(world.spread(50), [(2, 50)].into());
    world.cluster.set_client(Arc::new(Client { locality: locality("west/x/1"), ..Client::default() }));
    assert_eq!(world.spread(50), [(1, 50)].into());
}
