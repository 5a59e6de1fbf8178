//! What is under way is asked again when the configuration changes or a token is over, and ends on both sides.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use mesh_common::model::{
    Action, Clause, HeaderCondition, HttpMatch, Match, PathPattern, Rule, StringMatch, traffic::TokenRule,
};

use super::{
    authorization::{Judge, WEB, policy, prefix, rule},
    *,
};
use crate::telemetry::Verdict;

/// A body that is sent piece by piece.
fn fed() -> (mpsc::Sender<Bytes>, Body) {
    let (pieces, feed) = mpsc::channel::<Bytes>(1);
    let feed = tokio_stream::wrappers::ReceiverStream::new(feed);
    (pieces, BoxBody::new(StreamBody::new(tokio_stream::StreamExt::map(feed, |one| Ok(hyper::body::Frame::data(one))))))
}

/// A request whose body goes on, as its client has it.
fn post(spoken: Spoken, path: &str, body: Body) -> Request<Body> {
    let mut request = if spoken == Spoken::Http1 { get(path) } else { over2(path) };
    *request.method_mut() = http::Method::POST;
    *request.body_mut() = body;
    request
}

/// An application that tells of each piece of a body, and of its end: `None` if it broke off.
async fn reader(spoken: Spoken, echoes: bool) -> (App, mpsc::UnboundedReceiver<Option<Bytes>>) {
    let (heard, hears) = mpsc::unbounded_channel();
    let app = App::new(
        move |request| {
            let heard = heard.clone();
            let (back, body) = fed();
            let read = async move {
                let mut sent = request.into_body();
                while let Some(Ok(frame)) = sent.frame().await {
                    let piece = frame.into_data().unwrap();
                    heard.send(Some(piece.clone())).unwrap();
                    if echoes {
                        // The agent may have let go of the answer.
                        let _ = back.send(piece).await;
                    }
                }
                let _ = heard.send(None);
            };
            async move {
                if echoes {
                    tokio::spawn(read);
                    let mut response = Response::new(body);
                    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
                    return response;
                }
                read.await;
                Response::new(text("all"))
            }
        },
        spoken,
    )
    .await;
    (app, hears)
}

fn posts(paths: &[&str]) -> Object {
    policy("read", Action::Allow, paths.iter().map(|path| rule("web", &["POST", "GET"], prefix(path))).collect())
}

#[tokio::test]
async fn an_upload_that_is_denied_later_ends_at_the_application_too() {
    for spoken in [Spoken::Http1, Spoken::Http2] {
        let judge = Judge::new(vec![posts(&["/a"])]);
        let (app, mut hears) = reader(spoken, false).await;
        let client = judge.client(&app, spoken, WEB).await;
        let (pieces, body) = fed();
        let request = post(spoken, "/a", body);
        let answer = tokio::spawn(async move {
            match spoken {
                Spoken::Http1 => http1(client).await.send_request(request).await,
                Spoken::Http2 => http2(client).await.send_request(request).await,
            }
        });
        pieces.send(Bytes::from_static(b"one")).await.unwrap();
        assert_eq!(timeout(SOON, hears.recv()).await.unwrap().unwrap().unwrap(), "one");
        put(&judge.store, [posts(&["/b"])]);
        let refused = timeout(SOON, answer).await.unwrap().unwrap().unwrap();
        assert_eq!(
            (refused.status().as_u16(), refused.headers()["nodemesh-reason"].as_bytes()),
            (403, &b"POLICY_NO_ALLOW"[..])
        );
        let _ = timeout(SOON, pieces.send(Bytes::from_static(b"two"))).await;
        assert_eq!(timeout(SOON, hears.recv()).await.expect("it goes on"), Some(None), "{spoken:?}");
        assert_eq!(judge.records(), [(Verdict::Dropped, "POLICY_NO_ALLOW".into(), "POST /a 403".into())]);
    }
}

#[tokio::test]
async fn a_call_that_is_denied_later_ends_with_its_status_in_both_directions() {
    let judge = Judge::new(vec![posts(&["/a"])]);
    let (app, mut hears) = reader(Spoken::Http2, true).await;
    let mut send = http2(judge.client(&app, Spoken::Http2, WEB).await).await;
    let (pieces, body) = fed();
    let mut call = post(Spoken::Http2, "/a", body);
    call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut answer = send.send_request(call).await.unwrap().into_body();
    pieces.send(Bytes::from_static(b"one")).await.unwrap();
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    assert_eq!(hears.recv().await.unwrap().unwrap(), "one");
    put(&judge.store, [posts(&["/b"])]);
    let trailers = timeout(SOON, answer.frame()).await.unwrap().unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(
        (trailers["grpc-status"].as_bytes(), trailers["grpc-message"].as_bytes()),
        (&b"7"[..], &b"POLICY_NO_ALLOW"[..])
    );
    assert!(!trailers.contains_key("content-type"));
    let _ = timeout(SOON, pieces.send(Bytes::from_static(b"two"))).await;
    assert_eq!(timeout(SOON, hears.recv()).await.expect("it goes on"), Some(None));
}

/// A download without an end; whether it has ended since.
async fn download(judge: &Judge, path: &str) -> JoinHandle<()> {
    let endless = |_| async {
        let (pieces, body) = fed();
        tokio::spawn(async move { while pieces.send(Bytes::from_static(b"piece")).await.is_ok() {} });
        Response::new(body)
    };
    let app = App::new(endless, Spoken::Http1).await;
    let mut send = http1(judge.client(&app, Spoken::Http1, WEB).await).await;
    let mut request = get(path);
    request.headers_mut().insert("x-user", HeaderValue::from_static("eve"));
    let mut body = send.send_request(request).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok());
    tokio::spawn(async move {
        let _send = send;
        while body.frame().await.is_some_and(|frame| frame.is_ok()) {}
    })
}

#[tokio::test]
async fn a_later_policy_may_ask_for_what_nobody_asked_before() {
    let http = |http: HttpMatch| {
        let matched = Match { http: Some(Box::new(http)), ..Match::default() };
        policy("later", Action::Deny, vec![Rule { clauses: vec![Clause { matches: vec![matched] }] }])
    };
    let is = |value: &str| vec![StringMatch::Exact(value.to_owned())];
    let header = HeaderCondition { name: "x-user".into(), values: is("eve"), not_values: Vec::new() };
    let by_header = http(HttpMatch { headers: vec![header], ..HttpMatch::default() });
    let by_path =
        http(HttpMatch { paths: vec![PathPattern::Text(StringMatch::Exact("/b".into()))], ..HttpMatch::default() });
    let by_method = http(HttpMatch { methods: is("GET"), ..HttpMatch::default() });
    // Nobody asked for anything, and for something else.
    for before in [vec![], vec![http(HttpMatch { methods: is("PUT"), ..HttpMatch::default() })]] {
        for (later, path, code) in [
            (&by_header, "/a", "POLICY_DENY"),
            (&by_method, "/a", "POLICY_DENY"),
            // Nobody can tell which path it is, now that it matters.
            (&by_path, "/%2525252525%2500", "PATH_AMBIGUOUS"),
        ] {
            let judge = Judge::new(before.clone());
            let mut goes_on = download(&judge, path).await;
            put(&judge.store, [later.clone()]);
            assert!(timeout(SOON, &mut goes_on).await.is_ok(), "{path}, {later:?} does not end it");
            let records: Vec<_> = judge.records().into_iter().map(|(_, code, _)| code).collect();
            assert_eq!(records, [code], "{path}");
        }
    }
    let judge = Judge::new(Vec::new());
    let mut goes_on = download(&judge, "/a").await;
    put(&judge.store, [by_path]);
    assert!(timeout(Duration::from_millis(200), &mut goes_on).await.is_err(), "it is permitted");
}

#[tokio::test]
async fn a_request_ends_with_the_token_that_permitted_it() {
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let keys = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{}"}}]}}"#, b64(key.public_key().as_ref()));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let token = |expires: u64| {
        let claims = format!(r#"{{"iss":"https://issuer","sub":"alice","exp":{expires}}}"#);
        let signed = format!("{}.{}", b64(br#"{"alg":"EdDSA"}"#), b64(claims.as_bytes()));
        format!("Bearer {signed}.{}", b64(key.sign(signed.as_bytes()).as_ref()))
    };
    let tokens = TokenRule::new(
        Origin { object: "RequestAuthentication shop/a".into(), field: String::new() },
        "https://issuer",
        Some(keys.into()),
    );
    let judge = Judge::new(Vec::new());
    judge.takes(vec![tokens]);
    let (app, mut hears) = reader(Spoken::Http2, true).await;
    let mut send = http2(judge.client(&app, Spoken::Http2, WEB).await).await;
    let mut ask = |expires: u64| {
        let (pieces, body) = fed();
        let mut call = post(Spoken::Http2, "/a", body);
        call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        call.headers_mut().insert("authorization", token(expires).parse().unwrap());
        let answer = send.send_request(call);
        async move { (answer.await.unwrap(), pieces) }
    };
    // Its minute of grace is over in a moment.
    let (lasting, _pieces) = ask(now + 600).await;
    let (ending, pieces) = ask(now - 58).await;
    assert_eq!((lasting.status(), ending.status()), (StatusCode::OK, StatusCode::OK));
    let (mut lasting, mut ending) = (lasting.into_body(), ending.into_body());
    pieces.send(Bytes::from_static(b"one")).await.unwrap();
    assert_eq!(ending.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    assert_eq!(hears.recv().await.unwrap().unwrap(), "one");
    let trailers = timeout(SOON, ending.frame()).await.unwrap().unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(
        (trailers["grpc-status"].as_bytes(), trailers["grpc-message"].as_bytes()),
        (&b"16"[..], &b"JWT_EXPIRED"[..])
    );
    assert_eq!(timeout(SOON, hears.recv()).await.expect("it goes on"), Some(None));
    assert!(timeout(Duration::from_millis(100), lasting.frame()).await.is_err(), "another token's request has ended");
    assert_eq!(judge.records(), [(Verdict::Dropped, "JWT_EXPIRED".into(), "POST /a 200".into())]);
    let (refused, _pieces) = ask(now - 61).await;
    assert_eq!(refused.headers()["grpc-status"], "16");
}
