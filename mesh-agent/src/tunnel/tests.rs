//! Both ends over TCP on loopback: bytes, half-close, resets and back-pressure; who shares a connection; who is
//! refused.

mod bytes;
mod pool;
mod refusals;
mod refused;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::*;
use crate::identity::{
    Certificate, Identity, Serving,
    pki::{Authority, identity},
};

const PATIENCE: Duration = Duration::from_secs(10);
const TARGET: &str = "10.1.2.3:80";

/// A serving agent: one listener, any handler. Ends with its connections when dropped.
struct Peer {
    address: SocketAddr,
    /// TCP connections accepted so far.
    accepted: Arc<AtomicUsize>,
    /// The codes of handshakes and connections that failed.
    errors: Arc<Mutex<Vec<&'static str>>>,
    drain: watch::Sender<bool>,
    connections: watch::Sender<u32>,
    _listening: JoinSet<()>,
}

/// A source pod with its certificate and its own view of a pool.
struct Source {
    key: PoolKey,
    certificate: Arc<Certificate>,
}

impl Peer {
    async fn start<H, F>(tls: Serving, handler: H) -> Self
    where
        H: Fn(Inbound, Respond) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let (accepted, errors) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (drain, drained) = watch::channel(false);
        // A change ends every connection abruptly, as a crash would.
        let (connections, mut crashed) = watch::channel(0);
        let (count, codes) = (accepted.clone(), errors.clone());
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                tokio::select! {
                    connection = listener.accept() => {
                        let (tcp, _) = connection.expect("accept");
                        count.fetch_add(1, Ordering::SeqCst);
                        let (tls, handler, codes, mut drained) = (tls.clone(), handler.clone(), codes.clone(), drained.clone());
                        serving.spawn(async move {
                            let refused = codes.clone();
                            let malformed = move |m: Malformed| refused.lock().expect("codes").push(m.reason);
                            let drain = async move { drop(drained.wait_for(|drained| *drained).await) };
                            if let Err(error) = serve(tcp, ([127, 0, 0, 1], 1).into(), tls, &ServerSettings::default(), handler, malformed, drain).await {
                                codes.lock().expect("codes").push(error.code());
                            }
                        });
                    }
                    Ok(()) = crashed.changed() => serving.shutdown().await,
                }
            }
        });
        Self { address, accepted, errors, drain, connections, _listening: listening }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn crash_connections(&self) {
        self.connections.send_modify(|crashes| *crashes += 1);
    }

    /// Waits until a failure or a refusal is counted under `code`.
    async fn told(&self, code: &str) {
        let told = async {
            while !self.errors.lock().expect("codes").contains(&code) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let outcome = timeout(Duration::from_secs(3), told).await;
        let all = std::mem::take(&mut *self.errors.lock().expect("codes"));
        assert!(outcome.is_ok(), "{code} was not told; {all:?}");
    }

    /// The code under which the next failure was counted.
    async fn error(&self) -> &'static str {
        within(async {
            loop {
                if let Some(code) = self.errors.lock().expect("codes").pop() {
                    return code;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

impl Source {
    fn new(authority: &Authority, uid: &str, peer: &Peer) -> Self {
        let source = identity("shop", "web");
        let key =
            PoolKey { source_pod: uid.to_string(), source: source.clone(), destination: cart(), address: peer.address };
        Self { key, certificate: authority.certificate(&source) }
    }

    async fn open(&self, pool: &Pool) -> Result<TunnelStream, TunnelError> {
        let address = self.key.address;
        let opened =
            within(pool.open(&self.key, &self.certificate, || TcpStream::connect(address), &request())).await?;
        assert_eq!(opened.1.version, "TLSv1_3");
        Ok(opened.0)
    }
}

fn cart() -> Identity {
    identity("shop", "cart")
}

fn request() -> ConnectRequest {
    ConnectRequest { authority: TARGET.parse().expect("valid"), forwarded: None, baggage: None }
}

/// Fails the test rather than hanging it.
async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("in time")
}

/// Sends back what it gets until the other side ends.
async fn echo(_: Inbound, respond: Respond) {
    let Ok(stream) = respond.accept() else { return };
    let (mut read, mut write) = tokio::io::split(stream);
    if tokio::io::copy(&mut read, &mut write).await.is_ok() {
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
    }
}

async fn echo_world() -> (Authority, Peer, Pool) {
    let authority = Authority::new("root");
    let peer = Peer::start(authority.certificate(&cart()).serving(), echo).await;
    (authority, peer, Pool::new(PoolSettings::default()))
}
