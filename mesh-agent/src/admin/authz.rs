//! "May A reach B?", answered by the same function that decides connections.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mesh_common::{
    model::{Connection, Passed, Workload},
    proto::nodemesh::{AuthzAnswer, AuthzQuery, Verdict},
};
use tonic::Status;

use super::{Admin, explain};
use crate::state::Snapshot;

pub fn answer(admin: &Admin, query: &AuthzQuery) -> Result<AuthzAnswer, Status> {
    let snapshot = admin.store.snapshot();
    let destination = pod(&snapshot, "destination", &query.destination)?;
    let port = u16::try_from(query.port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Status::invalid_argument(format!("port: {} is not a port", query.port)))?;
    let ip = *destination
        .addresses
        .first()
        .ok_or_else(|| Status::failed_precondition(format!("destination: {} has no address", query.destination)))?;
    let (source_identity, source_ip) = if query.source.is_empty() {
        (None, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    } else if query.source.starts_with("spiffe://") {
        let identity = query.source.parse().map_err(|e| Status::invalid_argument(format!("source: {e}")))?;
        (Some(identity), IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    } else {
        let source = pod(&snapshot, "source", &query.source)?;
        let ip = source.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        // A pod outside the mesh proves nothing, whatever its service account.
        let meshed = source.tunnel != mesh_common::model::Tunnel::None;
        (meshed.then(|| source.identity.clone()), ip)
    };
    let connection = Connection { source_identity, source_ip, destination: SocketAddr::new(ip, port) };
    let mut answer = AuthzAnswer {
        generation: snapshot.generation(),
        source_identity: connection.source_identity.as_ref().map(ToString::to_string).unwrap_or_default(),
        destination_identity: destination.identity.to_string(),
        authoritative: destination.node == admin.node,
        rule: -1,
        ..AuthzAnswer::default()
    };
    let decision = snapshot.decide(destination, &connection, Passed::BYTES);
    let considered = decision.asked.as_ref().map(|asked| asked.explain()).unwrap_or_default();
    answer.policies = considered.into_iter().map(explain::policy).collect();
    let (policy, rule) = match decision.outcome {
        Ok(permit) => {
            answer.set_verdict(Verdict::Forwarded);
            answer.message = match permit.policy() {
                Some(policy) => format!("permitted by policy {policy}"),
                None => "permitted: no ALLOW policy applies".to_owned(),
            };
            (permit.policy().cloned(), permit.rule())
        }
        Err(denied) => {
            answer.set_verdict(Verdict::Dropped);
            answer.reason = denied.reason.code().to_owned();
            answer.message = denied.to_string();
            (denied.policy, denied.rule)
        }
    };
    answer.policy = policy.map(|p| p.to_string()).unwrap_or_default();
    answer.rule = rule.and_then(|rule| i32::try_from(rule).ok()).unwrap_or(-1);
    Ok(answer)
}

fn pod<'a>(snapshot: &'a Snapshot, field: &str, name: &str) -> Result<&'a Workload, Status> {
    let (namespace, pod) = name
        .split_once('/')
        .ok_or_else(|| Status::invalid_argument(format!("{field}: `{name}` is not of the form namespace/pod")))?;
    match snapshot.workload_by_name(namespace, pod) {
        Some(workload) => Ok(workload),
        None => Err(Status::not_found(format!("{field}: no pod {name} is known"))),
    }
}
