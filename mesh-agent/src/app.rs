//! Arguments in, a running agent out: opens everything in order, and waits until it is told to end or replaced.

mod begin;
mod counters;
mod drain;
mod following;
mod programs;
mod telling;

use std::{
    fs, io,
    io::IsTerminal as _,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use tokio::{
    net::UdpSocket,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tracing_subscriber::EnvFilter;

use begin::Beginning;
use counters::{Counters, Sources};
use following::Following;
pub use programs::programs;
use telling::Telling;

use crate::{
    admin::{self, Admin},
    bpf::{self, Datapath},
    cni,
    config::Run,
    control,
    direct::{self, Direct},
    durable, handover,
    health::{self, Readiness},
    identity::{Certificates, Identity, SignError, Signer, Signing, Trust},
    pods::{self, Ended, PodStatus, PodTable, Redirection, Registry},
    proxy::{Proxy, Server},
    state::{Snapshot, Store},
    telemetry::{FlowLog, Limits, Metrics, Sinks, Traffic, UdpTraffic, audit},
    tunnel::{Pool, PoolSettings},
    udp::Udp,
};

/// How often resting connections of HTTP are looked at.
const SWEEP: std::time::Duration = std::time::Duration::from_secs(5);
/// Joins that may wait for the registry.
const JOIN_QUEUE: usize = 64;
/// How long the events of the time without an agent wait for the pods of an earlier one.
const PODS_FOUND: std::time::Duration = std::time::Duration::from_secs(2);

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
    let workers = settings.workers.map_or_else(default_workers, usize::from);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(workers).enable_all().build().context("cannot start threads")?;
    let audit = audit::open(&settings.audit_log, &settings.node)?;
    let served = runtime.block_on(serve(settings, agent_cgroup, audit.clone()));
    audit.end(audit::LAST_LINES);
    served
}

/// Half of the CPUs that this process may use: the other half is the applications' and the kernel's, and each further
/// thread costs wake-ups for every message.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get().div_ceil(2))
}

async fn serve(settings: Run, agent_cgroup: u64, audit: audit::Stream) -> Result<()> {
    let started = SystemTime::now();
    fs::create_dir_all(&settings.places.run_dir)
        .with_context(|| format!("--run-dir {}", settings.places.run_dir.display()))?;
    let state = &settings.places.state_dir;
    durable::folder(state).with_context(|| format!("--state-dir {}", state.display()))?;
    let limits = Limits { series: settings.metrics_series, idle: settings.metrics_idle };
    let (traffic, udp) = (Arc::new(Traffic::new(limits)), Arc::new(UdpTraffic::new(limits)));
    let metrics = Metrics::install(Arc::clone(&traffic), Arc::clone(&udp))?;
    // Before the kernel is touched: settings that cannot work leave nothing behind.
    let connection = control::Connection::new(
        &settings.controller,
        &settings.controller_name,
        &settings.controller_ca,
        settings.token.clone(),
    )?;
    let places = &settings.places;
    let (outbound_port, hbone_port) = (settings.outbound_port, settings.hbone_port);
    let about = handover::About::new(&settings.node, outbound_port, hbone_port, &places.cgroup, &places.bpffs);
    let takeover = handover::find(&settings.places.run_dir.join("handover.sock"), &about)?;
    let (datapath, shared) = Datapath::load(bpf::Settings {
        bpffs: settings.places.bpffs.clone(),
        cgroup: settings.places.cgroup.clone(),
        agent_cgroup,
        outbound_port: settings.outbound_port,
        hbone_port: settings.hbone_port,
        max_pending: settings.max_pending,
        max_listening: settings.max_listening,
        max_direct: settings.max_direct,
        max_verdicts: settings.max_verdicts,
        max_datagrams: settings.max_datagrams,
        kubelet_cgroup: settings.kubelet_cgroup.clone(),
    })?;
    let datapath = Arc::new(datapath);
    let store = Arc::new(Store::default());
    let telling = Telling::new(&settings.telling, &settings.node, &settings.cluster, &store)?;
    // Until it has taken over, the old agent speaks for the node and writes the files.
    let (speaks, speaking) = watch::channel(takeover.is_none());
    let memory = control::Memory::recall(state, &settings.node, &store, speaking.clone())
        .with_context(|| format!("cannot read the last configuration in {}", state.display()))?;
    let recalled = memory.recalled();
    tokio::spawn(Following::new(&store, speaks.subscribe(), audit.clone()).run());
    let signer = Authority { ca: control::CaClient::new(connection.clone()), ttl: settings.certificate_ttl };
    let certificates = Certificates::new(Arc::new(signer), audit.clone().into());
    let trust = certificates.trust().clone();
    trust.say(store.snapshot().trust_bundles().values());
    tokio::spawn(follow_roots(store.subscribe(), trust));
    let Telling { traced, access, spans } = telling.clone();
    let (stats, off) = (Arc::default(), settings.telling.is_off());
    let flows = FlowLog::new(Sinks { off, audit: audit.clone(), traced, traffic, udp, stats, access, spans });
    let table = Arc::new(PodTable::default());
    let between = direct::Settings {
        lease: settings.verdict_lease,
        strict_grace: settings.strict_grace,
        max_verdicts: settings.max_verdicts,
        hbone_port: settings.hbone_port,
    };
    let direct =
        Direct::new(between, Arc::clone(&datapath), Arc::clone(&store), Arc::clone(&table), Arc::clone(&flows));
    let proxy = Arc::new(Proxy {
        datapath: Arc::clone(&datapath),
        store: Arc::clone(&store),
        certificates: Arc::clone(&certificates),
        pods: Arc::clone(&table),
        pool: Arc::new(Pool::new(PoolSettings::default())),
        flows: Arc::clone(&flows),
        direct: Arc::clone(&direct),
        balancer: Default::default(),
        http: Default::default(),
        live: Default::default(),
        ask_timeout: settings.ask_timeout,
        hbone_port: settings.hbone_port,
    });
    let (mut registry, seen) = Registry::new(
        pods::Settings {
            cgroup: settings.places.cgroup.clone(),
            host_proc: settings.host_proc.clone(),
            state: state.clone(),
            audit_interval: settings.audit_interval,
            outbound_port: settings.outbound_port,
        },
        Arc::clone(&datapath),
        Arc::clone(&certificates),
        Arc::clone(&store),
        Arc::clone(&table),
        Arc::new(Server(Arc::clone(&proxy))),
    )
    .with_context(|| format!("cannot remember pods in {}", state.display()))?;
    let (control_status, control_seen) = watch::channel(control::ControlStatus::default());
    let (drains, draining) = watch::channel(false);
    let found = seen.pods.clone();
    let (installer, plugin) = cni::Installer::new(&settings);
    let readiness =
        Readiness { control: control_seen.clone(), pods: seen.pods.clone(), hooks: seen.hooks, plugin, draining };
    let admin = Arc::new(Admin {
        node: settings.node.clone(),
        started,
        store: Arc::clone(&store),
        flows,
        certificates: Arc::clone(&certificates),
        datapath: Arc::clone(&datapath),
        pods: seen.pods.clone(),
        control: control_seen.clone(),
        readiness: readiness.clone(),
        pool: Arc::clone(&proxy.pool),
        direct: Arc::clone(&direct),
        http: Arc::clone(&proxy.http),
        proxy: Arc::clone(&proxy),
    });

    let (stop, stopping) = watch::channel(false);
    let node = control::NodeFacts {
        ip: own_ip(&settings.controller).await,
        agent: format!("mesh-agent-{}", settings.node),
        namespace: settings.own_namespace.clone(),
        name: settings.node.clone(),
        cluster: settings.cluster.clone(),
    };
    let (states, states_seen) = watch::channel(Vec::new());
    let control = control::spawn(
        connection,
        node,
        Arc::clone(&store),
        memory,
        control_status,
        states_seen,
        Arc::clone(&admin) as Arc<dyn control::Responder>,
        speaking,
        stopping,
    );

    let run_dir = &settings.places.run_dir;
    let beginning = Beginning::new(takeover, run_dir, &certificates, control_seen, recalled);
    let Beginning { pods: handed, sockets, before } = beginning.await?;
    tracing::info!("serving beside the old agent, if there is one");
    registry.adopt(handed);
    tokio::spawn(admin::report(seen.pods, states));
    let (admin_socket, join_socket) = (begin::listener(&sockets.admin)?, begin::listener(&sockets.joins)?);
    let answer = |address: Option<SocketAddr>, what: &str, answers: health::Answer| -> Result<_> {
        let Some(address) = address else { return Ok(None) };
        let listener = health::listen(address).with_context(|| format!("--{what} {address}"))?;
        Ok(Some(health::serve(listener, answers)))
    };
    let not_ready = {
        let readiness = readiness.clone();
        Arc::new(move || readiness.node_not_ready())
    };
    let control_seen = readiness.control.clone();
    let health = answer(settings.health, "health", readiness.answers())?;
    let counters = Counters::new(Sources {
        datapath: Arc::clone(&datapath),
        direct: Arc::clone(&direct),
        flows: Arc::clone(&proxy.flows),
        http: Arc::clone(&proxy.http),
        certificates: Arc::clone(&certificates),
        store: Arc::clone(&store),
        control: control_seen,
        metrics: metrics.clone(),
    });
    let scraped = answer(settings.metrics, "metrics", {
        let (metrics, counters) = (metrics, Arc::clone(&counters));
        health::metrics(move || {
            counters.gather();
            metrics.render()
        })
    })?;
    if let Some(before) = before {
        let released = tokio::task::spawn_blocking(move || before.serving()).await?;
        released.context("the old agent goes on, and this one does not")?;
        tracing::info!("took over");
    }
    // From here on this agent alone acts: on pods, on the kernel, on files, and as the one reader of the rings.
    speaks.send_replace(true);
    counters.begin();
    let logs = shared.attach(&datapath)?;
    let mut helpers = JoinSet::new();
    let between = Arc::clone(&direct).run(settled(found.clone()));
    helpers.spawn(async move {
        let error = between.await.err();
        tracing::error!(error = error.map(tracing::field::display), "connections of this node are no longer accounted");
    });
    let udp = Udp {
        datapath: Arc::clone(&datapath),
        store: Arc::clone(&store),
        pods: Arc::clone(&table),
        flows: Arc::clone(&proxy.flows),
        idle: settings.udp_idle,
    };
    helpers.spawn(udp.run(settled(found.clone())));
    match settings.kubelet_cgroup {
        Some(_) => drop(helpers.spawn(bpf::keep_probes(Arc::clone(&datapath)))),
        None => bpf::remove_probes(&datapath)?,
    }
    // A task of its own: log lines are worth no connection, whatever the programs wrote and its reader makes of it.
    let logs = bpf::read_logs(logs);
    helpers.spawn(async move {
        let error = logs.await.err().map(anyhow::Error::from);
        tracing::error!(error = error.map(tracing::field::display), "no more log lines of the eBPF programs");
    });
    helpers.spawn(cni::keep(cni::namespaces_file(state), Arc::clone(&store)));
    if let Some(installer) = installer {
        helpers.spawn(installer.run());
    }
    let (commands, requests) = mpsc::channel(JOIN_QUEUE);
    // Not spawned: hooking a pod takes the kernel milliseconds, and no thread that moves connections shall wait for it.
    let registry = registry.run(requests);
    let offer = handover::offer(handover::Giver {
        about,
        commands: commands.clone(),
        certificates,
        sockets: Arc::new(sockets),
    })?;
    tokio::spawn(Arc::clone(&counters).copy());
    tokio::spawn(sweep(Arc::clone(&proxy)));
    let events = {
        let (ring, proxy) = (datapath.events()?, Arc::clone(&proxy));
        async move {
            settled(found).await;
            bpf::read_events(ring, move |event| proxy.kernel_refused(&event)).await
        }
    };
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut told = async || tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} };
    tracing::info!(node = settings.node, controller = settings.controller, "serving");

    let mut work = Box::pin(async move {
        // It ends with the work.
        let _offer = offer;
        tokio::select! {
            done = admin::serve(admin_socket, admin) => done.context("the admin socket failed").map(|()| Ended::Abandoned),
            () = pods::serve_joins(join_socket, commands, not_ready) => Ok(Ended::Abandoned),
            () = maybe(health) => Ok(Ended::Abandoned),
            () = maybe(scraped) => Ok(Ended::Abandoned),
            done = events => done.context("the ring of kernel events failed").map(|()| Ended::Abandoned),
            ended = registry => Ok(ended),
        }
    });
    let mut ended = tokio::select! { ended = &mut work => Some(ended), () = told() => None };
    drains.send_replace(true);
    if ended.is_none() {
        tracing::info!("told to end; connections go on until they end or the deadline comes");
        // Everything is served meanwhile, a successor too.
        let drained = drain::drain(&proxy, settings.drain_deadline, told());
        ended = tokio::select! { ended = &mut work => Some(ended), () = drained => None };
    }
    // What listened listens no more.
    drop(work);
    let ended = match ended {
        Some(Ok(Ended::HandedOver(lets_go))) => {
            speaks.send_replace(false);
            helpers.shutdown().await;
            counters.end();
            // Fails only if the successor has gone again.
            let _ = lets_go.send(());
            tracing::info!("replaced; what is live goes on until it ends or the deadline comes");
            drain::drain(&proxy, settings.drain_deadline, told()).await;
            Ok(())
        }
        Some(ended) => ended.map(drop),
        None => {
            tracing::info!("stopping; redirected pods stay redirected, and their new connections are refused");
            Ok(())
        }
    };
    stop.send_replace(true);
    control.stopped().await;
    telling.end().await;
    ended
}

/// Until the pods of an earlier agent are found and the configuration names them, or for [`PODS_FOUND`]: what the
/// kernel told meanwhile is about them.
async fn settled(mut pods: watch::Receiver<Vec<PodStatus>>) {
    let settled = |pods: &Vec<PodStatus>| {
        !pods.is_empty() && !pods.iter().any(|pod| matches!(pod.redirection, Redirection::Pending(_)))
    };
    let _ = tokio::time::timeout(PODS_FOUND, pods.wait_for(settled)).await;
}

/// What the controller says of roots holds for whoever is judged next.
async fn follow_roots(mut snapshots: watch::Receiver<Arc<Snapshot>>, trust: Trust) {
    let mut said = Arc::default();
    while snapshots.changed().await.is_ok() {
        let bundles = Arc::clone(snapshots.borrow_and_update().trust_bundles());
        if !Arc::ptr_eq(&said, &bundles) {
            trust.say(bundles.values());
            said = bundles;
        }
    }
}

async fn maybe(work: Option<impl Future<Output = ()>>) {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// The controller as a signer of certificates.
struct Authority {
    ca: control::CaClient,
    ttl: std::time::Duration,
}

impl Signer for Authority {
    fn sign<'a>(&'a self, identity: &'a Identity, csr_pem: String) -> Signing<'a> {
        Box::pin(async move {
            self.ca.sign(identity, csr_pem, self.ttl).await.map_err(|e| match e.retry_after() {
                Some(after) => SignError::unavailable(e).after(after),
                None if e.retryable() => SignError::unavailable(e),
                None => SignError::refused(e),
            })
        })
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

/// Closes what rests for too long, until the runtime ends.
async fn sweep(proxy: Arc<Proxy>) {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        proxy.http.sweep(&proxy.store.snapshot(), std::time::Instant::now());
    }
}
