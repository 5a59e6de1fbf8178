//! Who may ask for what, over both versions, and what becomes of requests that were permitted when that changes.

use mesh_common::model::{
    Action, Clause, HeaderCondition, HttpMatch, Match, PathPattern, Policy, PolicyName, Rule, Scope, StringMatch,
    traffic::TokenRule,
};

use super::*;
use crate::telemetry::Verdict;

pub const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

pub fn rule(principal: &str, methods: &[&str], path: PathPattern) -> Rule {
    let from = Match {
        principals: vec![StringMatch::Exact(format!("cluster.local/ns/shop/sa/{principal}"))],
        ..Match::default()
    };
    let methods = methods.iter().map(|method| StringMatch::Exact((*method).to_owned())).collect();
    let to = HttpMatch { methods, paths: vec![path], ..HttpMatch::default() };
    let to = Match { http: Some(Box::new(to)), ..Match::default() };
    Rule { clauses: vec![Clause { matches: vec![from] }, Clause { matches: vec![to] }] }
}

pub fn prefix(path: &str) -> PathPattern {
    PathPattern::Text(StringMatch::Prefix(path.to_owned()))
}

pub fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Object {
    let name = PolicyName { namespace: "shop".into(), name: name.into() };
    Object::Policy(Policy { name, scope: Scope::Namespace, action, rules, dry_run: false })
}

/// The agent of a pod with these policies.
pub struct Judge {
    pub store: Arc<Store>,
    http: Arc<Http>,
    flows: Arc<FlowLog>,
}

impl Judge {
    pub fn new(policies: Vec<Object>) -> Self {
        let judge = Self { store: Arc::default(), http: Arc::default(), flows: FlowLog::new(Default::default()) };
        limited(&judge.store, Vec::new());
        put(&judge.store, policies);
        judge
    }

    pub async fn client(&self, app: &App, spoken: Spoken, identity: &str) -> TcpStream {
        let identity = Some(identity.parse().unwrap());
        joined(&self.store, &self.http, app.address, spoken, identity, &self.flows).await.0
    }

    pub fn flows(&self) -> &FlowLog {
        &self.flows
    }

    /// These tokens, from now on.
    pub fn takes(&self, tokens: Vec<TokenRule>) {
        let snapshot = self.store.snapshot();
        let pod = LocalPod::clone(snapshot.local_pod("shop", "a").expect("its pod"));
        put(&self.store, [Object::LocalPod(LocalPod { inbound: Inbound { tokens, ..pod.inbound }, ..pod })]);
    }

    /// Of what was refused, and of what policies that are not enforced say something.
    pub fn records(&self) -> Vec<(Verdict, String, String)> {
        let said = |flow: &Arc<Flow>| {
            let http = flow.http.as_ref().expect("of a request");
            let reason = flow.reason.as_deref().unwrap_or_default().to_owned();
            (flow.verdict, reason, format!("{} {} {}", http.method, http.path, http.status))
        };
        self.flows.newest().iter().filter(|flow| flow.verdict != Verdict::Forwarded).map(said).collect()
    }
}

#[tokio::test]
async fn a_request_is_decided_by_who_asks_for_what() {
    let allow = || policy("read", Action::Allow, vec![rule("web", &["GET"], prefix("/api/"))]);
    for spoken in [Spoken::Http1, Spoken::Http2] {
        let judge = Judge::new(vec![allow()]);
        let app = App::new(|_| async { Response::new(text("hello")) }, spoken).await;
        let client = judge.client(&app, spoken, WEB).await;
        let ask = |method: &'static str, path: &'static str| {
            let mut request = if spoken == Spoken::Http1 { get(path) } else { over2(path) };
            *request.method_mut() = method.parse().unwrap();
            request
        };
        let mut one = None;
        let mut two = None;
        match spoken {
            Spoken::Http1 => one = Some(http1(client).await),
            Spoken::Http2 => two = Some(http2(client).await),
        }
        for (method, path, status) in [
            ("GET", "/api/v1", 200),
            ("POST", "/api/v1", 403),
            ("GET", "/admin", 403),
            ("GET", "/api/../admin", 403),
            ("GET", "/%61pi/v1", 200),
            ("GET", "/api/%2e%2e/admin", 403),
            // What this agent passes on is permitted, and what others may take it for is not.
            ("GET", "/api/..%2fadmin", 403),
            ("GET", "/api/..;/admin", 403),
            ("GET", "/api/%252e%252e/admin", 403),
            ("GET", "/api/a%2fb", 200),
            ("GET", "/api/%2500", 400),
        ] {
            let response = match (&mut one, &mut two) {
                (Some(send), _) => send.send_request(ask(method, path)).await,
                (_, Some(send)) => send.send_request(ask(method, path)).await,
                _ => unreachable!("one of both"),
            };
            let response = response.unwrap();
            assert_eq!(response.status(), status, "{spoken:?} {method} {path}");
            if status == 403 {
                assert_eq!(response.headers()["nodemesh-reason"], "POLICY_NO_ALLOW");
                assert_eq!(response.headers()["nodemesh-flag"], "UAEX");
                assert_eq!(read(response).await, "access denied: POLICY_NO_ALLOW\n");
            } else if status == 200 {
                read(response).await;
            } else {
                // A path that may be anything ends an HTTP/1.1 connection.
                break;
            }
        }
        assert_eq!(app.seen().1, 3, "{spoken:?}: the application saw a request that it must not");
        let records = judge.records();
        assert_eq!(records[0], (Verdict::Dropped, "POLICY_NO_ALLOW".into(), "POST /api/v1 403".into()));
        assert_eq!(records.last().unwrap().1, "PATH_AMBIGUOUS");
        let flows = judge.flows.newest();
        let refused = flows.iter().find(|flow| flow.verdict == Verdict::Dropped).expect("the first of them");
        let explained = refused.asked.as_ref().unwrap().explain();
        assert!(!explained[0].rules[0].matched && explained[0].decided, "{explained:?}");
    }
}

/// HTTP/2 has no bytes after the head of an answer to HEAD (RFC 9113, 8.1.1), of the agent's own answers either.
#[tokio::test]
async fn an_answer_to_head_has_no_body() {
    let judge = Judge::new(vec![policy("read", Action::Allow, vec![rule("web", &["GET"], prefix("/"))])]);
    for spoken in [Spoken::Http1, Spoken::Http2] {
        let app = App::new(|_| async { Response::new(text("hello")) }, spoken).await;
        let client = judge.client(&app, spoken, WEB).await;
        let mut head = if spoken == Spoken::Http1 { get("/") } else { over2("/") };
        *head.method_mut() = http::Method::HEAD;
        let refused = match spoken {
            Spoken::Http1 => http1(client).await.send_request(head).await.unwrap(),
            Spoken::Http2 => http2(client).await.send_request(head).await.unwrap(),
        };
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["nodemesh-flag"]),
            (403, &HeaderValue::from_static("UAEX"))
        );
        assert_eq!(read(refused).await, "", "{spoken:?}");
    }
}

/// Rules about connections alone hold for requests too, whoever accepted the connection.
#[tokio::test]
async fn no_request_passes_for_which_nobody_asks_policies() {
    let from =
        Match { principals: vec![StringMatch::Exact("cluster.local/ns/shop/sa/web".into())], ..Match::default() };
    let deny = Rule { clauses: vec![Clause { matches: vec![from] }] };
    let judge = Judge::new(vec![policy("web", Action::Deny, vec![deny])]);
    let app = App::new(|_| async { Response::new(text("hello")) }, Spoken::Http1).await;
    let mut send = http1(judge.client(&app, Spoken::Http1, WEB).await).await;
    let refused = send.send_request(get("/")).await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["nodemesh-reason"]),
        (403, &HeaderValue::from_static("POLICY_DENY"))
    );
    assert_eq!(app.seen().1, 0);
}

#[tokio::test]
async fn grpc_clients_hear_that_permission_is_denied() {
    let judge = Judge::new(vec![policy("read", Action::Allow, vec![rule("web", &["GET"], prefix("/"))])]);
    let app = App::new(|_| async { Response::new(text("hello")) }, Spoken::Http2).await;
    let mut send = http2(judge.client(&app, Spoken::Http2, WEB).await).await;
    let mut call = over2("/shop.Cart/Add");
    *call.method_mut() = http::Method::POST;
    call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let refused = send.send_request(call).await.unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers()["grpc-status"].as_bytes()), (200, &b"7"[..]));
    assert_eq!(refused.headers()["nodemesh-reason"], "POLICY_NO_ALLOW");
}

#[tokio::test]
async fn applications_hear_who_asks_from_the_agent_alone() {
    let (seen, mut sees) = mpsc::unbounded_channel();
    let answer = move |request: Request<Incoming>| {
        seen.send(request.headers().clone()).unwrap();
        async { Response::new(text("")) }
    };
    // A policy must not take a client's word for who forwarded the request either.
    let condition = HeaderCondition {
        name: "x-forwarded-for".into(),
        values: vec![StringMatch::Exact("10.9.9.9".into())],
        not_values: Vec::new(),
    };
    let matched = HttpMatch { headers: vec![condition], ..HttpMatch::default() };
    let matched = Match { http: Some(Box::new(matched)), ..Match::default() };
    let deny = Rule { clauses: vec![Clause { matches: vec![matched] }] };
    let judge = Judge::new(vec![policy("far", Action::Deny, vec![deny])]);
    let app = App::new(answer, Spoken::Http1).await;
    let mut send = http1(judge.client(&app, Spoken::Http1, WEB).await).await;
    let mut request = get("/");
    for name in ["x-forwarded-client-cert", "X-Forwarded-Client-Cert", "x_forwarded_client_cert", "x-forwarded-for"] {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().append(name, HeaderValue::from_static("10.9.9.9"));
    }
    assert_eq!(send.send_request(request).await.unwrap().status(), 200);
    let headers = sees.recv().await.unwrap();
    let told = headers.get_all("x-forwarded-client-cert").iter().collect::<Vec<_>>();
    assert_eq!(told.len(), 1);
    assert!(told[0].to_str().unwrap().ends_with(&format!(";URI={WEB}")), "{told:?}");
    assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
    assert!(!headers.contains_key("x_forwarded_client_cert"));
}

#[tokio::test]
async fn applications_get_no_other_words_than_those_that_are_decided() {
    let (seen, mut sees) = mpsc::unbounded_channel();
    let answer = move |request: Request<Incoming>| {
        seen.send(request.headers().clone()).unwrap();
        async { Response::new(text("")) }
    };
    let exact = |text: &str| vec![StringMatch::Exact(text.into())];
    let tenant = HeaderCondition { name: "x-tenant".into(), values: exact("a"), not_values: Vec::new() };
    let matched = HttpMatch { headers: vec![tenant], methods: exact("GET"), ..HttpMatch::default() };
    let matched = Match { http: Some(Box::new(matched)), ..Match::default() };
    let allow = Rule { clauses: vec![Clause { matches: vec![matched] }] };
    let judge = Judge::new(vec![policy("a", Action::Allow, vec![allow])]);
    let app = App::new(answer, Spoken::Http1).await;
    let mut send = http1(judge.client(&app, Spoken::Http1, WEB).await).await;
    let asked = |headers: &[(&'static str, &'static str)]| {
        let mut request = get("/");
        for (name, value) in headers {
            let name = http::HeaderName::from_static(name);
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        request
    };
    for (headers, status) in [
        (&[("x-tenant", "a"), ("x_tenant", "b"), ("x-http-method-override", "DELETE"), ("x-else", "c")][..], 200),
        (&[("x-tenant", "a"), ("x-tenant", "b")], 403),
        (&[("x_tenant", "a")], 403),
    ] {
        let response = send.send_request(asked(headers)).await.unwrap();
        assert_eq!(response.status(), status, "{headers:?}");
        read(response).await;
    }
    let headers = sees.recv().await.unwrap();
    assert_eq!(headers["x-tenant"], "a");
    assert_eq!(headers["x-else"], "c");
    for gone in ["x_tenant", "x-http-method-override"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
}

#[tokio::test]
async fn what_a_change_denies_ends_and_nothing_else() {
    let policies = |paths: &[&str]| {
        let rules = paths.iter().map(|path| rule("web", &["GET"], prefix(path))).collect();
        policy("read", Action::Allow, rules)
    };
    let judge = Judge::new(vec![policies(&["/a", "/b"])]);
    let endless = |request: Request<Incoming>| async move {
        let path = request.uri().path().as_bytes()[1];
        let (send, pieces) = mpsc::channel::<Bytes>(1);
        tokio::spawn(async move {
            while send.send(Bytes::from(vec![path; 10])).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let pieces = tokio_stream::wrappers::ReceiverStream::new(pieces);
        let frames = tokio_stream::StreamExt::map(pieces, |piece| Ok(hyper::body::Frame::data(piece)));
        Response::new(BoxBody::new(StreamBody::new(frames)))
    };
    let app = App::new(endless, Spoken::Http2).await;
    let mut send = http2(judge.client(&app, Spoken::Http2, WEB).await).await;
    let mut a = send.send_request(over2("/a")).await.unwrap().into_body();
    let mut b = send.send_request(over2("/b")).await.unwrap().into_body();
    assert!(a.frame().await.unwrap().is_ok() && b.frame().await.unwrap().is_ok());
    put(&judge.store, [policies(&["/b"])]);
    let ended = timeout(SOON, async { while a.frame().await.is_some_and(|frame| frame.is_ok()) {} }).await;
    assert!(ended.is_ok(), "a stream that is denied goes on");
    assert!(b.frame().await.unwrap().is_ok(), "one that is permitted has ended");
    assert_eq!(judge.records(), [(Verdict::Dropped, "POLICY_NO_ALLOW".into(), "GET /a 200".into())]);
}

#[tokio::test]
async fn a_token_that_is_not_right_is_refused_and_none_is_left_to_policies() {
    let token = TokenRule::new(
        Origin { object: "RequestAuthentication shop/a".into(), field: String::new() },
        "https://issuer",
        Some(r#"{"keys":[]}"#.into()),
    );
    let judge = Judge::new(Vec::new());
    judge.takes(vec![token]);
    let app = App::new(|_| async { Response::new(text("hello")) }, Spoken::Http1).await;
    let mut send = http1(judge.client(&app, Spoken::Http1, WEB).await).await;
    assert_eq!(send.send_request(get("/")).await.unwrap().status(), 200, "nobody asks for a token");
    let mut request = get("/");
    request.headers_mut().insert("authorization", HeaderValue::from_static("Bearer a.b.c"));
    let refused = send.send_request(request).await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["www-authenticate"], "Bearer error=\"invalid_token\"");
    assert_eq!(app.seen().1, 1);
}
