//! What becomes of requests that were permitted, when what permitted them is no more.

use mesh_common::model::{Action, Clause, HeaderCondition, HttpMatch, Match, Rule, StringMatch, traffic::TokenRule};

use super::{
    authorization::{Judge, WEB, policy, prefix, rule},
    *,
};
use crate::{http::token::tests::right, telemetry::Verdict};

/// A body that goes on until nobody takes it.
fn endless() -> Body {
    let (send, pieces) = mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        while send.send(Bytes::from_static(&[7; 4096])).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    streamed(pieces)
}

fn streamed(pieces: mpsc::Receiver<Bytes>) -> Body {
    let pieces = tokio_stream::wrappers::ReceiverStream::new(pieces);
    let frames = tokio_stream::StreamExt::map(pieces, |piece| Ok(hyper::body::Frame::data(piece)));
    BoxBody::new(StreamBody::new(frames))
}

async fn downloads() -> App {
    App::new(|_| async { Response::new(endless()) }, Spoken::Http2).await
}

/// An application that answers at once, and says what else it hears.
async fn uploads(
    answer: impl Fn() -> Body + Clone + Send + 'static,
) -> (App, mpsc::UnboundedReceiver<Result<hyper::body::Frame<Bytes>, ()>>) {
    let (heard, hears) = mpsc::unbounded_channel();
    let answer = move |request: Request<Incoming>| {
        let (heard, answer) = (heard.clone(), answer());
        let mut body = request.into_body();
        tokio::spawn(async move {
            // After a failure a body may say nothing else for ever.
            let mut fine = true;
            while fine && let Some(frame) = body.frame().await {
                fine = frame.is_ok();
                let _ = heard.send(frame.map_err(drop));
            }
        });
        async { Response::new(answer) }
    };
    (App::new(answer, Spoken::Http2).await, hears)
}

async fn goes_on(body: &mut Incoming) -> bool {
    matches!(timeout(SOON, body.frame()).await, Ok(Some(Ok(_))))
}

async fn ends(body: &mut Incoming) -> bool {
    timeout(SOON, async { while body.frame().await.is_some_and(|frame| frame.is_ok()) {} }).await.is_ok()
}

fn deny(http: HttpMatch) -> Object {
    let matched = Match { http: Some(Box::new(http)), ..Match::default() };
    policy("later", Action::Deny, vec![Rule { clauses: vec![Clause { matches: vec![matched] }] }])
}

#[tokio::test]
async fn what_began_while_nobody_asked_is_asked_later() {
    let judge = Judge::new(Vec::new());
    let app = downloads().await;
    let mut send = http2(judge.client(&app, Spoken::Http2, WEB).await).await;
    let mut a = send.send_request(over2("/a")).await.unwrap().into_body();
    let mut b = send.send_request(over2("/b")).await.unwrap().into_body();
    assert!(goes_on(&mut a).await && goes_on(&mut b).await);
    put(&judge.store, [policy("later", Action::Deny, vec![rule("web", &[], prefix("/a"))])]);
    assert!(ends(&mut a).await, "nobody asks about what began before");
    assert!(goes_on(&mut b).await);
}

#[tokio::test]
async fn a_header_that_nobody_asked_for_counts_later() {
    let judge = Judge::new(Vec::new());
    let app = downloads().await;
    let mut send = http2(judge.client(&app, Spoken::Http2, WEB).await).await;
    let mut bodies = Vec::new();
    for tenant in ["evil", "good"] {
        let mut request = over2("/");
        request.headers_mut().insert("x-tenant", HeaderValue::from_static(tenant));
        bodies.push(send.send_request(request).await.unwrap().into_body());
    }
    let values = vec![StringMatch::Exact("evil".into())];
    let headers = vec![HeaderCondition { name: "x-tenant".into(), values, not_values: Vec::new() }];
    put(&judge.store, [deny(HttpMatch { headers, ..HttpMatch::default() })]);
    assert!(ends(&mut bodies[0]).await, "what a policy asks for now was not kept");
    assert!(goes_on(&mut bodies[1]).await);
}

#[tokio::test]
async fn a_token_that_nobody_accepts_any_more_ends_what_it_permitted() {
    let judge = Judge::new(Vec::new());
    let (known, token) = right();
    judge.takes(vec![known.clone()]);
    let app = downloads().await;
    let mut send = http2(judge.client(&app, Spoken::Http2, WEB).await).await;
    let mut with = over2("/");
    with.headers_mut().insert("authorization", HeaderValue::try_from(format!("Bearer {token}")).unwrap());
    let mut with = send.send_request(with).await.unwrap();
    assert_eq!(with.status(), 200);
    let mut without = send.send_request(over2("/")).await.unwrap().into_body();
    // For others, its rule is as good.
    judge.takes(vec![TokenRule { forward: true, ..known.clone() }]);
    assert!(goes_on(with.body_mut()).await, "its token is as right as before");
    // Its key has leaked, and is taken out.
    judge.takes(vec![TokenRule { keys: Some(r#"{"keys":[]}"#.into()), ..known }]);
    assert!(ends(with.body_mut()).await, "its key counts no more");
    assert!(goes_on(&mut without).await, "it bears none");
    let reasons: Vec<_> = judge.records().into_iter().map(|(_, reason, _)| reason).collect();
    assert_eq!(reasons, ["JWT_KEYS"]);
}

#[tokio::test]
async fn an_upload_ends_though_nobody_reads_the_answer() {
    let judge = Judge::new(Vec::new());
    let (app, mut hears) = uploads(endless).await;
    let mut send = http2(judge.client(&app, Spoken::Http2, WEB).await).await;
    let (upload, pieces) = mpsc::channel(1);
    let request = over2("/upload").map(|_| streamed(pieces));
    let answer = send.send_request(request).await.unwrap();
    upload.send(Bytes::from_static(b"one")).await.unwrap();
    assert!(timeout(SOON, hears.recv()).await.unwrap().unwrap().is_ok());
    // Until no window is left, and nobody asks the answer's body for more.
    tokio::time::sleep(Duration::from_millis(500)).await;
    put(&judge.store, [policy("later", Action::Deny, vec![rule("web", &[], prefix("/upload"))])]);
    let ended = timeout(SOON, async { while hears.recv().await.unwrap().is_ok() {} }).await;
    assert!(ended.is_ok(), "the application waits for more");
    assert_eq!(judge.records()[0], (Verdict::Dropped, "POLICY_DENY".into(), "GET /upload 200".into()));
    drop(answer);
}

#[tokio::test]
async fn an_upload_is_asked_about_after_its_answer() {
    let judge = Judge::new(Vec::new());
    let (app, mut hears) = uploads(|| text("")).await;
    let mut send = http2(judge.client(&app, Spoken::Http2, WEB).await).await;
    let (upload, pieces) = mpsc::channel(1);
    let answer = send.send_request(over2("/upload").map(|_| streamed(pieces))).await.unwrap();
    assert_eq!(read(answer).await, "");
    upload.send(Bytes::from_static(b"one")).await.unwrap();
    assert!(timeout(SOON, hears.recv()).await.unwrap().unwrap().is_ok(), "an answer may be over before its request");
    put(&judge.store, [policy("later", Action::Deny, vec![rule("web", &[], prefix("/upload"))])]);
    let ended = timeout(SOON, async { while hears.recv().await.unwrap().is_ok() {} }).await;
    assert!(ended.is_ok(), "the application waits for more");
}

#[tokio::test]
async fn an_audited_request_is_recorded_though_its_client_goes() {
    let judge = Judge::new(vec![policy("watch", Action::Audit, vec![rule("web", &["GET"], prefix("/"))])]);
    let (seen, mut sees) = mpsc::unbounded_channel();
    let answer = move |_| {
        seen.send(()).unwrap();
        std::future::pending()
    };
    let app = App::new(answer, Spoken::Http2).await;
    let mut send = http2(judge.client(&app, Spoken::Http2, WEB).await).await;
    let asked = tokio::spawn(async move { send.send_request(over2("/")).await.map(drop) });
    timeout(SOON, sees.recv()).await.unwrap().unwrap();
    asked.abort();
    let recorded = async {
        while judge.records().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, recorded).await.expect("the application acted, and nobody hears of it");
    assert_eq!(judge.records(), [(Verdict::Audit, String::new(), "GET / 0".into())]);
}

#[tokio::test]
async fn a_pod_of_which_nothing_is_known_is_asked_for_nothing() {
    let judge = Judge::new(Vec::new());
    let app = downloads().await;
    let mut send = http2(judge.client(&app, Spoken::Http2, WEB).await).await;
    let mut body = send.send_request(over2("/")).await.unwrap().into_body();
    assert!(goes_on(&mut body).await);
    let delta = crate::state::Delta {
        removals: vec![(crate::state::Kind::Address, UID.into())],
        ..crate::state::Delta::default()
    };
    judge.store.apply(delta).unwrap();
    assert!(ends(&mut body).await);
    assert_eq!(judge.records()[0].1, "POLICY_UNKNOWN");
}
