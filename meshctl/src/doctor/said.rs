//! What agents and controller say now, by the questions that other verbs ask.

use std::time::{Duration, SystemTime};

use mesh_common::proto::nodemesh::{
    CertificateInfo, ConfigKind, ConfigQuery, ConnectionInfo, ControllerStatus, Flow, FlowsQuery, NodeStatus,
    PolicyInfo, StatusQuery, Verdict, flows_query::Only, item, query,
};

use crate::{client::Servers, status};

/// The newest records of each node and verdict that are looked at.
const FLOWS: u32 = 1000;
/// Older ones are history.
pub const RECENT: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub struct Said {
    pub nodes: Vec<(String, NodeStatus)>,
    /// Of all replicas.
    pub controller: Option<ControllerStatus>,
    pub certificates: Vec<(String, CertificateInfo)>,
    pub connections: Vec<(String, ConnectionInfo)>,
    /// The newest records of each node of connections that were refused or failed.
    pub flows: Vec<(String, Flow)>,
    pub policies: Vec<PolicyInfo>,
    /// Who did not answer, and why; each once.
    pub unheard: Vec<String>,
}

impl Said {
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.controller.is_none()
    }
}

/// Whoever does not answer is noted; the others' answers stand.
pub async fn ask(servers: &Servers) -> Said {
    let mut said = Said::default();
    let config = |kind: ConfigKind| query::Kind::Config(ConfigQuery { kind: kind.into(), namespace: String::new() });
    // Neither requests nor what went well: a busy node has so many of both that they would be all that it tells.
    let flows = |verdict: Verdict| {
        let (verdict, only) = (verdict.into(), Only::Tcp.into());
        query::Kind::Flows(FlowsQuery { last: FLOWS, verdict, only, ..FlowsQuery::default() })
    };
    let questions = [
        query::Kind::Status(StatusQuery {}),
        config(ConfigKind::Certificates),
        config(ConfigKind::Connections),
        config(ConfigKind::Policies),
        flows(Verdict::Dropped),
        flows(Verdict::Error),
    ];
    let mut replicas = Vec::new();
    for question in questions {
        let (items, complete) = servers.ask(question).all().await;
        if let Err(failure) = complete {
            let why = failure.to_string();
            if !said.unheard.contains(&why) {
                said.unheard.push(why);
            }
        }
        for (node, kind) in items {
            match kind {
                item::Kind::Status(status) => said.nodes.push((node, status)),
                item::Kind::Controller(status) => replicas.push(status),
                item::Kind::Certificate(certificate) => said.certificates.push((node, certificate)),
                item::Kind::Connection(connection) => said.connections.push((node, connection)),
                item::Kind::Policy(policy) => said.policies.push(policy),
                item::Kind::Flow(flow) => said.flows.push((node, *flow)),
                _ => {}
            }
        }
    }
    said.nodes.sort_by(|a, b| a.0.cmp(&b.0));
    said.controller = status::controller::merged(replicas);
    said
}

/// Of a time on the wire, since 1970 by this machine's clock: how far it is ahead, in seconds; negative: ago.
pub fn ahead(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    seconds.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX))
}
