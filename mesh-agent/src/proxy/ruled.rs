//! A connection of a pod of this node to a service that has rules: its requests are routed one by one, or its bytes as
//! a whole.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use mesh_common::{
    model::{
        ServiceName, Workload,
        traffic::{Backend, ConnectionMatch, Protocol, Target, TcpRoute, TlsRoute},
    },
    route,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Semaphore,
};

use super::{
    Proxy,
    forward::{End, Socket, forward, socket},
    limited::is_settings,
    live::Counted,
    resolve::route_to,
    upstream::{self, Link, Upstream},
};
use crate::{
    balance,
    http::{self, Connect, Detected, Endpoint, Peeked, Refused, Session, Spoken, Way},
    pods::Pod,
    state::{Rules, Snapshot},
    telemetry::{Direction, Live, Party, reason},
};

/// How long a client's first bytes are waited for where nobody says what it speaks.
const FIRST: Duration = Duration::from_millis(5);

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
        Protocol::Tcp => return bytes(&dialler, client, service, dialled, None).await,
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
        Detected::Bytes => bytes(&dialler, client, service, dialled, None).await,
        Detected::Silent => {
            // Whoever speaks first decides: a server that does speaks no HTTP, but for the settings of HTTP/2, which
            // need not wait for the client's.
            let Some(mut way) = connect(&dialler, &service, dialled, None).await else {
                return client.reset();
            };
            let detected = tokio::select! {
                first = way.link.fill_buf() => match first {
                    Ok(first) if is_settings(first) => None,
                    Ok(_) | Err(_) => Some(Detected::Bytes),
                },
                detected = http::detect(&mut client, None) => Some(detected.unwrap_or(Detected::Bytes)),
            };
            let detected = match detected {
                Some(detected) => detected,
                None => http::detect(&mut client, None).await.unwrap_or(Detected::Bytes),
            };
            match detected {
                Detected::Http1 => requests(dialler, client, service, dialled, Spoken::Http1, counted).await,
                Detected::Http2 => requests(dialler, client, service, dialled, Spoken::Http2, counted).await,
                Detected::Tls => secured(&dialler, client, service, dialled).await,
                _ => bytes(&dialler, client, service, dialled, Some(way)).await,
            }
        }
    }
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
        destinations: proxy.http.of_pod(&pod.key()),
        uid: pod.uid.clone(),
        client: dialler.client,
        service,
        dialled,
        connect: dialler,
        mirrors: Arc::new(Semaphore::new(http::MIRRORS)),
        switched: Default::default(),
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
        return bytes(dialler, client, service, dialled, None).await;
    }
    let Ok(name) = http::server_name(&mut client).await else { return };
    let hello = Hello { name };
    match connect(dialler, &service, dialled, Some(&hello)).await {
        Some(way) => bytes(dialler, client, service, dialled, Some(way)).await,
        None => client.reset(),
    }
}

/// What a client of TLS said first.
struct Hello {
    name: Option<String>,
}

impl Hello {
    /// Whether one of these names, as in [`TlsRoute::server_names`], is the one that was said.
    fn is_to(&self, names: &[String]) -> bool {
        let said = self.name.as_deref();
        names.iter().any(|name| match name.strip_prefix('*') {
            Some("") => true,
            // There is a label at least below the suffix.
            Some(suffix) => said.and_then(|said| said.strip_suffix(suffix)).is_some_and(|below| !below.is_empty()),
            None => said == Some(name),
        })
    }
}

/// Forwards the connection as it is.
async fn bytes(
    dialler: &Dialler,
    mut client: Peeked<Socket>,
    service: ServiceName,
    dialled: SocketAddr,
    way: Option<Upstream>,
) {
    let way = match way {
        Some(way) => Some(way),
        None => connect(dialler, &service, dialled, None).await,
    };
    let Some(Upstream { link, permit, denied, mut flow, held: _held }) = way else { return client.reset() };
    forward(&permit, client, link, denied, &mut flow).await;
}

/// Chooses an endpoint for a connection of bytes and dials it; `None`: refused and recorded.
async fn connect(
    dialler: &Dialler,
    service: &ServiceName,
    dialled: SocketAddr,
    hello: Option<&Hello>,
) -> Option<Upstream> {
    let Dialler { proxy, pod, client } = dialler;
    let snapshot = proxy.store.snapshot();
    let own = snapshot.workload(&pod.uid).cloned();
    let source = pod.party(*client, own.as_deref());
    let mut flow = proxy.flows.begin(Direction::Outbound, source, Party::stranger(dialled));
    flow.generation = snapshot.generation();
    flow.service = Some(service.clone());
    let Some(own) = own else {
        flow.dropped(reason::WORKLOAD_UNKNOWN, format!("{} is not in the configuration", pod.uid));
        return None;
    };
    let backend = match backend(&snapshot, service, &own, dialled, hello) {
        Ok(backend) => backend,
        Err((code, why)) => {
            flow.dropped(code, why);
            return None;
        }
    };
    let destinations = proxy.http.of_pod(&pod.key());
    let can_dial = |ip| pod.ips.like(ip).is_some();
    let destination = match destinations.get(&snapshot, &own, &backend, dialled, can_dial) {
        Ok(destination) => destination,
        Err(missing) => {
            flow.dropped(reason::NO_BACKEND, missing.why(&backend));
            return None;
        }
    };
    let Some(held) = destination.pool.place(&destination.cluster) else {
        flow.dropped(reason::OVERFLOW, "there are as many connections to the service as its rules permit");
        return None;
    };
    let picked = destination.cluster.pick(None, &[], fastrand::u64(..), Instant::now());
    let chosen = picked.and_then(|picked| Some((destination.endpoint(picked.address())?, picked)));
    let Some((endpoint, picked)) = chosen else {
        let why = format!("service {service} has no healthy endpoint for port {}", dialled.port());
        flow.dropped(reason::NO_HEALTHY_ENDPOINT, why);
        return None;
    };
    let route = route_to(proxy, pod, &endpoint.workload, endpoint.address);
    let dialled = upstream::connect(proxy, pod, &snapshot, *client, route, flow).await;
    let outcome = if dialled.is_ok() { balance::Outcome::Status(200) } else { balance::Outcome::ConnectFailed };
    picked.done(outcome, Instant::now());
    let mut way = dialled.ok()?;
    way.held = Some(Box::new((held, picked)));
    Some(way)
}

/// Whether one of the conditions holds, or there is none.
fn holds(matches: &[ConnectionMatch], source: &Workload, dialled: SocketAddr) -> bool {
    let holds = |matched: &ConnectionMatch| {
        let ConnectionMatch { port, destination_subnets, source_labels, source_namespace } = matched;
        port.is_none_or(|port| port == dialled.port())
            && (destination_subnets.is_empty() || destination_subnets.iter().any(|net| net.contains(&dialled.ip())))
            && source_labels.iter().all(|(key, value)| source.labels.get(key) == Some(value))
            && source_namespace.as_ref().is_none_or(|namespace| *namespace == source.namespace)
    };
    matches.is_empty() || matches.iter().any(holds)
}

/// Whom the routes name for a connection: a route of TLS first, if it began with a hello, then one of connections.
fn backend(
    snapshot: &Snapshot,
    service: &ServiceName,
    source: &Workload,
    dialled: SocketAddr,
    hello: Option<&Hello>,
) -> Result<Backend, (&'static str, String)> {
    let own = Backend { service: service.clone(), port: None, subset: None };
    let Some((routes, _)) = snapshot.rules(service).and_then(|rules| rules.view(&source.namespace)) else {
        return Ok(own);
    };
    let tls = hello.and_then(|hello| {
        let takes = |route: &&TlsRoute| holds(&route.matches, source, dialled) && hello.is_to(&route.server_names);
        routes.tls.iter().find(takes).map(|route| (&route.name, &route.backends))
    });
    let tcp = || {
        let takes = |route: &&TcpRoute| holds(&route.matches, source, dialled);
        routes.tcp.iter().find(takes).map(|route| (&route.name, &route.backends))
    };
    let (name, backends) = match (tls.or_else(tcp), hello) {
        (Some(found), _) => found,
        (None, None) => return Ok(own),
        (None, Some(hello)) => {
            let said = hello.name.as_deref().unwrap_or("no name");
            return Err((reason::NO_ROUTE, format!("no route of {service} takes connections to {said}")));
        }
    };
    let Some(place) = route::choose(backends, fastrand::u32(..)) else {
        let why = format!("route {name} leads nowhere: it has no backend, or none of any weight");
        return Err((reason::NO_BACKEND, why));
    };
    match &backends[place].target {
        Target::Backend(backend) => Ok(backend.clone()),
        Target::Invalid { why, .. } => Err((reason::NO_BACKEND, format!("route {name}: {why}"))),
    }
}

impl Connect for Dialler {
    async fn connect(&self, to: &Endpoint) -> Result<Way, Refused> {
        let Self { proxy, pod, client } = self;
        let snapshot = proxy.store.snapshot();
        let own = snapshot.workload(&pod.uid).map(|own| &**own);
        let destination = Party::of(&to.workload, to.address);
        let mut flow = proxy.flows.begin(Direction::Outbound, pod.party(*client, own), destination);
        flow.generation = snapshot.generation();
        flow.service = Some(to.service.clone());
        let route = route_to(proxy, pod, &to.workload, to.address);
        let dialled = upstream::connect(proxy, pod, &snapshot, *client, route, flow).await;
        let Upstream { link, denied, mut flow, .. } = dialled.map_err(|upstream::Refused(code)| Refused(code))?;
        let live = flow.live();
        let until = async move {
            let decision = denied.await;
            flow.decided(&decision);
        };
        Ok(Way { io: Box::new(Watched { link, live }), until: Box::pin(until) })
    }

    fn can_dial(&self, to: IpAddr) -> bool {
        self.pod.ips.like(to).is_some()
    }
}

/// Counts what passes.
struct Watched {
    link: Link,
    live: Arc<Live>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(pin!(&mut self.link).poll_read(cx, buf))?;
        self.live.received.fetch_add((buf.filled().len() - before) as u64, std::sync::atomic::Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(pin!(&mut self.link).poll_write(cx, buf))?;
        self.live.sent.fetch_add(written as u64, std::sync::atomic::Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.link).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.link).poll_shutdown(cx)
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
