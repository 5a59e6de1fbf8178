//! What is recorded of requests at the destination's side: one record each, however they end.

use std::sync::OnceLock;

use mesh_common::model::{Action, Denied, Reason, telemetry::Requests};

use super::{
    authorization::{Judge, WEB, policy, prefix, rule},
    *,
};
use crate::telemetry::{HttpRequest, Verdict};

/// All of them, which must be as many.
async fn records(flows: &FlowLog, count: usize) -> Vec<Arc<Flow>> {
    let written = async {
        while flows.newest().len() < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(SOON, written).await.unwrap_or_else(|_| panic!("{:?}", flows.newest()));
    let records = flows.newest();
    assert_eq!(records.len(), count, "{records:?}");
    records
}

fn of(flow: &Flow) -> &HttpRequest {
    flow.http.as_deref().expect("of a request")
}

#[tokio::test]
async fn every_request_has_one_record_with_who_permitted_it() {
    for spoken in [Spoken::Http1, Spoken::Http2] {
        let judge = Judge::new(vec![policy("read", Action::Allow, vec![rule("web", &["PUT"], prefix("/api/"))])]);
        let answer = |request: Request<Incoming>| async {
            request.into_body().collect().await.unwrap();
            Response::new(text("hello"))
        };
        let app = App::new(answer, spoken).await;
        let client = judge.client(&app, spoken, WEB).await;
        let ask = |path: &str| {
            let mut request = if spoken == Spoken::Http1 { get(path) } else { over2(path) };
            *request.method_mut() = http::Method::PUT;
            *request.body_mut() = text("12345678");
            request.headers_mut().insert("x-request-id", HeaderValue::from_static("mine"));
            request
        };
        let mut statuses = Vec::new();
        match spoken {
            Spoken::Http1 => {
                let mut send = http1(client).await;
                for path in ["/api/a", "/else"] {
                    let answer = send.send_request(ask(path)).await.unwrap();
                    statuses.push(answer.status().as_u16());
                    read(answer).await;
                }
            }
            Spoken::Http2 => {
                let mut send = http2(client).await;
                for path in ["/api/a", "/else"] {
                    let answer = send.send_request(ask(path)).await.unwrap();
                    statuses.push(answer.status().as_u16());
                    read(answer).await;
                }
            }
        }
        assert_eq!(statuses, [200, 403]);
        let records = records(judge.flows(), 2).await;
        let [passed, refused] = &records[..] else { panic!("two") };
        assert_eq!((passed.verdict, passed.reason.as_deref(), passed.rule), (Verdict::Forwarded, None, Some(0)));
        assert_eq!(passed.policy.as_ref().map(ToString::to_string).as_deref(), Some("shop/read"));
        assert!(passed.asked.is_some(), "it can be explained");
        assert_eq!((passed.sent, passed.received), (8, 5));
        assert_eq!(passed.direction, Direction::Inbound);
        assert_eq!(passed.told.as_ref().map(|pod| pod.name.as_str()), Some("a"));
        let HttpRequest { method, path, host, status, flags, request_id, .. } = of(passed);
        assert_eq!((method.as_str(), path.as_str(), host.as_str()), ("PUT", "/api/a", "cart:8080"));
        assert_eq!((*status, *flags, request_id.as_deref()), (200, None, Some("mine")));
        assert_eq!((refused.verdict, refused.reason.as_deref()), (Verdict::Dropped, Some("POLICY_NO_ALLOW")));
        assert_eq!((of(refused).status, of(refused).flags), (403, Some("UAEX")));
    }
}

#[tokio::test]
async fn limits_and_applications_that_fail_are_told_on_that_record() {
    let app = App::new(|_| async { Response::new(text("hello")) }, Spoken::Http1).await;
    let (store, http, flows) = (Arc::default(), Arc::default(), FlowLog::new(Default::default()));
    limited(&store, vec![limit(1)]);
    let (client, _) = joined(&store, &http, app.address, Spoken::Http1, None, &flows).await;
    let mut send = http1(client).await;
    for status in [200, 429] {
        let answer = send.send_request(get("/")).await.unwrap();
        assert_eq!(answer.status(), status);
        read(answer).await;
    }
    let seen = records(&flows, 2).await;
    assert_eq!((seen[1].verdict, seen[1].reason.as_deref()), (Verdict::Dropped, Some("RATE_LIMITED")));
    assert_eq!((of(&seen[1]).flags, seen[1].policy.clone()), (Some("RL"), None));

    // It takes the request and goes.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let half = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
            let _ = stream.write_all(half).await;
        }
    });
    let flows = FlowLog::new(Default::default());
    limited(&store, Vec::new());
    let (client, _) = joined(&store, &http, address, Spoken::Http1, None, &flows).await;
    let answer = http1(client).await.send_request(get("/")).await.unwrap();
    assert!(answer.into_body().collect().await.is_err());
    let seen = records(&flows, 1).await;
    assert_eq!((seen[0].verdict, seen[0].reason.as_deref(), seen[0].received), (Verdict::Error, Some("RESET"), 4));
    assert_eq!((of(&seen[0]).status, of(&seen[0]).flags), (200, Some("UC")));
}

#[tokio::test]
async fn messages_of_grpc_are_counted_both_ways() {
    let answer = |request: Request<Incoming>| async {
        let sent = request.into_body().collect().await.unwrap().to_bytes();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("8"));
        let frames = [Ok(hyper::body::Frame::data(sent)), Ok(hyper::body::Frame::trailers(trailers))];
        let mut response = Response::new(BoxBody::new(StreamBody::new(tokio_stream::iter(frames))));
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        response
    };
    let judge = Judge::new(Vec::new());
    let app = App::new(answer, Spoken::Http2).await;
    let mut send = http2(judge.client(&app, Spoken::Http2, WEB).await).await;
    let mut call = over2("/shop.Cart/Add");
    *call.method_mut() = http::Method::POST;
    *call.body_mut() = text("\0\0\0\0\u{3}abc\0\0\0\0\0");
    call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc+proto"));
    send.send_request(call).await.unwrap().into_body().collect().await.unwrap();
    let seen = records(judge.flows(), 1).await;
    let HttpRequest { grpc, grpc_status, messages, status, .. } = of(&seen[0]);
    assert_eq!((*grpc, *grpc_status, *messages, *status), (true, Some(8), (2, 2), 200));
}

#[tokio::test]
async fn a_connection_that_is_denied_says_so_of_its_requests() {
    for spoken in [Spoken::Http1, Spoken::Http2] {
        let (seen, mut sees) = mpsc::unbounded_channel();
        let answer = move |_| {
            seen.send(()).unwrap();
            std::future::pending()
        };
        let app = App::new(answer, spoken).await;
        let (store, http, flows) = (Arc::default(), Arc::default(), FlowLog::new(Default::default()));
        limited(&store, Vec::new());
        let denies = Arc::new(tokio::sync::Notify::new());
        let denied = {
            let (denies, store) = (Arc::clone(&denies), Arc::clone(&store));
            async move {
                denies.notified().await;
                let (outcome, generation) =
                    (Err(Denied::without_policy(Reason::PolicyUnknown)), store.snapshot().generation());
                Decision { outcome, observations: Vec::new(), asked: None, generation }
            }
        };
        let (client, agent) = joined_until(&store, &http, app.address, spoken, None, &flows, denied).await;
        let asked = tokio::spawn(async move {
            match spoken {
                Spoken::Http1 => http1(client).await.send_request(get("/a")).await.map(drop),
                Spoken::Http2 => http2(client).await.send_request(over2("/a")).await.map(drop),
            }
        });
        timeout(SOON, sees.recv()).await.unwrap().unwrap();
        denies.notify_one();
        timeout(SOON, agent).await.unwrap().unwrap();
        let seen = records(&flows, 1).await;
        assert_eq!((seen[0].verdict, seen[0].reason.as_deref()), (Verdict::Dropped, Some("POLICY_UNKNOWN")));
        let _ = timeout(SOON, asked).await.unwrap();
        records(&flows, 1).await;
    }
}

#[tokio::test]
async fn what_is_only_seen_reaches_the_application_as_it_was() {
    let heard: Arc<OnceLock<HeaderMap>> = Arc::default();
    let hears = Arc::clone(&heard);
    let answer = move |request: Request<Incoming>| {
        let _ = hears.set(request.headers().clone());
        async { Response::new(text("hello")) }
    };
    let app = App::new(answer, Spoken::Http1).await;
    let (store, http, flows): (Arc<Store>, _, _) = (Arc::default(), Arc::default(), FlowLog::new(Default::default()));
    limited(&store, Vec::new());
    let pod = LocalPod::clone(store.snapshot().local_pod("shop", "a").expect("its pod"));
    let telemetry = mesh_common::model::telemetry::Telemetry { requests: Requests::Seen, ..Default::default() };
    put(&store, [Object::LocalPod(LocalPod { telemetry, ..pod })]);
    let (client, _) = joined(&store, &http, app.address, Spoken::Http1, None, &flows).await;
    let mut request = get("/");
    // Of a gateway that it trusts.
    request.headers_mut().insert("x-forwarded-for", HeaderValue::from_static("192.0.2.7"));
    read(http1(client).await.send_request(request).await.unwrap()).await;
    let heard = heard.get().expect("it was asked");
    assert_eq!(heard["x-forwarded-for"], "192.0.2.7");
    assert_eq!(records(&flows, 1).await[0].verdict, Verdict::Forwarded);
}
