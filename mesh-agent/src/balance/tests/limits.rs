//! How much may be under way.

use mesh_common::model::traffic::{ConnectionPool, RetryBudget};

use super::*;
use crate::balance::{Overflow, RetryRefused};

fn pool(pool: ConnectionPool) -> World {
    World::new(TrafficPolicy { pool, ..TrafficPolicy::default() }, &[])
}

#[test]
fn so_many_requests_and_no_more_until_one_ends() {
    let world = pool(ConnectionPool { max_requests: Some(3), ..ConnectionPool::default() });
    let mut held = (0..3).map(|_| world.cluster.admit().unwrap()).collect::<Vec<_>>();
    assert_eq!(world.cluster.admit().unwrap_err(), Overflow::Requests);
    assert_eq!(world.counts().requests, 3);
    held.pop();
    assert!(world.cluster.admit().is_ok());
}

#[test]
fn each_bound_is_its_own() {
    let world = pool(ConnectionPool { max_pending: Some(1), max_connections: Some(2), ..ConnectionPool::default() });
    let _held = (world.cluster.admit_waiting().unwrap(), world.cluster.admit_connection().unwrap());
    assert_eq!(world.cluster.admit_waiting().unwrap_err(), Overflow::Pending);
    let _other = world.cluster.admit_connection().unwrap();
    assert_eq!(world.cluster.admit_connection().unwrap_err(), Overflow::Connections);
    assert!((0..1000).all(|_| world.cluster.admit().is_ok()), "no bound was said");
    assert_eq!((world.counts().waiting, world.counts().connections, world.counts().requests), (1, 2, 0));
}

#[test]
fn another_policy_counts_what_is_under_way() {
    let world = pool(ConnectionPool::default());
    let _held = (0..5).map(|_| world.cluster.admit().unwrap()).collect::<Vec<_>>();
    let pool = ConnectionPool { max_requests: Some(5), ..ConnectionPool::default() };
    world.cluster.set_policy(Arc::new(TrafficPolicy { pool, ..TrafficPolicy::default() }));
    assert_eq!(world.cluster.admit().unwrap_err(), Overflow::Requests);
}

#[test]
fn retries_are_a_share_of_requests_or_the_least() {
    let retry_budget = Some(RetryBudget { percent: Percent(200_000), min_concurrency: 3 });
    let world = World::new(TrafficPolicy { retry_budget, ..TrafficPolicy::default() }, &[]);
    let mut requests = vec![world.cluster.admit().unwrap()];
    let mut retries = (0..3).map(|_| world.cluster.admit_retry().unwrap()).collect::<Vec<_>>();
    assert_eq!(world.cluster.admit_retry().unwrap_err(), RetryRefused::Budget);
    requests.extend((0..19).map(|_| world.cluster.admit().unwrap()));
    retries.push(world.cluster.admit_retry().unwrap());
    assert_eq!(world.cluster.admit_retry().unwrap_err(), RetryRefused::Budget, "20 % of 20 are 4");
    retries.pop();
    assert!(world.cluster.admit_retry().is_ok());
}

#[test]
fn retries_have_a_bound_beside_their_budget() {
    let pool = ConnectionPool { max_retries: Some(1), ..ConnectionPool::default() };
    let retry_budget = Some(RetryBudget { percent: Percent::ALL, min_concurrency: 5 });
    for retry_budget in [None, retry_budget] {
        let policy = TrafficPolicy { pool: pool.clone(), retry_budget, ..TrafficPolicy::default() };
        let world = World::new(policy, &[]);
        let _held = world.cluster.admit_retry().unwrap();
        assert_eq!(world.cluster.admit_retry().unwrap_err(), RetryRefused::Limit);
    }
}

#[test]
fn many_threads_never_go_beyond_a_bound() {
    let world = pool(ConnectionPool { max_requests: Some(4), ..ConnectionPool::default() });
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| {
                for _ in 0..2000 {
                    let held = world.cluster.admit();
                    assert!(world.counts().requests <= 4);
                    drop(held);
                }
            });
        }
    });
    assert_eq!(world.counts().requests, 0);
}
