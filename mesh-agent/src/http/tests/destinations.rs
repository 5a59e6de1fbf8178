//! What is known of a destination: by which configuration, and for how long.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use mesh_common::model::traffic::{
    Algorithm, Balancing, ConnectionPool, Delay, Fault, HttpRoute, Millis, Outlier, Percent, TrafficPolicy,
};

use super::world::*;
use crate::{
    http::Destination,
    state::{Delta, Kind, Snapshot},
};

fn wanted(world: &World, snapshot: &Arc<Snapshot>) -> Arc<Destination> {
    let session = world.session();
    let source = session.source(snapshot).expect("the client is known");
    session.destination(snapshot, &source, &session.own_backend()).expect("the service is known")
}

/// Ejects at the first error, for long.
fn strict() -> TrafficPolicy {
    let outlier = Outlier {
        consecutive_5xx: Some(1),
        consecutive_gateway_errors: None,
        consecutive_local_failures: None,
        interval: Millis(1000),
        base_ejection: Millis(3_600_000),
        max_ejected: Percent::ALL,
        min_health: Percent(0),
    };
    let balancing = Balancing { algorithm: Algorithm::RoundRobin, ..Balancing::default() };
    TrafficPolicy { outlier: Some(outlier), balancing, ..TrafficPolicy::default() }
}

#[tokio::test]
async fn a_request_that_was_delayed_goes_where_the_configuration_leads_by_then() {
    let world = World::new();
    world.server(|_| answer(200, "old")).await;
    let delay = Delay { percent: Percent::ALL, fixed: Millis(300) };
    let fault = Some(Fault { delay: Some(delay), abort: None });
    world.rules(vec![HttpRoute { fault, ..route("r", to_cart()) }], TrafficPolicy::default());
    let change = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.server(|_| answer(201, "new")).await;
        world.forget(0);
    };
    let (answered, ()) = tokio::join!(world.status("/"), change);
    assert_eq!(answered.0, 201);
}

#[tokio::test]
async fn an_older_configuration_turns_no_destination_back() {
    let world = World::new();
    world.server(|_| answer(500, "")).await;
    world.rules(vec![], strict());
    let old = world.store.snapshot();
    assert_eq!(wanted(&world, &old).endpoints().len(), 1);
    world.server(|_| answer(500, "")).await;
    let new = world.store.snapshot();
    assert_eq!(wanted(&world, &new).endpoints().len(), 2);
    for _ in 0..2 {
        assert_eq!(world.status("/").await.0, 500);
    }
    assert_eq!(world.status("/").await.1.as_deref(), Some("UH"), "both are ejected");
    assert_eq!(wanted(&world, &old).endpoints().len(), 2);
    assert_eq!(wanted(&world, &new).endpoints().len(), 2);
    assert_eq!(world.status("/").await.1.as_deref(), Some("UH"), "nothing is forgotten");
}

/// Connections do not rest.
fn resting() -> ConnectionPool {
    ConnectionPool { http_idle_timeout: Some(Millis(1)), ..ConnectionPool::default() }
}

/// So many connections.
async fn ended(world: &World, count: usize) {
    tokio::time::sleep(Duration::from_millis(20)).await;
    sweep(world, 0);
    until(|| world.dial.ended.load(Ordering::SeqCst) == count).await;
}

/// After so many minutes.
fn sweep(world: &World, minutes: u64) {
    world.http.sweep(&world.store.snapshot(), Instant::now() + Duration::from_secs(minutes * 60));
}

#[tokio::test]
async fn what_is_known_of_endpoints_outlasts_a_pause() {
    let world = World::new();
    world.server(|_| answer(500, "")).await;
    world.rules(vec![], TrafficPolicy { pool: resting(), ..strict() });
    assert_eq!(world.status("/").await.0, 500);
    ended(&world, 1).await;
    for minutes in [0, 0, 5, 30, 40] {
        sweep(&world, minutes);
    }
    assert_eq!(world.status("/").await.1.as_deref(), Some("UH"), "it is still ejected");
}

#[tokio::test]
async fn a_destination_is_forgotten_when_there_is_nothing_to_know_of_it() {
    let world = World::with_server().await;
    world.rules(vec![], TrafficPolicy { pool: resting(), ..strict() });
    assert_eq!(world.status("/").await.0, 200);
    let known = Arc::downgrade(&wanted(&world, &world.store.snapshot()));
    ended(&world, 1).await;
    // As long as an ejection lasts it is kept.
    sweep(&world, 59);
    assert!(known.upgrade().is_some());
    sweep(&world, 120);
    assert!(known.upgrade().is_none());
    // With its service it goes at once.
    assert_eq!(world.status("/").await.0, 200);
    let known = Arc::downgrade(&wanted(&world, &world.store.snapshot()));
    ended(&world, 2).await;
    let service = "shop/cart.shop.svc.cluster.local".to_owned();
    world.store.apply(Delta { removals: vec![(Kind::Address, service)], ..Delta::default() }).unwrap();
    sweep(&world, 0);
    assert!(known.upgrade().is_none());
}
