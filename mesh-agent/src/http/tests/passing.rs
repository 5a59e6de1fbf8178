//! Versions, streams, other protocols, and clients that go.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Version};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use mesh_common::model::traffic::{
    Algorithm, Backend, Balancing, ConnectionPool, HashOn, HttpUpgrade, Millis, Mirror, Percent, TrafficPolicy,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::world::*;
use crate::http::{Spoken, serve};

fn http2() -> TrafficPolicy {
    let pool = ConnectionPool { upgrade: HttpUpgrade::Always, ..ConnectionPool::default() };
    TrafficPolicy { pool, ..TrafficPolicy::default() }
}

#[tokio::test]
async fn each_side_has_its_own_version() {
    let world = World::new();
    world.server2(|_| answer(200, "two")).await;
    world.rules(vec![], http2());
    let post = Request::post("/a").header("host", "cart").body("body").unwrap();
    let got = world.ask(post).await;
    assert_eq!((got.version, &got.body[..]), (Version::HTTP_11, &b"two"[..]));
    let seen = world.log.last();
    assert_eq!((seen.version, seen.uri.as_str(), &seen.body[..]), (Version::HTTP_2, "http://cart/a", &b"body"[..]));
    let world = World::with_server().await;
    let got = world.ask2(get2("/a")).await;
    assert_eq!((got.version, world.log.last().version), (Version::HTTP_2, Version::HTTP_11));
    assert_eq!((world.log.last().headers["host"].to_str().unwrap(), got.status), ("cart", 200));
}

#[tokio::test]
async fn answers_without_a_body_stay_so() {
    let world = World::new();
    world
        .server(|seen| match seen.uri.as_str() {
            "/204" => answer(204, ""),
            "/304" => answer(304, ""),
            _ => answer(200, "hello"),
        })
        .await;
    let head = Request::head("/").header("host", "cart").body("").unwrap();
    let got = world.ask(head).await;
    assert_eq!((got.status, got.header("content-length"), got.body.len()), (200, Some("5".into()), 0));
    let head = Request::head("http://cart/").body("").unwrap();
    assert_eq!(world.ask2(head).await.header("content-length"), Some("5".into()));
    for (path, status) in [("/204", 204), ("/304", 304)] {
        assert_eq!(world.ask(get(path)).await.status, status);
        assert_eq!(world.ask2(get2(path)).await.status, status);
    }
    assert_eq!(world.dial.dialled.lock().unwrap().len(), 1, "and the connection is used again");
    // HTTP/1.0: the end of the connection is the body's.
    let (said, ended) = world.raw(b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.0 200 OK\r\n") && said.ends_with("\r\n\r\nhello") && ended, "{said}");
}

#[tokio::test]
async fn a_client_that_has_closed_its_side_is_answered() {
    let world = World::with_server().await;
    let mut client = world.open(Spoken::Http1);
    client.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let (said, ended) = said(&mut client).await;
    assert!(said.ends_with("hello") && ended, "{said}");
}

fn trailers(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())])
}

#[tokio::test]
async fn grpc_passes_both_ways_at_once() {
    // Echoes each piece when it comes, and ends with trailers.
    let world = World::new();
    let echo = |request: Request<hyper::body::Incoming>| -> BoxFuture<'static, _> {
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(1);
            let mut body = request.into_body();
            tokio::spawn(async move {
                while let Some(Ok(frame)) = body.frame().await {
                    let Ok(data) = frame.into_data() else { break };
                    if sender.send(Ok(Frame::data(data))).await.is_err() {
                        return;
                    }
                }
                let _ = sender.send(Ok(Frame::trailers(trailers("grpc-status", "0")))).await;
            });
            let stream = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
            Ok(http::Response::new(BoxBody::new(stream)))
        })
    };
    world.handled(Version::HTTP_2, echo).await;
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Error>>(1);
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let request = Request::post("http://cart/a/b").header("content-type", "application/grpc").header("te", "trailers");
    let mut client = world.client2().await;
    let response = timeout(LONG, client.send_request(request.body(body).unwrap())).await.unwrap().unwrap();
    let mut echoed = response.into_body();
    // More than all buffers on the way hold, one after the other.
    for number in 0..200u8 {
        let piece = Bytes::from(vec![number; 20_000]);
        sender.send(Ok(Frame::data(piece.clone()))).await.unwrap();
        let mut back = Vec::new();
        while back.len() < piece.len() {
            let frame = timeout(LONG, echoed.frame()).await.expect("no deadlock").unwrap().unwrap();
            back.extend_from_slice(frame.data_ref().unwrap());
        }
        assert_eq!(back, piece);
    }
    drop(sender);
    let end = echoed.collect().await.unwrap();
    assert_eq!(end.trailers().expect("trailers")["grpc-status"], "0");
    // A status and nothing else.
    let world = World::new();
    world
        .server2(|_| {
            let mut response = answer(200, "");
            response.headers_mut().insert("grpc-status", "5".parse().unwrap());
            response
        })
        .await;
    let request = Request::post("http://cart/a/b").header("content-type", "application/grpc").body("x").unwrap();
    assert_eq!(world.ask2(request).await.header("grpc-status"), Some("5".into()));
}

/// Answers an upgrade and echoes what comes.
async fn echo(world: &World) {
    world
        .bytes(|_, mut stream| async move {
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            let switching = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nearly";
            let _ = stream.write_all(switching).await;
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        })
        .await;
}

#[tokio::test]
async fn a_connection_becomes_another_protocols_and_is_still_watched() {
    let world = World::new();
    echo(&world).await;
    let mut client = world.open(Spoken::Http1);
    let asked = b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nfirst";
    client.write_all(asked).await.unwrap();
    let (head, _) = said(&mut client).await;
    assert!(
        head.starts_with("HTTP/1.1 101") && head.contains("upgrade: echo") && head.ends_with("earlyfirst"),
        "{head}"
    );
    client.write_all(b"more").await.unwrap();
    assert_eq!(said(&mut client).await, ("more".into(), false));
    assert_eq!(world.dial.ended.load(Ordering::SeqCst), 0, "its record is not written");
    world.dial.denied.notify_waiters();
    assert!(said(&mut client).await.1, "a change that denies ends it");
    assert_eq!(world.dial.ended.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn who_serves_a_client_does_so_until_its_other_protocol_ends() {
    let world = World::new();
    echo(&world).await;
    for leaves in [true, false] {
        let (mut client, server) = duplex(64 * 1024);
        let session = Arc::new(world.session());
        let serving = tokio::spawn(serve(session, server, Spoken::Http1, std::future::pending()));
        let ended = world.dial.ended.load(Ordering::SeqCst);
        let asked = b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nfirst";
        client.write_all(asked).await.unwrap();
        assert!(said(&mut client).await.0.ends_with("earlyfirst"));
        assert!(!serving.is_finished(), "the connection counts");
        if leaves {
            drop(client);
            timeout(LONG, serving).await.expect("it ends with the client").unwrap();
        } else {
            serving.abort();
            assert!(said(&mut client).await.1, "it ends when nobody serves it any more");
        }
        until(|| world.dial.ended.load(Ordering::SeqCst) == ended + 1).await;
    }
}

#[tokio::test]
async fn nobody_changes_protocols_unasked() {
    let world = World::new();
    echo(&world).await;
    let (said, _) = world.raw(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\nGET /2 HTTP/1.1\r\nhost: cart\r\n\r\n").await;
    assert!(!said.contains("101") && !said.contains("early"), "{said}");
    assert!(said.starts_with("HTTP/1.1 50"), "{said}");
}

#[tokio::test]
async fn connect_makes_a_tunnel() {
    let world = World::new();
    world
        .bytes(|_, mut stream| async move {
            let mut buffer = [0; 1024];
            let length = stream.read(&mut buffer).await.unwrap();
            assert!(buffer[..length].starts_with(b"CONNECT other:443 HTTP/1.1\r\n"));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nearly").await;
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        })
        .await;
    let (said, _) = world.raw(b"CONNECT other:443 HTTP/1.1\r\nhost: other:443\r\n\r\nbytes").await;
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\nearlybytes"), "{said}");
}

#[tokio::test]
async fn a_client_that_reads_slowly_holds_up_the_server() {
    for spoken in [Spoken::Http1, Spoken::Http2] {
        let world = World::new();
        let written = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&written);
        world
            .handled(Version::HTTP_11, move |_| {
                let counted = Arc::clone(&counted);
                let pieces = (0..4096).map(move |_| {
                    counted.fetch_add(64 * 1024, Ordering::SeqCst);
                    Ok(Frame::data(Bytes::from(vec![0; 64 * 1024])))
                });
                Box::pin(
                    async move { Ok(http::Response::new(BoxBody::new(StreamBody::new(tokio_stream::iter(pieces))))) },
                )
            })
            .await;
        let _held = match spoken {
            Spoken::Http1 => {
                world.client::<Full<Bytes>>().await.send_request(get("/").map(|b| Full::new(b.into()))).await
            }
            Spoken::Http2 => {
                world.client2::<Full<Bytes>>().await.send_request(get2("/").map(|b| Full::new(b.into()))).await
            }
        };
        tokio::time::sleep(Duration::from_millis(500)).await;
        let written = written.load(Ordering::SeqCst);
        // Two sockets of the kernel and the windows on the way; not the 256 MiB that there are.
        assert!(written < 24 << 20, "{spoken:?}: {written} bytes");
    }
}

#[tokio::test]
async fn a_client_that_goes_takes_its_request_with_it() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let world = World::new();
        let (gone, mut told) = mpsc::channel::<()>(1);
        world
            .handled(version, move |_| {
                let gone = gone.clone();
                Box::pin(async move {
                    let _dropped = gone;
                    std::future::pending().await
                })
            })
            .await;
        if version == Version::HTTP_2 {
            world.rules(vec![], http2());
        }
        let mut client = world.client2::<Full<Bytes>>().await;
        let request =
            tokio::spawn(async move { client.send_request(get2("/").map(|b| Full::new(b.into()))).await.is_ok() });
        until(|| !world.dial.dialled.lock().unwrap().is_empty()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        request.abort();
        until(|| world.http.counts.all().iter().any(|counts| counts.flags == BTreeMap::from([("DC", 1)]))).await;
        assert_eq!(world.counts("").active, 0);
        drop(world);
        // Its server's work ended too.
        let _ = timeout(LONG, told.recv()).await.expect("nobody works for it");
    }
}

#[tokio::test]
async fn a_request_under_way_ends_before_its_connection_does() {
    for spoken in [Spoken::Http1, Spoken::Http2] {
        let world = World::new();
        world
            .handled(Version::HTTP_11, |_| {
                Box::pin(async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Ok(answer(200, "late"))
                })
            })
            .await;
        let (end, ends) = oneshot::channel::<()>();
        let io = TokioIo::new(world.open_until(spoken, async { drop(ends.await) }));
        let request = |request: Request<&'static str>| request.map(|body| Full::new(Bytes::from(body)));
        let (answered, closed) = if spoken == Spoken::Http1 {
            let (mut send, driver) = hyper::client::conn::http1::handshake(io).await.unwrap();
            let driver = tokio::spawn(driver);
            let answered =
                tokio::spawn(async move { send.send_request(request(get("/"))).await.unwrap().collect().await });
            (answered, tokio::spawn(async move { drop(driver.await) }))
        } else {
            let executor = hyper_util::rt::TokioExecutor::new();
            let (mut send, driver) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
            let driver = tokio::spawn(driver);
            let answered =
                tokio::spawn(async move { send.send_request(request(get2("/"))).await.unwrap().collect().await });
            (answered, tokio::spawn(async move { drop(driver.await) }))
        };
        until(|| !world.dial.dialled.lock().unwrap().is_empty()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        end.send(()).unwrap();
        assert_eq!(&answered.await.unwrap().unwrap().to_bytes()[..], b"late", "{spoken:?}");
        timeout(LONG, closed).await.expect("the connection ends").unwrap();
    }
}

fn hashed(on: HashOn) -> TrafficPolicy {
    let balancing = Balancing { algorithm: Algorithm::Hash(on), ..Balancing::default() };
    TrafficPolicy { balancing, ..TrafficPolicy::default() }
}

#[tokio::test]
async fn the_same_key_stays_at_an_endpoint() {
    let world = World::new();
    for _ in 0..4 {
        world.server(|_| answer(200, "")).await;
    }
    let used =
        |world: &World| world.log.all().iter().map(|seen| seen.server).collect::<std::collections::BTreeSet<_>>();
    world.rules(vec![], hashed(HashOn::Header("x-user".into())));
    for _ in 0..10 {
        let request = Request::get("/").header("host", "cart").header("x-user", "ann").body("").unwrap();
        world.ask(request).await;
    }
    assert_eq!(used(&world).len(), 1);
    world.log.0.lock().unwrap().clear();
    let cookie = |ttl| HashOn::Cookie { name: "stay".into(), path: Some("/".into()), ttl };
    world.rules(vec![], hashed(cookie(Some(Millis(2500)))));
    let set = world.ask(get("/")).await.header("set-cookie").expect("a cookie");
    let value = set.strip_suffix("; Max-Age=3; Path=/; HttpOnly").expect(&set).to_owned();
    for _ in 0..10 {
        let request =
            Request::get("/").header("host", "cart").header("cookie", format!("a=b; {value}")).body("").unwrap();
        assert_eq!(world.ask(request).await.header("set-cookie"), None, "it has one");
    }
    assert_eq!(used(&world).len(), 1, "the first request went there too");
    world.rules(vec![], hashed(cookie(Some(Millis(0)))));
    assert!(!world.ask(get("/")).await.header("set-cookie").unwrap().contains("Max-Age"), "for the session");
    world.rules(vec![], hashed(cookie(None)));
    assert_eq!(world.ask(get("/")).await.header("set-cookie"), None);
}

fn mirrored() -> mesh_common::model::traffic::HttpRoute {
    let backend = Backend { service: cart(), port: None, subset: None };
    let mut mirrored = route("r", to_cart());
    mirrored.mirrors = vec![Mirror { backend, percent: Percent::ALL }];
    mirrored
}

#[tokio::test]
async fn copies_are_sent_once_and_nobody_waits_for_them() {
    let world = World::new();
    world.server(|_| answer(200, "")).await;
    world.rules(vec![mirrored()], TrafficPolicy::default());
    let post = Request::post("/a?b").header("host", "cart:81").header("x", "y").body("body").unwrap();
    assert_eq!(world.ask(post).await.status, 200);
    world.log.reaches(2).await;
    let all = world.log.all();
    let copy = all.iter().find(|seen| seen.headers["host"] == "cart-shadow:81").expect("a copy");
    assert_eq!((copy.method.as_str(), copy.uri.as_str(), &copy.body[..]), ("POST", "/a?b", &b"body"[..]));
    assert_eq!((&copy.headers["x"], &copy.headers["content-length"]), (&"y".parse().unwrap(), &"4".parse().unwrap()));
    assert!(all.iter().any(|seen| seen.headers["host"] == "cart:81"));
    until(|| world.counts("r").mirrored == 1).await;
    // One that never answers.
    let world = World::new();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    world
        .handled(Version::HTTP_11, move |request| {
            let copy = request.headers()["host"].to_str().unwrap().ends_with("-shadow");
            counted.fetch_add(usize::from(copy), Ordering::SeqCst);
            Box::pin(async move { if copy { Err(Error::other("no answer")) } else { Ok(answer(200, "")) } })
        })
        .await;
    world.rules(vec![mirrored()], TrafficPolicy::default());
    assert_eq!(world.status("/").await.0, 200);
    until(|| count.load(Ordering::SeqCst) == 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(count.load(Ordering::SeqCst), 1, "never tried again");
}

#[tokio::test]
async fn a_copy_that_cannot_be_whole_holds_up_nobody() {
    // Answers before it has read everything, and closes.
    let world = World::new();
    world
        .bytes(|_, mut stream| async move {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        })
        .await;
    world.rules(vec![mirrored()], TrafficPolicy::default());
    let mut client = world.open(Spoken::Http1);
    client.write_all(b"POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
    let begun = Instant::now();
    let mut all = Vec::new();
    timeout(LONG, client.read_to_end(&mut all)).await.expect("in time").unwrap();
    assert!(all.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&all));
    assert!(begun.elapsed() < Duration::from_secs(10), "the client's connection waited for the copy");
    assert_eq!((world.counts("r").mirrored, world.dial.dialled.lock().unwrap().len()), (0, 1), "none was sent");
    // Nor is one counted that found nobody.
    let world = World::with_server().await;
    let address = world.http_address(0);
    world.rules(vec![mirrored()], TrafficPolicy::default());
    world.dial.refused.lock().unwrap().push(address);
    assert_eq!(world.status("/").await.0, 503);
    // Three tries and a copy.
    until(|| world.dial.dialled.lock().unwrap().len() == 4).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(world.counts("r").mirrored, 0);
}
