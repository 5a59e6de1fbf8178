//! The record of one connection.

use std::{borrow::Cow, net::SocketAddr, time::SystemTime};

use mesh_common::model::{Denied, Identity, Permit, PolicyName, ServiceName};

#[derive(Clone, Debug)]
pub struct Flow {
    /// Unique on this node while the agent runs.
    pub id: u64,
    pub start: SystemTime,
    pub end: SystemTime,
    pub direction: Direction,
    pub verdict: Verdict,
    /// A stable code; `None` for a connection that went well.
    pub reason: Option<Cow<'static, str>>,
    pub source: Party,
    pub destination: Party,
    /// The service that the client dialled.
    pub service: Option<ServiceName>,
    pub path: Option<Path>,
    pub security: Security,
    /// Payload bytes from the source to the destination.
    pub sent: u64,
    pub received: u64,
    pub policy: Option<PolicyName>,
    pub rule: Option<usize>,
    /// Generation of the configuration that decided.
    pub generation: u64,
    /// For people.
    pub error: Option<String>,
    pub tls: Option<(&'static str, &'static str)>,
}

/// One end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Party {
    pub namespace: String,
    pub pod: String,
    pub workload: String,
    /// Proven, or what the configuration says of the destination; `None` outside the mesh.
    pub identity: Option<Identity>,
    pub address: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Seen by the source's agent.
    Outbound,
    /// Seen by the destination's agent.
    Inbound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Forwarded,
    /// Refused by a decision.
    Dropped,
    /// Permitted, but it did not work.
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Both pods on this node, through this agent.
    Local,
    /// HBONE.
    Tunnel,
    /// As dialled, in plaintext.
    Passthrough,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    Plaintext,
    MutualTls,
    KernelAttested,
}

impl Flow {
    pub fn permitted(&mut self, permit: &Permit) {
        self.policy = permit.policy().cloned();
        self.rule = permit.rule();
    }

    pub fn denied(&mut self, denied: &Denied) {
        self.verdict = Verdict::Dropped;
        self.reason = Some(Cow::Borrowed(denied.reason.code()));
        self.policy = denied.policy.clone();
        self.rule = denied.rule;
        self.error = Some(denied.to_string());
    }

    /// Refused by a rule that is no policy.
    pub fn dropped(&mut self, reason: &'static str, error: impl ToString) {
        self.verdict = Verdict::Dropped;
        self.reason = Some(Cow::Borrowed(reason));
        self.error = Some(error.to_string());
    }

    /// Permitted, but it did not work.
    pub fn failed(&mut self, reason: impl Into<Cow<'static, str>>, error: impl ToString) {
        self.verdict = Verdict::Error;
        self.reason = Some(reason.into());
        self.error = Some(error.to_string());
    }
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "FORWARDED",
            Self::Dropped => "DROPPED",
            Self::Error => "ERROR",
        }
    }
}

impl Direction {
    pub fn reporter(self) -> &'static str {
        match self {
            Self::Outbound => "source",
            Self::Inbound => "destination",
        }
    }
}

impl Security {
    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "none",
            Self::MutualTls => "mutual_tls",
            Self::KernelAttested => "kernel_attested",
        }
    }
}
