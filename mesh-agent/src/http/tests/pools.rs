//! Connections to endpoints: how many there are, who shares them, when they end.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::Full;
use mesh_common::model::traffic::{
    Algorithm, Balancing, ConnectionPool, HttpRoute, HttpUpgrade, Millis, Retries, TrafficPolicy, TrustedRoots,
    UpstreamTls,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
};

use super::world::*;
use crate::http::pool;

fn bounded(pool: ConnectionPool) -> TrafficPolicy {
    TrafficPolicy { pool, ..TrafficPolicy::default() }
}

/// Answers after a while.
async fn slow(world: &World, version: Version, millis: u64) {
    world
        .handled(version, move |_| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Ok(answer(200, "slow"))
            })
        })
        .await;
}

/// Takes connections, and says nothing.
async fn silent(world: &World) {
    let says_nothing = |_, stream| async move {
        let _stream = stream;
        std::future::pending().await
    };
    world.bytes(says_nothing).await;
}

/// So many at once, each on a connection of its own; statuses and flags.
async fn at_once(world: &World, count: usize) -> Vec<(u16, Option<String>)> {
    let mut running = JoinSet::new();
    for _ in 0..count {
        let mut client = world.client().await;
        running.spawn(async move {
            let request = get("/").map(|body| Full::new(Bytes::from(body)));
            let answer = collected(client.send_request(request).await.unwrap()).await;
            (answer.status, answer.flag())
        });
    }
    running.join_all().await
}

fn overflowed(answers: &[(u16, Option<String>)]) -> usize {
    answers.iter().filter(|answer| **answer == (503, Some("UO".into()))).count()
}

#[tokio::test]
async fn one_connection_carries_request_after_request() {
    for body in ["hello", ""] {
        let world = World::new();
        world.server(move |_| answer(200, body)).await;
        for _ in 0..20 {
            assert_eq!(world.status("/").await.0, 200);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(world.dial.dialled.lock().unwrap().len(), 1, "{body:?}");
    }
}

#[tokio::test]
async fn requests_wait_for_a_connection_that_may_not_be_one_more() {
    let world = World::new();
    slow(&world, Version::HTTP_11, 20).await;
    world.rules(vec![], bounded(ConnectionPool { max_connections: Some(1), ..ConnectionPool::default() }));
    let answers = at_once(&world, 5).await;
    assert!(answers.iter().all(|answer| answer.0 == 200), "{answers:?}");
    assert_eq!(world.dial.dialled.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_beyond_a_bound_is_refused_at_once() {
    let world = World::new();
    slow(&world, Version::HTTP_11, 300).await;
    let bounds = ConnectionPool { max_connections: Some(1), max_pending: Some(1), ..ConnectionPool::default() };
    world.rules(vec![], bounded(bounds));
    let answers = at_once(&world, 5).await;
    // One waits at most: for its connection first, for another's after that.
    assert!((3..=4).contains(&overflowed(&answers)), "{answers:?}");
    let world = World::new();
    slow(&world, Version::HTTP_11, 300).await;
    world.rules(vec![], bounded(ConnectionPool { max_requests: Some(2), ..ConnectionPool::default() }));
    assert_eq!(overflowed(&at_once(&world, 5).await), 3);
    assert_eq!(overflowed(&at_once(&world, 2).await), 0, "they are free again");
}

#[tokio::test]
async fn a_connection_carries_no_more_requests_than_it_may() {
    for (version, upgrade) in [(Version::HTTP_11, HttpUpgrade::Default), (Version::HTTP_2, HttpUpgrade::Always)] {
        let world = World::new();
        match version {
            Version::HTTP_2 => world.server2(|_| answer(200, "")).await,
            _ => world.server(|_| answer(200, "")).await,
        };
        let bounds = ConnectionPool { max_requests_per_connection: Some(2), upgrade, ..ConnectionPool::default() };
        world.rules(vec![], bounded(bounds));
        for _ in 0..6 {
            assert_eq!(world.status("/").await.0, 200);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let on = |number| world.log.all().iter().filter(|seen| seen.connection == number).count();
        assert_eq!([on(0), on(1), on(2)], [2, 2, 2], "{version:?}");
    }
}

#[tokio::test]
async fn many_requests_share_a_connection_of_http2() {
    let world = World::new();
    slow(&world, Version::HTTP_2, 20).await;
    world.rules(vec![], bounded(ConnectionPool { upgrade: HttpUpgrade::Always, ..ConnectionPool::default() }));
    let answers = at_once(&world, 30).await;
    assert!(answers.iter().all(|answer| answer.0 == 200));
    assert_eq!(world.dial.dialled.lock().unwrap().len(), 1);
    let world = World::new();
    slow(&world, Version::HTTP_2, 200).await;
    let bounds = ConnectionPool { upgrade: HttpUpgrade::Always, max_streams: Some(10), ..ConnectionPool::default() };
    world.rules(vec![], bounded(bounds));
    let answers = at_once(&world, 30).await;
    assert!(answers.iter().all(|answer| answer.0 == 200));
    assert_eq!(world.dial.dialled.lock().unwrap().len(), 3, "ten streams each");
}

#[tokio::test]
async fn idle_connections_end_and_what_nobody_uses_is_forgotten() {
    let world = World::with_server().await;
    world.rules(vec![], bounded(ConnectionPool { http_idle_timeout: Some(Millis(1)), ..ConnectionPool::default() }));
    assert_eq!(world.status("/").await.0, 200);
    tokio::time::sleep(Duration::from_millis(20)).await;
    world.http.sweep(&world.store.snapshot(), Instant::now());
    until(|| world.dial.ended.load(Ordering::SeqCst) == 1).await;
    assert_eq!(world.status("/").await.0, 200);
    assert_eq!(world.dial.dialled.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_change_that_denies_ends_connections() {
    let world = World::new();
    world.handled(Version::HTTP_11, |_| Box::pin(std::future::pending())).await;
    let mut client = world.client::<Full<Bytes>>().await;
    let request = get("/").map(|body| Full::new(Bytes::from(body)));
    let answer = tokio::spawn(async move { client.send_request(request).await.unwrap().status() });
    until(|| !world.dial.dialled.lock().unwrap().is_empty()).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    world.dial.denied.notify_waiters();
    assert_eq!(answer.await.unwrap(), 503);
    until(|| world.dial.ended.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn changes_take_effect_between_two_requests_of_a_connection() {
    let world = World::with_server().await;
    let mut client = world.client::<Full<Bytes>>().await;
    let ask = async |client: &mut hyper::client::conn::http1::SendRequest<Full<Bytes>>| {
        client.ready().await.unwrap();
        let request = get("/").map(|body| Full::new(Bytes::from(body)));
        collected(client.send_request(request).await.unwrap()).await
    };
    assert_eq!(ask(&mut client).await.status, 200);
    world.server(|_| answer(201, "new")).await;
    world.forget(0);
    assert_eq!(ask(&mut client).await.status, 201, "an endpoint that has gone is not used again");
    let action = mesh_common::model::traffic::DirectResponse { status: 418, body: None };
    world.rules(vec![route("r", mesh_common::model::traffic::Action::Respond(action))], TrafficPolicy::default());
    assert_eq!(ask(&mut client).await.status, 418);
    world.rules(vec![], TrafficPolicy::default());
    world.forget(1);
    assert_eq!(ask(&mut client).await.flag(), Some("UH".into()));
}

#[tokio::test]
async fn an_endpoint_that_answers_early_does_not_hold_up_the_next_request() {
    // Answers at the head, and never reads the body.
    let world = World::new();
    world.handled(Version::HTTP_11, |_| Box::pin(async { Ok(answer(200, "early")) })).await;
    let body: &'static str = "x".repeat(4 << 20).leak();
    let post = || Request::post("/").header("host", "cart").body(body).unwrap();
    let mut client = world.client::<Full<Bytes>>().await;
    // Whether the answer or the end comes first is for the endpoint's kernel to say.
    let _ = client.send_request(post().map(|body| Full::new(Bytes::from(body)))).await;
    assert_eq!(world.status("/").await.0, 200);
}

/// On a thread of its own: what spins there ends the test all the same.
fn in_time(story: impl Future<Output = ()> + Send + 'static) {
    let (told, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(story);
        let _ = told.send(());
    });
    ended.recv_timeout(LONG).expect("it ends, and well");
}

/// A route whose requests are tried once.
fn once() -> HttpRoute {
    let retries = Some(Retries { attempts: 0, ..Retries::default() });
    HttpRoute { retries, ..route("r", to_cart()) }
}

/// Connections of HTTP/2, no more than one at a time.
fn one_of_http2(bounds: ConnectionPool) -> TrafficPolicy {
    let balancing = Balancing { algorithm: Algorithm::RoundRobin, ..Balancing::default() };
    let bounds = ConnectionPool { max_connections: Some(1), upgrade: HttpUpgrade::Always, ..bounds };
    TrafficPolicy { balancing, ..bounded(bounds) }
}

#[test]
fn the_one_connection_of_http2_changes_between_two_endpoints() {
    in_time(async {
        let world = World::new();
        world.server2(|_| answer(200, "")).await;
        world.server2(|_| answer(200, "")).await;
        world.rules(vec![], one_of_http2(ConnectionPool::default()));
        for _ in 0..6 {
            assert_eq!(world.status("/").await, (200, None));
        }
        let at = |server| world.log.all().iter().filter(|seen| seen.server == server).count();
        assert_eq!((at(0), at(1)), (3, 3));
    });
}

#[test]
fn the_one_connection_of_http2_is_renewed_when_it_has_carried_what_it_may() {
    in_time(async {
        let world = World::new();
        world.server2(|_| answer(200, "")).await;
        let bounds = ConnectionPool { max_requests_per_connection: Some(1), ..ConnectionPool::default() };
        world.rules(vec![], one_of_http2(bounds));
        for _ in 0..4 {
            assert_eq!(world.status("/").await, (200, None));
        }
        assert_eq!(world.dial.dialled.lock().unwrap().len(), 4);
    });
}

#[test]
fn streams_beyond_what_the_one_connection_of_http2_carries_wait() {
    in_time(async {
        let world = World::new();
        slow(&world, Version::HTTP_2, 20).await;
        world.rules(vec![], one_of_http2(ConnectionPool { max_streams: Some(2), ..ConnectionPool::default() }));
        let answers = at_once(&world, 9).await;
        assert!(answers.iter().all(|answer| answer.0 == 200), "{answers:?}");
        assert_eq!(world.dial.dialled.lock().unwrap().len(), 1);
    });
}

#[tokio::test]
async fn the_time_for_connecting_is_none_for_waiting() {
    for (version, upgrade) in [(Version::HTTP_11, HttpUpgrade::Never), (Version::HTTP_2, HttpUpgrade::Always)] {
        let world = World::new();
        slow(&world, version, 300).await;
        let (max_connections, max_streams) = (Some(1), Some(1));
        let connect_timeout = Some(Millis(100));
        let bounds =
            ConnectionPool { max_connections, max_streams, connect_timeout, upgrade, ..ConnectionPool::default() };
        world.rules(vec![], bounded(bounds));
        let answers = at_once(&world, 3).await;
        assert!(answers.iter().all(|answer| answer.0 == 200), "{version:?}: {answers:?}");
        assert_eq!(world.dial.dialled.lock().unwrap().len(), 1);
    }
    // Where nobody answers TLS it is over in that time.
    let world = World::new();
    silent(&world).await;
    let tls = UpstreamTls { server_name: Some("a.example".into()), names: vec![], roots: TrustedRoots::Unverified };
    let bounds = ConnectionPool { connect_timeout: Some(Millis(200)), ..ConnectionPool::default() };
    world.rules(vec![once()], TrafficPolicy { tls: Some(tls), ..one_of_http2(bounds) });
    let begun = Instant::now();
    let answers = at_once(&world, 1).await;
    assert_eq!(answers, [(503, Some("UF".into()))]);
    assert!(begun.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_connection_of_bytes_that_ends_lets_a_request_go_on() {
    let world = World::with_server().await;
    world.rules(vec![], bounded(ConnectionPool { max_connections: Some(1), ..ConnectionPool::default() }));
    let session = world.session();
    let snapshot = world.store.snapshot();
    let source = session.source(&snapshot).unwrap();
    let destination = session.destination(&snapshot, &source, &session.own_backend()).unwrap();
    let bytes = destination.pool.place(&destination.cluster).expect("the first");
    assert!(destination.pool.place(&destination.cluster).is_none());
    let end = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(world.dial.dialled.lock().unwrap().is_empty());
        drop(bytes);
    };
    let (answered, ()) = tokio::join!(world.status("/"), end);
    assert_eq!(answered, (200, None));
}

#[tokio::test]
async fn who_waits_for_the_same_connection_is_told_when_it_cannot_be_had() {
    let world = World::new();
    silent(&world).await;
    let tls = UpstreamTls { server_name: Some("a.example".into()), names: vec![], roots: TrustedRoots::Unverified };
    let bounds = ConnectionPool { connect_timeout: Some(Millis(400)), ..ConnectionPool::default() };
    world.rules(vec![once()], TrafficPolicy { tls: Some(tls), ..one_of_http2(bounds) });
    let answers = at_once(&world, 5).await;
    assert!(answers.iter().all(|answer| *answer == (503, Some("UF".into()))), "{answers:?}");
    assert_eq!(world.dial.dialled.lock().unwrap().len(), 1, "not one after the other");
}

#[tokio::test]
async fn a_connection_that_takes_longer_than_a_try_serves_the_next() {
    for upgrade in [HttpUpgrade::Never, HttpUpgrade::Always] {
        let world = World::new();
        match upgrade {
            HttpUpgrade::Always => world.server2(|_| answer(200, "")).await,
            _ => world.server(|_| answer(200, "")).await,
        };
        *world.dial.pause.lock().unwrap() = Duration::from_millis(300);
        let route = HttpRoute { try_timeout: Some(Millis(100)), ..once() };
        world.rules(vec![route], bounded(ConnectionPool { upgrade, ..ConnectionPool::default() }));
        assert_eq!(world.status("/").await, (504, Some("UT".into())));
        until(|| world.dial.made.load(Ordering::SeqCst) > 0).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(world.status("/").await, (200, None), "{upgrade:?}");
        assert_eq!(world.dial.dialled.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_connection_that_ends_at_once_is_told_and_not_made_again() {
    for upgrade in [HttpUpgrade::Never, HttpUpgrade::Always] {
        let world = World::new();
        world.bytes(|_, stream| async move { drop(stream) }).await;
        world.rules(vec![once()], bounded(ConnectionPool { upgrade, ..ConnectionPool::default() }));
        assert_eq!(world.status("/").await.0, 503);
        assert_eq!(world.dial.dialled.lock().unwrap().len(), 1, "{upgrade:?}");
    }
}

#[tokio::test]
async fn nobody_passes_those_who_wait() {
    let world = World::new();
    world.server2(|_| answer(200, "")).await;
    world.rules(vec![], one_of_http2(ConnectionPool { max_streams: Some(1), ..ConnectionPool::default() }));
    let (session, snapshot) = (world.session(), world.store.snapshot());
    let source = session.source(&snapshot).unwrap();
    let destination = session.destination(&snapshot, &source, &session.own_backend()).unwrap();
    let lease = || {
        let (destination, connect) = (Arc::clone(&destination), world.dial.clone());
        async move {
            let (endpoint, policy) = (Arc::clone(&destination.endpoints()[0]), destination.policy());
            let (version, settings) = (pool::Version::Http2, &policy.pool);
            let wanted = pool::Wanted { endpoint: &endpoint, version, settings, tls: None };
            destination.pool.lease(&destination.cluster, wanted, &connect).await
        }
    };
    let first = lease().await.expect("a connection");
    let waiting = tokio::spawn(lease());
    until(|| destination.cluster.counts(Instant::now()).waiting == 1).await;
    drop(first);
    // It asks before the other has looked.
    let mut newcomer = pin!(lease());
    assert!(tokio::time::timeout(Duration::ZERO, newcomer.as_mut()).await.is_err());
    drop(waiting.await.unwrap().expect("it was the first"));
    newcomer.await.expect("and now the next");
    assert_eq!(world.dial.dialled.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_never_reads_on_keeps_no_place() {
    for (version, upgrade) in [(Version::HTTP_11, HttpUpgrade::Never), (Version::HTTP_2, HttpUpgrade::Always)] {
        // Answers at the head, and leaves the rest of the body where it is.
        let world = World::new();
        match version {
            Version::HTTP_2 => {
                let early = |request: Request<hyper::body::Incoming>| -> BoxFuture<'static, _> {
                    Box::pin(async move {
                        let (parts, body) = request.into_parts();
                        if parts.method == http::Method::POST {
                            tokio::spawn(async move {
                                let _body = body;
                                std::future::pending::<()>().await
                            });
                        }
                        Ok(answer(200, "early"))
                    })
                };
                world.handled(version, early).await;
            }
            _ => {
                world
                    .bytes(|_, mut stream| async move {
                        let _ = stream.read(&mut [0; 512]).await;
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
                        std::future::pending().await
                    })
                    .await;
            }
        }
        // So that the next needs another connection.
        let max_requests_per_connection = Some(1);
        let max_connections = Some(1);
        let bounds =
            ConnectionPool { max_connections, max_requests_per_connection, upgrade, ..ConnectionPool::default() };
        world.rules(vec![once()], bounded(bounds));
        let body: &'static str = "x".repeat(8 << 20).leak();
        let post = Request::post("/").header("host", "cart").body(Full::new(Bytes::from(body))).unwrap();
        let mut client = world.client().await;
        // Whether the answer or the end of its connection comes first for the client is not of interest here.
        let _ = client.send_request(post).await;
        assert_eq!(world.status("/").await, (200, None), "{version:?}");
        assert_eq!(world.dial.dialled.lock().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn with_a_pod_its_resting_connections_end() {
    let world = World::with_server().await;
    assert_eq!(world.status("/").await.0, 200);
    assert_eq!(world.dial.ended.load(Ordering::SeqCst), 0);
    world.http.forget("client");
    until(|| world.dial.ended.load(Ordering::SeqCst) == 1).await;
}
