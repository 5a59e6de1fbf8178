//! "May A reach B?", answered by the same functions that decide connections and requests.

mod request;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use mesh_common::{
    model::{Connection, Decision, Passed, Workload, nearest},
    proto::nodemesh::{AuthzAnswer, AuthzQuery, Verdict},
};
use tonic::Status;

use super::{Admin, explain};
use crate::state::Snapshot;

pub fn answer(admin: &Admin, query: &AuthzQuery) -> Result<AuthzAnswer, Status> {
    of_node(&admin.node, &admin.store.snapshot(), query)
}

/// `node` is the name of the node that answers.
fn of_node(node: &str, snapshot: &Arc<Snapshot>, query: &AuthzQuery) -> Result<AuthzAnswer, Status> {
    let destination = pod(snapshot, "destination", &query.destination)?;
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
        let source = pod(snapshot, "source", &query.source)?;
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
        authoritative: destination.node == node,
        rule: -1,
        ..AuthzAnswer::default()
    };
    match request::of(query, connection.destination)? {
        None => connected(snapshot, destination, &connection, &mut answer),
        Some(parts) => request::asked(snapshot, destination, &connection, parts, !query.token.is_empty(), &mut answer),
    }
    Ok(answer)
}

/// Of a connection of which it is not known what it will carry.
fn connected(snapshot: &Snapshot, destination: &Workload, connection: &Connection, answer: &mut AuthzAnswer) {
    let opened =
        snapshot.decide(destination, connection, snapshot.passed_at_first(destination, connection.destination.port()));
    let bytes = snapshot.decide(destination, connection, Passed::BYTES);
    match (&opened.outcome, &bytes.outcome) {
        // Where bytes are permitted, no policy refuses a request.
        (Err(_), _) | (Ok(_), Ok(_)) => decided(if opened.outcome.is_err() { &opened } else { &bytes }, answer),
        (Ok(_), Err(as_bytes)) => {
            decided(&opened, answer);
            answer.depends_on_request = true;
            answer.message = format!(
                "the connection is permitted, and it depends on each request whether that is: give --method, --path \
                 and what else it has. What is no HTTP is refused: {as_bytes}"
            );
        }
    }
}

/// Puts a decision of policies into words.
fn decided(decision: &Decision, answer: &mut AuthzAnswer) {
    let considered = decision.asked.as_ref().map(|asked| asked.explain()).unwrap_or_default();
    let (policy, rule) = match &decision.outcome {
        Ok(permit) => {
            answer.set_verdict(Verdict::Forwarded);
            answer.message = match permit.policy() {
                Some(policy) => format!("permitted by policy {policy}"),
                None => "permitted: no ALLOW policy applies".to_owned(),
            };
            (permit.policy(), permit.rule())
        }
        Err(denied) => {
            refused(denied.reason.code(), &denied.to_string(), answer);
            answer.nearest = nearest(&considered).map(explain::nearest_rule);
            (denied.policy.as_ref(), denied.rule)
        }
    };
    answer.policies = considered.into_iter().map(explain::policy).collect();
    answer.policy = policy.map(ToString::to_string).unwrap_or_default();
    answer.rule = rule.and_then(|rule| i32::try_from(rule).ok()).unwrap_or(-1);
}

fn refused(code: &str, why: &str, answer: &mut AuthzAnswer) {
    answer.set_verdict(Verdict::Dropped);
    answer.reason = code.to_owned();
    answer.message = why.to_owned();
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
