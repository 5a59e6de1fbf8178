//! A connection of a pod of this node to a service that has rules: its requests are routed one by one, or its bytes as
//! a whole.

mod bytes;

use std::{
    future::pending,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use mesh_common::model::{ServiceName, traffic::Protocol};
use tokio::{io::AsyncBufReadExt as _, net::TcpStream, sync::Semaphore, time::timeout};

use super::{
    Proxy,
    forward::{End, Socket, socket},
    live::Counted,
    read::is_settings,
    resolve::route_to,
    upstream::{self, Upstream},
};
use crate::{
    http::{self, Connect, Detected, Endpoint, Peeked, Refused, Session, Spoken, Used, Watched, Way},
    pods::Pod,
    state::Rules,
};
use bytes::{Hello, holds};

/// How long a client's first bytes are waited for where nobody says what it speaks.
const FIRST: Duration = Duration::from_millis(5);
/// Likewise, where no endpoint can be had that could speak first.
const UNANSWERED: Duration = Duration::from_secs(10);

/// Who dials.
#[derive(Clone)]
pub struct Dialler {
    pub proxy: Arc<Proxy>,
    pub pod: Arc<Pod>,
    /// The application's own end.
    pub client: SocketAddr,
}

/// Serves a connection that was dialled to `service` at `dialled`.
pub async fn serve(
    dialler: Dialler,
    stream: TcpStream,
    service: ServiceName,
    dialled: SocketAddr,
    rules: &Rules,
    counted: &Counted,
) {
    let mut client = Peeked::new(socket(stream));
    let wait = match rules.traffic().protocol(dialled.port()) {
        Protocol::Http | Protocol::Http2 => None,
        Protocol::Auto => Some(FIRST),
        Protocol::Tcp => return bytes::forwarded(&dialler, client, &service, dialled, None).await,
        Protocol::Tls => return secured(&dialler, client, service, dialled).await,
    };
    let detected = match http::detect(&mut client, wait).await {
        Ok(detected) => detected,
        // It went before it said a word.
        Err(_) => return,
    };
    match detected {
        Detected::Http1 => requests(dialler, client, service, dialled, Spoken::Http1, counted).await,
        Detected::Http2 => requests(dialler, client, service, dialled, Spoken::Http2, counted).await,
        Detected::Tls => secured(&dialler, client, service, dialled).await,
        Detected::Bytes => bytes::forwarded(&dialler, client, &service, dialled, None).await,
        Detected::Silent => undecided(dialler, client, service, dialled, rules, counted).await,
    }
}

/// Whoever speaks first decides: a server that does speaks no HTTP, but for the settings of HTTP/2, which need not wait
/// for the client's.
async fn undecided(
    dialler: Dialler,
    mut client: Peeked<Socket>,
    service: ServiceName,
    dialled: SocketAddr,
    rules: &Rules,
    counted: &Counted,
) {
    let namespace = dialler.proxy.store.snapshot().workload(&dialler.pod.uid).map(|own| own.namespace.clone());
    let is_routed = namespace.is_some_and(|namespace| rules.routes_requests(&namespace, dialled.port()));
    // What may become requests takes the place of none.
    let (detected, way) = match bytes::connect(&dialler, &service, dialled, None, !is_routed).await {
        Ok(mut way) => {
            let idle = way.idle();
            let link = &mut way.upstream.link;
            let detected = async {
                tokio::select! {
                    first = link.fill_buf() => match first {
                        Ok(first) if is_settings(first) => {}
                        Ok(_) | Err(_) => return Detected::Bytes,
                    },
                    detected = http::detect(&mut client, None) => return detected.unwrap_or(Detected::Bytes),
                }
                http::detect(&mut client, None).await.unwrap_or(Detected::Bytes)
            };
            let detected = match idle {
                Some(idle) => timeout(idle, detected).await.unwrap_or(Detected::Silent),
                None => detected.await,
            };
            if detected == Detected::Silent {
                return way.idled(client);
            }
            (detected, Ok(way))
        }
        // Requests may have an answer without this endpoint, or any.
        Err(no_way) if is_routed => {
            (http::detect(&mut client, Some(UNANSWERED)).await.unwrap_or(Detected::Bytes), Err(no_way))
        }
        Err(no_way) => (Detected::Bytes, Err(no_way)),
    };
    let spoken = match detected {
        Detected::Http1 => Spoken::Http1,
        Detected::Http2 => Spoken::Http2,
        Detected::Tls => {
            drop(way);
            return secured(&dialler, client, service, dialled).await;
        }
        Detected::Bytes | Detected::Silent => match way {
            Ok(way) => return way.forward(client, None).await,
            Err(no_way) => {
                no_way.record(&dialler, &service, dialled);
                return client.reset();
            }
        },
    };
    // The requests have connections of their own.
    drop(way);
    requests(dialler, client, service, dialled, spoken, counted).await;
}

async fn requests(
    dialler: Dialler,
    client: Peeked<Socket>,
    service: ServiceName,
    dialled: SocketAddr,
    spoken: Spoken,
    counted: &Counted,
) {
    let proxy = Arc::clone(&dialler.proxy);
    let pod = Arc::clone(&dialler.pod);
    let session = Session {
        http: Arc::clone(&proxy.http),
        store: Arc::clone(&proxy.store),
        flows: Arc::clone(&proxy.flows),
        destinations: proxy.http.of_pod(&pod.key()),
        uid: pod.uid.clone(),
        client: dialler.client,
        service: Arc::new(service),
        dialled,
        connect: dialler,
        mirrors: Arc::new(Semaphore::new(http::MIRRORS)),
        switched: Default::default(),
        known: Default::default(),
    };
    http::serve(Arc::new(session), client, spoken, counted.drained()).await;
}

/// Forwards a connection of TLS, whose server name may decide where to.
async fn secured(dialler: &Dialler, mut client: Peeked<Socket>, service: ServiceName, dialled: SocketAddr) {
    let snapshot = dialler.proxy.store.snapshot();
    let is_told_apart = snapshot.workload(&dialler.pod.uid).is_some_and(|source| {
        let routes = snapshot.rules(&service).and_then(|rules| rules.view(&source.namespace));
        routes.is_some_and(|(routes, _)| routes.tls.iter().any(|route| holds(&route.matches, source, dialled)))
    });
    // Nothing is waited for where the name says nothing.
    if !is_told_apart {
        return bytes::forwarded(dialler, client, &service, dialled, None).await;
    }
    let name = match http::hello(&mut client, pending()).await {
        http::Hello::Named(name) => Some(name),
        http::Hello::Nameless | http::Hello::Unread => None,
    };
    bytes::forwarded(dialler, client, &service, dialled, Some(&Hello { name })).await;
}

impl Connect for Dialler {
    async fn connect(&self, to: &Endpoint) -> Result<Way, Refused> {
        let Self { proxy, pod, client } = self;
        let snapshot = proxy.store.snapshot();
        let flow = self.record(&snapshot, &to.service, to.party.clone());
        let route = route_to(proxy, pod, &to.workload, to.address);
        let dialled = upstream::connect(proxy, pod, &snapshot, *client, route, flow).await;
        let Upstream { link, denied, mut flow, .. } = dialled.map_err(|upstream::Refused(code)| Refused(code))?;
        let live = flow.live();
        let used = Used { path: flow.path, security: flow.security, tls: flow.tls, tunnel: flow.tunnel };
        let until = async move {
            let decision = denied.await;
            flow.decided(&decision);
        };
        Ok(Way { io: Box::new(Watched::server(link, live)), until: Box::pin(until), used })
    }

    fn can_dial(&self, to: IpAddr) -> bool {
        self.pod.ips.like(to).is_some()
    }
}

impl<T: End> End for Peeked<T> {
    fn arm(&mut self, on: bool) {
        self.io.arm(on);
    }

    fn reset(&mut self) {
        self.io.reset();
    }

    fn is_sent(&self) -> bool {
        self.io.is_sent()
    }

    fn gather(&mut self, cx: &mut Context<'_>) -> bool {
        self.io.gather(cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.io.poll_gone(cx)
    }
}
