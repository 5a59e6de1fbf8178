//! Proof that a redirected pod is redirected: what the kernel holds is read back, and a connection from inside the
//! pod's namespace to a redirect address must reach the pod's own accept loop. Finds; what to do is the registry's.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh_common::abi::REDIRECT_NET;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpSocket, sync::oneshot, task::JoinSet, time::timeout};

use super::{Pod, cgroup};
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
    let mut looks = JoinSet::new();
    for Subject { key, pod, cgroup } in subjects {
        let datapath = Arc::clone(&datapath);
        looks.spawn(async move {
            let faults = look(&datapath, &pod, &cgroup, outbound_port).await;
            (key, pod.epoch, faults)
        });
    }
    Findings { shared: datapath.shared_faults(), pods: looks.join_all().await }
}

async fn look(datapath: &Datapath, pod: &Pod, cgroup: &std::path::Path, outbound_port: u16) -> Vec<Fault> {
    let expected = pod.netns.device_and_inode().and_then(|(_, inode)| {
        let entry = pod.ips.entry(pod.index, pod.epoch);
        Ok(Expected { cookie: pod.netns.cookie(), inode, cgroup: cgroup::id(cgroup)?, entry })
    });
    let mut faults = match expected {
        Ok(expected) => datapath.pod_faults(&expected),
        Err(e) => vec![Fault { check: "cgroup", why: format!("its cgroup or namespace cannot be looked at: {e}") }],
    };
    if let Err(first) = probe(pod, outbound_port).await {
        tracing::debug!(namespace = pod.namespace, pod = pod.name, error = %first, "the audit's connection failed once");
        tokio::time::sleep(SECOND_TRY).await;
        if let Err(e) = probe(pod, outbound_port).await {
            let why = format!("a connection to its redirect address does not reach the agent: {e}");
            faults.push(Fault { check: "listener", why });
        }
    }
    faults
}

async fn probe(pod: &Pod, outbound_port: u16) -> io::Result<()> {
    let socket =
        pod.netns.run(|| Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP)))??;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    // Thousands a day from one address must not fill its ports.
    socket.set_linger(Some(Duration::ZERO))?;
    let own = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("a socket without address"))?;
    let (answer, answered) = oneshot::channel();
    let lock = || pod.probes.0.lock().unwrap_or_else(PoisonError::into_inner);
    lock().insert(own, answer);
    let target = SocketAddr::from((Ipv4Addr::from(REDIRECT_NET | 1), outbound_port));
    let connected = async {
        let _stream = TcpSocket::from_std_stream(socket.into()).connect(target).await?;
        answered.await.map_err(|_| io::Error::other("another socket took it"))
    };
    let outcome = timeout(PATIENCE, connected).await;
    lock().remove(&own);
    outcome.map_err(|_| io::Error::other(format!("no answer within {} s", PATIENCE.as_secs())))?
}
