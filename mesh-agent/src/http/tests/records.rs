//! What is recorded of requests at the client's side: one record each, however they end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use mesh_common::model::traffic::{
    Abort, Action, Fault, HttpRoute, Millis, Mirror, Outlier, Percent, RequestMatch, Retries, RetryOn, TextMatch,
    TrafficPolicy,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::world::*;
use crate::{
    http::Spoken,
    telemetry::{Flow, FlowLog, HttpRequest, Sinks, Verdict},
};

/// The only record, which must be of this request.
async fn record(world: &World, path: &str) -> Flow {
    let records = records(world, 1).await;
    assert_eq!(records[0].http.as_ref().expect("of a request").path, path);
    Flow::clone(&records[0])
}

/// All of them, which must be as many. A record is written when its answer has gone, which its client may know before.
async fn records(world: &World, count: usize) -> Vec<Arc<Flow>> {
    until(|| world.flows.newest().len() >= count).await;
    let records = world.flows.newest();
    assert_eq!(records.len(), count, "{records:?}");
    records
}

fn said(record: &Flow) -> (Verdict, &str, &str, u16, &str) {
    let http = record.http.as_ref().expect("of a request");
    let (reason, error) = (record.reason.as_deref().unwrap_or_default(), record.error.as_deref().unwrap_or_default());
    (record.verdict, reason, error, http.status, http.flags.unwrap_or_default())
}

fn retried(on: RetryOn) -> Option<Retries> {
    Some(Retries { attempts: 1, backoff: Millis(1), max_backoff: Millis(2), ..Retries::of(vec![on]) })
}

/// Says that it is one of gRPC.
fn grpc(body: Out) -> Response<Out> {
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn message(length: u8) -> Vec<u8> {
    [vec![0, 0, 0, 0, length], vec![7; length.into()]].concat()
}

#[tokio::test]
async fn what_endpoints_answer_is_one_record_with_who_answered_what() {
    for (status, body) in [(200, "hello"), (404, "nothing"), (503, ""), (204, "")] {
        let world = World::new();
        world.server(move |_| answer(status, body)).await;
        world.rules(vec![route("shop/cart/0", to_cart())], TrafficPolicy::default());
        let request = Request::put("/a?key=secret").header("host", "cart").header("user-agent", "x").body("12345");
        assert_eq!(world.ask(request.unwrap()).await.status, status);
        let flow = record(&world, "/a").await;
        assert_eq!((flow.verdict, flow.reason.as_deref(), flow.error.as_deref()), (Verdict::Forwarded, None, None));
        assert_eq!((flow.sent, flow.received), (5, body.len() as u64));
        assert_eq!(flow.destination.address, Some(world.http_address(0)));
        assert_eq!((flow.source.pod.as_str(), flow.destination.pod.as_str()), ("client", "w0"));
        assert_eq!((flow.security, flow.path), (USED.security, USED.path));
        assert!(flow.start <= flow.end && flow.end.duration_since(flow.start).unwrap() < LONG);
        let http = flow.http.unwrap();
        let HttpRequest { method, host, status: told, version, flags, route, retries, grpc, .. } = *http;
        assert_eq!((method.as_str(), host.as_str(), told, version, flags), ("PUT", "cart", status, "HTTP/1.1", None));
        assert_eq!((route.as_deref(), retries, grpc), (Some("shop/cart/0"), 0, false));
    }
}

#[tokio::test]
async fn grpc_has_its_status_and_its_messages() {
    let world = World::new();
    world
        .handled(Version::HTTP_2, |request| {
            Box::pin(async move {
                let head = request.headers().get("x-head").is_some();
                let sent = request.into_body().collect().await.map_err(Error::other)?.to_bytes();
                if head {
                    let mut response = grpc(text(""));
                    response.headers_mut().insert("grpc-status", HeaderValue::from_static("5"));
                    return Ok(response);
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("14"));
                let frames = [Ok(Frame::data(sent)), Ok(Frame::trailers(trailers))];
                Ok(grpc(BodyExt::boxed(StreamBody::new(tokio_stream::iter(frames)))))
            })
        })
        .await;
    world.rules(vec![route("r", to_cart())], TrafficPolicy::default());
    let body = [message(0), message(9), message(200)].concat();
    for (head, status, back) in [(false, 14, 3), (true, 5, 0)] {
        let mut call = Request::post("http://cart/shop.Cart/Add").header("content-type", "application/grpc");
        if head {
            call = call.header("x-head", "1");
        }
        let mut client = world.client2().await;
        let answer = client.send_request(call.body(Full::new(Bytes::from(body.clone()))).unwrap()).await.unwrap();
        answer.into_body().collect().await.unwrap();
        let number = if head { 2 } else { 1 };
        let flow = Flow::clone(records(&world, number).await.last().unwrap());
        let http = flow.http.unwrap();
        assert_eq!((http.grpc, http.status, http.grpc_status), (true, 200, Some(status)));
        assert_eq!((http.messages, flow.sent), ((3, back), body.len() as u64));
        assert_eq!(http.version, "HTTP/2");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_says_who_broke_it() {
    let world = World::new();
    world
        .bytes(|_, mut stream| async move {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
        })
        .await;
    world.rules(vec![route("r", to_cart())], TrafficPolicy::default());
    let mut client = world.client().await;
    let half = client.send_request(get("/half").map(Full::<Bytes>::from)).await.unwrap();
    assert!(half.into_body().collect().await.is_err());
    let flow = record(&world, "/half").await;
    assert_eq!(said(&flow), (Verdict::Error, "RESET", "the answer broke off", 200, "UC"));
    assert_eq!(flow.received, 4);

    let world = World::new();
    world
        .handled(Version::HTTP_11, |_| {
            Box::pin(async {
                let first = tokio_stream::once(Ok(Frame::data(Bytes::from_static(b"first"))));
                let never = tokio_stream::pending();
                Ok(Response::new(BodyExt::boxed(StreamBody::new(tokio_stream::StreamExt::chain(first, never)))))
            })
        })
        .await;
    world.rules(vec![route("r", to_cart())], TrafficPolicy::default());
    let mut client = world.client2().await;
    let mut body = client.send_request(get2("/gone").map(Full::<Bytes>::from)).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok());
    drop(body);
    let flow = record(&world, "/gone").await;
    assert_eq!(said(&flow), (Verdict::Forwarded, "", "the client went before the answer was over", 200, "DC"));
    assert_eq!(flow.received, 5);
}

/// Over HTTP/1.1 nobody knows whether a client that closes goes on reading: it is answered.
#[tokio::test]
async fn a_client_that_does_not_wait_has_a_record_without_an_answer() {
    let world = World::new();
    let asked = Arc::new(tokio::sync::Notify::new());
    let asks = Arc::clone(&asked);
    let never = move |_| -> BoxFuture<'static, _> {
        asks.notify_one();
        Box::pin(std::future::pending())
    };
    world.handled(Version::HTTP_11, never).await;
    world.rules(vec![route("r", to_cart())], TrafficPolicy::default());
    let mut client = world.client2().await;
    tokio::select! {
        _ = client.send_request(get2("/x").map(Full::<Bytes>::from)) => panic!("there is no answer"),
        () = asked.notified() => {}
    }
    let flow = record(&world, "/x").await;
    assert_eq!(said(&flow), (Verdict::Forwarded, "", "the client went before the answer was over", 0, "DC"));
    assert_eq!(flow.destination.address, Some(world.http_address(0)), "it was asked");
}

#[tokio::test]
async fn what_becomes_another_protocol_ends_with_its_connection() {
    let world = World::new();
    world
        .bytes(|_, mut stream| async move {
            let _ = stream.read(&mut [0; 1024]).await;
            let head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
            stream.write_all(head).await.unwrap();
            let mut words = [0; 4];
            stream.read_exact(&mut words).await.unwrap();
            stream.write_all(b"echoed").await.unwrap();
        })
        .await;
    world.rules(vec![route("r", to_cart())], TrafficPolicy::default());
    let mut client = world.open(Spoken::Http1);
    client.write_all(b"GET /ws HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await.unwrap();
    let mut head = [0; 1024];
    let length = client.read(&mut head).await.unwrap();
    assert!(head[..length].starts_with(b"HTTP/1.1 101"));
    assert!(world.flows.newest().is_empty(), "it goes on");
    client.write_all(b"ping").await.unwrap();
    let mut words = [0; 6];
    client.read_exact(&mut words).await.unwrap();
    drop(client);
    let flow = record(&world, "/ws").await;
    assert_eq!((flow.sent, flow.received), (4, 6));
    assert_eq!(said(&flow), (Verdict::Forwarded, "", "", 101, ""));
}

#[tokio::test]
async fn an_id_is_kept_if_it_is_sane_and_made_otherwise() {
    let world = World::with_server().await;
    world.rules(vec![route("r", to_cart())], TrafficPolicy::default());
    let long = "x".repeat(129);
    for (ids, kept) in [(&["7"][..], true), (&[], false), (&["a b"], false), (&["1", "2"], false), (&[&long], false)] {
        let ask = ids.iter().fold(Request::get("/").header("host", "cart"), |ask, id| ask.header("x-request-id", *id));
        let answer = world.ask(ask.body("").unwrap()).await;
        assert_eq!(answer.header("x-request-id"), None, "an answer says nothing of it");
        let passed: Vec<_> = world.log.last().headers.get_all("x-request-id").iter().cloned().collect();
        assert_eq!(passed.len(), 1, "{ids:?}");
        let passed = passed[0].to_str().unwrap().to_owned();
        assert_eq!(ids.contains(&passed.as_str()), kept, "{ids:?} {passed}");
        assert!(kept || passed.len() == 36, "{passed}");
        until(|| {
            world.flows.newest().last().is_some_and(|f| f.http.as_ref().unwrap().request_id == Some(passed.clone()))
        })
        .await;
    }
}

#[tokio::test]
async fn tries_have_one_place_in_a_trace_and_copies_no_record() {
    let mut world = World::new();
    world.flows = FlowLog::new(Sinks { traced: Some(Percent::ALL), ..Sinks::default() });
    let failed = AtomicBool::new(false);
    world
        .server(move |seen| {
            let is_copy = seen.headers["host"].to_str().unwrap().ends_with("-shadow");
            answer(if is_copy || failed.swap(true, Ordering::SeqCst) { 200 } else { 503 }, "x")
        })
        .await;
    let mirrored = HttpRoute {
        mirrors: vec![Mirror { backend: world.session().own_backend(), percent: Percent::ALL }],
        retries: Some(Retries { attempts: 3, backoff: Millis(1), ..retried(RetryOn::ServerError).unwrap() }),
        ..route("r", to_cart())
    };
    world.rules(vec![mirrored], TrafficPolicy::default());
    let mut ask = Request::get("/").header("host", "cart");
    ask = ask.header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    world.ask(ask.body("").unwrap()).await;
    let flow = record(&world, "/").await;
    let http = flow.http.as_ref().unwrap();
    let trace = http.trace.expect("it has one");
    assert_eq!((trace.trace, trace.parent), (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, Some(0xb7ad_6b71_6920_3331)));
    let tries = world.log.all();
    assert_eq!((http.retries, http.status, http.flags), (1, 200, None));
    let parent = format!("00-{:032x}-{:016x}-01", trace.trace, trace.span);
    assert!(tries.iter().all(|seen| seen.headers["traceparent"] == parent.as_str()), "{tries:?}");
    world.log.reaches(3).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    records(&world, 1).await;
}

#[tokio::test]
async fn who_looks_sees_headers_and_the_records_keep_none() {
    let world = World::with_server().await;
    world.rules(vec![route("r", to_cart())], TrafficPolicy::default());
    world.status("/before").await;
    records(&world, 1).await;
    let mut tap = world.flows.tap();
    assert_eq!(world.flows.taps(), 1);
    let mut ask = Request::get("/seen").header("host", "cart").header("x-a", "1");
    for number in 0..80 {
        ask = ask.header(format!("x-{number}"), "y".repeat(50));
    }
    world.ask(ask.body("").unwrap()).await;
    let seen = timeout(LONG, tap.next()).await.unwrap().unwrap();
    assert_eq!(seen.flow.http.as_ref().unwrap().path, "/seen");
    let headers = seen.headers.as_ref().expect("somebody looks");
    assert!(headers.request.contains(&("x-a".into(), b"1".to_vec())), "{headers:?}");
    assert!(headers.request.len() <= 64);
    assert!(headers.answer.contains(&("content-length".into(), b"5".to_vec())), "{headers:?}");
    drop(tap);
    assert_eq!(world.flows.taps(), 0);
}

#[tokio::test]
async fn a_request_without_an_endpoint_says_why() {
    let world = World::new();
    world.rules(vec![route("shop/cart/0", to_cart())], TrafficPolicy::default());
    let request = Request::get("/a?token=secret").header("host", "Cart:80").header("x-request-id", "7");
    assert_eq!(world.ask(request.body("").unwrap()).await.status, 503);
    let flow = record(&world, "/a").await;
    let (verdict, reason, error, status, flag) = said(&flow);
    assert_eq!((verdict, reason, status, flag), (Verdict::Dropped, "NO_HEALTHY_ENDPOINT", 503, "UH"));
    assert!(error.ends_with("has no endpoint (route shop/cart/0)"), "{error}");
    let http = flow.http.as_ref().unwrap();
    assert_eq!((http.host.as_str(), http.request_id.as_deref()), ("cart:80", Some("7")));
    assert_eq!((flow.source.pod.as_str(), flow.service.as_deref()), ("client", Some(&cart())));
    assert_eq!(flow.destination.address, Some("10.96.0.1:80".parse().unwrap()));
}

#[tokio::test]
async fn what_the_rules_answer_is_named() {
    let aborted =
        Fault { abort: Some(Abort { percent: Percent::ALL, status: Some(418), grpc_status: None }), delay: None };
    let slow = HttpRoute { timeout: Some(Millis(50)), ..route("slow", to_cart()) };
    let none = vec![RequestMatch { method: Some(TextMatch::Exact("PUT".into())), ..Default::default() }];
    for (rule, expected) in [
        (HttpRoute { fault: Some(aborted), ..route("r", to_cart()) }, (Verdict::Dropped, "FAULT_INJECTED", 418, "FI")),
        (slow, (Verdict::Error, "TIMEOUT", 504, "UT")),
        (HttpRoute { matches: none, ..route("put", to_cart()) }, (Verdict::Dropped, "NO_ROUTE", 404, "NR")),
        (route("r", Action::Forward(Vec::new())), (Verdict::Dropped, "NO_BACKEND", 500, "NC")),
        (route("r", to(Some("gone"), 1)), (Verdict::Dropped, "NO_BACKEND", 503, "NC")),
    ] {
        let world = World::new();
        world.handled(Version::HTTP_11, |_| Box::pin(std::future::pending())).await;
        world.rules(vec![rule], TrafficPolicy::default());
        world.status("/x").await;
        let flow = record(&world, "/x").await;
        let (verdict, reason, error, status, flag) = said(&flow);
        assert_eq!((verdict, reason, status, flag), expected, "{error}");
    }
}

#[tokio::test]
async fn tries_that_all_failed_are_counted_and_the_last_is_told() {
    let world = World::new();
    world.server(|_| answer(503, "bad")).await;
    world.rules(
        vec![HttpRoute { retries: retried(RetryOn::ServerError), ..route("r", to_cart()) }],
        TrafficPolicy::default(),
    );
    assert_eq!(world.status("/").await, (503, None), "the endpoint's own answer");
    let flow = record(&world, "/").await;
    let (verdict, reason, error, status, flag) = said(&flow);
    assert_eq!((verdict, reason, status, flag), (Verdict::Error, "RETRIES_EXHAUSTED", 503, "URX"));
    assert_eq!(error, "the answer is 503 Service Unavailable; tried 2 times (route r)");
    assert_eq!(flow.destination.address, Some(world.http_address(0)));

    let world = World::with_server().await;
    world.dial.refused.lock().unwrap().push(world.http_address(0));
    world.rules(
        vec![HttpRoute { retries: retried(RetryOn::ConnectFailure), ..route("r", to_cart()) }],
        TrafficPolicy::default(),
    );
    assert_eq!(world.status("/").await.0, 503);
    let flow = record(&world, "/").await;
    assert_eq!((said(&flow).1, said(&flow).4), ("refused_here", "URX"), "the cause, and that it was tried again");
    assert!(said(&flow).2.contains("no connection to") && said(&flow).2.contains("tried 2 times"), "{flow:?}");
}

#[tokio::test]
async fn an_endpoint_of_another_protocol_is_told_from_one_that_breaks_off() {
    for (words, code) in [(&b"220 mail\r\n"[..], "UPSTREAM_PROTOCOL"), (b"", "RESET")] {
        let world = World::new();
        world
            .bytes(move |_, mut stream| async move {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(words).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            })
            .await;
        world.rules(vec![route("r", to_cart())], TrafficPolicy::default());
        assert_eq!(world.status("/").await.0, 503);
        assert_eq!(record(&world, "/").await.reason.as_deref(), Some(code));
    }
}

#[tokio::test]
async fn who_was_ejected_is_told_from_who_is_not_there() {
    let world = World::new();
    world.server(|_| answer(500, "bad")).await;
    let outlier = Outlier {
        consecutive_5xx: Some(2),
        consecutive_gateway_errors: None,
        consecutive_local_failures: None,
        interval: Millis(60_000),
        base_ejection: Millis(60_000),
        max_ejected: Percent::ALL,
        min_health: Percent(0),
    };
    world.rules(vec![route("r", to_cart())], TrafficPolicy { outlier: Some(outlier), ..TrafficPolicy::default() });
    for _ in 0..2 {
        assert_eq!(world.status("/").await.0, 500);
    }
    assert_eq!(world.status("/").await, (503, Some("UH".into())));
    let flow = Flow::clone(records(&world, 3).await.last().unwrap());
    assert!(said(&flow).2.contains("of 1, 1 ejected after failures"), "{flow:?}");
}
