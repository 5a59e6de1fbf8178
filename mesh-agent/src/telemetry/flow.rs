//! The record of one connection, of one request, or of an exchange of datagrams.

use std::{
    borrow::Cow,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_common::model::{
    Asked, Decision, Identity, LocalPod, Observation, ObservedAs, Passed, PolicyName, ServiceName, Workload,
};

use super::trace;

#[derive(Clone, Debug)]
pub struct Flow {
    /// Unique on this node while the agent runs.
    pub id: u64,
    /// Of a request: when its head was read.
    pub start: SystemTime,
    /// Of a request: the last byte of its answer, or its break-off.
    pub end: SystemTime,
    pub direction: Direction,
    pub verdict: Verdict,
    /// A stable code; `None` for a connection that went well.
    pub reason: Option<Cow<'static, str>>,
    pub source: Party,
    pub destination: Party,
    /// The service that the client dialled.
    pub service: Option<Arc<ServiceName>>,
    pub path: Option<Path>,
    pub security: Security,
    /// Payload bytes from the source to the destination; of a request, those of its body.
    pub sent: u64,
    pub received: u64,
    pub policy: Option<PolicyName>,
    pub rule: Option<usize>,
    /// Generation of the configuration that decided.
    pub generation: u64,
    /// For people.
    pub error: Option<String>,
    pub tls: Option<(&'static str, &'static str)>,
    /// The other end of the outer connection, for a tunnel.
    pub tunnel: Option<SocketAddr>,
    /// It is older than the pod's enrolment: no agent carries it.
    pub older: bool,
    /// What policies that are not enforced said of it.
    pub observations: Vec<Observation>,
    /// What the decision was made of; `None` where no policy was asked here.
    pub asked: Option<Arc<Asked>>,
    /// What the kernel measured of it; `None` where it was not asked.
    pub tcp: Option<Tcp>,
    /// The record is of a request; `None`: of a connection.
    pub http: Option<Box<HttpRequest>>,
    /// The record is of datagrams: from its first one to the last before a pause. Its client has port 0: it may have
    /// had many sockets.
    pub udp: Option<Udp>,
    /// The pod of this node that the record is about, with what is told of it: the source of what is outbound, the
    /// destination of what is inbound. `None`: it is none that the configuration names.
    pub told: Option<Arc<LocalPod>>,
    /// The destination, where it is a pod of this node too and nobody else tells of it: the connection went into it
    /// past the agent's other hand.
    pub told_there: Option<Arc<LocalPod>>,
    /// What metrics have of it already.
    pub counted: Counted,
}

/// What was counted of a connection before its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// That it was opened.
    pub opened: bool,
    pub sent: u64,
    pub received: u64,
}

/// One request, as it is passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRequest {
    pub method: String,
    /// Without its query, which may hold secrets.
    pub path: String,
    pub host: String,
    /// 0: there was no answer.
    pub status: u16,
    pub version: &'static str,
    /// Of the token that was verified.
    pub principal: Option<String>,
    /// Envoy's: of answers that the agent gave itself, and of what broke off.
    pub flags: Option<&'static str>,
    pub request_id: Option<String>,
    /// The route that took it, by its name; `None`: none was asked.
    pub route: Option<Arc<str>>,
    /// Tries after the first one.
    pub retries: u32,
    /// It is gRPC by its own words (`content-type`).
    pub grpc: bool,
    /// `None`: it is no gRPC, or its answer has none.
    pub grpc_status: Option<u32>,
    /// gRPC messages that passed whole, to the server and back.
    pub messages: (u64, u64),
    pub trace: Option<trace::Ids>,
    /// What [`mesh_common::model::telemetry::Tracing::tags`] says of it.
    pub tags: Vec<(Arc<str>, String)>,
}

/// One TCP connection, as the kernel of the dialling pod saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Smoothed (RFC 6298).
    pub rtt: Duration,
    /// Segments that were sent again.
    pub retransmits: u32,
}

/// Datagrams from the source to the destination, and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Udp {
    pub sent: u64,
    pub received: u64,
}

/// One end of a connection. What is known of who it is ([`Facts`]) is shared: a clone copies none of it.
#[derive(Clone, Debug, Default)]
pub struct Party {
    pub facts: Arc<Facts>,
    /// Proven, or what the configuration says of the destination; `None` outside the mesh.
    pub identity: Option<Arc<Identity>>,
    pub address: Option<SocketAddr>,
}

/// What the configuration says of one end; all empty of whom it does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Facts {
    pub namespace: String,
    pub pod: String,
    pub workload: String,
    /// Istio's canonical service, and its revision.
    pub canonical_service: String,
    pub canonical_revision: String,
    pub cluster: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Seen by the source's agent.
    Outbound,
    /// Seen by the destination's agent.
    Inbound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Forwarded,
    /// Forwarded, and an AUDIT policy matched.
    Audit,
    /// Refused by a decision.
    Dropped,
    /// Permitted, but it did not work.
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// Both pods on this node, through this agent.
    Local,
    /// HBONE.
    Tunnel,
    /// As dialled, in plaintext.
    Passthrough,
    /// Both pods on this node, and no agent between them.
    Direct,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    Plaintext,
    MutualTls,
    KernelAttested,
}

/// Of a text that a client chose, bytes.
const LONGEST_TEXT: usize = 1024;
/// Of all that policies were asked about a request, bytes.
const LONGEST_FACTS: usize = 8 * 1024;

fn cut(text: &mut String) {
    if text.len() > LONGEST_TEXT {
        let end = (0..=LONGEST_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

impl Flow {
    /// A connection of which nothing more is known yet.
    pub fn new(id: u64, start: SystemTime, direction: Direction, source: Party, destination: Party) -> Self {
        Self {
            id,
            start,
            end: start,
            direction,
            verdict: Verdict::Forwarded,
            reason: None,
            source,
            destination,
            service: None,
            path: None,
            security: Security::Plaintext,
            sent: 0,
            received: 0,
            policy: None,
            rule: None,
            generation: 0,
            error: None,
            tls: None,
            tunnel: None,
            older: false,
            observations: Vec::new(),
            asked: None,
            tcp: None,
            http: None,
            udp: None,
            told: None,
            told_there: None,
            counted: Counted::default(),
        }
    }

    pub fn decided(&mut self, decision: &Decision) {
        let Decision { outcome, observations, asked, generation } = decision;
        self.generation = *generation;
        self.observations.clone_from(observations);
        self.asked.clone_from(asked);
        match outcome {
            Ok(permit) => {
                self.policy = permit.policy().cloned();
                self.rule = permit.rule();
                if observations.iter().any(|seen| seen.observed_as == ObservedAs::Audited) {
                    self.verdict = Verdict::Audit;
                }
            }
            Err(denied) => {
                self.verdict = Verdict::Dropped;
                self.reason = Some(Cow::Borrowed(denied.reason.code()));
                self.policy = denied.policy.clone();
                self.rule = denied.rule;
                self.error = Some(denied.to_string());
            }
        }
    }

    /// Cuts short what its client could make as long as it likes: records are many, and memory is not.
    pub fn bound(&mut self) {
        if let Some(http) = &mut self.http {
            let HttpRequest { method, path, host, tags, .. } = &mut **http;
            [method, path, host].into_iter().chain(tags.iter_mut().map(|(_, value)| value)).for_each(cut);
        }
        let size = |asked: &Arc<Asked>| match &asked.passed {
            Passed::Request(facts) => {
                let headers: usize = facts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
                facts.method.len() + facts.path.len() + facts.host.len() + headers
            }
            Passed::Open | Passed::Bytes { .. } | Passed::Unnamed => 0,
        };
        if self.asked.as_ref().is_some_and(|asked| size(asked) > LONGEST_FACTS) {
            self.asked = None;
            let why = self.error.take().map(|why| format!("{why}; ")).unwrap_or_default();
            self.error = Some(why + "the request is too long to keep what policies saw of it");
        }
    }

    /// Whatever policies said of it does not count.
    pub fn undecided(&mut self) {
        (self.policy, self.rule, self.asked) = (None, None, None);
        self.observations.clear();
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

impl Party {
    /// A workload; its identity is what the configuration says, unless somebody proved it.
    pub fn of(workload: &Workload, address: SocketAddr) -> Self {
        Self {
            facts: Arc::new(Facts::of(workload)),
            identity: Some(Arc::new(workload.identity.clone())),
            address: Some(address),
        }
    }

    /// Somebody of whom only the address is known.
    pub fn stranger(address: SocketAddr) -> Self {
        Self { address: Some(address), ..Self::default() }
    }
}

impl Facts {
    pub fn of(workload: &Workload) -> Self {
        Self {
            namespace: workload.namespace.clone(),
            pod: workload.name.clone(),
            workload: workload.workload_name.clone(),
            canonical_service: workload.canonical_name.clone(),
            canonical_revision: workload.canonical_revision.clone(),
            cluster: workload.cluster.clone(),
        }
    }
}

impl Deref for Party {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.facts
    }
}

/// Of this party alone: what others share stays.
impl DerefMut for Party {
    fn deref_mut(&mut self) -> &mut Facts {
        Arc::make_mut(&mut self.facts)
    }
}

impl Verdict {
    /// The connection was refused or failed.
    pub fn is_bad(self) -> bool {
        matches!(self, Self::Dropped | Self::Error)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "FORWARDED",
            Self::Audit => "AUDIT",
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

impl Path {
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Tunnel => "tunnel",
            Self::Passthrough => "passthrough",
            Self::Direct => "direct",
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
