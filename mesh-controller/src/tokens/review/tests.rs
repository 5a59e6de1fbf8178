//! Reviews against an API that the test plays.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
    time::UNIX_EPOCH,
};

use futures::future::join_all;
use kube::client::Body;
use serde_json::{Value, json};
use tonic::codegen::http::{Method, Request, Response};

use super::*;
use crate::tokens::tests::{AGENT, payload, settings, token};

/// What the API does with a review.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Agrees,
    /// As before 1.30: without the node.
    AgreesWithoutNode,
    Refuses,
    Forbids,
    Hangs,
}

#[derive(Clone)]
struct FakeApi {
    mood: Arc<Mutex<Mood>>,
    reviews: Arc<AtomicUsize>,
    /// The pod that is there.
    pod: Value,
}

impl FakeApi {
    fn new(mood: Mood) -> Self {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mesh-agent-x", "uid": "u"},
            "spec": {"nodeName": "a", "containers": []}});
        Self { mood: Arc::new(Mutex::new(mood)), reviews: Arc::default(), pod }
    }

    fn is_now(&self, mood: Mood) {
        *self.mood.lock().expect("no panic") = mood;
    }

    fn reviews(&self) -> Reviews {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request.method().clone(), request.uri().path().to_owned()).await) }
        });
        Reviews::new(Client::new(service, "default"), settings())
    }

    async fn answer(&self, method: Method, path: String) -> Response<Body> {
        let mood = *self.mood.lock().expect("no panic");
        if method == Method::POST && path.ends_with("/tokenreviews") {
            self.reviews.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mut extra = json!({"authentication.kubernetes.io/pod-name": ["mesh-agent-x"],
                "authentication.kubernetes.io/pod-uid": ["u"], "authentication.kubernetes.io/node-name": ["a"]});
            if mood == Mood::AgreesWithoutNode {
                extra.as_object_mut().expect("an object").remove("authentication.kubernetes.io/node-name");
            }
            let status = match mood {
                Mood::Agrees | Mood::AgreesWithoutNode => json!({"authenticated": true, "audiences": ["nodemesh"],
                    "user": {"username": AGENT, "uid": "account", "extra": extra}}),
                Mood::Refuses => json!({"authenticated": false, "error": "invalid signature"}),
                Mood::Forbids => return said(403, &json!({"kind": "Status", "code": 403, "message": "forbidden"})),
                Mood::Hangs => return std::future::pending().await,
            };
            let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
                "metadata": {}, "spec": {"token": ""}, "status": status});
            return said(201, &review);
        }
        match path.ends_with("/pods/mesh-agent-x") {
            true => said(200, &self.pod),
            // The watches; what they know is another test's.
            false => said(500, &json!({"kind": "Status", "code": 500, "message": "not played"})),
        }
    }
}

fn said(code: u16, body: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).expect("a response")
}

fn good() -> String {
    let later = SystemTime::now() + Duration::from_secs(600);
    lasting(later)
}

fn lasting(until: SystemTime) -> String {
    let seconds = until.duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    token(&json!({"alg": "ES256"}), &payload(|payload| payload["exp"] = json!(seconds)))
}

#[tokio::test(start_paused = true)]
async fn one_review_serves_all_who_come_meanwhile() {
    let api = FakeApi::new(Mood::Agrees);
    let (reviews, token) = (api.reviews(), good());
    let callers = join_all((0..50).map(|_| reviews.verify(&token))).await;
    assert!(callers.iter().all(|caller| caller.as_ref().is_ok_and(|caller| caller.node() == "a")));
    assert_eq!(api.reviews.load(Ordering::Relaxed), 1);
    tokio::time::sleep(Duration::from_secs(9)).await;
    reviews.verify(&token).await.expect("held");
    assert_eq!(api.reviews.load(Ordering::Relaxed), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    api.is_now(Mood::Refuses);
    assert_eq!(reviews.verify(&token).await.expect_err("refused").reason, Reason::TokenRejected);
    // A no holds as long as a yes.
    api.is_now(Mood::Agrees);
    assert_eq!(reviews.verify(&token).await.expect_err("refused").reason, Reason::TokenRejected);
    assert_eq!(api.reviews.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_never_outlives_its_token() {
    let api = FakeApi::new(Mood::Agrees);
    let (reviews, token) = (api.reviews(), lasting(SystemTime::now() + Duration::from_secs(3)));
    reviews.verify(&token).await.expect("good");
    tokio::time::sleep(Duration::from_secs(4)).await;
    api.is_now(Mood::Refuses);
    assert_eq!(reviews.verify(&token).await.expect_err("over").reason, Reason::TokenRejected);
}

#[tokio::test(start_paused = true)]
async fn without_the_api_nobody_new_is_let_in_and_those_who_are_stay() {
    let api = FakeApi::new(Mood::Agrees);
    let reviews = api.reviews();
    let caller = reviews.verify(&good()).await.expect("good");
    let other = lasting(SystemTime::now() + Duration::from_secs(700));
    for (mood, why) in [(Mood::Hangs, "no answer within 5s"), (Mood::Forbids, "forbidden")] {
        api.is_now(mood);
        let refusal = reviews.verify(&other).await.expect_err("fails closed");
        assert_eq!(refusal.reason, Reason::TokenUnchecked);
        assert!(refusal.why.contains(why), "{refusal}");
        let Proof::Pod(pod) = &caller.proof else { panic!("{caller:?}") };
        assert_eq!(reviews.still(pod), Ok(()));
    }
    // That the API was away is not kept.
    api.is_now(Mood::Agrees);
    reviews.verify(&other).await.expect("good");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_the_review_does_not_say_is_that_of_exactly_this_pod() {
    let mut api = FakeApi::new(Mood::AgreesWithoutNode);
    assert_eq!(api.reviews().verify(&good()).await.expect("good").node(), "a");
    api.pod["metadata"]["uid"] = json!("another");
    assert_eq!(api.reviews().verify(&good()).await.expect_err("another pod").reason, Reason::TokenNode);
    api.pod["metadata"]["uid"] = json!("u");
    api.pod["spec"]["nodeName"] = Value::Null;
    assert_eq!(api.reviews().verify(&good()).await.expect_err("on no node").reason, Reason::TokenNode);
}
