//! The audit stream: what somebody must answer for, one JSON object a line, in one shape for agents and controllers.
//!
//! Every line has `time`, `program`, `instance`, `kind` and `count`; beside them stands the object of its kind. Fields
//! that say nothing are left out; those that are there never change their meaning, and new ones may come. Nothing in it
//! is secret: no tokens, no query strings, no values of headers. A line is ASCII: whatever else there is, is escaped.
//!
//! Nobody who has something to say waits for it to be written. What does not fit is counted, and so is what a line
//! stands for: the sum of `count` over all lines is the number of events, those of `lost` lines are only numbers.

mod pending;
mod stream;
mod target;
#[cfg(test)]
mod tests;
mod text;
mod time;

use serde::{Deserialize, Serialize};

pub use pending::{Bounds, Pending};
pub use stream::{Counting, Stream, Writer};
pub use target::{Sink, Target};
pub use time::Time;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// When it happened; of several, the newest.
    pub time: Time,
    /// `mesh-agent` or `mesh-controller`.
    pub program: String,
    /// The agent's node, or the name of the controller's replica.
    pub instance: String,
    pub kind: Kind,
    /// Events that this line stands for, 1 or more. What else it says is of the newest.
    pub count: u64,
    /// When the first of them happened, if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// A stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Of the configuration by which it was decided or since which it holds: the number that this agent has for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// With `denied`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied: Option<Box<Denied>>,
    /// With `policy_changed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Box<PolicyChange>>,
    /// With `bypass`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bypass: Option<Box<Bypass>>,
    /// With `certificate_issued`, `certificate_refused` and `certificate_failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Box<Certificate>>,
    /// With `agent_refused`: a node by its name, or the address of somebody who did not prove one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A connection or a request was refused: every flow record with the verdict DROPPED.
    Denied,
    /// A policy is there now, says something else, or is gone.
    PolicyChanged,
    /// Pods that the mesh protected, or only watches, go past it, or no longer do.
    Bypass,
    /// Of the controller: it signed a certificate; of an agent: it holds it.
    CertificateIssued,
    /// The controller did not sign, and will not.
    CertificateRefused,
    /// An agent did not get a certificate this time, and tries again.
    CertificateFailed,
    /// The controller did not serve a call of an agent, or of somebody who says to be one.
    AgentRefused,
    /// So many events were not written: there were too many, or the place could not be written to.
    Lost,
}

/// A connection or a request that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denied {
    /// Who says so: the agent of the `source` or of the `destination`. Where both are asked, both say so.
    pub reporter: String,
    /// Who asked; absent if so many ask that only their number is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Party>,
    /// Absent if one source asks for so many that only their number is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Party>,
    /// The service that the client dialled, `namespace/hostname`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `direct`, `local`, `tunnel` or `passthrough`; absent where it came to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `none`, `mutual_tls` or `kernel_attested`: how the source's identity is proven.
    pub security: String,
    /// `namespace/name` of the policy that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// From 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<u64>,
    /// Of a request; absent of a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// Of the flow record, for `meshctl explain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<u64>,
}

/// One end of a connection; what is not known is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Party {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// SPIFFE id: proven, or what the configuration says of the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// `ip:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub method: String,
    /// Without its query.
    pub path: String,
    pub host: String,
    /// `HTTP/1.1` or `HTTP/2`.
    pub version: String,
    /// The answer.
    pub status: u16,
    /// `issuer/subject` of the token that was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
}

/// What became of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It was there already when this program began to look.
    Found,
    Added,
    Changed,
    Removed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyChange {
    pub change: Change,
    /// As in Kubernetes. An agent knows only AuthorizationPolicy: what others say reaches it as such, or with its pods.
    pub object: String,
    pub namespace: String,
    pub name: String,
    /// `ALLOW`, `DENY` or `AUDIT`, of an agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// It is evaluated and not enforced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// The object's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_generation: Option<i64>,
    /// Who wrote it last, as managedFields names them: a program, no person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<String>,
    /// Where it stands, if the configuration is a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Passage {
    Begun,
    Ended,
}

/// Pods that are not protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bypass {
    pub change: Passage,
    pub namespace: String,
    /// Absent: the whole namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// What they are now: `mesh`, `observe` or `none`; absent of a pod that is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// `annotation` (of `meshctl bypass`) or `label`, of a namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Who wrote it last, as managedFields names them: a program, no person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// SPIFFE id; absent if what was asked for is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Whose agent asked, of a controller's; an agent's own is its `instance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
    /// It takes the place of an earlier one; of an agent's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub renewed: bool,
}

impl Record {
    /// Something that happens now; what it is, is to be filled in. Whose it is, the stream knows.
    pub fn new(kind: Kind) -> Self {
        Self {
            time: Time::now(),
            program: String::new(),
            instance: String::new(),
            kind,
            count: 1,
            since: None,
            reason: None,
            message: None,
            generation: None,
            denied: None,
            policy: None,
            bypass: None,
            certificate: None,
            caller: None,
        }
    }

    /// A line, with its end. Texts that are longer than anybody reads are cut.
    pub fn line(&self) -> Vec<u8> {
        text::line(self)
    }
}

impl Kind {
    /// As it stands in a line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::PolicyChanged => "policy_changed",
            Self::Bypass => "bypass",
            Self::CertificateIssued => "certificate_issued",
            Self::CertificateRefused => "certificate_refused",
            Self::CertificateFailed => "certificate_failed",
            Self::AgentRefused => "agent_refused",
            Self::Lost => "lost",
        }
    }
}
