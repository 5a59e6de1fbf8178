//! The command line.

mod agents;

pub use agents::{AgentAuth, AgentOptions};

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand};
use mesh_common::{
    audit::Target,
    model::{Identity, SameNode},
};

use crate::translate::{Settings, same_node};

/// Watches the mesh's configuration, signs identities and tells the agents.
#[derive(Debug, Parser)]
#[command(name = "mesh-controller", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: Option<Run>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the token with which a node's agent joins; one that the node had is void.
    JoinToken(JoinToken),
}

#[derive(Debug, Args)]
pub struct JoinToken {
    /// The controller's state folder
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// The node's name
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// Write the token to this file (mode 0600) instead of the terminal
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

// Of a struct with another one in it clap no longer finds by itself which arguments say that it is there.
#[derive(Clone, Debug, Args)]
#[group(args = ["source", "state"])]
pub struct Run {
    /// Where the configuration is: kubernetes (the API that KUBECONFIG or the pod's own account names), or dir:PATH, a
    /// folder of Kubernetes manifests
    #[arg(long, value_name = "SOURCE")]
    pub source: SourceArg,
    /// Folder for the certificate authority, tokens and what must survive a restart (mode 0700); with kubernetes only
    /// for the socket below
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// Where agents connect
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15012")]
    pub listen: SocketAddr,
    /// Where meshctl connects (mode 0600) [default: admin.sock in the state folder]
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
    /// Answer meshctl there too, as in 127.0.0.1:15000, for a port-forward through the Kubernetes API; loopback only,
    /// since whoever reaches it may ask everything
    #[arg(long, value_name = "ADDR", value_parser = loopback)]
    pub admin_listen: Option<SocketAddr>,
    /// Serve the dashboard there, as in 127.0.0.1:15080; loopback only. `meshctl dashboard` says where it is, with the
    /// token that it takes, which is also in the file dashboard.token of the state folder (mode 0600)
    #[arg(long, value_name = "ADDR", value_parser = loopback)]
    pub dashboard: Option<SocketAddr>,
    /// The namespace whose policies hold for the whole mesh
    #[arg(long, value_name = "NAMESPACE", default_value = "istio-system")]
    pub root_namespace: String,
    /// The namespace of the mesh itself; its pods never join
    #[arg(long, value_name = "NAMESPACE", default_value = "nodemesh-system")]
    pub namespace: String,
    /// The trust domain of identities
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", value_parser = trust_domain)]
    pub trust_domain: String,
    /// The name of the cluster
    #[arg(long, value_name = "NAME", default_value = "Kubernetes")]
    pub cluster: String,
    /// The suffix of service names
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// The DNS name in the controller's own certificate
    #[arg(long, value_name = "NAME", default_value = "mesh-controller.nodemesh-system.svc")]
    pub server_name: String,
    /// With more workloads and services than these, agents are told of their own nodes' pods and of whatever else their
    /// pods dial
    #[arg(long, value_name = "NUMBER", default_value_t = 5000)]
    pub on_demand_above: usize,
    /// How pods of the mesh speak within a node, where no label nodemesh.io/same-node says so: direct (plaintext on the
    /// pods' own links, attested by the kernel) or tls
    #[arg(long, value_name = "WAY", default_value = "direct", value_parser = same_node::meaning)]
    pub same_node: SameNode,
    /// The longest life of a workload's certificate, as in 90m, 24h or 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub certificate_ttl: Duration,
    /// How long a replica leads that does not renew its Lease; a third of it is what the API may take for one answer
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration)]
    pub leader_term: Duration,
    /// How often the keys of issuers of tokens (jwksUri) are fetched again
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub jwks_refresh: Duration,
    /// A file (PEM) of certificates that issuers of tokens are trusted by, besides those of the system
    #[arg(long, value_name = "FILE")]
    pub jwks_ca: Option<PathBuf>,
    #[command(flatten)]
    pub agents: AgentOptions,
    /// What to log, as in info or mesh_controller=debug
    #[arg(long, value_name = "FILTER", default_value = "info,kube_leader_election=warn")]
    pub log: String,
    /// Where the audit stream goes, one JSON object a line: off, stdout, stderr, or a file (mode 0600), which becomes
    /// FILE.1 at 64 MiB. Logs go to stderr, so that the two stay apart
    #[arg(long, value_name = "WHERE", default_value = "stdout", env = "MESH_AUDIT_LOG")]
    pub audit_log: Target,
}

/// A source of configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceArg {
    Directory(PathBuf),
    Kubernetes,
}

impl FromStr for SourceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "kubernetes" => Ok(Self::Kubernetes),
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Directory(path.into())),
            _ => Err("must be kubernetes or dir:PATH".to_owned()),
        }
    }
}

impl Run {
    pub fn admin_socket(&self) -> PathBuf {
        self.admin_socket.clone().unwrap_or_else(|| self.state.join("admin.sock"))
    }

    /// What translation needs to know.
    pub fn settings(&self) -> Settings {
        Settings {
            cluster: self.cluster.clone(),
            cluster_domain: self.cluster_domain.clone(),
            trust_domain: self.trust_domain.clone(),
            root_namespace: self.root_namespace.clone(),
            own_namespace: self.namespace.clone(),
            same_node: self.same_node,
        }
    }
}

/// What translation would know in a controller with these arguments; of those that it does not ask for none is looked
/// at. Of one that stands twice the last counts.
///
/// # Errors
/// Names the argument that cannot be read.
pub fn settings_of<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<Settings, String> {
    const ASKED: [&str; 6] =
        ["--root-namespace", "--namespace", "--trust-domain", "--cluster", "--cluster-domain", "--same-node"];
    let mut given: BTreeMap<&str, &str> = BTreeMap::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let (name, value) = argument.split_once('=').map_or((argument, None), |(name, value)| (name, Some(value)));
        if ASKED.contains(&name) {
            given.insert(name, value.or_else(|| arguments.next()).unwrap_or_default());
        }
    }
    let needed = ["mesh-controller", "--source=kubernetes", "--state=/"].map(ToOwned::to_owned);
    let given = given.into_iter().map(|(name, value)| format!("{name}={value}"));
    let cli = Cli::try_parse_from(needed.into_iter().chain(given)).map_err(|error| {
        let text = error.to_string();
        text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })?;
    Ok(cli.run.expect("its source and state are given").settings())
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|e| format!("{e}"))?;
    if address.ip().is_loopback() { Ok(address) } else { Err(format!("{} is no loopback address", address.ip())) }
}

fn trust_domain(text: &str) -> Result<String, String> {
    Identity::new(text, "namespace", "account").map(|_| text.to_owned()).map_err(|e| e.to_string())
}

/// A number and s, m, h or d.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time (a number and s, m, h or d)");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    if number == 0 { Err(wrong()) } else { Ok(Duration::from_secs(u64::from(number) * seconds)) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn both_commands_parse() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from([
            "c",
            "--source",
            "dir:/x",
            "--state",
            "/s",
            "--certificate-ttl",
            "90m",
            "--same-node",
            "tls",
        ]);
        let run = cli.expect("valid").run.expect("run");
        assert_eq!(run.source, SourceArg::Directory("/x".into()));
        assert_eq!(run.certificate_ttl, Duration::from_secs(5400));
        assert_eq!(run.settings().same_node, SameNode::Tls);
        assert_eq!(run.admin_socket(), PathBuf::from("/s/admin.sock"));
        let cli = Cli::try_parse_from(["c", "--source", "kubernetes", "--state", "/s"]).expect("valid");
        assert_eq!(cli.run.expect("run").source, SourceArg::Kubernetes);
        let cli = Cli::try_parse_from(["c", "join-token", "--state", "/s", "--node", "a"]).expect("valid");
        assert!(matches!(cli.command, Some(Command::JoinToken(_))));
    }

    #[test]
    fn settings_are_read_from_a_controllers_arguments() {
        let usual = settings_of([]).expect("usual ones");
        assert_eq!((usual.cluster_domain.as_str(), usual.root_namespace.as_str()), ("cluster.local", "istio-system"));
        let given = ["--what=ever", "--cluster-domain=a.b", "--root-namespace", "root", "--cluster-domain=c.d", "x"];
        let given = settings_of(given).expect("given ones");
        assert_eq!((given.cluster_domain.as_str(), given.root_namespace.as_str()), ("c.d", "root"));
        assert_eq!(given.trust_domain, "cluster.local");
        let why = settings_of(["--trust-domain=A/b"]).expect_err("no trust domain");
        assert!(why.contains("--trust-domain"), "{why}");
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for arguments in [
            ["--source", "kube:x"],
            ["--source", "kubernetes:x"],
            ["--source", "dir:"],
            ["--same-node", "mtls"],
            ["--certificate-ttl", "0h"],
            ["--certificate-ttl", "5"],
            ["--trust-domain", "A/b"],
            ["--admin-listen", "0.0.0.0:15000"],
            ["--dashboard", "0.0.0.0:15080"],
        ] {
            let all = ["c", "--state", "/s"].into_iter().chain(arguments);
            assert!(Cli::try_parse_from(all).is_err(), "{arguments:?}");
        }
    }
}
