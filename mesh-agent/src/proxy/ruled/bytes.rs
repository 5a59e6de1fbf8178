//! A connection of bytes to a service with rules: its routes name the backend, and the backend's policy how it is
//! dialled, by TLS perhaps, and how long it lasts.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_common::{
    model::{
        ServiceName, Workload,
        traffic::{Backend, ConnectionMatch, Protocol, Target, TcpRoute, TlsRoute},
    },
    route,
};
use tokio::time::timeout;

use super::Dialler;
use crate::{
    balance::{self, Picked},
    http::{CONNECT, Destination, Endpoint, Peeked, Place},
    proxy::{
        bounds::{self, Bounds, Ends, Outdated},
        forward::{End as _, Socket, forward_until},
        reauthorize::outdated,
        resolve::route_to,
        upstream::{self, Link, Upstream},
    },
    state::Snapshot,
    telemetry::{Direction, OpenFlow, Party, reason},
};

/// What a client of TLS said first.
pub struct Hello {
    pub name: Option<String>,
}

/// A way for bytes.
pub struct Dialled {
    pub upstream: Upstream,
    destination: Arc<Destination>,
    /// Counts as a connection to its destination; `None`: it does not yet.
    counts: Option<Place>,
    _picked: Picked,
}

/// Why there is no way.
pub enum NoWay {
    /// The record of it is written.
    Recorded,
    /// A code, and why.
    Unrecorded(&'static str, String),
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
pub async fn forwarded(
    dialler: &Dialler,
    mut client: Peeked<Socket>,
    service: &ServiceName,
    dialled: SocketAddr,
    hello: Option<&Hello>,
) {
    match connect(dialler, service, dialled, hello, true).await {
        Ok(way) => {
            let Dialler { proxy, pod, client: _ } = dialler;
            let rules = proxy.store.snapshot().rules(service).cloned();
            let protocol = rules.map(|rules| rules.traffic().protocol(dialled.port()));
            // What was looked into is no HTTP, whatever the rules.
            let unseen = protocol.is_none_or(|protocol| matches!(protocol, Protocol::Tcp | Protocol::Tls));
            let outdated = || outdated(Arc::clone(&proxy.store), pod.uid.clone(), service.clone(), dialled.port());
            way.forward(client, unseen.then(|| Box::pin(outdated()) as Outdated)).await;
        }
        Err(no_way) => {
            no_way.record(dialler, service, dialled);
            client.reset();
        }
    }
}

/// Chooses an endpoint for a connection of bytes and dials it. `counts`: as one of those to its destination of which
/// there may be so many.
pub async fn connect(
    dialler: &Dialler,
    service: &ServiceName,
    dialled: SocketAddr,
    hello: Option<&Hello>,
    counts: bool,
) -> Result<Dialled, NoWay> {
    let Dialler { proxy, pod, client } = dialler;
    let snapshot = proxy.store.snapshot();
    let Some(own) = snapshot.workload(&pod.uid).cloned() else {
        let why = format!("{} is not in the configuration", pod.uid);
        return Err(NoWay::Unrecorded(reason::WORKLOAD_UNKNOWN, why));
    };
    let backend = backend(&snapshot, service, &own, dialled, hello)?;
    let destinations = proxy.http.of_pod(&pod.key());
    let destination = destinations.get(&snapshot, &own, &backend, dialled, |ip| pod.ips.like(ip).is_some());
    let destination = destination.map_err(|missing| NoWay::Unrecorded(reason::NO_BACKEND, missing.why(&backend)))?;
    let secure = destination.secure().transpose().map_err(|why| NoWay::Unrecorded(reason::UPSTREAM_TLS, why))?;
    let counts = match counts {
        true => Some(destination.pool.place(&destination.cluster).ok_or_else(too_many)?),
        false => None,
    };
    let picked = destination.cluster.pick(None, &[], fastrand::u64(..), Instant::now());
    let chosen = picked.and_then(|picked| Some((destination.endpoint(picked.address())?, picked)));
    let Some((endpoint, picked)) = chosen else {
        let why = format!("service {service} has no healthy endpoint for port {}", dialled.port());
        return Err(NoWay::Unrecorded(reason::NO_HEALTHY_ENDPOINT, why));
    };
    let Endpoint { workload, address, service: serves, party } = &*endpoint;
    let flow = dialler.record(&snapshot, service, party.clone());
    let dialling = async {
        let route = route_to(proxy, pod, workload, *address);
        let mut way = upstream::connect(proxy, pod, &snapshot, *client, route, flow).await.map_err(|_| ())?;
        if let Some(secure) = secure {
            way.flow.pending();
            match secure.for_host(&serves.hostname).bytes(way.link).await {
                Ok(link) => way.link = Link::Tls(Box::new(link)),
                Err(why) => {
                    way.flow.failed(reason::UPSTREAM_TLS, format!("no TLS with {address}: {why}"));
                    return Err(());
                }
            }
            way.flow.settled();
        }
        Ok(way)
    };
    let bound = destination.policy().pool.connect_timeout.map_or(CONNECT, Into::into);
    let upstream = timeout(bound, dialling).await.unwrap_or(Err(()));
    let outcome = if upstream.is_ok() { balance::Outcome::Status(200) } else { balance::Outcome::ConnectFailed };
    picked.done(outcome, Instant::now());
    let upstream = upstream.map_err(|()| NoWay::Recorded)?;
    Ok(Dialled { upstream, destination, counts, _picked: picked })
}

fn too_many() -> NoWay {
    let why = "there are as many connections to the service as its rules permit";
    NoWay::Unrecorded(reason::OVERFLOW, why.to_owned())
}

impl NoWay {
    /// Writes the record, if there is none.
    pub fn record(self, dialler: &Dialler, service: &ServiceName, dialled: SocketAddr) {
        if let Self::Unrecorded(code, why) = self {
            let snapshot = dialler.proxy.store.snapshot();
            dialler.record(&snapshot, service, Party::stranger(dialled)).dropped(code, why);
        }
    }
}

impl Dialled {
    /// How long it may be without a byte.
    pub fn idle(&self) -> Option<Duration> {
        Bounds::from(&self.destination.policy().pool).idle
    }

    /// Nobody has said a word for that long.
    pub fn idled(mut self, mut client: Peeked<Socket>) {
        self.upstream.flow.reason = Some(reason::IDLE_TIMEOUT.into());
        self.upstream.flow.error = Some(bounds::IDLE.to_owned());
        self.upstream.link.reset();
        client.reset();
    }

    /// Forwards the client's bytes.
    pub async fn forward(mut self, mut client: Peeked<Socket>, outdated: Option<Outdated>) {
        if self.counts.is_none() {
            match self.destination.pool.place(&self.destination.cluster) {
                Some(counts) => self.counts = Some(counts),
                None => {
                    if let NoWay::Unrecorded(code, why) = too_many() {
                        self.upstream.flow.dropped(code, why);
                    }
                    return client.reset();
                }
            }
        }
        let bounds = Bounds::from(&self.destination.policy().pool);
        let Upstream { link, permit, denied, mut flow } = self.upstream;
        forward_until(Ends { bounds, outdated }, &permit, client, link, denied, &mut flow).await;
    }
}

impl Dialler {
    /// Begins a record of a connection to the service.
    pub(super) fn record(&self, snapshot: &Snapshot, service: &ServiceName, destination: Party) -> OpenFlow {
        let own = snapshot.workload(&self.pod.uid).map(|own| &**own);
        let source = self.pod.party(self.client, own);
        let mut flow = self.proxy.flows.begin(Direction::Outbound, source, destination);
        (flow.generation, flow.told) = (snapshot.generation(), snapshot.local_pod_by_uid(&self.pod.uid).cloned());
        flow.service = Some(Arc::new(service.clone()));
        flow
    }
}

/// Whether one of the conditions holds, or there is none.
pub fn holds(matches: &[ConnectionMatch], source: &Workload, dialled: SocketAddr) -> bool {
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
) -> Result<Backend, NoWay> {
    let own = Backend { service: service.clone(), port: None, subset: None };
    let rules = snapshot.rules(service);
    if let Some(why) = rules.and_then(|rules| rules.why_unreadable()) {
        return Err(NoWay::Unrecorded(reason::RULES_UNREADABLE, why.to_owned()));
    }
    let Some((routes, _)) = rules.and_then(|rules| rules.view(&source.namespace)) else {
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
            let why = format!("no route of {service} takes connections to {said}");
            return Err(NoWay::Unrecorded(reason::NO_ROUTE, why));
        }
    };
    let Some(place) = route::choose(backends, fastrand::u32(..)) else {
        let why = format!("route {name} leads nowhere: it has no backend, or none of any weight");
        return Err(NoWay::Unrecorded(reason::NO_BACKEND, why));
    };
    match &backends[place].target {
        Target::Backend(backend) => Ok(backend.clone()),
        Target::Invalid { why, .. } => Err(NoWay::Unrecorded(reason::NO_BACKEND, format!("route {name}: {why}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use mesh_common::model::{
        Permit,
        traffic::{TrustedRoots, UpstreamTls},
    };
    use rustls::pki_types::PrivateKeyDer;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        http::Secure,
        proxy::forward::{End, forward, socket},
        state::{
            Object, Rules, Store,
            tests::{put, service, workload},
        },
        telemetry::FlowLog,
    };

    /// More than any buffer holds.
    const LENGTH: usize = 8_000_000;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (dialled, listener.accept().await.unwrap().0)
    }

    fn acceptor() -> tokio_rustls::TlsAcceptor {
        let made = rcgen::generate_simple_self_signed(vec!["db.example".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider);
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = builder.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config).into()
    }

    #[tokio::test]
    async fn bytes_pass_through_tls_of_the_agent() {
        let ((mut client, accepted), (dialled, server)) = (pair().await, pair().await);
        let served = tokio::spawn(async move {
            let mut server = acceptor().accept(server).await.unwrap();
            let (_, session) = server.get_ref();
            assert_eq!((session.server_name(), session.alpn_protocol()), (Some("db.example"), None));
            let mut all = vec![0; LENGTH];
            server.read_exact(&mut all).await.unwrap();
            server.write_all(b"all of it").await.unwrap();
            assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
            // The other way is open still.
            server.write_all(&all).await.unwrap();
            server.shutdown().await.unwrap();
        });
        let roots = TrustedRoots::Unverified;
        let secure = Secure::new(&UpstreamTls { server_name: None, names: vec![], roots }).unwrap();
        let link = Link::Socket(socket(dialled));
        let link = Link::Tls(Box::new(Arc::new(secure).for_host("db.example").bytes(link).await.unwrap()));
        let (permit, party) = (Permit::outside_policy(), Party::stranger("10.0.0.1:80".parse().unwrap()));
        let mut flow = FlowLog::new(Default::default()).begin(Direction::Outbound, party.clone(), party);
        let forwarded = tokio::spawn(async move {
            forward(&permit, socket(accepted), link, std::future::pending(), &mut flow).await;
            (flow.reason.clone(), flow.error.clone())
        });
        let said: Vec<u8> = (0..LENGTH).map(|number| (number % 251) as u8).collect();
        client.write_all(&said).await.unwrap();
        // While the client waits, nothing is held back.
        let mut word = [0; 9];
        let answered = timeout(Duration::from_secs(10), client.read_exact(&mut word));
        answered.await.expect("an answer").unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert!(heard == said, "{} of {} bytes", heard.len(), said.len());
        served.await.unwrap();
        assert_eq!(forwarded.await.unwrap(), (None, None));
    }

    /// Of memory, with room for less than is said at once.
    type Narrow = BufReader<DuplexStream>;

    impl End for Narrow {
        fn arm(&mut self, _on: bool) {}

        fn reset(&mut self) {}

        fn is_sent(&self) -> bool {
            true
        }

        fn poll_gone(&mut self, _cx: &mut Context<'_>) -> Poll<std::io::Error> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn what_tls_holds_back_does_not_wait_for_more() {
        let (mut client, accepted) = pair().await;
        let (near, far) = duplex(4096);
        let served = tokio::spawn(async move {
            let mut server = acceptor().accept(far).await.unwrap();
            server.read_exact(&mut [0; 8192]).await.unwrap();
            server.write_all(b"all of it").await.unwrap();
            std::future::pending::<()>().await;
        });
        let roots = TrustedRoots::Unverified;
        let secure = Secure::new(&UpstreamTls { server_name: None, names: vec![], roots }).unwrap();
        let link = Arc::new(secure).for_host("db.example").bytes(BufReader::new(near)).await.unwrap();
        let (permit, party) = (Permit::outside_policy(), Party::stranger("10.0.0.1:80".parse().unwrap()));
        let mut flow = FlowLog::new(Default::default()).begin(Direction::Outbound, party.clone(), party);
        tokio::spawn(async move {
            forward(&permit, socket(accepted), link, std::future::pending(), &mut flow).await;
        });
        client.write_all(&[7; 8192]).await.unwrap();
        let mut word = [0; 9];
        let answered = timeout(Duration::from_secs(10), client.read_exact(&mut word));
        answered.await.expect("an answer").unwrap();
        served.abort();
    }

    #[tokio::test]
    async fn an_end_in_plaintext_is_no_end_of_tls() {
        let ((mut client, accepted), (dialled, server)) = (pair().await, pair().await);
        tokio::spawn(async move {
            let mut server = acceptor().accept(server).await.unwrap();
            server.write_all(b"half of it").await.unwrap();
            // Without the word that this is the end.
            server.get_mut().0.shutdown().await.unwrap();
            std::future::pending::<()>().await;
        });
        let roots = TrustedRoots::Unverified;
        let secure = Secure::new(&UpstreamTls { server_name: None, names: vec![], roots }).unwrap();
        let link = Link::Socket(socket(dialled));
        let link = Link::Tls(Box::new(Arc::new(secure).for_host("db.example").bytes(link).await.unwrap()));
        let (permit, party) = (Permit::outside_policy(), Party::stranger("10.0.0.1:80".parse().unwrap()));
        let mut flow = FlowLog::new(Default::default()).begin(Direction::Outbound, party.clone(), party);
        forward(&permit, socket(accepted), link, std::future::pending(), &mut flow).await;
        assert_eq!(flow.reason.as_deref(), Some(reason::RESET));
        let mut heard = Vec::new();
        assert!(client.read_to_end(&mut heard).await.is_err(), "a reset");
    }

    #[test]
    fn nothing_is_dialled_by_rules_that_cannot_be_read() {
        let store = Store::default();
        let name = service("10.96.0.1").service_name();
        let dialled = "10.96.0.1:80".parse().unwrap();
        let source = workload("client", "10.0.0.9");
        let snapshot = put(&store, [Object::Service(service("10.96.0.1"))]);
        assert!(backend(&snapshot, &name, &source, dialled, None).is_ok());
        let rules = Rules::unreadable(name.clone(), "rules.quota: unknown field");
        let snapshot = put(&store, [Object::Traffic(Arc::new(rules))]);
        assert!(snapshot.ruled(&name).is_some(), "the kernel does not choose");
        for hello in [None, Some(&Hello { name: None })] {
            let Err(NoWay::Unrecorded(code, why)) = backend(&snapshot, &name, &source, dialled, hello) else {
                panic!("there is a backend");
            };
            assert_eq!(code, reason::RULES_UNREADABLE);
            assert!(why.contains("rules.quota"), "{why}");
        }
    }
}
