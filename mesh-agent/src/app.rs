//! Arguments in, a running agent out: opens everything in order, and waits for the signal to stop.

use std::{fs, io, io::IsTerminal as _, net::IpAddr, sync::Arc, time::SystemTime};

use anyhow::{Context as _, Result};
use tokio::{
    net::UdpSocket,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tracing_subscriber::EnvFilter;

use crate::{
    admin::{self, Admin},
    bpf::{self, Datapath},
    config::Run,
    control,
    identity::{Certificates, Identity, SignError, Signer, Signing},
    pods::{self, PodTable, Registry},
    private_socket,
    proxy::{Proxy, Server},
    state::Store,
    telemetry::{self, FlowLog},
    tunnel::{Pool, PoolSettings},
};

/// Joins that may wait for the registry.
const JOIN_QUEUE: usize = 64;
/// How often the kernel's counters are copied to the metrics.
const COUNTER_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);

pub fn run(settings: Run) -> Result<()> {
    let filter = EnvFilter::try_new(&settings.log).with_context(|| format!("--log {}", settings.log))?;
    let ansi = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(ansi).init();
    // The sockets are root's alone from the first moment.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    // Two descriptors a connection: the usual soft limit of 1024 would let one pod stop all others.
    let mut descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    descriptors.current = descriptors.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, descriptors).context("cannot raise RLIMIT_NOFILE")?;
    // Before any socket or thread: both would stay where they were made.
    pods::remember_own_namespace().context("cannot open the node's own network namespace")?;
    let agent_cgroup = pods::enter_agent_cgroup(&settings.places.cgroup)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(serve(settings, agent_cgroup))
}

async fn serve(settings: Run, agent_cgroup: u64) -> Result<()> {
    let started = SystemTime::now();
    fs::create_dir_all(&settings.places.run_dir)
        .with_context(|| format!("--run-dir {}", settings.places.run_dir.display()))?;
    if let Some(address) = settings.metrics {
        telemetry::serve_metrics(address)?;
    }
    // Before the kernel is touched: settings that cannot work leave nothing behind.
    let connection = control::Connection::new(
        &settings.controller,
        &settings.controller_name,
        &settings.controller_ca,
        settings.token.clone(),
    )?;
    let (datapath, logs) = Datapath::load(bpf::Settings {
        bpffs: settings.places.bpffs.clone(),
        cgroup: settings.places.cgroup.clone(),
        agent_cgroup,
        outbound_port: settings.outbound_port,
        hbone_port: settings.hbone_port,
        max_pending: settings.max_pending,
        max_listening: settings.max_listening,
    })?;
    let datapath = Arc::new(datapath);
    match settings.kubelet_cgroup {
        Some(cgroup) => drop(tokio::spawn(bpf::keep_probes(Arc::clone(&datapath), cgroup))),
        None => bpf::remove_probes(&datapath)?,
    }

    let store = Arc::new(Store::default());
    let signer = Authority { ca: control::CaClient::new(connection.clone()), ttl: settings.certificate_ttl };
    let certificates = Certificates::new(Arc::new(signer), Default::default());
    let flows = FlowLog::new();
    let table = Arc::new(PodTable::default());
    let proxy = Arc::new(Proxy {
        datapath: Arc::clone(&datapath),
        store: Arc::clone(&store),
        certificates: Arc::clone(&certificates),
        pods: Arc::clone(&table),
        pool: Arc::new(Pool::new(PoolSettings::default())),
        flows: Arc::clone(&flows),
        balancer: Default::default(),
        hbone_port: settings.hbone_port,
    });
    let (registry, pod_status) = Registry::new(
        pods::Settings { cgroup: settings.places.cgroup.clone() },
        Arc::clone(&datapath),
        Arc::clone(&certificates),
        Arc::clone(&store),
        Arc::clone(&table),
        Arc::new(Server(Arc::clone(&proxy))),
    );
    let (control_status, control_seen) = watch::channel(control::ControlStatus::default());
    let admin = Arc::new(Admin {
        node: settings.node.clone(),
        started,
        store: Arc::clone(&store),
        flows,
        certificates,
        datapath: Arc::clone(&datapath),
        pods: pod_status.clone(),
        control: control_seen,
    });

    let (stop, stopping) = watch::channel(false);
    let node = control::NodeFacts {
        ip: own_ip(&settings.controller).await,
        agent: format!("mesh-agent-{}", settings.node),
        namespace: "nodemesh-system".to_owned(),
        name: settings.node.clone(),
        cluster: settings.cluster.clone(),
    };
    let (states, states_seen) = watch::channel(Vec::new());
    let control = control::spawn(
        connection,
        node,
        Arc::clone(&store),
        control_status,
        states_seen,
        Arc::clone(&admin) as Arc<dyn control::Responder>,
        stopping,
    );

    let (commands, requests) = mpsc::channel(JOIN_QUEUE);
    let registry = tokio::spawn(registry.run(requests));
    tokio::spawn(admin::report(pod_status, states));
    tokio::spawn(copy_counters(Arc::clone(&datapath)));
    let events = bpf::read_events(datapath.events()?, {
        let proxy = Arc::clone(&proxy);
        move |event| proxy.kernel_refused(&event)
    });
    let listen = |name: &str| {
        let path = settings.places.run_dir.join(name);
        private_socket::listen(&path).with_context(|| format!("cannot listen on {}", path.display()))
    };
    let (admin_socket, join_socket) = (listen("agent.sock")?, listen("cni.sock")?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tracing::info!(node = settings.node, controller = settings.controller, "serving");

    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        done = admin::serve(admin_socket, admin) => done.context("the admin socket failed"),
        () = pods::serve_joins(join_socket, commands) => Ok(()),
        done = events => done.context("the ring of kernel events failed"),
        done = bpf::read_logs(logs) => done.context("the log ring of the eBPF programs failed"),
        done = registry => done.context("the registry of pods failed"),
    };
    tracing::info!("stopping; redirected pods stay redirected, and their new connections are refused");
    stop.send_replace(true);
    control.stopped().await;
    ended
}

/// The controller as a signer of certificates.
struct Authority {
    ca: control::CaClient,
    ttl: std::time::Duration,
}

impl Signer for Authority {
    fn sign<'a>(&'a self, identity: &'a Identity, csr_pem: String) -> Signing<'a> {
        Box::pin(async move {
            self.ca
                .sign(identity, csr_pem, self.ttl)
                .await
                .map_err(|e| if e.retryable() { SignError::unavailable(e) } else { SignError::refused(e) })
        })
    }
}

async fn copy_counters(datapath: Arc<Datapath>) {
    let mut tick = tokio::time::interval(COUNTER_INTERVAL);
    loop {
        tick.tick().await;
        telemetry::kernel_counters(datapath.counters().map(|(counter, value)| (counter.name(), value)));
    }
}

/// The address from which this node reaches the controller; only told, nothing depends on it.
async fn own_ip(controller: &str) -> IpAddr {
    let unspecified = IpAddr::from([0, 0, 0, 0]);
    let authority = controller.rsplit('/').next().unwrap_or_default();
    let Ok(socket) = UdpSocket::bind((unspecified, 0)).await else { return unspecified };
    match socket.connect(authority).await {
        Ok(()) => socket.local_addr().map_or(unspecified, |a| a.ip()),
        Err(_) => unspecified,
    }
}
