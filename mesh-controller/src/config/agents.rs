//! Options of agents' tokens, of what is signed for them, and of what is counted of that.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, ValueEnum};

use super::duration;
use crate::{ca::LimitSettings, tokens::ReviewSettings};

/// How agents prove their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AgentAuth {
    /// By a token that `mesh-controller join-token` made.
    JoinTokens,
    /// By the ServiceAccount token of their pod, which the Kubernetes API checks.
    Kubernetes,
}

#[derive(Clone, Debug, Args)]
pub struct AgentOptions {
    /// How agents prove their node [default: join-tokens with a source dir:, else kubernetes]
    #[arg(long, value_name = "WAY", value_enum)]
    pub agent_auth: Option<AgentAuth>,
    /// The audience for which agents' ServiceAccount tokens are made
    #[arg(long, value_name = "NAME", default_value = "nodemesh")]
    pub token_audience: String,
    /// The agents' ServiceAccount, in the mesh's own namespace
    #[arg(long, value_name = "NAME", default_value = "mesh-agent")]
    pub agent_account: String,
    /// How long the Kubernetes API's answer about a token holds, and how often it is looked whether the caller of a
    /// live connection is still there
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub token_check: Duration,
    /// Certificates that one node's agent may ask for at once
    #[arg(long, value_name = "COUNT", default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..))]
    pub certificate_burst: u32,
    /// Certificates a second that one node's agent may ask for from then on
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub certificate_rate: u32,
    /// Certificates that are signed at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrent_signing: u16,
    /// The Secret in the mesh's own namespace that holds the certificate authority: `mesh-ca`, which is made if it is
    /// not there, or another one, of the layout of Istio's `cacerts` or of type kubernetes.io/tls [default: the folder
    /// `ca` of --state with a source dir:, else mesh-ca]
    #[arg(long, value_name = "NAME")]
    pub ca_secret: Option<String>,
    /// The Secret mesh-ca is made and renewed by somebody else, as by cert-manager for a Certificate: it is waited for,
    /// and its new roots overlap with the old ones
    #[arg(long, conflicts_with = "ca_secret")]
    pub ca_given: bool,
    /// How long a new root is trusted before it signs, and an old one after; shorter than --certificate-ttl breaks
    /// connections [default: --certificate-ttl]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub root_overlap: Option<Duration>,
    /// Serve Prometheus metrics there, as in 0.0.0.0:15014
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,
}

impl AgentOptions {
    pub fn limits(&self) -> LimitSettings {
        LimitSettings {
            burst: self.certificate_burst,
            per_second: self.certificate_rate,
            signing: self.concurrent_signing.into(),
        }
    }

    pub fn reviews(&self, namespace: &str) -> ReviewSettings {
        ReviewSettings {
            namespace: namespace.to_owned(),
            account: self.agent_account.clone(),
            audience: self.token_audience.clone(),
            holds: self.token_check,
        }
    }
}
