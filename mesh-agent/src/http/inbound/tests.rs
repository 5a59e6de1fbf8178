//! A real client and a real application over TCP, with the agent between them.

mod authorization;
mod heads;
mod later;
mod paths;
mod records;
mod streams;

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_common::model::{
    LocalPod, Mode, RequestFacts, Workload,
    traffic::{Inbound, Millis, Origin, RateLimit, TokenBucket},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use super::{
    super::{body::Guarded, record::OpenRequest},
    *,
};
use crate::{
    state::{
        Object,
        tests::{pod, put, workload},
    },
    telemetry::{Direction, Party},
};

type Body = BoxBody<Bytes, hyper::Error>;

const UID: &str = "Kubernetes//Pod/shop/a";
const SOON: Duration = Duration::from_secs(5);

fn bucket(requests: u32) -> TokenBucket {
    TokenBucket { requests, interval: Millis(60_000), burst: requests }
}

fn limit(total: u32) -> RateLimit {
    RateLimit {
        origin: Origin { object: "RateLimitPolicy shop/a".into(), field: String::new() },
        ports: Vec::new(),
        matches: Vec::new(),
        total: Some(bucket(total)),
        identity: None,
        overrides: Vec::new(),
    }
}

/// A request of nobody.
fn under_way() -> Arc<under_way::Held> {
    let facts = RequestFacts {
        method: String::new(),
        path: String::new(),
        host: String::new(),
        headers: HeaderMap::new(),
        token: None,
    };
    let parts = get("/").into_parts().0;
    let original = under_way::Original::of(&parts, "");
    let nobody = Party::stranger(SocketAddr::from(([10, 0, 0, 1], 80)));
    let flow = Flow::new(1, SystemTime::now(), Direction::Inbound, nobody.clone(), nobody);
    let told = OpenRequest::begin(&FlowLog::new(Default::default()), flow, &parts, None);
    Arc::new(UnderWay::default()).begin(Arc::new(original), Arc::new(facts), told.record())
}

fn limited(store: &Store, limits: Vec<RateLimit>) {
    let pod = LocalPod { inbound: Inbound { limits, ..Inbound::default() }, ..pod("a", Mode::Mesh) };
    let own = Workload { namespace: "shop".into(), uid: UID.into(), ..workload("a", "10.0.0.1") };
    put(store, [Object::LocalPod(pod), Object::Workload(own)]);
}

fn text(text: &'static str) -> Body {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed()
}

/// The application.
struct App {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl App {
    async fn new<F>(answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static, spoken: Spoken) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app =
            Self { address: listener.local_addr().unwrap(), connections: Arc::default(), requests: Arc::default() };
        let (connections, requests) = (Arc::clone(&app.connections), Arc::clone(&app.requests));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::Relaxed);
                let (answer, requests) = (answer.clone(), Arc::clone(&requests));
                let service = service_fn(move |request| {
                    requests.fetch_add(1, Ordering::Relaxed);
                    let answered = answer(request);
                    async move { io::Result::Ok(answered.await) }
                });
                let io = TokioIo::new(stream);
                match spoken {
                    Spoken::Http1 => {
                        let builder = hyper::server::conn::http1::Builder::new();
                        tokio::spawn(builder.serve_connection(io, service).with_upgrades());
                    }
                    Spoken::Http2 => {
                        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        tokio::spawn(builder.serve_connection(io, service));
                    }
                }
            }
        });
        app
    }

    fn seen(&self) -> (usize, usize) {
        (self.connections.load(Ordering::Relaxed), self.requests.load(Ordering::Relaxed))
    }
}

struct To(SocketAddr);

impl Dial for To {
    async fn dial(&self) -> io::Result<Box<dyn Io>> {
        Ok(Box::new(TcpStream::connect(self.0).await?))
    }
}

/// The agent, between a client and the application at `app`.
struct Between {
    client: TcpStream,
    store: Arc<Store>,
    http: Arc<Http>,
    agent: JoinHandle<()>,
}

async fn between(app: SocketAddr, spoken: Spoken, limits: Vec<RateLimit>) -> Between {
    let (store, http) = (Arc::new(Store::default()), Arc::new(Http::default()));
    limited(&store, limits);
    let (client, agent) = joined(&store, &http, app, spoken, None, &FlowLog::new(Default::default())).await;
    Between { client, store, http, agent }
}

async fn joined(
    store: &Arc<Store>,
    http: &Arc<Http>,
    app: SocketAddr,
    spoken: Spoken,
    identity: Option<Identity>,
    flows: &Arc<FlowLog>,
) -> (TcpStream, JoinHandle<()>) {
    joined_until(store, http, app, spoken, identity, flows, std::future::pending()).await
}

/// Until its connection is denied.
async fn joined_until(
    store: &Arc<Store>,
    http: &Arc<Http>,
    app: SocketAddr,
    spoken: Spoken,
    identity: Option<Identity>,
    flows: &Arc<FlowLog>,
    denied: impl Future<Output = Decision> + Send + 'static,
) -> (TcpStream, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    let (source, own) = (Party::stranger(peer), Party::stranger(SocketAddr::from(([10, 0, 0, 1], 80))));
    let connection = Connection {
        source_identity: identity,
        source_ip: peer.ip(),
        destination: SocketAddr::from(([10, 0, 0, 1], 80)),
    };
    let arrived = Arrived {
        http: Arc::clone(http),
        store: Arc::clone(store),
        flow: Arc::new(Flow::new(1, SystemTime::now(), Direction::Inbound, source, own)),
        flows: Arc::clone(flows),
        key: "a".into(),
        uid: UID.into(),
        client: peer,
        connection,
    };
    let server = TcpStream::connect(app).await.unwrap();
    let http = Arc::clone(http);
    let drained = async move {
        while !http.counts.all().iter().any(|counts| counts.service.hostname == "drained") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let agent = async move {
        serve(arrived, stream, Some(server), To(app), spoken, drained, denied).await;
    };
    (client, tokio::spawn(agent))
}

async fn http1(client: TcpStream) -> http1::SendRequest<Body> {
    let (send, driver) = http1::handshake(TokioIo::new(client)).await.unwrap();
    tokio::spawn(driver.with_upgrades());
    send
}

async fn http2(client: TcpStream) -> http2::SendRequest<Body> {
    let (send, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    tokio::spawn(driver);
    send
}

fn get(path: &str) -> Request<Body> {
    Request::builder().uri(path).header("host", "cart:8080").body(text("")).unwrap()
}

fn over2(path: &str) -> Request<Body> {
    Request::builder().uri(format!("http://cart:8080{path}")).version(Version::HTTP_2).body(text("")).unwrap()
}

async fn read(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_and_the_application_never_sees_them() {
    let app = App::new(|_| async { Response::new(text("hello")) }, Spoken::Http1).await;
    let Between { client, http, .. } = between(app.address, Spoken::Http1, vec![limit(2)]).await;
    let mut send = http1(client).await;
    for _ in 0..2 {
        let response = send.send_request(get("/")).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(read(response).await, "hello");
    }
    let refused = send.send_request(get("/")).await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "30");
    assert_eq!(refused.headers()["nodemesh-flag"], "RL");
    assert_eq!(read(refused).await, "too many requests\n");
    assert_eq!(app.seen(), (1, 2));
    let counted = http.counts.all().remove(0);
    assert_eq!((counted.requests, counted.answers[2], counted.answers[4], counted.flags["RL"]), (3, 2, 1, 1));
}

#[tokio::test]
async fn what_passes_is_as_it_was_but_for_what_is_about_the_connection() {
    let (seen, mut sees) = mpsc::unbounded_channel();
    let answer = move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let mut headers = request.headers().clone();
            headers.remove("host");
            seen.send((request.method().clone(), request.uri().to_string(), headers)).unwrap();
            let mut response = Response::new(text("x"));
            response.headers_mut().insert("keep-alive", HeaderValue::from_static("timeout=5"));
            response.headers_mut().append("set-cookie", HeaderValue::from_static("a=1"));
            response.headers_mut().append("set-cookie", HeaderValue::from_static("b=2"));
            *response.status_mut() = StatusCode::IM_A_TEAPOT;
            response
        }
    };
    let app = App::new(answer, Spoken::Http1).await;
    let Between { client, .. } = between(app.address, Spoken::Http1, vec![limit(2)]).await;
    let mut request = get("/a%20b/../c?x=1&y=%2F");
    *request.method_mut() = "REPORT".parse().unwrap();
    for (name, value) in [("x-a", "1"), ("x-a", "2"), ("connection", "x-secret"), ("x-secret", "s"), ("accept", "*/*")]
    {
        request.headers_mut().append(name, HeaderValue::from_static(value));
    }
    let response = http1(client).await.send_request(request).await.unwrap();
    let (method, uri, headers) = sees.recv().await.unwrap();
    assert_eq!((method.as_str(), uri.as_str()), ("REPORT", "/c?x=1&y=%2F"));
    let mut headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    headers.sort_unstable();
    let id = headers.pop().expect("an id of its own");
    assert_eq!((id.0, id.1.len()), ("x-request-id", 36));
    assert_eq!(headers, [("accept", "*/*"), ("x-a", "1"), ("x-a", "2"), ("x-forwarded-for", "127.0.0.1")]);
    assert_eq!(response.status(), 418);
    assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
    assert!(!response.headers().contains_key("keep-alive"));
}

#[tokio::test]
async fn grpc_clients_are_refused_in_their_own_terms_and_trailers_pass() {
    let answer = |request: Request<Incoming>| async move {
        let (parts, body) = request.into_parts();
        assert_eq!(parts.uri.authority().map(|authority| authority.as_str()), Some("cart:8080"));
        assert_eq!(parts.headers["te"], "trailers");
        let body = body.collect().await.unwrap().to_bytes();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let frames = [Ok(hyper::body::Frame::data(body)), Ok(hyper::body::Frame::trailers(trailers))];
        let body = StreamBody::new(tokio_stream::iter(frames));
        let mut response = Response::new(BoxBody::new(body));
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        response
    };
    let app = App::new(answer, Spoken::Http2).await;
    let Between { client, .. } = between(app.address, Spoken::Http2, vec![limit(3)]).await;
    let send = http2(client).await;
    let ask = || {
        let mut request = over2("/svc/Method");
        *request.method_mut() = http::Method::POST;
        *request.body_mut() = text("message");
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let mut send = send.clone();
        async move { send.send_request(request).await.unwrap() }
    };
    for response in [tokio::join!(ask(), ask())].into_iter().flat_map(|(a, b)| [a, b]).chain([ask().await]) {
        assert_eq!(response.status(), 200);
        let whole = response.into_body().collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(whole.to_bytes(), "message");
    }
    let refused = ask().await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["grpc-status"]), (200, &HeaderValue::from_static("8")));
    assert_eq!(refused.headers()["nodemesh-flag"], "RL");
    assert_eq!(refused.headers()["retry-after"], "20");
    let whole = refused.into_body().collect().await.unwrap();
    assert!(whole.trailers().is_none() && whole.to_bytes().is_empty(), "trailers only");
    assert_eq!(app.seen(), (1, 3), "one connection carries all");
}

#[tokio::test]
async fn bodies_flow_both_ways_at_once() {
    let app = App::new(|request| async { Response::new(request.into_body().boxed()) }, Spoken::Http1).await;
    let Between { client, .. } = between(app.address, Spoken::Http1, vec![limit(1)]).await;
    let (pieces, feed) = mpsc::channel::<Bytes>(1);
    let feed = tokio_stream::StreamExt::map(tokio_stream::wrappers::ReceiverStream::new(feed), |piece| {
        Ok(hyper::body::Frame::data(piece))
    });
    let mut request = get("/");
    *request.method_mut() = http::Method::POST;
    *request.body_mut() = BoxBody::new(StreamBody::new(feed));
    let mut send = http1(client).await;
    let (response, sent) = tokio::join!(send.send_request(request), pieces.send(Bytes::from_static(b"one")));
    sent.unwrap();
    let mut body = response.unwrap().into_body();
    // Each comes back before the next is sent.
    for next in [Some("two"), Some("three"), None] {
        let piece = timeout(SOON, body.frame()).await.unwrap().unwrap().unwrap();
        assert!(!piece.into_data().unwrap().is_empty());
        if let Some(next) = next {
            pieces.send(Bytes::from_static(next.as_bytes())).await.unwrap();
        }
    }
    drop(pieces);
    assert!(timeout(SOON, body.frame()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_connection_may_become_another_protocols() {
    let answer = |mut request: Request<Incoming>| async move {
        assert_eq!(request.headers()["upgrade"], "chat");
        let on = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(on.await.unwrap());
            let mut said = [0; 4];
            io.read_exact(&mut said).await.unwrap();
            io.write_all(&said).await.unwrap();
        });
        let mut response = Response::new(text(""));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
        response.headers_mut().insert("upgrade", HeaderValue::from_static("chat"));
        response
    };
    let app = App::new(answer, Spoken::Http1).await;
    let Between { mut client, agent, .. } = between(app.address, Spoken::Http1, vec![limit(1)]).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n").await.unwrap();
    let mut head = vec![0; 1024];
    let length = timeout(SOON, client.read(&mut head)).await.unwrap().unwrap();
    let head = String::from_utf8_lossy(&head[..length]).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: chat"), "{head}");
    assert!(head.contains("connection: upgrade"), "{head}");
    client.write_all(b"ping").await.unwrap();
    let mut said = String::new();
    timeout(SOON, client.read_to_string(&mut said)).await.unwrap().unwrap();
    assert_eq!(said, "ping");
    drop(client);
    timeout(SOON, agent).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_change_of_limits_holds_for_connections_that_are_open() {
    let app = App::new(|_| async { Response::new(text("")) }, Spoken::Http1).await;
    let Between { client, store, .. } = between(app.address, Spoken::Http1, vec![limit(1)]).await;
    let mut send = http1(client).await;
    let mut ask = async || {
        send.ready().await.unwrap();
        send.send_request(get("/")).await.unwrap().status().as_u16()
    };
    assert_eq!([ask().await, ask().await], [200, 429]);
    limited(&store, vec![limit(2)]);
    assert_eq!([ask().await, ask().await, ask().await], [200, 200, 429]);
    limited(&store, Vec::new());
    assert_eq!([ask().await, ask().await], [200, 200]);
}

#[tokio::test]
async fn identities_are_counted_over_all_their_connections() {
    let app = App::new(|_| async { Response::new(text("")) }, Spoken::Http1).await;
    let limits = vec![RateLimit { total: None, identity: Some(bucket(2)), ..limit(0) }];
    let Between { store, http, .. } = between(app.address, Spoken::Http1, limits).await;
    let mut passed = Vec::new();
    for account in [Some("web"), Some("web"), Some("web"), Some("pay"), None] {
        let identity = account.map(|account| Identity::new("cluster.local", "shop", account).unwrap());
        let (client, _) =
            joined(&store, &http, app.address, Spoken::Http1, identity, &FlowLog::new(Default::default())).await;
        passed.push(http1(client).await.send_request(get("/")).await.unwrap().status().as_u16());
    }
    assert_eq!(passed, [200, 200, 429, 200, 200]);
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused() {
    let app = App::new(|_| async { Response::new(text("")) }, Spoken::Http1).await;
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "get\tx",
        "EHLO me\r\n",
    ] {
        let Between { mut client, .. } = between(app.address, Spoken::Http1, vec![limit(9)]).await;
        client.write_all(request.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(SOON, client.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{request:?}: {answer}");
        assert_eq!(app.seen().1, 0, "{request:?}");
    }
}

#[tokio::test]
async fn an_application_that_closes_ends_the_clients_connection_too() {
    let answer = |_| async {
        let mut response = Response::new(text("bye"));
        response.headers_mut().insert("connection", HeaderValue::from_static("close"));
        response
    };
    let app = App::new(answer, Spoken::Http1).await;
    let Between { mut client, agent, .. } = between(app.address, Spoken::Http1, vec![limit(9)]).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(SOON, client.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("bye"), "{answer}");
    drop(client);
    timeout(SOON, agent).await.unwrap().unwrap();
}

/// One that was closed while it rested, as servers do, while the next request was on its way.
#[tokio::test]
async fn a_request_that_finds_the_connection_closed_goes_on_another() {
    let app = App::new(|_| async { Response::new(text("hello")) }, Spoken::Http1).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = TcpStream::connect(closed.local_addr().unwrap()).await.unwrap();
    drop(closed.accept().await.unwrap());
    let own = Application::new(To(app.address), Some(server), Spoken::Http1).await.unwrap();
    own.ended().await;
    // A body as servers have it.
    let (body, mut bodies) = mpsc::unbounded_channel();
    let take = App::new(
        move |request| {
            body.send(request).unwrap();
            std::future::pending()
        },
        Spoken::Http1,
    );
    let mut send = http1(TcpStream::connect(take.await.address).await.unwrap()).await;
    tokio::spawn(async move { send.send_request(get("/")).await });
    let held = |body| Guarded {
        body,
        cut: Box::pin(std::future::pending()),
        passed: Arc::default(),
        messages: None,
        _held: under_way(),
    };
    let response = own.send(bodies.recv().await.unwrap().map(held)).await.unwrap();
    assert_eq!((response.status().as_u16(), app.seen()), (200, (1, 1)));
}

#[tokio::test]
async fn an_application_that_gives_no_answer_is_said_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let Between { client, .. } = between(address, Spoken::Http1, vec![limit(9)]).await;
    let response = http1(client).await.send_request(get("/")).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["nodemesh-flag"].to_str().unwrap()), (503, "UC"));
}

#[tokio::test]
async fn an_agent_that_drains_lets_go_of_connections_that_rest() {
    for spoken in [Spoken::Http1, Spoken::Http2] {
        let app = App::new(|_| async { Response::new(text("hello")) }, spoken).await;
        let Between { client, http, agent, .. } = between(app.address, spoken, vec![limit(9)]).await;
        let response = match spoken {
            Spoken::Http1 => {
                let mut send = http1(client).await;
                let answered = send.send_request(get("/")).await;
                tokio::spawn(async move {
                    std::future::pending::<()>().await;
                    drop(send);
                });
                answered
            }
            Spoken::Http2 => {
                let mut send = http2(client).await;
                let answered = send.send_request(over2("/")).await;
                tokio::spawn(async move {
                    std::future::pending::<()>().await;
                    drop(send);
                });
                answered
            }
        };
        assert_eq!(read(response.unwrap()).await, "hello");
        http.counts.of(&ServiceName { namespace: String::new(), hostname: "drained".into() }, "");
        timeout(SOON, agent).await.unwrap().unwrap();
    }
}

/// Says that it is gone.
struct Gone(mpsc::UnboundedSender<()>);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn a_denied_connection_ends_on_both_sides() {
    for spoken in [Spoken::Http1, Spoken::Http2] {
        let (gone, mut goes) = mpsc::unbounded_channel();
        let answer = move |_| {
            let gone = Gone(gone.clone());
            async move {
                let _gone = gone;
                std::future::pending().await
            }
        };
        let app = App::new(answer, spoken).await;
        let Between { client, agent, .. } = between(app.address, spoken, vec![limit(9)]).await;
        let asked = async {
            match spoken {
                Spoken::Http1 => http1(client).await.send_request(get("/")).await,
                Spoken::Http2 => http2(client).await.send_request(over2("/")).await,
            }
        };
        let denied = async {
            while app.seen().1 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            agent.abort();
        };
        let (asked, ()) = timeout(SOON, async { tokio::join!(asked, denied) }).await.unwrap();
        assert!(asked.is_err(), "{spoken:?}");
        timeout(SOON, goes.recv()).await.unwrap().unwrap();
    }
}
