//! Proof that a redirected pod is redirected: what the kernel holds is read back, and a connection from inside the
//! pod's namespace to a redirect address of each family must reach the pod's own accept loop. Finds; what to do is the
//! registry's.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh_common::abi::{ANY_PORT, REDIRECT_NET, REDIRECT_PORTS};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpSocket, sync::oneshot, task::JoinSet, time::timeout};

use super::{Pod, cgroup, hooks::is_observed, listeners, namespace};
use crate::bpf::{Datapath, Expected, Fault};

/// For the audit's own connection: it stays within the node.
const PATIENCE: Duration = Duration::from_secs(2);
/// While agents replace each other, the other one may have accepted the first.
const SECOND_TRY: Duration = Duration::from_millis(300);

/// The audit's own connections that are on their way, by their source.
#[derive(Debug, Default)]
pub struct Probes(Mutex<HashMap<SocketAddr, oneshot::Sender<()>>>);

/// A pod to look at.
pub struct Subject<K> {
    pub key: K,
    pub pod: Arc<Pod>,
    pub cgroup: PathBuf,
    /// What is known to be wrong with it already.
    pub faults: Vec<Fault>,
}

/// What was found.
pub struct Findings<K> {
    /// On the hooks that all pods share.
    pub shared: Vec<Fault>,
    /// For each pod that was looked at: in which life, and what is wrong.
    pub pods: Vec<(K, u32, Vec<Fault>)>,
}

impl Pod {
    /// The connection from `peer` is the audit's own: it is answered by being accepted, and nothing else becomes of it.
    pub fn answers_probe(&self, peer: SocketAddr) -> bool {
        let probe = self.probes.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&peer);
        // A waiter that gave up is no matter of the connection.
        probe.map(|waiting| waiting.send(())).is_some()
    }
}

/// Looks at everything; pods at the same time.
pub async fn examine<K: Send + 'static>(
    datapath: Arc<Datapath>,
    subjects: Vec<Subject<K>>,
    outbound_port: u16,
) -> Findings<K> {
    let pods: Vec<_> = subjects.iter().map(|subject| Arc::clone(&subject.pod)).collect();
    // Before anybody looks at the pods: what is open then and not in it is not gone, but new.
    let mut listed: HashMap<u64, Vec<u32>> = HashMap::new();
    datapath.all_listening().into_iter().for_each(|(cookie, port)| listed.entry(cookie).or_default().push(port));
    let mut looks = JoinSet::new();
    for Subject { key, pod, cgroup, mut faults } in subjects {
        let datapath = Arc::clone(&datapath);
        let listed = listed.remove(&pod.netns.cookie()).unwrap_or_default();
        looks.spawn(async move {
            faults.extend(look(&datapath, &pod, &cgroup, &listed, outbound_port).await);
            (key, pod.epoch, faults)
        });
    }
    let findings = Findings { shared: datapath.shared_faults(), pods: looks.join_all().await };
    if let Err(e) = overflow(&datapath, &pods) {
        tracing::warn!(error = %e, "closed ports of pods go on to look open");
    }
    findings
}

/// Closed ports need not look open for ever, because there was no room once.
fn overflow(datapath: &Datapath, pods: &[Arc<Pod>]) -> anyhow::Result<()> {
    if !datapath.overflowed()? {
        return Ok(());
    }
    let seen: HashSet<u64> = pods.iter().map(|pod| pod.netns.cookie()).collect();
    // Of observed pods no port is listed.
    if datapath.known_pods().iter().all(|(cookie, entry)| is_observed(entry) || seen.contains(cookie)) {
        listeners::relearn(datapath, pods)?;
    }
    Ok(())
}

async fn look(
    datapath: &Datapath,
    pod: &Pod,
    cgroup: &std::path::Path,
    listed: &[u32],
    outbound_port: u16,
) -> Vec<Fault> {
    let expected = pod.netns.device_and_inode().and_then(|(_, inode)| {
        Ok(Expected { cookie: pod.netns.cookie(), inode, cgroup: cgroup::id(cgroup)?, entry: pod.entry() })
    });
    let mut faults = match expected {
        Ok(expected) => datapath.pod_faults(&expected),
        Err(e) => vec![Fault { check: "cgroup", why: format!("its cgroup or namespace cannot be looked at: {e}") }],
    };
    if let Err(why) = namespace::check(&pod.netns, pod.ips) {
        faults.push(Fault { check: "namespace", why });
    }
    match open_ports(datapath, pod, listed).await {
        Ok(missing) if missing.is_empty() => {}
        Ok(missing) => {
            let why = format!("ports {missing:?} are open and its entries in LISTENING are not there");
            faults.push(Fault { check: "listening", why });
        }
        Err(e) => faults.push(Fault { check: "listening", why: format!("its open ports cannot be looked at: {e:#}") }),
    }
    let v4 = SocketAddr::from((Ipv4Addr::from(REDIRECT_NET | 1), outbound_port));
    let v6 = pod.ips.v6().map(|_| SocketAddr::from((Ipv6Addr::LOCALHOST, unused_port(listed))));
    for target in std::iter::once(v4).chain(v6) {
        if let Err(first) = probe(datapath, pod, target).await {
            tracing::debug!(namespace = pod.namespace, pod = pod.name, error = %first, "the audit's connection failed once");
            tokio::time::sleep(SECOND_TRY).await;
            if let Err(e) = probe(datapath, pod, target).await {
                let why = format!("a connection to its redirect address {target} does not reach the agent: {e}");
                faults.push(Fault { check: "listener", why });
            }
        }
    }
    faults
}

/// Open ports that the kernel's table lacks: there they are refused. One that the table has and nobody listens on is
/// no fault; the pod's table is corrected.
async fn open_ports(datapath: &Datapath, pod: &Pod, listed: &[u32]) -> anyhow::Result<Vec<u16>> {
    let cookie = pod.netns.cookie();
    let open = listeners::listening(&pod.netns)?;
    if listed.iter().any(|port| *port != ANY_PORT && !open.iter().any(|open| u32::from(*open) == *port)) {
        pod.listener_closed();
    }
    if listed.contains(&ANY_PORT) || datapath.overflowed()? {
        return Ok(Vec::new());
    }
    // A listener puts itself into the table before it is one. But a correction may be under way.
    if datapath.unlisted(cookie, &open)?.is_empty() {
        return Ok(Vec::new());
    }
    tokio::time::sleep(SECOND_TRY).await;
    let open: BTreeSet<u16> = listeners::listening(&pod.netns)?;
    datapath.unlisted(cookie, &open).map_err(anyhow::Error::from)
}

/// Of those to which connections over IPv6 are redirected, one on which nobody listens: the application must not meet
/// the audit's own connection.
fn unused_port(listed: &[u32]) -> u16 {
    let unused = (REDIRECT_PORTS as u16..=u16::MAX).rev().find(|port| !listed.contains(&u32::from(*port)));
    unused.unwrap_or(u16::MAX)
}

async fn probe(datapath: &Datapath, pod: &Pod, target: SocketAddr) -> io::Result<()> {
    let domain = Domain::for_address(target);
    let socket = pod.netns.run(|| Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP)))??;
    let from: IpAddr = if target.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    // Thousands a day from one address must not fill its ports.
    socket.set_linger(Some(Duration::ZERO))?;
    let own = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("a socket without address"))?;
    if target.is_ipv6() {
        // There only what is marked is the agent's.
        datapath.redirect(&socket, (pod.index, pod.epoch), target).map_err(io::Error::other)?;
    }
    let (answer, answered) = oneshot::channel();
    let lock = || pod.probes.0.lock().unwrap_or_else(PoisonError::into_inner);
    lock().insert(own, answer);
    let connected = async {
        let _stream = TcpSocket::from_std_stream(socket.into()).connect(target).await?;
        answered.await.map_err(|_| io::Error::other("another socket took it"))
    };
    let outcome = timeout(PATIENCE, connected).await;
    lock().remove(&own);
    outcome.map_err(|_| io::Error::other(format!("no answer within {} s", PATIENCE.as_secs())))?
}
