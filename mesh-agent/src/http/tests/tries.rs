//! Timeouts, and requests that are tried again.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use mesh_common::model::traffic::{
    Algorithm, Backend, Balancing, ConnectionPool, HttpRoute, HttpUpgrade, Millis, Mirror, Outlier, Percent, Retries,
    RetryBudget,
    RetryOn::{self, *},
    TrafficPolicy,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

use super::world::*;
use crate::http::Spoken;

fn retrying(on: &[RetryOn], attempts: u32) -> HttpRoute {
    let retries = Retries { attempts, backoff: Millis(1), max_backoff: Millis(2), ..Retries::of(on.to_vec()) };
    HttpRoute { retries: Some(retries), ..route("r", to_cart()) }
}

fn rules(world: &World, route: HttpRoute) {
    world.rules(vec![route], TrafficPolicy::default());
}

/// Endpoints in turn.
fn in_turn() -> TrafficPolicy {
    TrafficPolicy {
        balancing: Balancing { algorithm: Algorithm::RoundRobin, ..Balancing::default() },
        ..TrafficPolicy::default()
    }
}

/// A server that never answers.
async fn silent(world: &World) {
    world.handled(Version::HTTP_11, |_| Box::pin(std::future::pending())).await;
}

#[tokio::test]
async fn as_many_tries_as_the_words_ask_for() {
    for (on, status, tries) in [
        (&[ServerError][..], 500, 3),
        (&[ServerError], 404, 1),
        (&[GatewayError], 502, 3),
        (&[GatewayError], 500, 1),
        (&[RetriableClientError], 409, 3),
        (&[RetriableClientError], 408, 1),
        (&[Status(418)], 418, 3),
        (&[Status(418)], 417, 1),
        (&[ConnectFailure, RefusedStream, Reset, ResetBeforeRequest], 503, 1),
        (&[ServerError, Status(404)], 200, 1),
    ] {
        let world = World::new();
        world.server(move |_| answer(status, "x")).await;
        rules(&world, retrying(on, 2));
        let post = Request::post("/").header("host", "cart").body("body").unwrap();
        assert_eq!(world.ask(post).await.status, status, "{on:?}");
        assert_eq!(world.log.count(), tries, "{on:?} {status}");
        assert!(world.log.all().iter().all(|seen| &seen.body[..] == b"body"));
        assert_eq!(world.counts("r").retries, tries as u64 - 1);
    }
}

#[tokio::test]
async fn tries_without_an_answer_are_tried_again_if_the_words_say_so() {
    for (on, tries, flag) in [
        (&[Reset][..], 3, "URX"),
        (&[ServerError], 3, "URX"),
        (&[ResetBeforeRequest], 1, "UC"),
        (&[ConnectFailure], 1, "UC"),
    ] {
        let world = World::new();
        let count = std::sync::Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        world
            .bytes(move |_, mut stream| {
                let counted = counted.clone();
                async move {
                    let _ = stream.read(&mut [0; 1024]).await;
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            })
            .await;
        rules(&world, retrying(on, 2));
        assert_eq!(world.status("/").await, (503, Some(flag.into())), "{on:?}");
        assert_eq!(count.load(Ordering::SeqCst), tries, "{on:?}");
    }
    for (on, tries, flag) in [(&[ConnectFailure][..], 3, "URX"), (&[Status(418)], 1, "UF")] {
        let world = World::with_server().await;
        let address = world.http_address(0);
        world.dial.refused.lock().unwrap().push(address);
        rules(&world, retrying(on, 2));
        assert_eq!(world.status("/").await, (503, Some(flag.into())), "{on:?}");
        assert_eq!(world.dial.dialled.lock().unwrap().len(), tries, "{on:?}");
    }
}

#[tokio::test]
async fn another_endpoint_takes_the_next_try() {
    let world = World::new();
    world.server(|_| answer(503, "bad")).await;
    world.server(|_| answer(200, "good")).await;
    world.rules(vec![retrying(&[GatewayError], 1)], TrafficPolicy::default());
    for _ in 0..20 {
        assert_eq!(world.status("/").await.0, 200);
    }
}

#[tokio::test]
async fn outliers_are_told_of_statuses() {
    let world = World::new();
    world.server(|_| answer(503, "bad")).await;
    world.server(|_| answer(200, "good")).await;
    let outlier = Outlier {
        consecutive_5xx: Some(2),
        consecutive_gateway_errors: None,
        consecutive_local_failures: None,
        interval: Millis(60_000),
        base_ejection: Millis(60_000),
        max_ejected: Percent(500_000),
        min_health: Percent(0),
    };
    world.rules(vec![retrying(&[], 0)], TrafficPolicy { outlier: Some(outlier), ..in_turn() });
    for _ in 0..20 {
        world.status("/").await;
    }
    let bad = world.log.all().iter().filter(|seen| seen.server == 0).count();
    assert_eq!(bad, 2, "of twenty");
}

#[tokio::test]
async fn bodies_are_sent_again_byte_by_byte_if_they_are_kept() {
    let world = World::new();
    let (long, longer) = ("a".repeat(64 * 1024), "b".repeat(64 * 1024 + 1));
    world.server(|_| answer(503, "bad")).await;
    rules(&world, retrying(&[ServerError], 1));
    let (long, longer): (&'static str, &'static str) = (long.leak(), longer.leak());
    for (body, tries) in [("", 2), ("short", 2), (long, 2), (longer, 1)] {
        world.log.0.lock().unwrap().clear();
        let post = Request::post("/").header("host", "cart").body(body).unwrap();
        assert_eq!(world.ask(post).await.status, 503);
        let seen = world.log.all();
        assert_eq!(seen.len(), tries, "{} bytes", body.len());
        assert!(seen.iter().all(|seen| seen.body == body.as_bytes()));
        assert!(
            seen.iter()
                .all(|seen| body.is_empty() || seen.headers["content-length"] == body.len().to_string().as_str())
        );
    }
    // In pieces, with trailers, from HTTP/2.
    world.log.0.lock().unwrap().clear();
    let pieces = || {
        let trailers = http::HeaderMap::from_iter([(http::HeaderName::from_static("x-end"), "1".parse().unwrap())]);
        let frames = ["one", "two", "three"].map(|piece| Frame::data(Bytes::from(piece)));
        let frames = frames.into_iter().chain([Frame::trailers(trailers)]);
        StreamBody::new(tokio_stream::iter(frames.map(Ok::<_, Error>)))
    };
    let request = Request::post("http://cart/").header("content-type", "application/grpc").header("te", "trailers");
    let second = World::new();
    second.server2(|_| answer(503, "bad")).await;
    rules(&second, retrying(&[ServerError], 1));
    let sent = second.client2().await.send_request(request.body(pieces()).unwrap()).await.unwrap();
    assert_eq!(sent.status(), 503);
    let seen = second.log.all();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert_eq!(&seen.body[..], b"onetwothree");
        assert_eq!(seen.trailers.expect("trailers")["x-end"], "1");
    }
}

#[tokio::test]
async fn half_a_body_is_never_sent_as_a_whole_one() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let world = World::new();
        let answers = |_| answer(200, "");
        if version == Version::HTTP_2 {
            world.server2(answers).await;
            world.server2(answers).await;
        } else {
            world.server(answers).await;
        }
        let pool = ConnectionPool {
            upgrade: if version == Version::HTTP_2 { HttpUpgrade::Always } else { HttpUpgrade::Never },
            ..ConnectionPool::default()
        };
        let mut tried = retrying(&[Reset, ServerError, GatewayError], 2);
        let backend = Backend { service: cart(), port: None, subset: None };
        tried.mirrors = vec![Mirror { backend, percent: Percent::ALL }];
        world.rules(vec![tried], TrafficPolicy { pool, ..TrafficPolicy::default() });
        let mut client = world.open(Spoken::Http1);
        let half = b"POST / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
        client.write_all(half).await.unwrap();
        until(|| !world.dial.dialled.lock().unwrap().is_empty()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.write_all(b"no length\r\n").await.unwrap();
        let (said, _) = said(&mut client).await;
        assert!(!said.contains(" 200 "), "{version:?}: {said}");
        let counts = world.counts("r");
        assert_eq!((counts.retries, counts.mirrored, counts.flags.get("DC")), (0, 0, Some(&1)), "{version:?}");
        assert_eq!(world.log.count(), 0, "{version:?}: nobody takes it for a whole request");
    }
}

#[tokio::test]
async fn routes_and_tries_have_their_time() {
    let world = World::new();
    silent(&world).await;
    rules(&world, HttpRoute { timeout: Some(Millis(80)), ..route("r", to_cart()) });
    let begun = Instant::now();
    assert_eq!(world.status("/").await, (504, Some("UT".into())));
    assert!(begun.elapsed() >= Duration::from_millis(80));
    // Likewise for one whose end shows by its length.
    let waiting = World::new();
    let read = |request: Request<hyper::body::Incoming>| -> BoxFuture<'static, _> {
        Box::pin(async move {
            request.into_body().collect().await.map_err(Error::other)?;
            std::future::pending().await
        })
    };
    waiting.handled(Version::HTTP_11, read).await;
    rules(&waiting, HttpRoute { timeout: Some(Millis(80)), ..route("r", to_cart()) });
    let post = Request::post("/").header("host", "cart").body("body").unwrap();
    assert_eq!(waiting.ask(post).await.flag(), Some("UT".into()));
    let mut tried = retrying(&[Reset], 2);
    tried.try_timeout = Some(Millis(40));
    rules(&world, tried.clone());
    let begun = Instant::now();
    assert_eq!(world.status("/").await, (504, Some("URX".into())));
    assert!(begun.elapsed() >= Duration::from_millis(120), "three tries");
    assert_eq!(world.counts("r").retries, 2);
    // The route's time ends all tries.
    tried.timeout = Some(Millis(60));
    rules(&world, tried);
    assert_eq!(world.status("/").await, (504, Some("UT".into())));
}

#[tokio::test]
async fn the_routes_time_begins_with_the_requests_end_even_if_the_answer_has_begun() {
    // Answers at once, and never ends; it reads on or does not.
    for reads in [true, false] {
        let world = World::new();
        let endless = move |request: Request<hyper::body::Incoming>| -> BoxFuture<'static, _> {
            Box::pin(async move {
                let (sender, receiver) = mpsc::channel(1);
                let mut body = request.into_body();
                tokio::spawn(async move {
                    sender.send(Ok(Frame::data(Bytes::from("begun")))).await.unwrap();
                    while reads && body.frame().await.is_some() {}
                    sender.closed().await;
                    drop(body);
                });
                Ok(Response::new(BoxBody::new(StreamBody::new(ReceiverStream::new(receiver)))))
            })
        };
        world.handled(Version::HTTP_2, endless).await;
        let pool = ConnectionPool { upgrade: HttpUpgrade::Always, ..ConnectionPool::default() };
        let timed = HttpRoute { timeout: Some(Millis(100)), ..route("r", to_cart()) };
        world.rules(vec![timed], TrafficPolicy { pool, ..TrafficPolicy::default() });
        let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Error>>(1);
        let request = Request::post("http://cart/").body(StreamBody::new(ReceiverStream::new(receiver))).unwrap();
        let response = world.client2().await.send_request(request).await.unwrap();
        let mut body = response.into_body();
        assert_eq!(&body.frame().await.unwrap().unwrap().into_data().unwrap()[..], b"begun");
        sender.send(Ok(Frame::data(Bytes::from("more")))).await.unwrap();
        let early = timeout(Duration::from_millis(400), body.frame()).await;
        assert!(early.is_err(), "the client still sends: {early:?}");
        drop(sender);
        let end = timeout(LONG, body.frame()).await.expect("in time").expect("an end");
        assert!(end.is_err(), "{end:?}");
        until(|| world.counts("r").flags.get("UT") == Some(&1)).await;
    }
}

#[tokio::test]
async fn a_slow_upload_does_not_use_up_the_tries_time() {
    let world = World::with_server().await;
    rules(&world, HttpRoute { timeout: Some(Millis(150)), try_timeout: Some(Millis(100)), ..route("r", to_cart()) });
    let mut client = world.open(Spoken::Http1);
    client.write_all(b"POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 2\r\n\r\na").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.write_all(b"b").await.unwrap();
    let (said, _) = said(&mut client).await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}

#[tokio::test]
async fn retries_have_a_bound_and_a_budget() {
    let limit = TrafficPolicy {
        pool: ConnectionPool { max_retries: Some(0), ..ConnectionPool::default() },
        ..TrafficPolicy::default()
    };
    let budget = TrafficPolicy {
        retry_budget: Some(RetryBudget { percent: Percent(0), min_concurrency: 0 }),
        ..TrafficPolicy::default()
    };
    let one = TrafficPolicy {
        pool: ConnectionPool { max_retries: Some(1), ..ConnectionPool::default() },
        ..TrafficPolicy::default()
    };
    for (policy, tries) in [(limit, 1), (budget, 1), (one, 4)] {
        let world = World::new();
        world.server(|_| answer(500, "x")).await;
        world.rules(vec![retrying(&[ServerError], 3)], policy);
        assert_eq!(world.status("/").await, (500, None));
        assert_eq!(world.log.count(), tries);
    }
}

#[tokio::test]
async fn connections_that_were_closed_meanwhile_are_no_tries() {
    // Answers one request, and closes when the next has come.
    let world = World::new();
    let log = world.log.clone();
    world
        .bytes(move |number, mut stream| {
            let log = log.clone();
            async move {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                if number % 2 == 0 {
                    let _ = stream.read(&mut buffer).await;
                }
                drop(log);
            }
        })
        .await;
    rules(&world, retrying(&[], 0));
    let mut client = world.client::<Full<Bytes>>().await;
    for _ in 0..6 {
        client.ready().await.unwrap();
        let request = get("/").map(Bytes::from).map(Full::new);
        let response: Response<_> = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(world.counts("r").retries, 0);
    // One that may do harm twice is not sent twice.
    let world = World::new();
    world
        .bytes(|_, mut stream| async move {
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            let _ = stream.read(&mut buffer).await;
        })
        .await;
    assert_eq!(world.status("/").await.0, 200);
    let post = Request::post("/").header("host", "cart").body("x").unwrap();
    let answer = world.ask(post).await;
    assert_eq!((answer.status, answer.flag()), (503, Some("UC".into())));
}
