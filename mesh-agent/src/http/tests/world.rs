//! A client, the engine, and servers on the loopback interface.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    body::{Body, Incoming},
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_common::model::{
    ServiceName, ServicePort, Workload,
    traffic::{
        Action, Backend, Clients, DestinationPolicy, For, HttpRoute, Origin, Protocol, Routes, Target, Traffic,
        TrafficPolicy, WeightedBackend,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
    task::AbortHandle,
    time::timeout,
};

use crate::{
    http::{Connect, Endpoint, Http, Refused, Routed, Session, Spoken, Used, Way, serve},
    state::{
        Delta, Kind, Object, Rules, Store,
        tests::{put, service, workload},
    },
    telemetry::{FlowLog, Path, Security},
};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
pub type Error = std::io::Error;
pub type Out = BoxBody<Bytes, Error>;
/// How all connections here are carried.
pub const USED: Used =
    Used { path: Some(Path::Tunnel), security: Security::MutualTls, tls: Some(("TLS 1.3", "none")), tunnel: None };
/// Nothing here takes longer, unless the machine does.
pub const LONG: Duration = Duration::from_secs(20);

pub fn cart() -> ServiceName {
    service("10.96.0.1").service_name()
}

/// What a server saw of a request.
#[derive(Clone, Debug)]
pub struct Seen {
    pub server: usize,
    pub connection: usize,
    pub method: Method,
    pub uri: String,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

#[derive(Clone, Default)]
pub struct Log(pub Arc<Mutex<Vec<Seen>>>);

impl Log {
    pub fn all(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn last(&self) -> Seen {
        self.all().pop().expect("a request came")
    }

    pub async fn reaches(&self, count: usize) {
        until(|| self.count() >= count).await;
    }
}

pub async fn until(holds: impl Fn() -> bool) {
    let reached = timeout(LONG, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    reached.await.expect("it comes to that");
}

pub fn text(text: impl Into<Bytes>) -> Out {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

pub fn answer(status: u16, body: impl Into<Bytes>) -> Response<Out> {
    Response::builder().status(status).body(text(body)).unwrap()
}

pub struct World {
    pub store: Arc<Store>,
    pub flows: Arc<FlowLog>,
    pub http: Arc<Http>,
    pub log: Log,
    pub dial: Dial,
    servers: Mutex<Vec<AbortHandle>>,
    pub count: AtomicUsize,
}

#[derive(Clone, Default)]
pub struct Dial {
    pub dialled: Arc<Mutex<Vec<SocketAddr>>>,
    /// Connecting takes so long.
    pub pause: Arc<Mutex<Duration>>,
    /// Connections that there were.
    pub made: Arc<AtomicUsize>,
    /// Refused with a code.
    pub refused: Arc<Mutex<Vec<SocketAddr>>>,
    /// Connections end.
    pub denied: Arc<Notify>,
    /// Records that are written.
    pub ended: Arc<AtomicUsize>,
}

struct Ended(Arc<AtomicUsize>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Connect for Dial {
    async fn connect(&self, to: &Endpoint) -> Result<Way, Refused> {
        self.dialled.lock().unwrap().push(to.address);
        if self.refused.lock().unwrap().contains(&to.address) {
            return Err(Refused("refused_here"));
        }
        let pause = *self.pause.lock().unwrap();
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let stream = TcpStream::connect(to.address).await.map_err(|_| Refused("no_listener"))?;
        stream.set_nodelay(true).unwrap();
        self.made.fetch_add(1, Ordering::SeqCst);
        let (denied, ended) = (Arc::clone(&self.denied), Ended(Arc::clone(&self.ended)));
        let until = async move {
            let _ended = ended;
            denied.notified().await;
        };
        Ok(Way { io: Box::new(stream), until: Box::pin(until), used: USED })
    }

    fn can_dial(&self, _: IpAddr) -> bool {
        true
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.servers.lock().unwrap().iter().for_each(AbortHandle::abort);
    }
}

impl World {
    pub fn new() -> Self {
        let store = Arc::new(Store::default());
        let client = Workload { services: BTreeMap::new(), ..workload("client", "10.0.0.200") };
        put(&store, [Object::Workload(client), Object::Service(service("10.96.0.1"))]);
        let world = Self {
            store,
            flows: FlowLog::new(Default::default()),
            http: Arc::default(),
            log: Log::default(),
            dial: Dial::default(),
            servers: Mutex::default(),
            count: AtomicUsize::new(0),
        };
        world.rules(vec![], TrafficPolicy::default());
        world
    }

    /// With one server that answers 200.
    pub async fn with_server() -> Self {
        let world = Self::new();
        world.server(|_| answer(200, "hello")).await;
        world
    }

    pub fn traffic(&self, traffic: Traffic) {
        put(&self.store, [Object::Traffic(Arc::new(Rules::new(traffic).expect("rules")))]);
    }

    pub fn rules(&self, http: Vec<HttpRoute>, all: TrafficPolicy) {
        self.traffic(traffic(http, all));
    }

    pub fn forget(&self, number: usize) {
        let name = format!("Kubernetes//Pod/shop/w{number}");
        self.store.apply(Delta { removals: vec![(Kind::Address, name)], ..Delta::default() }).unwrap();
    }

    /// Makes an endpoint of whoever listens there.
    pub fn endpoint(&self, number: usize, address: SocketAddr, label: &str) {
        let services = BTreeMap::from([(cart(), vec![ServicePort { port: 80, target: address.port() }])]);
        let labels = BTreeMap::from([("version".to_owned(), label.to_owned())]);
        let name = format!("w{number}");
        let workload = Workload { services, labels, ..workload(&name, &address.ip().to_string()) };
        put(&self.store, [Object::Workload(workload)]);
    }

    pub async fn listen(&self) -> (usize, TcpListener) {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        let listener = TcpListener::bind(format!("127.0.0.{}:0", 10 + number)).await.unwrap();
        self.endpoint(number, listener.local_addr().unwrap(), &format!("v{number}"));
        (number, listener)
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.servers.lock().unwrap().push(tokio::spawn(task).abort_handle());
    }

    /// One that answers when it has read everything.
    pub async fn server(&self, answers: impl Fn(Seen) -> Response<Out> + Send + Sync + 'static) -> usize {
        self.logged(Version::HTTP_11, answers).await
    }

    pub async fn server2(&self, answers: impl Fn(Seen) -> Response<Out> + Send + Sync + 'static) -> usize {
        self.logged(Version::HTTP_2, answers).await
    }

    async fn logged(&self, version: Version, answers: impl Fn(Seen) -> Response<Out> + Send + Sync + 'static) -> usize {
        let (log, answers) = (self.log.clone(), Arc::new(answers));
        let handler = move |server: usize, connection: usize, request: Request<Incoming>| {
            let (log, answers) = (log.clone(), Arc::clone(&answers));
            Box::pin(async move {
                let (parts, body) = request.into_parts();
                let collected = body.collect().await.map_err(Error::other)?;
                let trailers = collected.trailers().cloned();
                let seen = Seen {
                    server,
                    connection,
                    method: parts.method,
                    uri: parts.uri.to_string(),
                    version: parts.version,
                    headers: parts.headers,
                    body: collected.to_bytes(),
                    trailers,
                };
                log.0.lock().unwrap().push(seen.clone());
                Ok(answers(seen))
            }) as BoxFuture<'static, Result<Response<Out>, Error>>
        };
        self.numbered(version, handler).await
    }

    pub async fn handled(
        &self,
        version: Version,
        handler: impl Fn(Request<Incoming>) -> BoxFuture<'static, Result<Response<Out>, Error>> + Send + Sync + 'static,
    ) -> usize {
        self.numbered(version, move |_, _, request| handler(request)).await
    }

    async fn numbered(
        &self,
        version: Version,
        handler: impl Fn(usize, usize, Request<Incoming>) -> BoxFuture<'static, Result<Response<Out>, Error>>
        + Send
        + Sync
        + 'static,
    ) -> usize {
        let (number, listener) = self.listen().await;
        let handler = Arc::new(handler);
        self.spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let handler = Arc::clone(&handler);
                running.spawn(async move {
                    let service = service_fn(move |request| handler(number, connection, request));
                    let io = TokioIo::new(stream);
                    if version == Version::HTTP_2 {
                        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(io, service)
                            .await;
                    } else {
                        let _ = hyper::server::conn::http1::Builder::new()
                            .serve_connection(io, service)
                            .with_upgrades()
                            .await;
                    }
                });
            }
        });
        number
    }

    /// One of bytes, for each connection.
    pub async fn bytes<F: Future<Output = ()> + Send + 'static>(
        &self,
        serve: impl Fn(usize, TcpStream) -> F + Send + 'static,
    ) -> usize {
        let (number, listener) = self.listen().await;
        self.spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(connection, stream));
            }
        });
        number
    }

    pub fn session(&self) -> Session<Dial> {
        Session {
            http: Arc::clone(&self.http),
            store: Arc::clone(&self.store),
            flows: Arc::clone(&self.flows),
            destinations: self.http.of_pod("client"),
            uid: "Kubernetes//Pod/shop/client".into(),
            client: "10.0.0.200:40000".parse().unwrap(),
            service: cart().into(),
            dialled: "10.96.0.1:80".parse().unwrap(),
            connect: self.dial.clone(),
            mirrors: Arc::new(Semaphore::new(16)),
            switched: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// The client's end.
    pub fn open(&self, spoken: Spoken) -> DuplexStream {
        self.open_until(spoken, std::future::pending())
    }

    pub fn open_until(&self, spoken: Spoken, ends: impl Future<Output = ()> + Send + 'static) -> DuplexStream {
        let (client, server) = duplex(64 * 1024);
        let session = Arc::new(self.session());
        tokio::spawn(serve(session, server, spoken, ends));
        client
    }

    pub async fn client<B>(&self) -> http1::SendRequest<B>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let (send, driver) = http1::handshake(TokioIo::new(self.open(Spoken::Http1))).await.unwrap();
        tokio::spawn(driver.with_upgrades());
        send
    }

    pub async fn client2<B>(&self) -> http2::SendRequest<B>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
    {
        let io = TokioIo::new(self.open(Spoken::Http2));
        let (send, driver) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(driver);
        send
    }

    /// On a connection of its own.
    pub async fn ask(&self, request: Request<&'static str>) -> Answer {
        let mut client = self.client().await;
        let sent = client.send_request(request.map(|body| Full::new(Bytes::from_static(body.as_bytes()))));
        collected(timeout(LONG, sent).await.expect("in time").expect("an answer")).await
    }

    pub async fn ask2(&self, request: Request<&'static str>) -> Answer {
        let mut client = self.client2().await;
        let sent = client.send_request(request.map(|body| Full::new(Bytes::from_static(body.as_bytes()))));
        collected(timeout(LONG, sent).await.expect("in time").expect("an answer")).await
    }

    pub async fn status(&self, path: &str) -> (u16, Option<String>) {
        let answer = self.ask(get(path)).await;
        (answer.status, answer.flag())
    }

    /// Everything that comes until the end, or until nothing has come for a while.
    pub async fn raw(&self, sent: &[u8]) -> (String, bool) {
        let mut client = self.open(Spoken::Http1);
        // It may be closed before all of it was read.
        let _ = client.write_all(sent).await;
        said(&mut client).await
    }

    /// Where a server listens.
    pub fn http_address(&self, number: usize) -> SocketAddr {
        let snapshot = self.store.snapshot();
        let workload = snapshot.workload(&format!("Kubernetes//Pod/shop/w{number}")).expect("a server");
        SocketAddr::new(workload.addresses[0], workload.services[&cart()][0].target)
    }

    pub fn counts(&self, route: &str) -> Routed {
        self.http.counts.all().into_iter().find(|routed| routed.route == route).expect("the route is counted")
    }
}

/// And whether it ended.
pub async fn said(client: &mut DuplexStream) -> (String, bool) {
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    loop {
        // Long after the last byte, and longer for the first.
        let patience = Duration::from_millis(if all.is_empty() { 2000 } else { 150 });
        match timeout(patience, client.read(&mut piece)).await {
            Ok(Ok(0) | Err(_)) => return (String::from_utf8_lossy(&all).into_owned(), true),
            Ok(Ok(length)) => all.extend_from_slice(&piece[..length]),
            Err(_) => return (String::from_utf8_lossy(&all).into_owned(), false),
        }
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn flag(&self) -> Option<String> {
        self.header("nodemesh-flag")
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    }
}

pub async fn collected(response: Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let collected = timeout(LONG, body.collect()).await.expect("in time").expect("a whole body");
    let (status, version, headers) = (parts.status.as_u16(), parts.version, parts.headers);
    Answer { status, version, headers, body: collected.to_bytes() }
}

pub fn get(path: &str) -> Request<&'static str> {
    Request::get(path).header("host", "cart").body("").unwrap()
}

pub fn get2(path: &str) -> Request<&'static str> {
    Request::get(format!("http://cart{path}")).body("").unwrap()
}

pub fn to_cart() -> Action {
    to(None, 1)
}

pub fn to(subset: Option<&str>, weight: u32) -> Action {
    Action::Forward(vec![weighted(subset, weight)])
}

pub fn weighted(subset: Option<&str>, weight: u32) -> WeightedBackend {
    let backend = Backend { service: cart(), port: None, subset: subset.map(Into::into) };
    WeightedBackend { weight, target: Target::Backend(backend), headers: None }
}

pub fn route(name: &str, action: Action) -> HttpRoute {
    HttpRoute::new(name, Origin::default(), action)
}

pub fn traffic(http: Vec<HttpRoute>, all: TrafficPolicy) -> Traffic {
    let policy = DestinationPolicy { all, ..DestinationPolicy::default() };
    Traffic {
        service: cart(),
        protocols: BTreeMap::from([(80, Protocol::Http)]),
        routes: vec![For { clients: Clients::Everybody, value: Routes { http, ..Routes::default() } }],
        policies: vec![For::everybody(policy)],
        seen: false,
    }
}
