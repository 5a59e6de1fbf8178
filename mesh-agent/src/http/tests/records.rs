//! What is recorded of requests that the agent answered itself, at the client's side.

use std::time::Duration;

use http::{Request, Version};
use mesh_common::model::traffic::{
    Abort, Action, Fault, HttpRoute, Millis, Outlier, Percent, RequestMatch, Retries, RetryOn, TextMatch, TrafficPolicy,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::*;
use crate::telemetry::{Flow, Verdict};

/// The only record, which must be of this request.
fn record(world: &World, path: &str) -> Flow {
    let records = world.flows.newest();
    assert_eq!(records.len(), 1, "{records:?}");
    let record = Flow::clone(&records[0]);
    assert_eq!(record.http.as_ref().expect("of a request").path, path);
    record
}

fn said(record: &Flow) -> (Verdict, &str, &str, u16, &str) {
    let http = record.http.as_ref().expect("of a request");
    let (reason, error) = (record.reason.as_deref().unwrap_or_default(), record.error.as_deref().unwrap_or_default());
    (record.verdict, reason, error, http.status, http.flags.unwrap_or_default())
}

fn retried(on: RetryOn) -> Option<Retries> {
    Some(Retries { attempts: 1, backoff: Millis(1), max_backoff: Millis(2), ..Retries::of(vec![on]) })
}

#[tokio::test]
async fn what_endpoints_answer_is_no_record() {
    let world = World::with_server().await;
    world.rules(vec![route("r", to_cart())], TrafficPolicy::default());
    assert_eq!(world.status("/").await.0, 200);
    assert!(world.flows.newest().is_empty());
}

#[tokio::test]
async fn a_request_without_an_endpoint_says_why() {
    let world = World::new();
    world.rules(vec![route("shop/cart/0", to_cart())], TrafficPolicy::default());
    let request = Request::get("/a?token=secret").header("host", "Cart:80").header("x-request-id", "7");
    assert_eq!(world.ask(request.body("").unwrap()).await.status, 503);
    let flow = record(&world, "/a");
    let (verdict, reason, error, status, flag) = said(&flow);
    assert_eq!((verdict, reason, status, flag), (Verdict::Dropped, "NO_HEALTHY_ENDPOINT", 503, "UH"));
    assert!(error.ends_with("has no endpoint (route shop/cart/0)"), "{error}");
    let http = flow.http.as_ref().unwrap();
    assert_eq!((http.host.as_str(), http.request_id.as_deref()), ("cart:80", Some("7")));
    assert_eq!((flow.source.pod.as_str(), flow.service.as_ref()), ("client", Some(&cart())));
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
        let flow = record(&world, "/x");
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
    let flow = record(&world, "/");
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
    let flow = record(&world, "/");
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
        assert_eq!(record(&world, "/").reason.as_deref(), Some(code));
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
    let flow = record(&world, "/");
    assert!(said(&flow).2.contains("of 1, 1 ejected after failures"), "{flow:?}");
}
