//! Arguments and environment; the only file that reads them.

mod telling;

use std::{env, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use mesh_common::audit::Target;
pub use telling::{AccessLogFormat, Telling};

/// The agent of one node of the mesh.
#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version, about)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Redirect, authenticate and authorise the traffic of this node's pods
    Run(Box<Run>),
    /// Tell the running agent of a pod, as a CNI plugin does
    #[command(subcommand)]
    Pod(Pod),
    /// Take every trace of an agent from the kernel; connections go as without a mesh afterwards
    Uninstall {
        #[command(flatten)]
        places: Places,
        #[command(flatten)]
        cni: CniPlaces,
    },
    /// Answer a container runtime as a CNI plugin, as under the name nodemesh-cni
    Cni,
    /// Whether the agent of this container is ready, as a probe asks; another one of the node does not count
    Ready {
        /// Where it serves --health
        #[arg(long, default_value = "127.0.0.1:15021")]
        health: SocketAddr,
    },
    /// Whether this kernel takes the eBPF programs, and what each costs its verifier; attaches nothing
    Programs {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct Run {
    /// Name of this node, as pods' spec.nodeName has it
    #[arg(long, env = "NODE_NAME")]
    pub node: String,
    /// The controller, as in https://10.0.0.1:15012
    #[arg(long, env = "MESH_CONTROLLER")]
    pub controller: String,
    /// Name that the controller's certificate must bear
    #[arg(long, default_value = "mesh-controller.nodemesh-system.svc")]
    pub controller_name: String,
    /// PEM file of the roots of the controller's certificate; read anew whenever the agent connects
    #[arg(long)]
    pub controller_ca: PathBuf,
    /// File with what proves the node: a join token (mode 0600), or the ServiceAccount token of the agent's pod; read
    /// anew at each call
    #[arg(long)]
    pub token: PathBuf,
    #[command(flatten)]
    pub places: Places,
    #[command(flatten)]
    pub cni: CniPlaces,
    /// How long a new pod may wait for the mesh before the kubelet is to try again, in seconds
    #[arg(long, default_value = "20", value_parser = seconds)]
    pub cni_timeout: Duration,
    /// Namespace of the mesh itself, whose pods never join
    #[arg(long, env = "POD_NAMESPACE", default_value = "nodemesh-system")]
    pub own_namespace: String,
    /// Where the node's processes are seen, for pods that nobody announced
    #[arg(long, default_value = "/proc")]
    pub host_proc: PathBuf,
    /// How long connections that are older than their pod's enrolment may go on once a policy denies them, in seconds
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub strict_grace: Duration,
    /// How long a connection waits until the controller has said whose the address is that it dials, in seconds; only
    /// where the controller tells of addresses on demand
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub ask_timeout: Duration,
    /// Virtual port to which outbound connections are redirected
    #[arg(long, default_value_t = 15001)]
    pub outbound_port: u16,
    /// Port of the tunnel between nodes
    #[arg(long, default_value_t = 15008)]
    pub hbone_port: u16,
    /// The kubelet's cgroup v2 folder, outside that of the pods: its probes of declared ports pass. Without it they are
    /// connections without identity, and policies decide
    #[arg(long)]
    pub kubelet_cgroup: Option<PathBuf>,
    /// Connections of this node that may be between connect and accept; more are refused
    #[arg(long, default_value_t = mesh_common::abi::MAX_PENDING, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_pending: u32,
    /// Ports on which this node's pods may listen before closed ones look open, in every pod
    #[arg(long, default_value_t = mesh_common::abi::MAX_LISTENING, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_listening: u32,
    /// Connections that no agent carries, direct ones and those of observed pods, that may be open. A direct one that
    /// finds no room fails, and the agent carries the next ones; an observed one is not recorded
    #[arg(long, default_value_t = mesh_common::abi::MAX_DIRECT, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_direct: u32,
    /// Decisions on such connections that the kernel may hold; the agent carries what finds no room
    #[arg(long, default_value_t = mesh_common::abi::MAX_VERDICTS, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_verdicts: u32,
    /// Pairs of a pod and whom it exchanges datagrams with that may speak within a second; those of more pass too, and
    /// are counted without names (UDP_UNNAMED)
    #[arg(long, default_value_t = mesh_common::abi::MAX_DATAGRAMS, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_datagrams: u32,
    /// Datagrams between two ends are one record, which is written after a pause of so long, in seconds
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub udp_idle: Duration,
    /// How long the kernel may act on a decision without an agent, in seconds
    #[arg(long, default_value = "60", value_parser = seconds)]
    pub verdict_lease: Duration,
    /// Serve Prometheus metrics there, as in 0.0.0.0:15020
    #[arg(long)]
    pub metrics: Option<SocketAddr>,
    /// Time series of connections, requests and verdicts that metrics may have: up to 5 for each set of labels of
    /// connections, 69 of requests. What goes beyond is counted under labels "overflow"
    #[arg(long, default_value_t = 50_000, value_parser = series)]
    pub metrics_series: usize,
    /// Time series to which nothing was added for so long are told no more, in seconds
    #[arg(long, default_value = "900", value_parser = seconds)]
    pub metrics_idle: Duration,
    /// Serve GET /healthz/ready and /healthz/live there, as in 0.0.0.0:15021
    #[arg(long)]
    pub health: Option<SocketAddr>,
    /// How long live connections may go on once the agent is replaced or told to end, in seconds
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub drain_deadline: Duration,
    /// How often every hook is proven, in seconds
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub audit_interval: Duration,
    /// Threads that move connections; not given: half of the node's CPUs, one at least. One connection after another is
    /// cheaper than many at once, each waking the next
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub workers: Option<u16>,
    /// Cluster name, as the controller has it
    #[arg(long, default_value = "Kubernetes")]
    pub cluster: String,
    /// How long certificates shall be valid, in seconds; the controller may shorten it
    #[arg(long, default_value = "86400", value_parser = seconds)]
    pub certificate_ttl: Duration,
    /// Log filter, as in info or mesh_agent=debug
    #[arg(long, env = "MESH_LOG", default_value = "info")]
    pub log: String,
    /// Where the audit stream goes, one JSON object a line: off, stdout, stderr, or a file (mode 0600), which becomes
    /// FILE.1 at 64 MiB. Logs go to stderr, so that the two stay apart
    #[arg(long, env = "MESH_AUDIT_LOG", value_name = "WHERE", default_value = "stdout")]
    pub audit_log: Target,
    #[command(flatten)]
    pub telling: Telling,
}

#[derive(Debug, Subcommand)]
pub enum Pod {
    /// A pod of this node has its network namespace
    Add {
        #[command(flatten)]
        pod: Name,
        /// The pod's UID
        #[arg(long, default_value = "")]
        pod_uid: String,
        /// Its network namespace, as in /run/netns/x or /proc/123/ns/net
        #[arg(long)]
        netns: PathBuf,
        /// Its cgroup v2 folder
        #[arg(long)]
        cgroup: PathBuf,
    },
    /// A pod of this node is gone
    Remove {
        #[command(flatten)]
        pod: Name,
    },
}

#[derive(Debug, Args)]
pub struct Name {
    /// The agent's socket for joins
    #[arg(long, default_value = "/run/nodemesh/cni.sock")]
    pub socket: PathBuf,
    #[arg(long)]
    pub namespace: String,
    #[arg(long)]
    pub name: String,
}

/// Where an agent is at home; several agents on one kernel differ in all of these.
#[derive(Debug, Args)]
pub struct Places {
    /// Cgroup v2 folder below which all pods of this node run
    #[arg(long, default_value = "/sys/fs/cgroup/kubepods.slice")]
    pub cgroup: PathBuf,
    /// Folder on a bpf file system for maps and links
    #[arg(long, default_value = "/sys/fs/bpf/nodemesh")]
    pub bpffs: PathBuf,
    /// Folder for the sockets agent.sock and cni.sock
    #[arg(long, default_value = "/run/nodemesh")]
    pub run_dir: PathBuf,
    /// Folder for what outlives a restart: the last configuration, and which pods joined
    #[arg(long, default_value = "/var/lib/nodemesh-agent")]
    pub state_dir: PathBuf,
}

/// Where the node keeps CNI's files; without both options no plugin is installed.
#[derive(Debug, Args)]
pub struct CniPlaces {
    /// The node's folder of CNI configurations, as in /etc/cni/net.d: ours is written there and kept whole
    #[arg(long, requires = "cni_bin_dir")]
    pub cni_conf_dir: Option<PathBuf>,
    /// The node's folder of CNI plugins, as in /opt/cni/bin: ours is put there
    #[arg(long, requires = "cni_conf_dir")]
    pub cni_bin_dir: Option<PathBuf>,
}

/// What a runtime tells a CNI plugin by its environment; empty where it says nothing.
#[derive(Clone, Debug, Default)]
pub struct CniEnvironment {
    pub command: String,
    pub container: String,
    pub netns: String,
    pub interface: String,
    pub arguments: String,
}

impl CniEnvironment {
    pub fn read() -> Self {
        let of = |name| env::var_os(name).unwrap_or_default().to_string_lossy().into_owned();
        Self {
            command: of("CNI_COMMAND"),
            container: of("CNI_CONTAINERID"),
            netns: of("CNI_NETNS"),
            interface: of("CNI_IFNAME"),
            arguments: of("CNI_ARGS"),
        }
    }
}

/// The program was called by this name.
pub fn called(name: &str) -> bool {
    let own = env::args_os().next().map(PathBuf::from);
    own.is_some_and(|own| own.file_name().is_some_and(|own| own == name))
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(0) => Err("must be more than 0 seconds".to_owned()),
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(e) => Err(format!("{e}; seconds are expected")),
    }
}

/// One workload may have a quarter of them, which must do for one set of a request's labels.
fn series(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(few @ 0..1000) => Err(format!("{few} is less than 1000")),
        Ok(series) => Ok(series),
        Err(e) => Err(format!("{e}; a number of time series is expected")),
    }
}
