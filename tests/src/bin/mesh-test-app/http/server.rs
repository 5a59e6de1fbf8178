//! A server that says what it was asked, and fails as it is told.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    os::fd::AsFd as _,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

type Bytes = bytes::Bytes;
type Answer = Response<Either<Full<Bytes>, Pieces>>;

/// A body that takes its time.
struct Pieces {
    sent: u64,
    left: u32,
    tick: tokio::time::Interval,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        ready!(self.tick.poll_tick(cx));
        let piece = vec![mesh_tests::piece(self.sent); 100];
        self.left -= 1;
        self.sent += 100;
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }
}

struct Server {
    name: String,
    /// By path.
    asked: Mutex<BTreeMap<String, u64>>,
    /// By id.
    failed: Mutex<HashMap<String, u32>>,
    /// That every request is answered with; 0: none.
    status: AtomicU16,
}

/// `http2`: nothing else is spoken, and its settings are sent before the client has said a word.
pub fn serve(port: u16, name: String, tls: bool, http2: bool) -> Result<()> {
    crate::bench::raise_descriptors()?;
    let server = Server { name, asked: Mutex::default(), failed: Mutex::default(), status: AtomicU16::new(0) };
    let server = Arc::new(server);
    let tls = tls.then(acceptor).transpose()?;
    super::runtime()?.block_on(async {
        let listener = TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("listen on {port}"))?;
        loop {
            let (stream, _) = listener.accept().await.context("accept")?;
            let (server, tls) = (Arc::clone(&server), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => plain(server, stream, http2).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            connection(server, stream, false).await;
                        }
                    }
                }
            });
        }
    })
}

fn acceptor() -> Result<TlsAcceptor> {
    let made = rcgen::generate_simple_self_signed(["example.com".to_owned()]).context("make a certificate")?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn plain(server: Arc<Server>, stream: TcpStream, http2: bool) {
    // Fails only for a stream that is gone already.
    let _ = stream.set_nodelay(true);
    let mut first = [0; 3];
    let is_http2 = http2 || (stream.peek(&mut first).await.is_ok() && first == *b"PRI");
    let Ok(held) = stream.as_fd().try_clone_to_owned() else { return };
    if connection(server, stream, is_http2).await {
        // Close without lingering: the kernel sends RST instead of FIN.
        let _ = rustix::net::sockopt::set_socket_linger(&held, Some(Duration::ZERO));
    }
}

/// `true`: it was cut.
async fn connection<S>(server: Arc<Server>, stream: S, is_http2: bool) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (cut, mut is_cut) = watch::channel(false);
    let answer = service_fn(move |request| {
        let (server, cut) = (Arc::clone(&server), cut.clone());
        async move { Ok::<_, Infallible>(server.answer(request, &cut).await) }
    });
    let io = TokioIo::new(stream);
    let served = async {
        match is_http2 {
            true => hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, answer).await,
            false => hyper::server::conn::http1::Builder::new().serve_connection(io, answer).with_upgrades().await,
        }
    };
    tokio::select! {
        _ = served => false,
        _ = is_cut.wait_for(|cut| *cut) => true,
    }
}

impl Server {
    async fn answer(&self, request: Request<Incoming>, cut: &watch::Sender<bool>) -> Answer {
        let pieces = request.headers().get("x-pieces").and_then(|pieces| pieces.to_str().ok()?.parse().ok());
        let whole = self.whole(request, cut).await;
        match pieces {
            Some(left) => {
                let tick = tokio::time::interval(Duration::from_millis(10));
                whole.map(|_| Either::Right(Pieces { sent: 0, left, tick }))
            }
            None => whole.map(Either::Left),
        }
    }

    async fn whole(&self, request: Request<Incoming>, cut: &watch::Sender<bool>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        if path == "/_asked" {
            return self.says(200, &json!(*lock(&self.asked)));
        }
        if let Some(status) = path.strip_prefix("/_status/") {
            self.status.store(status.parse().unwrap_or(0), Ordering::Relaxed);
            return self.says(200, &json!(status));
        }
        *lock(&self.asked).entry(path).or_default() += 1;
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let number = |name: &str| header(name).and_then(|text| text.parse::<u32>().ok());
        let fails = match (number("x-fail"), header("x-id")) {
            (Some(times), Some(id)) => {
                let mut failed = lock(&self.failed);
                let already = failed.entry(id).or_default();
                *already += 1;
                *already <= times
            }
            _ => header("x-status").is_some(),
        };
        let is_slow = header("x-fail").is_none() || fails;
        if let Some(delay) = number("x-delay").filter(|_| is_slow) {
            tokio::time::sleep(Duration::from_millis(delay.into())).await;
        }
        if header("x-reset").is_some() && (number("x-fail").is_none() || fails) {
            cut.send_replace(true);
            std::future::pending::<()>().await;
        }
        let wanted = number("x-status").and_then(|status| u16::try_from(status).ok()).unwrap_or(503);
        let status = match self.status.load(Ordering::Relaxed) {
            0 if fails => wanted,
            0 => 200,
            always => always,
        };
        let headers: BTreeMap<String, String> =
            request.headers().keys().map(|name| (name.to_string(), joined(&request, name))).collect();
        let authority = request.uri().authority().map(ToString::to_string).or_else(|| header("host"));
        let next = match super::onward::ask(request.headers()).await {
            Some(Err(error)) => return self.says(502, &json!({ "name": self.name, "error": format!("{error:#}") })),
            asked => asked.and_then(Result::ok),
        };
        let seen = json!({
            "next": next,
            "name": self.name, "method": request.method().as_str(), "authority": authority, "headers": headers,
            "path": request.uri().path_and_query().map(ToString::to_string),
        });
        if header("upgrade").is_some() {
            tokio::spawn(echo(request));
            let mut answer = self.says(101, &seen);
            *answer.body_mut() = Full::default();
            answer.headers_mut().remove("content-type");
            answer.headers_mut().insert("connection", http::HeaderValue::from_static("upgrade"));
            answer.headers_mut().insert("upgrade", http::HeaderValue::from_static("echo"));
            return answer;
        }
        let _ = request.into_body().collect().await;
        self.says(status, &seen)
    }

    fn says(&self, status: u16, what: &serde_json::Value) -> Response<Full<Bytes>> {
        let mut answer = Response::new(Full::new(Bytes::from(what.to_string())));
        *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
        let headers = answer.headers_mut();
        headers.insert("content-type", http::HeaderValue::from_static("application/json"));
        if let Ok(name) = http::HeaderValue::from_str(&self.name) {
            headers.insert("x-backend", name);
        }
        answer
    }
}

fn joined(request: &Request<Incoming>, name: &http::HeaderName) -> String {
    let values = request.headers().get_all(name).iter();
    values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>().join(",")
}

async fn echo(request: Request<Incoming>) {
    let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
    let mut io = TokioIo::new(upgraded);
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = io.read(&mut buffer).await {
        if io.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
